"""The evaluation loop, several evaluators, and printing and verifying results."""

import time

import tellapart  # noqa: F401

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.evaluation.testing import flatten_results_dict


class Collect(DatasetEvaluator):
    """An evaluator that returns all inputs and outputs."""

    def __init__(self, key="got"):
        self.key = key
        self.seen = ["never reset"]

    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += list(zip(inputs, outputs))

    def evaluate(self):
        return {self.key: self.seen}


class Double(torch.nn.Module):
    """A model that fails in training mode or with gradients."""

    def forward(self, batch):
        assert not self.training and not torch.is_grad_enabled()
        return [2 * x for x in batch]


def test_every_batch_reaches_the_evaluator(caplog):
    model = Double().train()
    calls = []
    stages = ("on_start", "before_inference", "after_inference", "on_end")
    with caplog.at_level("INFO"):
        results = inference_on_dataset(
            model, [[1, 2], [3]], Collect(), callbacks={s: lambda s=s: calls.append(s) for s in stages}
        )
    assert results == {"got": [(1, 2), (2, 4), (3, 6)]}
    assert model.training
    assert calls == ["on_start", *["before_inference", "after_inference"] * 2, "on_end"]
    text = caplog.text
    assert "Start inference on 2 batches" in text
    assert "Total inference time: 0:00:0" in text and "s / iter per device, on 1 devices)" in text
    assert "Total inference pure compute time: 0:00:00" in text


def test_progress_is_logged(caplog):
    time.sleep(5.1)  # at most one line is logged in five seconds, also by other tests
    with caplog.at_level("INFO"):
        inference_on_dataset(lambda x: x, [[i] for i in range(13)], None)
    lines = [r.message for r in caplog.records if r.message.startswith("Inference done")]
    assert len(lines) == 1 and lines[0].startswith("Inference done 11/13. Dataloading: ")
    assert lines[0].endswith("ETA=0:00:00")


def test_evaluator_may_be_none_or_several():
    assert inference_on_dataset(lambda x: x, [[1]], None) == {}
    results = inference_on_dataset(lambda x: x, [[1]], [Collect("a"), Collect("b")])
    assert results == {"a": [(1, 1)], "b": [(1, 1)]}
    same = DatasetEvaluators([Collect(), Collect()])
    same.reset()
    with pytest.raises(AssertionError, match="same key got"):
        same.evaluate()


def test_inference_context_restores_the_mode():
    for mode in (True, False):
        model = Double().train(mode)
        with inference_context(model):
            assert not model.training
        assert model.training == mode


def test_csv_lines(caplog):
    with caplog.at_level("INFO"):
        print_csv_format({"bbox": {"AP": 1.23456, "AP50": 2.0, "AP-disc": 3.0}})
    lines = [r.message for r in caplog.records]
    assert lines == ["copypaste: Task: bbox", "copypaste: AP,AP50", "copypaste: 1.2346,2.0000"]


@pytest.mark.parametrize("ap", [38.4, 38.6, 38.29, float("nan"), None])
def test_verify_results(ap):
    cfg = get_cfg()
    assert verify_results(cfg, {"bbox": {"AP": ap}})
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 38.5, 0.2]]
    if ap in (38.4, 38.6):
        assert verify_results(cfg, {"bbox": {"AP": ap}})
    else:
        with pytest.raises(SystemExit) as stopped:
            verify_results(cfg, {"bbox": {"AP": ap}})
        assert stopped.value.code == 1


def test_flatten():
    assert flatten_results_dict({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a/b": 1, "a/c/d": 2, "e": 3}
