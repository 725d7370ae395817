"""Run a case as a user does, in this process or in another, and compare the outcome with the expectation."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from tellapart.engine import train as engine
from tellapart_cli import main as tellapart

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from pycocotools.cocoeval import COCOeval

from .case import Case, Inputs, Refused, Trains, one_set
from .coco_set import write_set

ROOT = Path(__file__).resolve().parents[2]
QUICK = ROOT / "configs" / "quick"
MODELS = {
    "fcis": "fcis/fcis_R_18_shapes",
    "instance_fcn": "instance_fcn/instance_fcn_R_18_C3_shapes",
    "mask_rcnn": "mask_rcnn/mask_rcnn_R_18_FPN_shapes",
    "semiconv": "semiconv/semiconv_R_18_FPN_shapes",
    "coloring": "coloring/coloring_dots",
}
ALL_MODELS = tuple(MODELS)
# A small backbone, small heads, small images and few proposals: a run takes a third of a second.
_OPTIONS = {
    "MODEL.WEIGHTS": "", "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES": "['res2', 'res3']",
    "MODEL.ANCHOR_GENERATOR.SIZES": "[[8, 16, 32]]", "MODEL.RPN.IN_FEATURES": "['res3']",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": "32",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": "30", "MODEL.RPN.POST_NMS_TOPK_TEST": "30",
    "MODEL.ROI_HEADS.NUM_CLASSES": "2", "MODEL.ROI_HEADS.IN_FEATURES": "['res2']",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "16", "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.0",
    "MODEL.ROI_BOX_HEAD.FC_DIM": "32", "MODEL.ROI_MASK_HEAD.CONV_DIM": "16", "MODEL.ROI_MASK_HEAD.NUM_CONV": "1",
    "MODEL.SEMICONV.CONV_DIM": "16", "MODEL.FCIS.CONV_DIMS": "[16]",
    "MODEL.INSTANCE_FCN.IN_FEATURES": "['res3']", "MODEL.INSTANCE_FCN.CONV_DIM": "16",
    "MODEL.INSTANCE_FCN.POST_NMS_TOPK": "20", "MODEL.INSTANCE_FCN.WINDOW_SIZE": "7",
    "MODEL.INSTANCE_FCN.TEST_SCALES": "[1.0]",
    "SOLVER.OPTIMIZER": "SGD", "SOLVER.BASE_LR": "0.001", "SOLVER.IMS_PER_BATCH": "2", "SOLVER.MAX_ITER": "2",
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR", "SOLVER.STEPS": "()",
    "INPUT.MIN_SIZE_TRAIN": "(64,)", "INPUT.MAX_SIZE_TRAIN": "96",
    "INPUT.MIN_SIZE_TEST": "64", "INPUT.MAX_SIZE_TEST": "96",
    "DATALOADER.NUM_WORKERS": "0", "TEST.CONTACT_SHEET.NUM_IMAGES": "2", "TEST.EVALUATORS": "['coco']",
}  # fmt: skip
BASE_OPTIONS = [word for pair in _OPTIONS.items() for word in pair]
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_TIME = re.compile(r"\[\d\d/\d\d [\d:]+\]? ?")
_LOG_LINE = re.compile(r"((WARNING|ERROR|INFO) )?\[\d\d/\d\d |(WARNING|ERROR) \S+: ")
_OUR_LINE = re.compile(r"\[[^]]* tp[.\]]|\[[^]]*\] tp[. ]|.*\b(WARNING|ERROR)\b")
PROCESS_LIMIT = 60  # seconds
HIDDEN_NAMES = ("mine", "other", "third", "set_0", "set_1")


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        code: exit code; None: an exception other than InputError, or no end within the time limit.
        stdout, stderr: what was printed.
        log: warnings, and what the output folder's log.txt has.
        losses: the total loss per iteration, in this process only.
        objects: number of objects (not crowds) that the training loader has, in this process only.
        counted: number of ground-truth objects that COCO's evaluation counts, per kind of result.
        error: the traceback of an exception.
        folder: the case's folder, which is left out of the messages.
    """

    code: int | None = None
    stdout: str = ""
    stderr: str = ""
    log: str = ""
    losses: list[float] = field(default_factory=list)
    objects: int | None = None
    counted: dict[str, int] = field(default_factory=dict)
    error: str = ""

    folder: str = ""

    @property
    def output(self) -> str:
        """All that was printed or logged."""
        return "\n".join((self.stdout, self.stderr, self.log, self.error))

    @property
    def messages(self) -> str:
        """What the run said about its input: without the config, without what Detectron2 logs, without paths."""
        kept, is_message = [], False
        for line in _COLORS.sub("", f"{self.stdout}\n{self.log}").splitlines():
            if _LOG_LINE.match(line):
                is_message = bool(_OUR_LINE.match(line)) and "contact_sheet" not in line
            if is_message:
                kept.append(_TIME.sub("", line))
        text = "\n".join((self.stderr, *dict.fromkeys(kept), self.error[-3000:]))
        return text.replace(self.folder, "") if self.folder else text


def arguments(case: Case, inputs: Inputs, folder: Path, model: str, weights: Path | None) -> list[str]:
    """Return the command line of a run of ``tellapart train``."""
    words = ["--config-file", str(QUICK / f"{MODELS[model]}.yaml")]
    for name, json_file, image_root in inputs.sets:
        words += ["--register", f"{name}={json_file}:{image_root}"]
    words += [*case.flags, "OUTPUT_DIR", str(folder / "output"), *BASE_OPTIONS]
    words += ["DATASETS.TRAIN", repr(inputs.train), "DATASETS.TEST", repr(inputs.test)]
    if weights:
        words += ["MODEL.WEIGHTS", str(weights)]
    return [*words, *inputs.options, *(option.replace("{folder}", str(folder)) for option in case.options)]


def train_weights(folder: Path, model: str) -> Path:
    """Train the small model for one iteration on the valid set; return its checkpoint."""
    forget_sets()
    write_set(folder)
    plain = Case("weights", lambda _: None, Trains(None))
    words = arguments(plain, one_set(folder), folder, model, None)
    outcome = run_here([*words, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()"])
    forget_sets()
    assert outcome.code == 0, outcome.output
    return folder / "output" / "model_final.pth"


def run_here(words: list[str], command: str = "train", folder: Path | None = None) -> Outcome:
    """Run ``tellapart COMMAND words...`` in this process and record what it does."""
    outcome = Outcome(folder=str(folder) if folder else "")
    records = _Warnings()
    logging.getLogger().addHandler(records)
    logging.getLogger("tellapart").addHandler(records)
    stdout, stderr = io.StringIO(), io.StringIO()
    recorder = _Recorder(outcome)
    build_hooks = engine.Trainer.build_hooks
    with (
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        mock.patch.object(engine.Trainer, "build_hooks", lambda self: [recorder, *build_hooks(self)]),
        _counting(outcome),
    ):
        try:
            tellapart([command, *words])
            outcome.code = 0
        except SystemExit as exit:
            outcome.code = exit.code if isinstance(exit.code, int) else int(bool(exit.code))
        except Exception:
            outcome.error = traceback.format_exc()
        finally:
            logging.getLogger().removeHandler(records)
            logging.getLogger("tellapart").removeHandler(records)
    outcome.stdout, outcome.stderr = stdout.getvalue(), stderr.getvalue()
    outcome.log = "\n".join(records.lines) + _log_file(folder)
    return outcome


def run_process(words: list[str], cwd: Path, timeout: float = PROCESS_LIMIT) -> Outcome:
    """Run a command line in a process of its own, which is ended after ``timeout`` seconds."""
    paths = [str(ROOT / "projects"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=timeout, cwd=cwd
        )
    except subprocess.TimeoutExpired:
        return Outcome(error=f"no end within {timeout} seconds", folder=str(cwd))
    return Outcome(done.returncode, done.stdout, done.stderr, _log_file(cwd), folder=str(cwd))


def run_case(case: Case, folder: Path, model: str, weights: Path | None = None) -> Outcome:
    """Build the case's input in ``folder``, run it with a kind of model, and return what happened."""
    forget_sets()  # the weights' training, or another test, has registered the same names
    if weights:
        (folder / "weights.pth").symlink_to(weights)
    inputs = case.build(folder) or one_set(folder)
    words = arguments(case, inputs, folder, model, weights)
    if case.process:
        return run_process([str(ROOT / "train_net.py"), *words], folder)
    return run_here(words, folder=folder)


def forget_sets() -> None:
    """Remove the cases' data sets from Detectron2's catalogs."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in list(catalog.list()):
            if name.partition(" ")[0] in HIDDEN_NAMES:
                catalog.remove(name)


def check(outcome: Outcome, expect: Trains | Refused, in_process: bool = True) -> None:
    """Assert that a run did what is expected."""
    said = outcome.messages
    if isinstance(expect, Refused):
        check_refused(outcome, expect)
        return
    assert outcome.code == 0, f"exit code {outcome.code}, expected 0\n{said}"
    for pattern in expect.says:
        assert re.search(pattern, said, re.IGNORECASE), f"nothing matches {pattern!r}\n{said}"
    if not in_process:
        return
    assert all(map(math.isfinite, outcome.losses)), outcome.losses
    if expect.objects is not None and outcome.objects is not None:
        assert outcome.objects == expect.objects, f"trained on {outcome.objects} objects\n{said}"
    counted = expect.objects if expect.counted is None else expect.counted
    if expect.evaluates:
        assert outcome.counted, f"there was no evaluation\n{said}"
        assert counted is None or set(outcome.counted.values()) == {counted}, f"{outcome.counted}\n{said}"


def check_refused(outcome: Outcome, expect: Refused) -> None:
    """Assert exit code 2 before training, and one message on stderr without a traceback."""
    said = outcome.messages
    assert outcome.code == 2, f"exit code {outcome.code}, expected 2\n{said}"
    assert not outcome.losses, f"refused after training had started\n{said}"
    assert "Traceback" not in outcome.output, said
    messages = re.findall(r"^error: ", outcome.stderr, re.MULTILINE)
    assert len(messages) == 1, f"{len(messages)} messages\n{outcome.stderr}"
    message = outcome.stderr.partition("error: ")[2].replace(outcome.folder, "")
    for pattern in expect.says:
        assert re.search(pattern, message, re.IGNORECASE | re.DOTALL), f"{pattern!r} is not in: {message}"


def _log_file(folder: Path | None) -> str:
    path = folder / "output" / "log.txt" if folder else None
    return "\n" + path.read_text() if path and path.is_file() else ""


class _Warnings(logging.Handler):
    """Keeps warnings and errors, which Python prints even before the loggers are set up."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")


class _Recorder(HookBase):
    """Records losses and the number of objects that are trained on."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def before_train(self) -> None:
        records = self.trainer.data_loader.dataset.dicts
        self.outcome.objects = sum(
            not annotation.get("iscrowd", 0) for record in records for annotation in record.get("annotations", ())
        )

    def after_step(self) -> None:
        self.outcome.losses.append(self.trainer.storage.history("total_loss").latest())


@contextlib.contextmanager
def _counting(outcome: Outcome) -> Iterator[None]:
    """Record the number of objects that COCO's evaluation counts: those that it does not ignore."""
    prepare = COCOeval._prepare

    def counted(self: COCOeval) -> None:
        prepare(self)
        truth = [one for objects in self._gts.values() for one in objects]
        outcome.counted[self.params.iouType] = sum(not one["ignore"] for one in truth)

    with mock.patch.object(COCOeval, "_prepare", counted):
        yield
