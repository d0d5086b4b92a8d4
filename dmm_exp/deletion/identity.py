"""Which data a ledger is about, also when rows that were deleted are not in the data any more.

A row that was deleted may be overwritten with zeros, in its place, so that all other rows keep their index. Its label
stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from dmm_exp.data import Examples


def row_digests(salt: str, examples: Examples, rows: Iterable[int]) -> list[str]:
    """Return the SHA-256 of the salt and the input and label of each row, in hexadecimal."""
    head = bytes.fromhex(salt) + f"{examples.inputs.dtype}{list(examples.input_shape)}".encode()
    return [
        hashlib.sha256(head + _bytes(examples.inputs[row]) + _bytes(examples.labels[row])).hexdigest() for row in rows
    ]


def digest_of_rows(digests: Mapping[int, str]) -> str:
    """Return one SHA-256 for digests of rows, in the order of the rows."""
    return hashlib.sha256("".join(digests[row] for row in sorted(digests)).encode()).hexdigest()


def content_without(examples: Examples, gone: Sequence[int]) -> str:
    """Return the SHA-256 of all inputs and labels, with zeros for the inputs of some rows; nothing is copied."""
    inputs, labels = examples.inputs, examples.labels
    digest = hashlib.sha256(f"{inputs.dtype}{list(inputs.shape)}{labels.dtype}{list(labels.shape)}".encode())
    nothing, begun = bytes(inputs[:1].numel() * inputs.element_size()), 0
    for row in [*sorted(gone), len(inputs)]:
        if row > begun:
            digest.update(inputs[begun:row].contiguous().numpy().data)
        if row < len(inputs):
            digest.update(nothing)
        begun = row + 1
    digest.update(labels.contiguous().numpy().data)
    return digest.hexdigest()


def zeros_among(inputs: Tensor, rows: Iterable[int]) -> list[int]:
    """Return those of some rows whose input is nothing but zeros."""
    return [row for row in rows if not torch.any(inputs[row])]


def _bytes(values: Tensor) -> bytes:
    return values.contiguous().numpy().tobytes()
