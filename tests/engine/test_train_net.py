"""train_net.py end to end on a tiny data set: output files, determinism, preemption, several processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tellapart import InputError
from tellapart.engine import train as engine
from tellapart.engine.checkpoint import AtomicPathManager, Checkpointer
from tellapart_cli import argument_parser

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicCheckpointer

ROOT = Path(__file__).resolve().parents[2]
NAME = "train_net_test"
# Options that turn the tiny Mask R-CNN into other models.
MODELS = {
    "Mask R-CNN": (),
    "FCIS": (
        "MODEL.META_ARCHITECTURE", "FCIS", "MODEL.ROI_HEADS.NAME", "FCISROIHeads", "MODEL.FCIS.CONV_DIMS", "[16]",
        "MODEL.FCIS.OHEM", "True",
    ),
    "InstanceFCN": (
        "MODEL.META_ARCHITECTURE", "InstanceFCN", "MODEL.PROPOSAL_GENERATOR.NAME", "InstanceFCNProposals",
        "MODEL.ROI_HEADS.NAME", "PassThroughROIHeads",
        "MODEL.INSTANCE_FCN.IN_FEATURES", "['p2', 'p3']", "MODEL.INSTANCE_FCN.WINDOW_SIZE", "7",
        "MODEL.INSTANCE_FCN.CONV_DIM", "16", "MODEL.INSTANCE_FCN.POST_NMS_TOPK", "20",
        "TEST.EVALUATORS", "['coco', 'mask_proposals']",
    ),
    "SemiConv": (
        "MODEL.ROI_HEADS.NAME", "SemiConvROIHeads", "MODEL.ROI_MASK_HEAD.NAME", "SemiConvMaskHead",
        "MODEL.SEMICONV.CONV_DIM", "16",
    ),
    "SemiConvColoring": (
        "MODEL.META_ARCHITECTURE", "SemiConvColoring", "MODEL.SEMICONV.CONV_DIM", "16",
        "TEST.EVALUATORS", "['coco', 'coloring']",
    ),
}  # fmt: skip


class Recorder(HookBase):
    """Record the total loss per iteration; send SIGTERM to this process after iteration ``kill_at``, if it is set."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.kill_at = kill_at

    def after_step(self) -> None:
        """Record the loss; this hook is registered before the preemption hook."""
        self.losses[self.trainer.iter] = self.trainer.storage.history("total_loss").latest()
        if self.trainer.iter == self.kill_at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def run(tiny_config, tiny_set, monkeypatch, forget):
    """A function that trains in this process and returns iteration -> total loss."""

    def train(output: Path, *flags: str, opts: tuple[str, ...] = (), kill_at: int | None = None) -> dict[int, float]:
        forget(NAME)
        recorder = Recorder(kill_at)
        original = engine.Trainer.build_hooks
        with monkeypatch.context() as patch:
            patch.setattr(engine.Trainer, "build_hooks", lambda self: [recorder, *original(self)])
            arguments = ["--config-file", str(tiny_config(NAME, output)), "--register", register(tiny_set), *flags]
            try:
                engine.main(argument_parser().parse_args(["train", *arguments, *opts]))
            except SystemExit as exit:
                assert exit.code == 128 + signal.SIGTERM and kill_at is not None
        return recorder.losses

    return train


def register(tiny_set: tuple[Path, Path]) -> str:
    return f"{NAME}={tiny_set[0]}:{tiny_set[1]}"


def command(tiny_set, config: Path, *more: str) -> list[str]:
    return [str(ROOT / "train_net.py"), "--config-file", str(config), "--register", register(tiny_set), *more]


@pytest.mark.parametrize("model", MODELS)
def test_output_files(run, tmp_path, model):
    losses = run(tmp_path / "a", opts=(*MODELS[model], "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"))
    assert sorted(losses) == list(range(6))
    files = {str(p.relative_to(tmp_path / "a")) for p in (tmp_path / "a").rglob("*") if p.is_file()}
    expected = {"metrics.json", "model_final.pth", "last_checkpoint", "config.yaml", "log.txt"}
    assert expected <= files
    assert "inference/coco_instances_results.json" in files
    assert f"inference/contact_sheet_{NAME}.png" in files
    assert any(name.startswith("events.out.tfevents") for name in files)
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.json").read_text().splitlines()]
    assert {"segm/AP", "bbox/AP50", "total_loss", "lr", "iteration"} <= set().union(*lines)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_same_seed_same_losses_and_resume_repeats_them(run, tmp_path, workers):
    opts = ("TEST.CONTACT_SHEET.NUM_IMAGES", "0", "DATALOADER.NUM_WORKERS", workers)
    whole = run(tmp_path / "whole", opts=opts)
    killed = run(tmp_path / "killed", opts=opts, kill_at=2)
    assert sorted(killed) == [0, 1, 2], "the run must stop at the iteration of the signal"
    assert (tmp_path / "killed" / "last_checkpoint").read_text().strip() == "model_0000002.pth"
    resumed = run(tmp_path / "killed", "--resume", opts=opts)
    assert {**killed, **resumed} == whole
    assert not list((tmp_path / "killed").glob("*.part"))

    def curve(folder: str) -> list[tuple[int, float]]:
        lines = [json.loads(line) for line in (tmp_path / folder / "metrics.json").read_text().splitlines()]
        return [(line["iteration"], line["total_loss"]) for line in lines if "total_loss" in line]

    # The median over the last iterations includes those before the resume (stopping writes one more line, before it).
    assert curve("killed")[-1] == curve("whole")[-1]
    weights = [torch.load(tmp_path / d / "model_final.pth", weights_only=True)["model"] for d in ("whole", "killed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_resume_with_other_settings(run, tmp_path):
    """What the checkpoint decides is said; what cannot go on is refused."""
    opts = ("TEST.CONTACT_SHEET.NUM_IMAGES", "0")
    run(tmp_path, opts=opts, kill_at=1)
    for more, message in (
        (("SOLVER.OPTIMIZER", "ADAMW"), "trained with SGD, and SOLVER.OPTIMIZER is ADAMW"),
        (("MODEL.BACKBONE.FREEZE_AT", "3"), "parameters were trained, and this config trains"),
        (("SOLVER.LR_FACTORS", "[['roi_heads', 0.5]]"), "One of SOLVER.BASE_LR"),
    ):
        with pytest.raises(InputError, match=message):
            run(tmp_path, "--resume", opts=(*opts, *more))
    assert sorted(run(tmp_path, "--resume", opts=(*opts, "SOLVER.BASE_LR", "0.02"))) == [2, 3, 4, 5]
    assert "0.02 in the config, 0.01 in the checkpoint" in (tmp_path / "log.txt").read_text()


def test_another_seed_changes_the_losses(run, tmp_path):
    opts = ("TEST.CONTACT_SHEET.NUM_IMAGES", "0", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()")
    assert run(tmp_path / "a", opts=opts) != run(tmp_path / "b", opts=(*opts, "SEED", "7"))


def test_learning_rate_factors(run, tmp_path):
    """A factor of 0 keeps the named parameters unchanged, and only these."""
    opts = ("TEST.CONTACT_SHEET.NUM_IMAGES", "0", "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()")
    frozen = ("SOLVER.LR_FACTORS", "[['roi_heads.mask_head', 0.0]]")
    run(tmp_path / "a", opts=opts)
    run(tmp_path / "b", opts=(*opts, *frozen))
    a, b = (torch.load(tmp_path / d / "model_final.pth", weights_only=True)["model"] for d in "ab")
    differ = {name for name in a if not torch.equal(a[name], b[name])}
    assert differ == {name for name in a if name.startswith("roi_heads.mask_head")}
    with pytest.raises(InputError, match="no parameter's name starts with roi_head.mask"):
        run(tmp_path / "c", opts=(*opts, "SOLVER.LR_FACTORS", "[['roi_head.mask', 2.0]]"))
    with pytest.raises(InputError, match="expected .prefix of parameter names, factor."):
        run(tmp_path / "c", opts=(*opts, "SOLVER.LR_FACTORS", "[['roi_heads', 'fast']]"))


def test_adamw(run, tmp_path):
    opts = ("TEST.CONTACT_SHEET.NUM_IMAGES", "0", "SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()")
    sgd, adamw = run(tmp_path / "a", opts=opts), run(tmp_path / "b", opts=(*opts, "SOLVER.OPTIMIZER", "ADAMW"))
    assert sgd[0] == adamw[0] and sgd[2] != adamw[2]
    state = torch.load(tmp_path / "b" / "model_final.pth", weights_only=True)["trainer"]["_trainer"]["optimizer"]
    assert "exp_avg_sq" in state["state"][0]


def test_checkpointer_and_hooks(tiny_config, tiny_set, forget, tmp_path):
    """The trainer and its hooks save with one checkpointer, which writes atomically; the order of the hooks is kept."""
    forget(NAME)
    flags = ["train", "--config-file", str(tiny_config(NAME, tmp_path / "a")), "--register", register(tiny_set)]
    with contextlib.ExitStack() as until_end:
        trainer = engine.Trainer(engine.setup(argument_parser().parse_args(flags), until_end))
    assert isinstance(trainer.checkpointer, Checkpointer)
    assert isinstance(trainer.checkpointer.path_manager, AtomicPathManager)
    assert set(trainer.checkpointer.checkpointables) == {"trainer"}
    (hook,) = [hook for hook in trainer._hooks if isinstance(hook, PeriodicCheckpointer)]
    assert hook.checkpointer is trainer.checkpointer
    names = [type(hook).__name__ for hook in trainer._hooks]
    seed = ["SeedEveryStep"] if trainer.cfg.SEED >= 0 else []
    assert names[: len(seed) + 3] == [*seed, "IterationTimer", "LRScheduler", "PeriodicCheckpointer"]
    assert names[len(seed) + 3 :] == [
        "EvalHook",
        "PeriodicWriter",
        "KeepLossHistory",
        "ValidationHook",
        "PreemptionHook",
    ]


def test_finished_run_is_not_trained_further(run, tmp_path):
    opts = ("TEST.CONTACT_SHEET.NUM_IMAGES", "0", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()")
    run(tmp_path / "a", opts=opts)
    assert run(tmp_path / "a", "--resume", opts=opts) == {}


@pytest.mark.parametrize("model", MODELS)
def test_two_processes_stay_in_sync_and_evaluate_like_one(tiny_set, tiny_config, tmp_path, model):
    """torchrun with two gloo processes: both have equal parameters, and two processes evaluate exactly like one."""
    config = tiny_config(NAME, tmp_path / "two")
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import pathlib, torch\n"
        "from tellapart.engine import train as engine\n"
        "from tellapart.engine.launch import launch\n"
        "import torch.distributed as dist\n"
        "from tellapart_cli import argument_parser\n"
        "def main(args):\n"
        "    trainers = []\n"
        "    build = engine.Trainer.build_hooks\n"
        "    def build_hooks(self):\n"
        "        trainers.append(self)\n"
        "        return build(self)\n"
        "    engine.Trainer.build_hooks = build_hooks\n"
        "    engine.main(args)\n"
        "    vector = torch.cat([p.detach().flatten() for p in trainers[0].model.parameters()])\n"
        "    others = [torch.empty_like(vector) for _ in range(2)]\n"
        "    dist.all_gather(others, vector)\n"
        "    assert torch.equal(others[0], others[1]), 'parameters differ'\n"
        "    trainers.clear()\n"
        "    pathlib.Path(f'equal_{dist.get_rank()}').write_text(dist.get_backend())\n"
        "import sys\n"
        "launch(main, argument_parser().parse_args(['train', *sys.argv[1:]]))\n"
        "threads = [task.read_text() for task in pathlib.Path('/proc/self/task').glob('*/comm')]\n"
        "assert not any('gloo' in name for name in threads), threads\n"  # Threads that still run could abort the exit.
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'projects'}", "OMP_NUM_THREADS": "1"}
    common = {"env": environment, "text": True, "capture_output": True, "timeout": 240, "cwd": tmp_path}
    short = ("SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()", *MODELS[model])
    result = subprocess.run([*torchrun, str(driver), *command(tiny_set, config, *short)[1:]], **common)
    assert result.returncode == 0, result.stderr[-3000:]
    # Files instead of printed lines, because the lines of two processes in one pipe may be interleaved.
    assert [(tmp_path / f"equal_{rank}").read_text() for rank in range(2)] == ["gloo", "gloo"]
    weights = ["MODEL.WEIGHTS", str(tmp_path / "two" / "model_final.pth"), "TEST.CONTACT_SHEET.NUM_IMAGES", "0"]
    predictions = {}
    for name, launcher in (("one", [sys.executable]), ("both", torchrun)):
        keep_all = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
        more = ["--eval-only", *MODELS[model], *weights, *keep_all, "OUTPUT_DIR", str(tmp_path / name)]
        result = subprocess.run([*launcher, *command(tiny_set, config, *more)], **common)
        assert result.returncode == 0, result.stderr[-3000:]
        table = [line for line in (result.stdout + result.stderr).splitlines() if "copypaste" in line]
        assert len(table) == 9
        detections = json.loads((tmp_path / name / "inference" / "coco_instances_results.json").read_text())
        predictions[name] = ([line.split("copypaste")[1] for line in table], detections)
    assert len(predictions["one"][1]) > 0
    assert predictions["one"][0] == predictions["both"][0]

    def ordered(detections: list[dict]) -> list[dict]:
        return sorted(detections, key=lambda p: (p["image_id"], -p["score"], p["bbox"]))

    assert ordered(predictions["one"][1]) == ordered(predictions["both"][1])


def averaged_weights(folder: Path, iteration: int) -> tuple[dict, dict]:
    """Return the model in the checkpoint of an iteration, and the state of the hook that averages."""
    checkpoint = torch.load(folder / f"model_{iteration:07d}.pth", weights_only=True)
    return checkpoint["model"], checkpoint["trainer"]["hooks"].get("AverageWeights", {})


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_average_of_weights(run, tmp_path, monkeypatch, optimizer):
    """Training is the same with and without; checkpoints and evaluations have the moving average."""
    opts = ("SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "3", "MODEL.RESNETS.NORM", "BN")
    opts = (*opts, "SOLVER.OPTIMIZER", optimizer, "SOLVER.BASE_LR", "0.001")
    evaluated = []

    def test(cls, cfg, model, evaluators=None):
        evaluated.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {}

    monkeypatch.setattr(engine.Trainer, "test", classmethod(test))
    plain = run(tmp_path / "plain", opts=opts)
    evaluated.clear()
    assert run(tmp_path / "ema", opts=(*opts, "SOLVER.EMA_DECAY", "0.25")) == plain
    average, _ = averaged_weights(tmp_path / "ema", 0)
    for iteration in range(6):
        weights, _ = averaged_weights(tmp_path / "plain", iteration)
        found, state = averaged_weights(tmp_path / "ema", iteration)
        assert state["num_updates"] == iteration + 1
        assert all(torch.equal(tensor, weights[name]) for name, tensor in state["trained"].items())
        assert {"backbone.bottom_up.stem.conv1.norm.running_var"} <= set(state["trained"])
        if iteration > 0:
            decay = min(0.25, (1 + iteration) / (10 + iteration))
            average = {name: decay * average[name] + (1 - decay) * weights[name] for name in state["trained"]}
        for name in state["trained"]:
            torch.testing.assert_close(found[name], average[name], rtol=1e-5, atol=1e-7)
    at = [averaged_weights(tmp_path / "ema", iteration)[0] for iteration in (2, 5)]
    assert len(evaluated) == 2
    for expected, seen in zip(at, evaluated):
        assert all(torch.equal(expected[name], seen[name]) for name in expected)


def test_average_of_weights_resumes(run, tmp_path, caplog):
    opts = ("TEST.CONTACT_SHEET.NUM_IMAGES", "0", "TEST.EVAL_PERIOD", "2", "SOLVER.EMA_DECAY", "0.9")
    whole = run(tmp_path / "whole", opts=opts)
    killed = run(tmp_path / "killed", opts=opts, kill_at=2)
    resumed = run(tmp_path / "killed", "--resume", opts=opts)
    assert {**killed, **resumed} == whole
    files = [torch.load(tmp_path / d / "model_final.pth", weights_only=True) for d in ("whole", "killed")]
    assert all(torch.equal(files[0]["model"][name], files[1]["model"][name]) for name in files[0]["model"])
    trained = [file["trainer"]["hooks"]["AverageWeights"]["trained"] for file in files]
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
    assert "has no average of weights" not in caplog.text
    # A run that began without: the average starts where it resumes, and says so.
    run(tmp_path / "late", opts=opts[:4], kill_at=1)
    run(tmp_path / "late", "--resume", opts=opts)
    assert "has no average of weights: it starts at iteration 2" in (tmp_path / "late" / "log.txt").read_text()


@pytest.mark.parametrize("model", ["Mask R-CNN", "FCIS", "InstanceFCN"])
def test_test_time_augmentation(run, tmp_path, model):
    """All evaluators take the merged instances of the views."""
    opts = ("SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
    run(tmp_path / "a", opts=(*MODELS[model], *opts, "TEST.AUG.ENABLED", "True", "TEST.AUG.DIHEDRAL", "True"))
    assert f"{NAME} in csv format" in (tmp_path / "a" / "log.txt").read_text()
    assert json.loads((tmp_path / "a" / "inference" / "coco_instances_results.json").read_text())
