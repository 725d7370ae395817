"""Weights of networks for color images in networks for images with another number of channels."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)
_NUM_COLORS = 3


def adapt_first_convolution(path: str, weights: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return weights whose first convolution has as many input channels as the model's.

    One channel receives the sum of the three channels' weights: the response to a gray image in three channels. With
    C channels, channel i receives the weights of channel i % 3 times 3 / C, so that responses keep their size. This is
    the rule of timm (``adapt_input_conv``).

    Args:
        path: the checkpoint, for the log.
        weights: by name, as tensors or arrays.
        model: has the convolution (O, C, kH, kW) as its first parameter with four dimensions.

    Returns:
        ``weights`` itself if there is nothing to adapt: the model has three channels, or not exactly one weight has
        the shape (O, 3, kH, kW).
    """
    first = next((parameter for parameter in model.parameters() if parameter.dim() == 4), None)
    if first is None or first.shape[1] == _NUM_COLORS:
        return weights
    expected = (first.shape[0], _NUM_COLORS, *first.shape[2:])
    names = [name for name, value in weights.items() if tuple(np.shape(value)) == expected]
    if len(names) != 1:
        return weights
    value, num_channels = weights[names[0]], first.shape[1]
    adapted = adapt_channels(torch.as_tensor(value), num_channels)
    logger.info("checkpoint %s: %s is adapted from 3 to %d channels", path, names[0], num_channels)
    return {**weights, names[0]: adapted.numpy() if isinstance(value, np.ndarray) else adapted}


def adapt_channels(weight: Tensor, num_channels: int) -> Tensor:
    """Return a convolution's weight (O, 3, kH, kW) for ``num_channels``; see :func:`adapt_first_convolution`."""
    if num_channels == 1:
        return weight.sum(1, keepdim=True)
    index = torch.arange(num_channels) % _NUM_COLORS
    return weight[:, index] * (_NUM_COLORS / num_channels)
