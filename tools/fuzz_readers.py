#!/usr/bin/env python
"""Fuzz the readers of files: broken copies of valid files must be read, or refused with an InputError.

Each example is a valid file with random bit flips, cuts, splices and replaced numbers (JSON files: replaced values).
Worker processes read the examples with a time and a memory limit. A crash, a hang, or another exception is a finding:
it is printed, and its file is kept in the output folder with the number that makes it again.

Examples:
    python tools/fuzz_readers.py --minutes 30 --seed 1
    python tools/fuzz_readers.py --readers json tiff --jobs 1 --minutes 1
    python tools/fuzz_readers.py --example json 123456          # one example by its number, in this process
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import multiprocessing as mp
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tellapart.errors import InputError, run_command

from fuzz_targets import READERS, break_bytes, break_json, read_example

TIME_LIMIT = 20  # seconds per example
MEMORY_LIMIT = 4  # GiB more than a worker uses when it starts


@dataclass(frozen=True)
class Result:
    """What a reader did with an example.

    Attributes:
        kind: "read", "refused" (InputError), "exception", "memory", "hang" or "crash".
        place: of a finding, the type of the exception and where it was raised; the findings with the same are one.
        detail: the traceback, or the refusal's message.
    """

    kind: str
    place: str = ""
    detail: str = ""


def make_example(reader: str, number: int, valid: list[bytes]) -> bytes:
    """Return the content of an example, which depends on nothing but the arguments."""
    generator = random.Random(f"{reader} {number}")
    data = generator.choice(valid)
    if reader == "json" and generator.random() < 0.8:
        return break_json(data, generator)
    return break_bytes(data, generator, valid)


def read_one(reader: str, path: Path) -> Result:
    """Read an example in this process."""
    sink = io.StringIO()
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            read_example(reader, path)
        return Result("read")
    except InputError as error:
        return Result("refused", detail=str(error))
    except MemoryError:
        return Result("memory", "MemoryError", traceback.format_exc())
    except BaseException as error:  # whatever the reader raises, SystemExit included, is a finding
        # The innermost line of this repository, and the innermost line of all.
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "tellapart" in frame.filename and "fuzz_" not in frame.filename]
        places = [f"{Path(frame.filename).name}:{frame.name}" for frame in (*ours[-1:], *frames[-1:])]
        return Result(
            "exception", f"{type(error).__name__} in {' -> '.join(dict.fromkeys(places))}", traceback.format_exc()
        )


def work(connection: mp.connection.Connection, reader: str, folder: Path) -> None:
    """Read the examples whose numbers arrive."""
    logging.disable(logging.CRITICAL)
    os.chdir(folder)
    valid = READERS[reader](folder)
    path = folder / f"example.{reader}"
    path.write_bytes(valid[0])
    first = read_one(reader, path)  # imports what the reader needs, before the memory is limited
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + MEMORY_LIMIT * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    connection.send(first)
    with contextlib.suppress(EOFError):  # the other process has ended
        while True:
            path.write_bytes(make_example(reader, connection.recv(), valid))
            connection.send(read_one(reader, path))


class Worker:
    """A process that reads examples of one reader, and its replacement after a crash or a hang."""

    def __init__(self, reader: str, folder: Path) -> None:
        self.reader, self.folder = reader, folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Start the process, and read a valid file with it."""
        context = mp.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, self.reader, self.folder), daemon=True)
        self.process.start()
        other.close()
        first = self._receive(10 * TIME_LIMIT)
        if first.kind != "read":
            raise InputError(f"reader {self.reader} does not read a valid file: {first.detail or first.kind}")

    def read(self, number: int) -> Result:
        """Return what the reader does with an example."""
        self.connection.send(number)
        return self._receive(TIME_LIMIT)

    def _receive(self, seconds: float) -> Result:
        if not self.connection.poll(seconds):
            self.stop()
            return Result("hang", "hang", f"no answer within {seconds} seconds")
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return Result("crash", "crash", f"the process ended with exit code {self.process.exitcode}")

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def fuzz(reader: str, minutes: float, seed: int, output: Path, limit: int | None = None) -> Counter:
    """Fuzz one reader; write findings to ``output``.

    Args:
        reader: a key of ``READERS``.
        minutes: how long.
        seed: the first example has this number times a million.
        output: folder for the findings.
        limit: the maximum number of examples.

    Returns:
        The number of examples per kind of result.
    """
    counts: Counter = Counter()
    places: Counter = Counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        worker = Worker(reader, Path(folder))
        valid = READERS[reader](Path(folder))
        end = time.monotonic() + 60 * minutes
        number = seed * 1_000_000
        while time.monotonic() < end and (limit is None or sum(counts.values()) < limit):
            result = worker.read(number)
            counts[result.kind] += 1
            if result.kind not in ("read", "refused"):
                places[result.place] += 1
                if places[result.place] <= 3:
                    save(output, reader, number, result, make_example(reader, number, valid))
                if result.kind in ("hang", "crash"):
                    worker.start()
            number += 1
        worker.stop()
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    print(f"{reader}: {sum(counts.values())} examples: {kinds}", flush=True)
    for place, count in places.most_common():
        print(f"  {count} x {place}", flush=True)
    return counts


def save(output: Path, reader: str, number: int, result: Result, content: bytes) -> None:
    """Keep the file and the traceback of a finding."""
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{reader}_{number}.bin").write_bytes(content)
    (output / f"{reader}_{number}.txt").write_text(f"{result.kind}: {result.place}\n{result.detail}\n")
    print(f"{reader} {number}: {result.kind}: {result.place}", flush=True)


def main() -> None:
    """Parse the flags, fuzz, and exit with code 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="in all, divided among the readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="readers at a time")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--output", type=Path, default=Path("output/fuzz"), help="folder for what is found")
    parser.add_argument("--example", nargs=2, metavar=("READER", "NUMBER"), help="read one example in this process")
    args = parser.parse_args()
    if args.example:
        reader, number = args.example[0], int(args.example[1])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"example.{reader}"
            path.write_bytes(make_example(reader, number, READERS[reader](Path(folder))))
            print(json.dumps(vars(read_one(reader, path)), indent=2).replace("\\n", "\n"))
        return
    minutes = args.minutes * args.jobs / len(args.readers)
    with ThreadPoolExecutor(args.jobs) as pool:
        counts = list(pool.map(lambda one: fuzz(one, minutes, args.seed, args.output), args.readers))
    found = sum(sum(count.values()) - count["read"] - count["refused"] for count in counts)
    print(f"{found} findings in {args.output}" if found else "nothing found")
    sys.exit(int(bool(found)))


if __name__ == "__main__":
    run_command(main)
