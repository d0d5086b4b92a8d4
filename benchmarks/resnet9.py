"""The ResNet-9 of the datamodels paper's code, as it is after training."""

from __future__ import annotations

from torch import Tensor, nn


class ResNet9(nn.Module):
    """Eight convolutions and a linear layer for ``[3, 32, 32]`` images (Ilyas et al., arXiv 2202.00622).

    BatchNorm follows every convolution there, which makes 2,274,880 parameters with ten classes. Outside training it
    is an affine function of each channel; here it is folded into the convolution, whose bias it becomes: 2,273,536.
    """

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(3, 64, 3),
            _block(64, 128, 5, stride=2, padding=2),
            _Residual(128),
            _block(128, 256, 3),
            nn.MaxPool2d(2),
            _Residual(256),
            _block(256, 128, 3, padding=0),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(128, n_classes, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``, scaled by 0.2."""
        return 0.2 * self.head(self.body(inputs))


class _Residual(nn.Module):
    """Two convolutions whose result is added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(channels, channels, 3), _block(channels, channels, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.body(inputs)


def _block(channels_in: int, channels: int, size: int, stride: int = 1, padding: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels, size, stride, padding), nn.ReLU())
