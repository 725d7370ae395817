"""The gradient scale of the embedding predictor."""

from __future__ import annotations

from tellapart.autograd import scale_gradient

import torch
from random_tensors import random_tensor


def test_scale_gradient_changes_only_the_gradient():
    x = random_tensor(2, 3).requires_grad_()
    y = scale_gradient(x, 0.1)
    assert torch.equal(y, x)
    (y**2).sum().backward()
    torch.testing.assert_close(x.grad, 0.2 * x.detach())
