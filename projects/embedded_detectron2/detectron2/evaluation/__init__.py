"""Running a model over a dataset and evaluating its predictions."""
# ruff: noqa: F401 (re-exports)

from .coco_evaluation import COCOEvaluator
from .evaluator import DatasetEvaluator, DatasetEvaluators, inference_context, inference_on_dataset
from .testing import print_csv_format, verify_results
