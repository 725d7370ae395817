"""All methods on a GPU that is not there: each tensor is made where its inputs are, and what makes the CPU wait.

A step in training and a prediction, on ``PretendGPU``, give bit for bit what the CPU gives. The lists of what makes the
CPU wait hold tellapart's own lines; Detectron2's come on top ("elsewhere").
"""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from devices.pretend_gpu import DEVICE, PretendGPU, PretendTensor, move
from parity.common import fill, model_input
from small_models import CONFIGS, SIZE, image_masks

METHODS = {name: config for name, config in CONFIGS.items() if name != "Mask R-CNN"} | {"image masks": image_masks}
LOGGED = {"devices.py:put_shares: copy to the CPU": 1}
TARGETS = {"fcis/losses.py:region_targets: nonzero": 2}
PER_INSTANCE = {
    "embeddings/losses.py:instance_embedding_losses: nonzero": 1,
    "embeddings/losses.py:instance_embedding_losses: mask as index": 1,
}
# What remains of a training step with two images: results whose size depends on values (which regions, windows, pixels
# and instances), and values that are logged. The embedding loss is computed on four levels of a pyramid.
WAITS_IN_TRAINING = {
    "FCIS": {**TARGETS, **LOGGED},
    "FCIS, OHEM": {**TARGETS, **LOGGED, "fcis/losses.py:select: nonzero": 1},
    "InstanceFCN": {**LOGGED, "instance_fcn/proposals.py:losses: mask as index": 1},
    "InstanceFCN, classifier": {
        "devices.py:put_shares: copy to the CPU": 2,
        "instance_fcn/proposals.py:losses: mask as index": 1,
        "instance_fcn/proposals.py:nms_proposals: nonzero": 2,
    },
    "coloring": PER_INSTANCE,
    "SemiConvROIHeads": {
        "semiconv/mask_head.py:forward: _local_scalar_dense": 1,
        **{place: 4 * count for place, count in PER_INSTANCE.items()},
    },
    "SemiConvMaskHead": {"semiconv/mask_head.py:forward: _local_scalar_dense": 1},
    "image masks": {"semiconv/mask_head.py:forward: _local_scalar_dense": 1, **PER_INSTANCE},
}


@pytest.fixture(autouse=True)
def autocast_of_the_cpu(monkeypatch):
    """There is no autocast of the device meta."""
    original = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda device, **options: original("cpu" if device == DEVICE.type else device, **options)
    )


def build(method):
    model = build_model(METHODS[method]())
    fill(model)
    return model, [model_input(seed, *SIZE, 3) for seed in (0, 1)]


def on_cpu(value):
    return value.values_on_cpu if isinstance(value, PretendTensor) else value


@pytest.mark.parametrize("method", METHODS)
def test_training_step(method):
    model, inputs = build(method)
    on_gpu = copy.deepcopy(model)

    def losses_of(model):
        torch.manual_seed(0)
        with EventStorage(0):
            losses = model.train()(copy.deepcopy(inputs))
        sum(losses.values()).backward()
        return losses

    expected = losses_of(model)
    with PretendGPU("tellapart") as gpu:
        move(on_gpu)
        losses = losses_of(on_gpu)
    assert all(isinstance(loss, PretendTensor) for loss in losses.values())
    assert all(torch.equal(on_cpu(losses[name]), loss) for name, loss in expected.items())
    gradients = [(p.grad, on_cpu(q.grad)) for p, q in zip(model.parameters(), on_gpu.parameters())]
    assert all((a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in gradients)
    own = {place: count for place, count in gpu.waits.items() if not place.startswith("elsewhere")}
    assert own == WAITS_IN_TRAINING[method]


@pytest.mark.parametrize("method", METHODS)
def test_prediction(method):
    model, inputs = build(method)
    if method == "coloring":
        model.clustering = "seeds"  # k-means runs on the CPU, in scikit-learn
    on_gpu = copy.deepcopy(model).eval()
    with torch.no_grad():
        expected = [output["instances"] for output in model.eval()(inputs)]
        with PretendGPU("tellapart"):
            move(on_gpu)
            results = [output["instances"] for output in on_gpu(inputs)]
    for instances, other in zip(results, expected):
        assert len(instances) == len(other)
        for name, value in other.get_fields().items():
            got = instances.get(name)
            got, value = (getattr(one, "tensor", one) for one in (got, value))
            assert torch.equal(on_cpu(got), value), name
    assert any(len(instances) for instances in expected)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat((x, torch.ones(3))),
        lambda x: x.index_add_(0, torch.arange(3), x),
    ],
)
def test_tensors_of_two_devices_are_refused(operation):
    with PretendGPU("tests"), pytest.raises(RuntimeError, match="all tensors to be on the same device"):
        operation(torch.zeros(3, device=DEVICE))


def test_waits_are_counted():
    with PretendGPU("tests") as gpu:
        x = torch.tensor([1.0, 2.0, 3.0], device=DEVICE)
        x.sum().item()
        x[x > 1]
        x[x > 1] = 0.0  # fills without waiting
        x[torch.tensor([0])]
        torch.ones(3).to(DEVICE, non_blocking=True)
    assert {place.rpartition(": ")[2]: count for place, count in gpu.waits.items()} == {
        "copy to the GPU": 1, "_local_scalar_dense": 1, "mask as index": 1, "index on the CPU": 1,
    }  # fmt: skip
    assert x.values_on_cpu.tolist() == [1.0, 0.0, 0.0]
