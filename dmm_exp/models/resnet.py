"""Residual networks, for small images and for large ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from dmm_exp.models.layers import convolution
from dmm_exp.models.requirements import need_images, need_positive

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # by depth, in each stage
BOTTLENECK_FROM = 50  # depth from which blocks are bottlenecks


class ResNet(nn.Module):
    """A residual network of 18, 34, 50 or 101 layers (He et al., "Deep residual learning", arXiv 1512.03385, table 1).

    The stem for small images is one 3×3 convolution of stride 1, without pooling, as is usual for CIFAR; the one of the
    paper, for ImageNet, is a 7×7 convolution and a maximum over 3×3, of stride 2 each. A bottleneck's stride is in
    its 3×3 convolution, shortcuts of another size are 1×1 convolutions.

    Args:
        input_shape: (channels, height, width) of one image, of at least 8 pixels either way, or 32 with the stem for
            ImageNet: it is halved three or five times.
        n_classes: number of logits.
        depth: number of layers.
        stem: for which images the first layer is made.
        width: channels of the stem; all others are multiples of it.

    Raises:
        UserError: inputs are not images or too small, or the width is below 1.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        n_classes: int,
        depth: Literal[18, 34, 50, 101] = 18,
        stem: Literal["cifar", "imagenet"] = "cifar",
        width: int = 64,
    ) -> None:
        super().__init__()
        need_images(f"resnet{depth}", input_shape, least=8 if stem == "cifar" else 32)
        need_positive(width=width)
        block = Bottleneck if depth >= BOTTLENECK_FROM else BasicBlock
        small = stem == "cifar"
        first = convolution(input_shape[0], width, 3) if small else convolution(input_shape[0], width, 7, stride=2)
        layers = [*first, nn.ReLU(), *([] if small else [nn.MaxPool2d(3, stride=2, padding=1)])]
        channels = width
        for stage, count in enumerate(BLOCKS[depth]):
            for place in range(count):
                layers.append(block(channels, width << stage, stride=2 if stage and not place else 1))
                channels = block.expansion * (width << stage)
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, n_classes)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the penultimate features ``[batch, 8·width]``, four times as many with bottlenecks."""
        return self.body(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        return self.head(self.features(inputs))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is the identity wherever sizes allow it."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * channels
        self.residual = nn.Sequential(*self._layers(channels_in, channels, stride))
        same = stride == 1 and channels_in == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*convolution(channels_in, outputs, 1, stride))

    def _layers(self, channels_in: int, channels: int, stride: int) -> list[nn.Module]:
        first, second = convolution(channels_in, channels, 3, stride), convolution(channels, channels, 3)
        return [*first, nn.ReLU(), *second]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the rectified sum of both ways, ``[batch, expansion·channels, height/stride, width/stride]``."""
        return functional.relu(self.residual(inputs) + self.shortcut(inputs))


class Bottleneck(BasicBlock):
    """A 1×1, a 3×3 and a 1×1 convolution, the last to four times as many channels, beside a shortcut."""

    expansion = 4

    def _layers(self, channels_in: int, channels: int, stride: int) -> list[nn.Module]:
        first, second = convolution(channels_in, channels, 1), convolution(channels, channels, 3, stride)
        return [*first, nn.ReLU(), *second, nn.ReLU(), *convolution(channels, self.expansion * channels, 1)]
