"""The residual network of nine layers with which the papers on datamodels and DMM work."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dmm_exp.models.layers import BodyAndHead
from dmm_exp.models.requirements import need_images, need_positive


class ResNet9(BodyAndHead):
    """Eight convolutions and a linear layer without bias: 2,274,880 parameters for colour images and ten classes.

    BatchNorm and a rectifier follow every convolution; two pairs of convolutions are residual; logits are scaled by
    0.2 (Ilyas et al., "Datamodels", arXiv 2202.00622; used by Georgiev et al., arXiv 2410.23232).

    Args:
        input_shape: (channels, height, width) of one image, of at least 12 pixels either way.
        n_classes: number of logits.
        batch_norm: whether convolutions are followed by BatchNorm; they have a bias if not, which is what BatchNorm
            amounts to after training (2,273,536 parameters).
        width: channels of the first convolution; all others are multiples of it.
    """

    def __init__(self, input_shape: Sequence[int], n_classes: int, batch_norm: bool = True, width: int = 64) -> None:
        super().__init__()
        need_images("resnet9", input_shape, least=12)
        need_positive(width=width)

        def block(channels_in: int, channels: int, size: int = 3, stride: int = 1, padding: int = 1) -> nn.Sequential:
            convolution = nn.Conv2d(channels_in, channels, size, stride, padding, bias=not batch_norm)
            return nn.Sequential(convolution, *[nn.BatchNorm2d(channels)] * batch_norm, nn.ReLU())

        self.body = nn.Sequential(
            block(input_shape[0], width),
            block(width, 2 * width, 5, stride=2, padding=2),
            Residual(block(2 * width, 2 * width), block(2 * width, 2 * width)),
            block(2 * width, 4 * width),
            nn.MaxPool2d(2),
            Residual(block(4 * width, 4 * width), block(4 * width, 4 * width)),
            block(4 * width, 2 * width, padding=0),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(2 * width, n_classes, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        return 0.2 * super().forward(inputs)


class Residual(nn.Sequential):
    """Layers whose result is added to their input."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the input plus what the layers make of it."""
        return input + super().forward(input)
