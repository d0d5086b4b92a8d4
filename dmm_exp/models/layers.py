"""Layers of several networks."""

from __future__ import annotations

from torch import nn


def convolution(channels_in: int, channels: int, size: int, stride: int = 1, bias: bool = False) -> list[nn.Module]:
    """Return a convolution that keeps the image's size (divided by the stride), and its BatchNorm.

    Weights are normal numbers whose variance is two over the number of outputs that a weight takes part in (He et al.,
    "Delving deep into rectifiers", arXiv 1502.01852, section 2.2); biases are zero.
    """
    layer = nn.Conv2d(channels_in, channels, size, stride, padding=size // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return [layer, nn.BatchNorm2d(channels)]
