"""Print results and compare them with expected ones."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping) -> None:
    """Log results, {task: {metric: score}}, as lines for a spreadsheet.

    Metrics with "-" in the name are left out.
    """
    assert isinstance(results, Mapping), f"results is a {type(results)}, expected a dict"
    for task, scores in results.items():
        if isinstance(scores, Mapping):
            shown = {k: v for k, v in scores.items() if "-" not in k}
            logger.info(f"copypaste: Task: {task}")
            logger.info("copypaste: " + ",".join(shown))
            logger.info("copypaste: " + ",".join(f"{v:.4f}" for v in shown.values()))
        else:
            logger.info(f"copypaste: {task}={scores}")


def verify_results(cfg, results: Mapping) -> bool:
    """Compare results with ``cfg.TEST.EXPECTED_RESULTS``: (task, metric, expected score, tolerance).

    Returns:
        True if all scores are within their tolerance. Otherwise the process exits with code 1.
    """
    expected_results = cfg.TEST.EXPECTED_RESULTS
    for task, metric, expected, tolerance in expected_results:
        actual = results.get(task, {}).get(metric)
        if actual is None or not math.isfinite(actual) or abs(actual - expected) > tolerance:
            logger.error("Result verification failed!")
            logger.error(f"Expected Results: {expected_results}")
            logger.error(f"Actual Results: {dict(results)}")
            sys.exit(1)
    if expected_results:
        logger.info("Results verification passed.")
    return True


def flatten_results_dict(results: Mapping) -> dict:
    """Flatten nested dicts, with keys joined by "/"."""
    flat = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{k}": v for k, v in flatten_results_dict(value).items()})
        else:
            flat[key] = value
    return flat
