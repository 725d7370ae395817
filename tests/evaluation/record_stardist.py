"""Record what StarDist's ``matching`` returns: ``python record_stardist.py`` in an environment with stardist.

StarDist is used as a black box, outside of this repository (pip install --no-deps stardist csbdeep numba llvmlite).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

from label_pairs import CASES, label_image


def main() -> None:
    """Write ``golden_stardist.json`` beside this file."""
    path = next(
        Path(folder) / "stardist" / "matching.py" for folder in sys.path if (Path(folder) / "stardist").is_dir()
    )
    spec = importlib.util.spec_from_file_location("stardist_matching", path)
    stardist = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stardist)
    thresholds = [round(0.5 + 0.05 * i, 2) for i in range(10)]
    truths, found = zip(*((label_image(*truth), label_image(*pred)) for truth, pred in CASES))
    images = [
        [plain(one) for one in stardist.matching(truth, pred, thresh=thresholds)] for truth, pred in zip(truths, found)
    ]
    of_data = [
        plain(stardist.matching_dataset(list(truths), list(found), thresh=t, by_image=False, show_progress=False))
        for t in thresholds
    ]
    golden = {"stardist": importlib.metadata.version("stardist"), "images": images, "data_set": of_data}
    (Path(__file__).parent / "golden_stardist.json").write_text(json.dumps(golden))


def plain(result: tuple) -> dict[str, float]:
    """Return a named tuple of StarDist as a dict of numbers."""
    return {name: float(value) for name, value in result._asdict().items() if isinstance(value, (int, float))}


if __name__ == "__main__":
    main()
