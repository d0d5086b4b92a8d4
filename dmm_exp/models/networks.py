"""Networks: each takes normalised inputs ``[batch, *input_shape]`` and returns logits ``[batch, classes]``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from dmm_exp.errors import UserError


class MLP(nn.Module):
    """Fully connected layers with rectified linear units.

    Args:
        input_shape: shape of one input; it is flattened.
        n_classes: number of logits.
        hidden: width of every hidden layer; an empty list is logistic regression.
    """

    def __init__(self, input_shape: Sequence[int], n_classes: int, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise UserError(f"model.network.hidden={list(hidden)}: expected widths of at least 1")
        widths = [prod(input_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], n_classes)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the penultimate features ``[batch, width]``."""
        return self.body(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        return self.head(self.features(inputs))


class CNN(nn.Module):
    """Convolutions with rectified linear units, with 2×2 max-pooling after each or with strides, then one linear layer.

    Args:
        input_shape: (channels, height, width) of one input.
        n_classes: number of logits.
        channels: output channels of every convolution.
        batch_norm: whether BatchNorm follows every convolution.
        strides: of every convolution, in place of pooling. Convolutions are 3×3 (padded by 1); those with a stride of 3
            or more take patches that do not overlap, as wide as the stride. None: 3×3 with pooling.

    Raises:
        UserError: inputs are not images or too small, or strides do not fit.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        n_classes: int,
        channels: Sequence[int] = (8, 16),
        batch_norm: bool = False,
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise UserError(f"model=cnn needs images [channels, height, width]; this dataset has {list(input_shape)}")
        if strides is not None and (len(strides) != len(channels) or any(stride < 1 for stride in strides)):
            raise UserError(
                f"model.network.strides={list(strides)}: expected a whole number of at least 1 for each of "
                f"model.network.channels={list(channels)}, or null"
            )
        depth, height, width = input_shape
        if strides is not None and min(height, width) < prod(strides):
            raise UserError(
                f"model.network.strides={list(strides)}: {height}×{width} images are smaller than their product"
            )
        if strides is None and min(height, width) < 2 ** len(channels):
            raise UserError(
                f"model.network.channels={list(channels)}: {height}×{width} images allow at most "
                f"{min(height, width).bit_length() - 1} convolutions, since each halves the image"
            )
        layers: list[nn.Module] = []
        for index, (depth_in, depth_out) in enumerate(zip([depth, *channels], channels, strict=False)):
            stride = strides[index] if strides is not None else 1
            size, padding = (stride, 0) if stride > 2 else (3, 1)
            norm = [nn.BatchNorm2d(depth_out)] if batch_norm else []
            pooling = [nn.MaxPool2d(2)] if strides is None else []
            layers += [nn.Conv2d(depth_in, depth_out, size, stride, padding), *norm, nn.ReLU(), *pooling]
            height, width = ((side + 2 * padding - size) // stride + 1 for side in (height, width))
            height, width = (height // 2, width // 2) if strides is None else (height, width)
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear((channels[-1] if channels else depth) * height * width, n_classes)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the penultimate features ``[batch, width]``."""
        return self.body(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        return self.head(self.features(inputs))
