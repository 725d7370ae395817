"""Record golden values under the real Detectron2, or compare the installed one with them.

python tests/parity/record.py [CASE ...]           write golden/<case>.json (refused under the embedded Detectron2)
python tests/parity/record.py --check [CASE ...]   compare only; prints the time and worst relative error per case
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
    """Return the versions of the packages that computed the golden values."""
    import detectron2
    import numpy
    import PIL
    import torch
    import torchvision

    modules = {"detectron2": detectron2, "torch": torch, "torchvision": torchvision, "numpy": numpy, "Pillow": PIL}
    return {"python": platform.python_version(), **{name: m.__version__ for name, m in modules.items()}}


def to_json(value: object, indent: int = 0) -> str:
    """Return JSON with sorted keys and one value per line; a list of up to four values, such as a box, has one line."""
    items = value if isinstance(value, (dict, list)) else []
    is_short = isinstance(items, list) and len(items) <= 4 and not any(isinstance(v, (dict, list)) for v in items)
    if is_short or not items:
        return json.dumps(value)
    if isinstance(items, dict):
        lines = [f"{json.dumps(key)}: {to_json(items[key], indent + 1)}" for key in sorted(items)]
    else:
        lines = [to_json(item, indent + 1) for item in items]
    first, last = "{}" if isinstance(items, dict) else "[]"
    space = " " * (indent + 1)
    return f"{first}\n{space}" + f",\n{space}".join(lines) + f"\n{space[:-1]}{last}"


def place(error: Exception) -> str:
    """Describe an error and its lines without quoting code: nobody here may read the real Detectron2's source."""
    where = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-4:]]
    return f"{type(error).__name__} at {', '.join(where)}: {str(error)[:300]}"


def check(names: list[str]) -> int:
    """Compare the installed Detectron2 with the golden values; returns the number of cases that differ."""
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
    """Record or compare; returns the exit code."""
    selected = [a for a in arguments if not a.startswith("--")]
    names = [n for n in common.CASES if not selected or n in selected]
    if unknown := sorted(set(selected) - set(common.CASES)):
        print(f"there is no case {', '.join(unknown)}; expected one of {', '.join(common.CASES)}", file=sys.stderr)
        return 2
    print(", ".join(f"{k} {v}" for k, v in versions().items()))
    if "--check" in arguments:
        return 1 if check(names) else 0
    if cases.is_embedded():
        print(
            "the installed detectron2 is the embedded one, but golden values come from the real one: "
            "install it with `make detectron2`, or compare with --check",
            file=sys.stderr,
        )
        return 2
    common.GOLDEN.mkdir(exist_ok=True)
    failed = []
    for name in names:
        start = time.perf_counter()
        try:
            text = to_json(common.run_case(name)) + "\n"
        except Exception as error:
            failed.append(name)
            print(f"FAIL {name}: {place(error)}")
            continue
        common.golden_path(name).write_text(text)
        print(f"{name:36} {time.perf_counter() - start:5.1f} s {len(text):8} bytes", flush=True)
    if not selected:
        signatures.SIGNATURES.write_text(to_json(signatures.record()) + "\n")
        common.golden_path("versions").write_text(to_json(versions()) + "\n")
    total = sum(f.stat().st_size for f in common.GOLDEN.iterdir())
    print(f"golden values: {total / 1e6:.2f} MB" + (f"; not recorded: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
