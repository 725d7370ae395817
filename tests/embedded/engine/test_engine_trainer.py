"""The training loop, its hooks, and resuming from a checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    default_argument_parser,
    default_setup,
    hooks,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils.events import EventWriter
from helpers_engine import Endless, Toy, logged


def simple(model=None, loader=None, lr=0.1, **options):
    model = model or Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return SimpleTrainer(model, loader or Endless(), optimizer, **options)


class Recorder(HookBase):
    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def _note(self, what):
        self.calls.append((what, self.name, self.trainer.iter, self.trainer.storage.iter))

    def before_train(self):
        self._note("before_train")

    def before_step(self):
        self._note("before_step")

    def after_backward(self):
        self._note("after_backward")

    def after_step(self):
        self._note("after_step")

    def after_train(self):
        self._note("after_train")


def test_order_of_hooks():
    calls = []
    trainer = simple()
    trainer.register_hooks([Recorder("a", calls), None, Recorder("b", calls)])
    trainer.train(3, 5)
    expected = [("before_train", 3)]
    for i in (3, 4):
        expected += [("before_step", i), ("after_backward", i), ("after_step", i)]
    expected += [("after_train", 5)]
    assert calls == [(what, name, i, i) for what, i in expected for name in "ab"]
    assert (trainer.start_iter, trainer.max_iter, trainer.iter) == (3, 5, 5)


def test_steps_equal_plain_sgd():
    model, data = Toy(1), Endless()
    simple(model, data).train(0, 6)
    plain = Toy(1)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for _, batch in zip(range(6), Endless()):
        optimizer.zero_grad()
        sum(plain(batch).values()).backward()
        optimizer.step()
    assert torch.equal(model.fc.weight, plain.fc.weight) and torch.equal(model.fc.bias, plain.fc.bias)
    assert data.iterators == 1


def test_stored_metrics():
    trainer = simple(gather_metric_period=2)
    trainer.train(0, 5)
    histories = trainer.storage.histories()
    assert set(histories) == {"total_loss", "loss_a", "loss_b", "data_time", "rank_data_time"}
    assert [i for _, i in histories["loss_a"].values()] == [1, 3]
    total, a, b = ([v for v, _ in histories[k].values()] for k in ("total_loss", "loss_a", "loss_b"))
    assert total == pytest.approx([x + y for x, y in zip(a, b)])


def test_one_loss_without_a_name():
    class Single(Toy):
        def forward(self, x):
            return super().forward(x)["loss_a"]

    trainer = simple(Single())
    trainer.train(0, 2)
    assert "total_loss" in trainer.storage.histories() and "loss_a" not in trainer.storage.histories()


def test_infinite_loss_stops_training():
    class Bad(Toy):
        def forward(self, x):
            losses = super().forward(x)
            return {**losses, "loss_b": losses["loss_b"] * float("nan")}

    calls = []
    trainer = simple(Bad())
    trainer.register_hooks([Recorder("a", calls)])
    with pytest.raises(FloatingPointError, match=r"(?s)iteration=7.*loss_b.*nan"):
        trainer.train(7, 9)
    assert calls[-1][0] == "after_train" and trainer.iter == 7


def test_model_in_eval_mode_is_refused():
    trainer = simple()
    trainer.model.eval()
    with pytest.raises(AssertionError, match="eval mode"):
        trainer.train(0, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_amp_needs_cuda():
    model = Toy()
    with pytest.raises(AssertionError, match="CUDA"):
        AMPTrainer(model, Endless(), torch.optim.SGD(model.parameters(), lr=0.1)).train(0, 1)


@pytest.mark.parametrize(
    ("period", "after", "stop", "expected"),
    [(2, True, 5, [1, 3, 5]), (2, True, 4, [1, 4]), (0, True, 3, [3]), (2, False, 5, [1, 3])],
)
def test_eval_hook(period, after, stop, expected):
    trainer, calls = simple(), []

    def evaluate():
        calls.append(trainer.iter)
        return {"bbox": {"AP": float(trainer.iter)}, "n": 1}

    trainer.register_hooks([hooks.EvalHook(period, evaluate, eval_after_train=after)])
    trainer.train(0, stop)
    assert calls == expected
    assert [v for v, _ in trainer.storage.history("bbox/AP").values()] == expected


@pytest.mark.parametrize(("results", "error"), [({"a": "word"}, ValueError), ([1], AssertionError)])
def test_eval_hook_bad_results(results, error):
    trainer = simple()
    trainer.register_hooks([hooks.EvalHook(0, lambda: results)])
    with pytest.raises(error, match="dict"):
        trainer.train(0, 1)


def test_parameter_group_whose_learning_rate_is_stored():
    def best(*groups):
        params = [{"params": [torch.nn.Parameter(torch.zeros(1)) for _ in range(n)], "lr": lr} for n, lr in groups]
        return hooks.LRScheduler.get_best_param_group_id(torch.optim.SGD(params, lr=1.0))

    assert best((1, 0.1), (3, 0.2), (2, 0.1)) == 1
    assert best((1, 0.1), (1, 0.2), (1, 0.2)) == 1


def test_iteration_timer_and_writers():
    class Writer(EventWriter):
        def __init__(self):
            self.at, self.closed = [], 0

        def write(self):
            self.at.append(trainer.storage.iter)

        def close(self):
            self.closed += 1

    writer, trainer = Writer(), simple()
    trainer.register_hooks([hooks.IterationTimer(3), hooks.PeriodicWriter([writer], 4)])
    trainer.train(0, 10)
    assert writer.at == [3, 7, 9, 10] and writer.closed == 1
    assert [i for _, i in trainer.storage.history("time").values()] == list(range(2, 10))


class Fixed(DatasetEvaluator):
    def evaluate(self):
        return {"bbox": {"AP": 40.0}}


class Trainer(DefaultTrainer):
    """A trainer on toy data that starts at the batch of the first iteration."""

    @classmethod
    def build_model(cls, cfg):
        class Model(Toy):
            def forward(self, x):
                return super().forward(x) if self.training else None

        return Model(3)

    @classmethod
    def build_train_loader(cls, cfg):
        return Endless()

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return [torch.zeros(1, 2)]

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return Fixed()

    def resume_or_load(self, resume=True):
        super().resume_or_load(resume)
        # Works because no batch has been loaded yet.
        self.data_loader.start = self.start_iter


def toy_cfg(folder, **solver):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TEST = ("toy",)
    cfg.SEED = 3
    cfg.TEST.EVAL_PERIOD = 10
    usual = {"MAX_ITER": 24, "STEPS": (18,), "WARMUP_ITERS": 5, "BASE_LR": 0.05, "CHECKPOINT_PERIOD": 8}
    for k, v in {**usual, **solver}.items():
        cfg.SOLVER[k] = v
    folder.mkdir(exist_ok=True)
    return cfg


class Losses(HookBase):
    def __init__(self, losses):
        self.losses = losses

    def after_step(self):
        latest = self.trainer.storage.latest()
        self.losses[self.trainer.iter] = (latest["total_loss"][0], latest["lr"][0])


def run(cfg, resume, stop=None):
    losses: dict = {}
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)

    class Stop(HookBase):
        def after_step(self):
            if self.trainer.iter == stop:
                raise KeyboardInterrupt

    trainer.register_hooks([Losses(losses), Stop()])
    try:
        trainer.train()
    except KeyboardInterrupt:
        assert stop is not None
    return trainer, losses


def test_resume_equals_uninterrupted(tmp_path):
    whole, expected = run(toy_cfg(tmp_path / "whole"), False)
    cfg = toy_cfg(tmp_path / "parts")
    run(cfg, False, stop=12)
    resumed, losses = run(cfg, True)
    assert resumed.start_iter == 8 and min(losses) == 8
    assert losses == {i: expected[i] for i in range(8, 24)}
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values()):
        assert torch.equal(a, b)


def test_same_seed_same_run(tmp_path):
    assert run(toy_cfg(tmp_path / "a"), False)[1] == run(toy_cfg(tmp_path / "b"), False)[1]


def test_files_that_default_trainer_writes(tmp_path):
    cfg = toy_cfg(tmp_path / "out")
    trainer, losses = run(cfg, False)
    out = tmp_path / "out"
    kept = sorted(p.stem for p in out.glob("*.pth"))
    assert kept == ["model_0000007", "model_0000015", "model_0000023", "model_final"]
    assert len(list(out.glob("events.out.*"))) == 1
    lines = [json.loads(x) for x in (out / "metrics.json").read_text().splitlines()]
    assert [x["iteration"] for x in lines] == [19, 23, 24]
    keys = {"data_time", "eta_seconds", "iteration", "loss_a", "loss_b", "lr", "rank_data_time", "time", "total_loss"}
    assert set(lines[0]) == keys | {"bbox/AP"} and set(lines[1]) == keys
    assert lines[2] == {"bbox/AP": 40.0, "iteration": 24}

    content = torch.load(out / "model_0000015.pth", weights_only=True)
    assert list(content) == ["model", "trainer", "iteration"] and content["iteration"] == 15
    assert set(content["trainer"]) == {"iteration", "hooks", "_trainer"}
    assert content["trainer"]["hooks"] == {"LRScheduler": {"base_lrs": [0.05], "last_epoch": 16}}
    assert set(content["trainer"]["_trainer"]) == {"iteration", "optimizer"}
    assert [type(h).__name__ for h in trainer._hooks][:5] == [
        "IterationTimer",
        "LRScheduler",
        "PeriodicCheckpointer",
        "EvalHook",
        "PeriodicWriter",
    ]


def test_expected_results(tmp_path):
    cfg = toy_cfg(tmp_path / "out", MAX_ITER=2, STEPS=())
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 40.0, 0.1]]
    trainer = Trainer(cfg)
    assert trainer.train() == {"bbox": {"AP": 40.0}}
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 50.0, 0.1]]
    with pytest.raises(SystemExit):
        Trainer(cfg).train()


def test_test(tmp_path):
    cfg = toy_cfg(tmp_path / "out")
    model = Toy().eval()
    model.forward = lambda x: None
    assert Trainer.test(cfg, model) == {"bbox": {"AP": 40.0}}
    assert Trainer.test(cfg, model, [Fixed()]) == {"bbox": {"AP": 40.0}}
    with pytest.raises(AssertionError):
        Trainer.test(cfg, model, [Fixed(), Fixed()])
    cfg.DATASETS.TEST = ("a", "b")
    assert Trainer.test(cfg, model) == {"a": {"bbox": {"AP": 40.0}}, "b": {"bbox": {"AP": 40.0}}}
    Without = type("Without", (Trainer,), {"build_evaluator": DefaultTrainer.build_evaluator})
    assert Without.test(cfg, model) == {"a": {}, "b": {}}


def test_parts_of_default_trainer_can_be_replaced(tmp_path):
    trainer = Trainer(toy_cfg(tmp_path / "out", MAX_ITER=2, STEPS=()))
    model, loader = Toy(7), Endless(50)
    before = model.fc.weight.detach().clone()
    trainer.model, trainer.data_loader = model, loader
    trainer.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert trainer.model is model and trainer.data_loader is loader
    trainer.train()
    assert loader.iterators == 1 and not torch.equal(model.fc.weight, before)


def test_unknown_hook_in_a_checkpoint(tmp_path):
    trainer, _ = run(toy_cfg(tmp_path / "out", MAX_ITER=2, STEPS=()), False)
    state = trainer.state_dict()
    state["hooks"]["Gone"] = {"x": 1}
    with logged() as records:
        trainer.load_state_dict(state)
    assert any("'Gone'" in m for level, m in records if level == "WARNING")


def test_default_setup(tmp_path):
    cfg = toy_cfg(tmp_path / "out")
    args = default_argument_parser().parse_args(["--config-file", "", "SOLVER.MAX_ITER", "3"])
    assert args.opts == ["SOLVER.MAX_ITER", "3"] and args.num_gpus == 1 and not args.resume
    default_setup(cfg, args)
    first = torch.rand(3)
    default_setup(cfg, args)
    assert torch.equal(torch.rand(3), first)
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "out" / "config.yaml"))
    assert json.dumps(again) == json.dumps(cfg)  # as JSON, because tuples in lists are read as lists
    assert "Running with full config" in (tmp_path / "out" / "log.txt").read_text()
