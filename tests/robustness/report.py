"""Run each shared case by ``python train_net.py`` as a user does, and print what happens as a Markdown table.

Example:
    python -m tests.robustness.report
    python -m tests.robustness.report --models fcis semiconv --jobs 1 --cases a14_mixed_poly_rle
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tellapart  # noqa: F401  (puts the embedded detectron2 on the path where no other is installed)

import detectron2

from .case import Refused
from .run import MODELS, ROOT, Outcome, run_process
from .shared_cases import SHARED_CASES, SharedCase, command

# Lines of a log that say what is wrong or was changed; the end of a line is cut off.
_TELLING = re.compile(r"error: |ERROR|WARNING|with these changes|Traceback|^\w+Error")
_DROPPED = re.compile(r"is not installed: using the embedded|no CUDA device|Skip loading|distutils")
_COLORS = re.compile(r"\x1b\[[0-9;]*m")


def first_telling_line(outcome: Outcome, limit: int = 240) -> str:
    """Return the first error, else the first warning or summary of changes with the line after it."""
    lines = _COLORS.sub("", f"{outcome.stderr}\n{outcome.stdout}").splitlines()
    found = ""
    for i, line in enumerate(lines):
        if not _TELLING.search(line) or _DROPPED.search(line):
            continue
        text = line
        if "changes" in line or line.endswith(":"):
            text = f"{line} {' '.join(lines[i + 1 : i + 2])}"
        if "error: " in line or "Traceback" in line:
            return shorten(text, limit)
        found = found or shorten(text, limit)
    return found or outcome.error or "(nothing)"


def shorten(text: str, limit: int) -> str:
    """Return the text without time and paths, in one table cell."""
    text = re.sub(r"^\[[^\]]*\]:? ?", "", text.strip())
    text = re.sub(r"/\S+/(?=[^/\s]+)", "", text).replace("|", "\\|")
    return text if len(text) <= limit else f"{text[:limit]} ..."


def run(case: SharedCase, folder: Path) -> tuple[SharedCase, Outcome, float]:
    """Run one case in a process of its own."""
    with tempfile.TemporaryDirectory() as output:
        script = ROOT / "datasets" / case.script if case.script else ROOT / "train_net.py"
        start = time.perf_counter()
        outcome = run_process([str(script), *command(case, folder / case.id, Path(output))], Path(output))
        return case, outcome, time.perf_counter() - start


def main() -> int:
    """Print the table; return 1 if an exit code is not the expected one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("TELLAPART_SHARED_DATA", ROOT.parent / "shared" / "data")) / "cases"
    parser.add_argument("--folder", type=Path, default=default, help="default: %(default)s")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["fcis"], help="kinds of model")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--cases", nargs="+", help="names of cases; default: all")
    args = parser.parse_args()
    chosen = [case for case in SHARED_CASES if not args.cases or case.id in args.cases]
    jobs = []
    for case in chosen:
        fixed = bool(case.script) or case.model != "fcis"
        jobs += [case] if fixed else [dataclasses.replace(case, model=model) for model in args.models]
    print(f"detectron2 {detectron2.__version__} ({Path(detectron2.__file__).parents[1].name})\n")
    print(
        "| case | model | exit code | expected | seconds | first error, warning or change |\n|---|---|---|---|---|---|"
    )
    failures = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for case, outcome, seconds in pool.map(lambda case: run(case, args.folder), jobs):
            expected = 2 if isinstance(case.expect, Refused) else 0
            failures += outcome.code != expected
            model = case.script or case.model
            code = "none" if outcome.code is None else outcome.code
            print(
                f"| {case.id} | {model} | {code} | {expected} | {seconds:.1f} | {first_telling_line(outcome)} |",
                flush=True,
            )
    print(f"\n{failures} of {len(jobs)} runs with another exit code than expected")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
