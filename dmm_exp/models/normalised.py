"""A network behind fixed normalisation constants, from raw inputs to logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dmm_exp.errors import UserError


class Normalised(nn.Module):
    """A network that normalises its input, so that data stays in memory as it was stored.

    Computes ``network((input / scale - mean) / std)`` in float32. The constants are not parameters: they are neither
    trained nor saved with an ensemble.

    Args:
        network: any module from normalised inputs to logits.
        scale: the value that stands for 1.0 (255 for 8-bit images).
        mean: per channel, or one value for all.
        std: per channel, or one value for all.
        input_shape: shape of one input, ``[channels, ...]`` when there are several constants.

    Raises:
        UserError: the constants do not fit the inputs, or divide by 0.
    """

    def __init__(
        self, network: nn.Module, *, scale: float, mean: list[float], std: list[float], input_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.network = network
        if len(mean) != len(std) or len(mean) not in (1, input_shape[0]) or 0 in (scale, *std):
            raise UserError(
                f"dataset.normalisation: scale={scale}, {len(mean)} values of mean and {len(std)} of std; expected one "
                f"of each, or one for each of the {input_shape[0]} channels, and neither a scale nor a std of 0"
            )
        tail = (1,) * (len(input_shape) - 1)
        self.slope = [1 / (scale * s) for s in std]
        self.offset = [-m / s for m, s in zip(mean, std, strict=True)]
        self.constant_shape = (len(mean), *tail)

    def normalise(self, inputs: Tensor) -> Tensor:
        """Return float32 inputs of about zero mean and unit variance; numbers of words stay what they are."""
        if inputs.dtype in (torch.int32, torch.int64):
            return inputs
        if len(self.slope) == 1:
            return inputs.float() * self.slope[0] + self.offset[0]
        slope, offset = (self._constant(values, inputs.device) for values in (self.slope, self.offset))
        return inputs.float() * slope + offset

    def _constant(self, values: list[float], device: torch.device) -> Tensor:
        """Return values by channel, created on the device: a copy from the host could not be recorded in a step."""
        return torch.stack([torch.full((), value, device=device) for value in values]).view(self.constant_shape)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the network's penultimate features ``[batch, width]`` for raw inputs.

        Raises:
            UserError: it has no features, or they have another shape.
        """
        self.check_features()
        found = self.network.features(self.normalise(inputs))  # pyright: ignore[reportCallIssue]
        if found.ndim != 2:
            raise UserError(
                f"{self._named}.features gives {['batch', *found.shape[1:]]}; expected penultimate features "
                "[batch, width]"
            )
        return found

    def check_features(self) -> None:
        """Raise ``UserError`` when the network does not expose penultimate features."""
        if not callable(getattr(self.network, "features", None)):
            raise UserError(
                f"scores of entanglement read penultimate features, and {self._named} has no method features(inputs) "
                "that returns them, [batch, width]; add one (docs/extending.md), or choose another score"
            )

    @property
    def _named(self) -> str:
        return f"model.network._target_={type(self.network).__module__}.{type(self.network).__qualname__}"

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, classes]`` for raw inputs; in training see :func:`main_output`.

        If a network removes the dimension of a batch of one, it is restored.
        """
        found = self.network(self.normalise(inputs))
        found = main_output(found) if self.network.training else found
        squeezed = len(inputs) == 1 and isinstance(found, Tensor) and found.ndim == 1 and len(found) > 1
        return found[None] if squeezed else found


def main_output(found: Any) -> Tensor:
    """Return the logits among a network's outputs in training, where some networks also return auxiliary outputs.

    They are ``found.logits``, ``found["logits"]`` or ``found["out"]``, or else the first element of a tuple or a list.

    Raises:
        UserError: there are no logits.
    """
    if isinstance(found, Tensor):
        return found
    if isinstance(found, Mapping):
        main = found.get("logits", found.get("out"))
    else:
        main = getattr(found, "logits", found[0] if isinstance(found, (tuple, list)) and found else None)
    if isinstance(main, Tensor):
        return main
    raise UserError(
        f"model: returns a {type(found).__name__} in training; expected logits, or a tuple, a list or a dict "
        "('logits', 'out') that begins with them"
    )
