"""Two processes: the mean of their gradients is the gradient of one process on the images of both."""

from __future__ import annotations

from pathlib import Path

import tellapart
from tellapart.loss_share import loss_share

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from parity.common import fill, model_input, rcnn_cfg, sample_everything

ROOT = Path(__file__).resolve().parents[2]
SIZE = (96, 128)  # all images have it, so that no batch is padded
OBJECTS = [(9, 7), (2, 1), (0, 3)]  # of the image of each process


def fcis(**options):
    cfg = rcnn_cfg("FPN", 18, narrow=True)
    tellapart.add_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "FCIS", "FCISROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.FCIS.CONV_DIMS = 40, [32]
    cfg.MODEL.FCIS.update(options)
    sample_everything(cfg)
    return cfg


def fcis_ohem():
    cfg = fcis(OHEM=True)
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    return cfg


def instance_fcn(roi_heads):
    cfg = rcnn_cfg("FPN", 18, narrow=True)
    tellapart.add_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME = "InstanceFCN", "InstanceFCNProposals"
    cfg.MODEL.ROI_HEADS.NAME = roi_heads
    sample_everything(cfg)
    cfg.MODEL.INSTANCE_FCN.update(
        CONV_DIM=32, BATCH_SIZE_PER_IMAGE=200000, POSITIVE_FRACTION=1.0, POST_NMS_TOPK=20, WINDOW_SIZE=9,
        IN_FEATURES=["p2", "p3", "p4"], TOPK_PER_LEVEL=100,
    )  # fmt: skip
    return cfg


def mask_rcnn(roi_heads="StandardROIHeads", mask_head="MaskRCNNConvUpsampleHead"):
    cfg = rcnn_cfg("FPN", 18, narrow=True)
    tellapart.add_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_MASK_HEAD.NAME, cfg.MODEL.SEMICONV.CONV_DIM = roi_heads, mask_head, 32
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 60
    sample_everything(cfg)
    return cfg


def coloring():
    cfg = get_cfg()
    tellapart.add_config(cfg)
    cfg.merge_from_file(str(ROOT / "configs" / "quick" / "coloring" / "coloring_dots.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.SEMICONV.CONV_DIM, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "cpu", 16, 80
    cfg.MODEL.RESNETS.NORM = "FrozenBN"  # the statistics of batch norm differ between the processes
    return cfg


CONFIGS = {
    "FCIS": fcis,
    "FCIS, OHEM": fcis_ohem,
    "InstanceFCN": lambda: instance_fcn("PassThroughROIHeads"),
    "InstanceFCN, classifier": lambda: instance_fcn("MaskPooledROIHeads"),
    "coloring": coloring,
    "SemiConvROIHeads": lambda: mask_rcnn("SemiConvROIHeads", "SemiConvMaskHead"),
    "SemiConvMaskHead": lambda: mask_rcnn(mask_head="SemiConvMaskHead"),
    "Mask R-CNN": mask_rcnn,
}
# Detectron2's own box and mask losses count within the process; only the losses that are named are compared.
OWN_LOSSES = {
    "SemiConvROIHeads": ("loss_mask", "loss_kernel", "loss_embedding"),
    "SemiConvMaskHead": ("loss_mask", "loss_kernel"),
}


def gradients(name: str, objects: tuple[int, ...]) -> dict[str, dict[str, torch.Tensor]]:
    """The gradient by each group of losses, as one vector, of a batch with one image per number of objects."""
    model = build_model(CONFIGS[name]()).train()
    fill(model)
    inputs = [model_input(7 + count, *SIZE, count) for count in objects]
    own = OWN_LOSSES.get(name)
    result = {}
    for group in ("all", "own") if own else ("all",):
        model.zero_grad()
        # oneDNN rounds otherwise for one image than for two, and a ReLU whose input is near zero could flip
        with EventStorage(0), torch.backends.mkldnn.flags(enabled=False):
            losses = model(inputs)
            sum(loss for key, loss in losses.items() if group == "all" or key in own).backward()
        result[group] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()
    return result


def work(rank: int, folder: str) -> None:
    """Save the gradients of this process's image, for every model and numbers of objects."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, world_size=2, rank=rank)
    comm.create_local_process_group(2)
    result = {(name, objects): gradients(name, objects[rank : rank + 1]) for name in CONFIGS for objects in OBJECTS}
    share = loss_share(torch.tensor(3 if rank else 1), torch.zeros(()))
    result["share"] = (float(share), float(loss_share(0, torch.zeros(()))))
    torch.save(result, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def relative_difference(two, name: str, objects: tuple[int, int], group: str) -> float:
    mean = sum(result[name, objects][group] for result in two) / 2
    one = gradients(name, objects)[group]
    return float((mean - one).norm() / one.norm())


@pytest.mark.parametrize("objects", OBJECTS, ids=str)
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "Mask R-CNN"])
def test_the_mean_gradient_is_that_of_one_process(two, name, objects):
    group = "own" if name in OWN_LOSSES else "all"
    assert relative_difference(two, name, objects, group) < 1e-5


@pytest.mark.parametrize("objects", OBJECTS, ids=str)
@pytest.mark.parametrize("name", list(OWN_LOSSES))
def test_what_remains_is_detectron2s_own(two, name, objects):
    own = relative_difference(two, "Mask R-CNN", objects, "all")
    assert own > 1e-3  # this is not what the methods' losses do
    assert relative_difference(two, name, objects, "all") <= 1.05 * own


def test_shares(two):
    assert [result["share"] for result in two] == [(0.5, 0.0), (1.5, 0.0)]
    assert loss_share(5, torch.zeros(())) == 1.0
