"""Placeholder until the evaluator is merged."""
from detectron2.evaluation import DatasetEvaluator


class InstanceEvaluator(DatasetEvaluator):
    def __init__(self, name, output_dir=None, **kw):
        pass

    def reset(self):
        pass

    def process(self, inputs, outputs):
        pass

    def evaluate(self):
        return {}
