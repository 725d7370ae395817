"""Kernels and seeds compared with slow formulas."""

from __future__ import annotations

import math

from tellapart.embeddings import GaussianKernel, LaplacianKernel, SteeredBilateralKernel, hard_seed, soft_seed

import pytest
import torch
from random_tensors import random_tensor


def test_kernels_equal_their_formulas():
    seed_embeddings, embeddings = random_tensor(2, 5), random_tensor(2, 5, 3, 4, seed=1)
    laplacian, gaussian = LaplacianKernel(0.7).double(), GaussianKernel(1.3)
    bilateral = SteeredBilateralKernel(2.5).double()
    for n in range(2):
        for i in range(3):
            for j in range(4):
                d = embeddings[n, :, i, j] - seed_embeddings[n]
                squared_norm, geometric, appearance = float(d @ d), float(d[:2] @ d[:2]), float(d[2:] @ d[2:])
                expected = {
                    laplacian: math.exp(-math.sqrt(squared_norm) / 0.7),
                    gaussian: math.exp(-squared_norm / (2 * 1.3**2)),
                    bilateral: math.exp(-geometric / (2 * 2.5**2)) * math.exp(-appearance / 2),
                }
                for kernel, value in expected.items():
                    assert math.isclose(kernel(seed_embeddings, embeddings)[n, i, j].exp().item(), value, rel_tol=1e-6)


@pytest.mark.parametrize("kernel", [LaplacianKernel(), GaussianKernel(), SteeredBilateralKernel()], ids=type)
def test_kernels_do_not_underflow_and_have_gradients(kernel):
    kernel = kernel.double()
    seed_embeddings = random_tensor(2, 4).requires_grad_()
    embeddings = random_tensor(2, 4, 3, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(kernel, (seed_embeddings, embeddings))
    far = kernel(seed_embeddings, embeddings * 1e4)
    assert torch.isfinite(far).all() and (far < -1e3).all()
    same = kernel(seed_embeddings, seed_embeddings.detach()[:, :, None, None].expand(-1, -1, 3, 2).requires_grad_())
    assert same.abs().max() <= 1e-5
    same.sum().backward()
    assert torch.isfinite(seed_embeddings.grad).all()
    assert kernel(seed_embeddings[:0], embeddings[:0]).shape == (0, 3, 2)


def test_steered_bilateral_kernel_with_sigma_1_is_gaussian():
    seed_embeddings, embeddings = random_tensor(1, 6), random_tensor(1, 6, 4, 4, seed=1)
    bilateral = SteeredBilateralKernel().double()(seed_embeddings, embeddings)
    torch.testing.assert_close(bilateral, GaussianKernel()(seed_embeddings, embeddings))


@pytest.mark.parametrize("sigma", [0.0, -1.0])
@pytest.mark.parametrize("kernel", [LaplacianKernel, GaussianKernel, SteeredBilateralKernel])
def test_sigma_must_be_positive(kernel, sigma):
    with pytest.raises(ValueError, match="expected a number above 0"):
        kernel(sigma)


def test_seeds_equal_a_loop():
    logits, embeddings = random_tensor(3, 4, 5), random_tensor(3, 2, 4, 5, seed=1)
    for n in range(3):
        probabilities, expected = logits[n].exp() / logits[n].exp().sum(), torch.zeros(2, dtype=torch.float64)
        best = (-math.inf, None)
        for i in range(4):
            for j in range(5):
                expected += probabilities[i, j] * embeddings[n, :, i, j]
                best = max(best, (logits[n, i, j].item(), (i, j)))
        torch.testing.assert_close(soft_seed(logits, embeddings)[n], expected)
        assert torch.equal(hard_seed(logits, embeddings)[n], embeddings[n, :, best[1][0], best[1][1]])
    torch.testing.assert_close(soft_seed(logits * 1e4, embeddings), hard_seed(logits, embeddings))
    assert soft_seed(logits[:0], embeddings[:0]).shape == hard_seed(logits[:0], embeddings[:0]).shape == (0, 2)
