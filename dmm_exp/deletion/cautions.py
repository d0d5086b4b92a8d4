"""Warnings about the rows to delete, which a person should know before trusting the result."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from dmm_exp.data import Examples, Rows
from dmm_exp.errors import listed

LARGE_SHARE = 0.2  # of a class that goes: effects of single rows do not add up any more (docs/unlearn_your_model.md)
FEWEST_ROWS = 20  # below which the 95th percentile over rows is the largest of them
NAMED = 5  # copies that a sentence names


def cautions(examples: Examples, gone: Rows, readable: Rows | None = None, *, knows_groups: bool = False) -> list[str]:
    """Return sentences about rows that are to be deleted.

    Args:
        examples: the dataset.
        gone: the rows that are gone afterwards.
        readable: those of them whose inputs are there; all by default.
        knows_groups: whether effects are learnt from models trained without groups, not added up from single rows.
    """
    readable = gone if readable is None else readable
    shares = [] if knows_groups else _large_shares(examples, gone)
    return [*shares, *_copies(examples, readable), *_list_of_words(examples), *_few(readable)]


def _large_shares(examples: Examples, gone: Rows) -> list[str]:
    """Warn of classes that lose a large share of their rows."""
    labels, classes = examples.labels[: examples.n_train], examples.n_classes
    whole, lost = (torch.bincount(values, minlength=classes) for values in (labels, labels[gone.indices]))
    shares = {name: int(lost[c]) / int(whole[c]) for c, name in enumerate(examples.class_names) if whole[c]}
    large = {name: share for name, share in shares.items() if share > LARGE_SHARE}
    if not large:
        return []
    words = ", ".join(f"{share:.0%} of class {name}" for name, share in list(large.items())[:NAMED])
    return [
        f"{words} go{'es' if len(large) == 1 else ''}; predicted effects of rows are too small where they make up a "
        f"large part of a class (more than {LARGE_SHARE:.0%})"
    ]


def _copies(examples: Examples, gone: Rows) -> list[str]:
    """Warn of rows whose inputs stay: in the training set, or among unseen points."""
    found = copies(examples.inputs, gone.indices)
    kept, unseen = found[found < examples.n_train], found[found >= examples.n_train]
    sentences = []
    if len(kept):
        sentences.append(
            f"{len(kept)} exact cop{'y' if len(kept) == 1 else 'ies'} of deleted rows stay in the training set: "
            f"{_numbers(kept)}; what the network knows of them is not removed"
        )
    if len(unseen):
        sentences.append(
            f"{len(unseen)} exact cop{'y' if len(unseen) == 1 else 'ies'} of deleted rows are unseen points: "
            f"{_numbers(unseen - examples.n_train)} of validation; comparisons on unseen points include deleted rows"
        )
    return sentences


def _list_of_words(examples: Examples) -> list[str]:
    """Warn of what deleted rows leave in the numbering of words."""
    if examples.words is None or examples.words.learnt is False:
        return []
    if examples.words.learnt is None:
        return [
            "inputs are numbers of words; if training rows decided which words have numbers, this list stays as it is "
            "and may tell of deleted rows"
        ]
    return [
        "which words have numbers was learnt from the training rows, deleted ones among them, and stays as it is; "
        "dmm_exp.data.HashedWords learns nothing"
    ]


def _numbers(rows: Tensor) -> str:
    return "row " + listed([str(row) for row in rows.tolist()], NAMED).replace("'", "")


def _few(gone: Rows) -> list[str]:
    """Warn where a percentile over rows is their largest value."""
    if len(gone) >= FEWEST_ROWS:
        return []
    return [f"a 95th percentile over {len(gone)} deleted row{'s' * (len(gone) > 1)} is close to their largest value"]


def copies(inputs: Tensor, rows: Tensor) -> Tensor:
    """Return the other points whose inputs equal those of some rows, sorted ``[copies]``.

    Args:
        inputs: ``[points, ...]``.
        rows: sorted indices of points.
    """
    flat = inputs.reshape(len(inputs), -1).contiguous().numpy()
    marks = np.fromiter((crc32(values) for values in flat), np.int64, len(flat))
    by_mark: dict[int, list[int]] = {}
    for row in rows.tolist():
        by_mark.setdefault(int(marks[row]), []).append(row)
    alike = np.isin(marks, list(by_mark))
    alike[rows.numpy()] = False
    candidates = np.flatnonzero(alike)
    same = [p for p in candidates if any(np.array_equal(flat[p], flat[row]) for row in by_mark[int(marks[p])])]
    return torch.tensor(same, dtype=torch.long)
