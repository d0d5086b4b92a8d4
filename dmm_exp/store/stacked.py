"""Tensors ``[members, points, ...]`` of an ensemble that lie in many shards, read a block of points at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WHOLE_BYTES = 1 << 29  # of float32: a tensor that takes no more is read, and worked on, whole
BLOCK_BYTES = 1 << 27  # of float32 that are in memory at a time of a larger one


class Piece(NamedTuple):
    """Rows ``start … stop-1`` of one shard."""

    path: Path
    start: int
    stop: int


class Stacked:
    """A tensor of all shards, joined along its first dimension (members), of which only what is asked for is read.

    ``stacked[:, points]`` is a tensor in memory, float32 if the stored numbers are floating; ``stacked[start:stop]``
    are some members, still on disk.

    Args:
        name: of the tensor in every shard.
        pieces: what it is joined of.
    """

    def __init__(self, name: str, pieces: Sequence[Piece]) -> None:
        self.name = name
        self._pieces = pieces
        shape, self.dtype = _header(name, pieces[0].path)
        self.shape = (sum(piece.stop - piece.start for piece in pieces), *shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    @overload
    def __getitem__(self, index: slice) -> Stacked: ...
    @overload
    def __getitem__(self, index: tuple[slice, slice | Tensor]) -> Tensor: ...

    def __getitem__(self, index: slice | tuple[slice, slice | Tensor]) -> Stacked | Tensor:
        """Return some members (a slice), or some points of some members (a slice, and a slice or indices)."""
        if isinstance(index, slice):
            return Stacked(self.name, list(self._some(*index.indices(len(self))[:2])))
        members, points = index
        return self[members]._read(points)

    def _some(self, start: int, stop: int) -> Iterator[Piece]:
        first = 0
        for path, begin, end in self._pieces:
            last = first + end - begin
            if first < stop and last > start:
                yield Piece(path, begin + max(start - first, 0), begin + min(stop, last) - first)
            first = last

    def _read(self, points: slice | Tensor) -> Tensor:
        import torch
        from safetensors import safe_open

        count = len(range(*points.indices(self.shape[1]))) if isinstance(points, slice) else len(points)
        found = torch.empty(len(self), count, *self.shape[2:], dtype=self.dtype)
        row = 0
        for path, start, stop in self._pieces:
            with safe_open(path, framework="pt") as shard:  # maps the file: rows are views, and untouched ones unread
                found[row : row + stop - start] = shard.get_slice(self.name)[start:stop][:, points]
            row += stop - start
        return found


def points_at_once(values: Tensor | Stacked) -> int:
    """Return how many points of a tensor ``[members, points, ...]`` to look at together: all where it is small."""
    members, points, *further = values.shape
    one = 4 * members * prod(further)
    return max(1, points if one * points <= WHOLE_BYTES else BLOCK_BYTES // one)


def blocks(count: int, at_once: int) -> Iterator[slice]:
    """Yield slices of at most ``at_once`` that make up ``count``."""
    for start in range(0, count, at_once):
        yield slice(start, min(start + at_once, count))


def _header(name: str, path: Path) -> tuple[list[int], torch.dtype]:
    """Return the shape of a shard's tensor, and the type in which it is read."""
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as shard:
        tensor = shard.get_slice(name)
        dtype = tensor[:0].dtype
        return tensor.get_shape(), torch.float32 if dtype.is_floating_point else dtype
