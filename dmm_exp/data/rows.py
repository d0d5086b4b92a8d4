"""Sets of training rows, and which group each point belongs to when these rows are forgotten."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dmm_exp.errors import UserError

FORGET, RETAIN, VALIDATION = 0, 1, 2
GROUPS = ("forget", "retain", "val")  # by these numbers


@dataclass(frozen=True, eq=False)
class Rows:
    """A set of training rows, such as those to forget.

    Attributes:
        indices: sorted, distinct training indices ``[rows]`` int64.
        n_train: number of training rows.
        read: where the rows come from, in words and in the order there: ``30, 7, 19 (3 rows) in rows.csv``.
        key: how error messages about these rows begin, as in ``forget.indices=rows.csv``.
        listed: the indices in the order in which they were listed; empty where there is no list.

    Raises:
        UserError: the indices are not sorted, not distinct or out of range.
    """

    indices: Tensor
    n_train: int
    read: str = ""
    key: str = "forget"
    listed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        indices = self.indices
        in_range = not len(indices) or 0 <= int(indices[0]) <= int(indices[-1]) < self.n_train
        if indices.ndim != 1 or indices.dtype != torch.long or not in_range or bool((indices.diff() <= 0).any()):
            raise UserError(f"{self.key}: expected sorted, distinct training indices from 0 to {self.n_train - 1}")

    def __len__(self) -> int:
        return len(self.indices)

    def __or__(self, other: Rows) -> Rows:
        """Return the rows of both sets."""
        return Rows(torch.cat([self.indices, other.indices]).unique(), self.n_train, key=self.key)

    def tolist(self) -> list[int]:
        """Return the indices as a list."""
        return self.indices.tolist()

    @property
    def in_order(self) -> list[int]:
        """The indices in the order in which they were listed; sorted where there is no list."""
        return list(self.listed) or self.tolist()

    @property
    def others(self) -> Tensor:
        """All other training rows: sorted indices ``[n_train - rows]``."""
        return (~self.mask).nonzero().squeeze(1)

    @property
    def mask(self) -> Tensor:
        """Which training rows are in the set, ``[n_train]`` bool."""
        return torch.zeros(self.n_train, dtype=torch.bool).index_fill_(0, self.indices, True)

    @cached_property
    def digest(self) -> str:
        """The hash of the indices, which identifies the set in artifacts."""
        return content_hash(self.indices)

    def groups(self, n_points: int) -> Tensor:
        """Return the group of each point when these rows are forgotten: 0 forget, 1 retain, 2 validation; ``[points]``.

        Args:
            n_points: number of training and validation points.
        """
        groups = torch.full((n_points,), RETAIN)
        groups[self.indices] = FORGET
        groups[self.n_train :] = VALIDATION
        return groups


def content_hash(*tensors: Tensor) -> str:
    """Return the SHA-256 of the types, shapes and bytes of some tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)  # not a copy: the tensor may be a large mapped file
    return digest.hexdigest()
