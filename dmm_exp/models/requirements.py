"""Checks of the images and sizes of networks."""

from __future__ import annotations

from collections.abc import Sequence

from dmm_exp.errors import UserError


def need_images(model: str, input_shape: Sequence[int], least: int) -> None:
    """Raise ``UserError`` unless inputs are images ``[channels, height, width]`` of ``least`` pixels either way."""
    if len(input_shape) != 3 or min(input_shape[1:]) < least:
        raise UserError(
            f"model={model} needs images [channels, height, width] of at least {least}×{least} pixels; this dataset "
            f"has {list(input_shape)}"
        )


def need_positive(**sizes: int) -> None:
    """Raise ``UserError`` for the first of the network's sizes that is below 1."""
    for key, size in sizes.items():
        if size < 1:
            raise UserError(f"model.network.{key}={size}: expected at least 1")
