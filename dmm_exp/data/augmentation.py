"""Random augmentation of images on the device they are on, for all members of an ensemble at once.

Each random number is a hash of (the member's seed, the step, the point, the use). Images keep the type in which the
dataset stores them (uint8 or float32, not normalised).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmm_exp.data.counter import below, keys_of
from dmm_exp.errors import UserError

FLIP, DOWN, ACROSS, CUTOUT_DOWN, CUTOUT_ACROSS = range(5)  # uses of random numbers


@dataclass(frozen=True)
class Augmentation:
    """Random changes of an image before a model is trained on it; none by default.

    The order is crop, flip, cutout. A crop pads an image by ``crop_padding`` on every side and cuts it back to its
    size, which moves it by up to that many pixels; all moves are equally likely. A flip has probability ½.
    Cutout (DeVries & Taylor 2017, arXiv 1708.04552) fills a square around a random pixel, cut off at the border.

    Attributes:
        flip: whether to flip at random.
        crop_padding: pixels on every side; 0 for no crop.
        cutout: side of the filled square in pixels; 0 for none.
    """

    flip: bool = False
    crop_padding: int = 0
    cutout: int = 0

    def __post_init__(self) -> None:
        for key in ("crop_padding", "cutout"):
            if getattr(self, key) < 0:
                raise UserError(
                    f"training.augmentation.{key}={getattr(self, key)}: expected a number of pixels, 0 for none"
                )

    def __bool__(self) -> bool:
        """Return whether images are changed at all."""
        return bool(self.flip or self.crop_padding or self.cutout)

    def __call__(
        self,
        inputs: Tensor,
        seeds: Tensor,
        points: Tensor,
        step: int | Tensor,
        fill: Sequence[float] | Tensor = (0.0,),
    ) -> Tensor:
        """Return augmented images, of the same shape and type; ``inputs`` are not changed.

        A point gets new random numbers in every step. If it is twice in one batch of a member, both are changed alike.

        Args:
            inputs: ``[members, batch, channels, height, width]``.
            seeds: ``[members]`` int64, one for each member.
            points: ``[members, batch]`` int64, the index of the point of each image.
            step: number of the optimisation step, from 0; an int64 tensor where steps are recorded and replayed.
            fill: value of padded and filled pixels in the dataset's type, for each channel or for all; the mean is
                neutral. A tensor where steps are recorded.

        Raises:
            UserError: the inputs are not images, or the padding or the square is larger than the images.
        """
        if not self:
            return inputs
        self._check(inputs)
        keys = keys_of(seeds, step, points)
        colour = torch.as_tensor(fill, device=inputs.device, dtype=torch.float64)
        colour = (colour if inputs.is_floating_point() else colour.round()).to(inputs.dtype).view(-1, 1, 1)
        if self.flip or self.crop_padding:
            inputs = self._moved(inputs, keys, colour)
        return self._cut_out(inputs, keys, colour) if self.cutout else inputs

    def _check(self, inputs: Tensor) -> None:
        if inputs.ndim != 5:
            raise UserError(
                "training.augmentation: expected images [channels, height, width], these inputs are "
                f"{list(inputs.shape[2:])}"
            )
        smallest = min(inputs.shape[-2:])
        for key, value in (("crop_padding", self.crop_padding), ("cutout", self.cutout)):
            if value > smallest:
                raise UserError(
                    f"training.augmentation.{key}={value}: expected at most {smallest}, the size of the images"
                )

    def _moved(self, inputs: Tensor, keys: Tensor, colour: Tensor) -> Tensor:
        """Return cropped and flipped images: each row and column is one of the image, or filled."""
        height, width = inputs.shape[-2:]
        down, across = (below(2 * self.crop_padding + 1, keys, use) - self.crop_padding for use in (DOWN, ACROSS))
        rows = torch.arange(height, device=inputs.device) + down[..., None]
        columns = torch.arange(width, device=inputs.device).expand(*keys.shape, width)
        if self.flip:
            columns = torch.where(below(2, keys, FLIP)[..., None] == 1, columns.flip(-1), columns)
        columns = columns + across[..., None]
        moved = _taken(_taken(inputs, rows, 3), columns, 4)
        if not self.crop_padding:
            return moved
        outside_rows, outside_columns = _outside(rows, height), _outside(columns, width)
        outside = outside_rows[..., :, None] | outside_columns[..., None, :]
        return torch.where(outside[:, :, None], colour, moved)

    def _cut_out(self, inputs: Tensor, keys: Tensor, colour: Tensor) -> Tensor:
        blanked = [
            self._blanked(size, below(size, keys, use), inputs.device)
            for size, use in zip(inputs.shape[-2:], (CUTOUT_DOWN, CUTOUT_ACROSS), strict=True)
        ]
        square = blanked[0][..., :, None] & blanked[1][..., None, :]
        return torch.where(square[:, :, None], colour, inputs)

    def _blanked(self, size: int, centre: Tensor, device: torch.device) -> Tensor:
        """Return which of ``size`` places along one side are filled, ``[members, batch, size]``."""
        start = centre[..., None] - self.cutout // 2
        places = torch.arange(size, device=device)
        return (places >= start) & (places < start + self.cutout)


def _taken(images: Tensor, places: Tensor, dim: int) -> Tensor:
    """Return rows (``dim`` 3) or columns (4) of images; places beyond the border give arbitrary pixels."""
    shape = [*images.shape]
    places = places.clamp(0, shape[dim] - 1)
    index = places[:, :, None, :, None] if dim == 3 else places[:, :, None, None, :]
    return images.gather(dim, index.expand(shape))


def _outside(places: Tensor, size: int) -> Tensor:
    return (places < 0) | (places >= size)
