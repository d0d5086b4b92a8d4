"""VGG-16 with BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dmm_exp.models.layers import convolution
from dmm_exp.models.requirements import need_images, need_positive

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # channels in multiples of the width, and number of convolutions


class VGG16(nn.Module):
    """Thirteen 3×3 convolutions with BatchNorm, and one linear layer on the mean over positions.

    The convolutions are those of configuration D of Simonyan & Zisserman (arXiv 1409.1556), with biases, 14,723,136
    parameters for colour images; a maximum over 2×2 follows each stage. The paper's three wide linear layers are made
    for 7×7 positions of 224×224 images and are replaced by a single one: 14,728,266 parameters in total with
    ten classes, for images of any size.

    Args:
        input_shape: (channels, height, width) of one image, of at least 32 pixels either way: it is halved five times.
        n_classes: number of logits.
        width: channels of the first convolution; all others are multiples of it.

    Raises:
        UserError: inputs are not images or too small, or the width is below 1.
    """

    def __init__(self, input_shape: Sequence[int], n_classes: int, width: int = 64) -> None:
        super().__init__()
        need_images("vgg16_bn", input_shape, least=32)
        need_positive(width=width)
        layers: list[nn.Module] = []
        channels = input_shape[0]
        for multiple, count in STAGES:
            for _ in range(count):
                layers += [*convolution(channels, multiple * width, 3, bias=True), nn.ReLU()]
                channels = multiple * width
            layers.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, n_classes)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the penultimate features ``[batch, 8·width]``."""
        return self.body(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        return self.head(self.features(inputs))
