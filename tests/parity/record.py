"""Record the golden values under the real Detectron2, or check the running one against them.

python tests/parity/record.py [CASE ...]           write golden/<case>.json (refuses under the embedded Detectron2)
python tests/parity/record.py --check [CASE ...]   compare only; prints each case's time and worst relative error
"""

from __future__ import annotations

import json
import platform
import sys
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "projects")]

from parity import cases, common, signatures  # noqa: E402  the lines above put it on the path


def versions() -> dict[str, str]:
    """Versions of what the golden values come from."""
    import detectron2
    import numpy
    import PIL
    import torch
    import torchvision

    modules = {"detectron2": detectron2, "torch": torch, "torchvision": torchvision, "numpy": numpy, "Pillow": PIL}
    return {"python": platform.python_version(), **{name: m.__version__ for name, m in modules.items()}}


def dump(value: object) -> str:
    """JSON with one line per top-level key, which keeps the files small and their differences readable."""
    if not isinstance(value, dict):
        return json.dumps(value) + "\n"
    lines = (f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in value.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def place(error: Exception) -> str:
    """What went wrong and in which lines, without quoting them: the real one's source is not to be read here."""
    where = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-4:]]
    return f"{type(error).__name__} at {', '.join(where)}: {str(error)[:300]}"


def check(names: list[str]) -> int:
    """Compare the running Detectron2 with the golden values; returns the number of cases that differ."""
    failed = 0
    for name in names:
        start = time.perf_counter()
        try:
            result = common.Comparison().walk(common.run_case(name), common.load_golden(name))
        except Exception as error:
            failed += 1
            print(f"FAIL {name}: {place(error)}")
            continue
        failed += bool(result.problems)
        verdict = "FAIL" if result.problems else "ok  "
        seconds = time.perf_counter() - start
        print(f"{verdict} {name:34} {seconds:5.1f} s  worst {result.worst:.1e} {result.worst_at}", flush=True)
        for problem in result.problems[:12]:
            print("       ", problem)
    return failed


def main(arguments: list[str]) -> int:
    """Record or check; returns the exit code."""
    wanted = [a for a in arguments if not a.startswith("--")]
    names = [n for n in common.CASES if not wanted or n in wanted]
    if unknown := sorted(set(wanted) - set(common.CASES)):
        print(f"no such case: {', '.join(unknown)}; there are {', '.join(common.CASES)}", file=sys.stderr)
        return 2
    print(", ".join(f"{k} {v}" for k, v in versions().items()))
    if "--check" in arguments:
        return 1 if check(names) else 0
    if cases.is_embedded():
        print("This is the embedded Detectron2: golden values come from the real one only.", file=sys.stderr)
        return 2
    common.GOLDEN.mkdir(exist_ok=True)
    failed = []
    for name in names:
        start = time.perf_counter()
        try:
            text = dump(common.run_case(name))
        except Exception as error:
            failed.append(name)
            print(f"FAIL {name}: {place(error)}")
            continue
        common.golden_path(name).write_text(text)
        print(f"{name:36} {time.perf_counter() - start:5.1f} s {len(text):8} bytes", flush=True)
    if not wanted:
        signatures.SIGNATURES.write_text(dump(signatures.record()))
        common.golden_path("versions").write_text(dump(versions()))
    total = sum(f.stat().st_size for f in common.GOLDEN.iterdir())
    print(f"golden values: {total / 1e6:.2f} MB" + (f"; not recorded: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
