"""The data that a person hands over, and the rows to delete, checked."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Subset, TensorDataset

from dmm_exp.data import Dataset, Examples, Normalisation, Rows, Words
from dmm_exp.data.numbers import check_distinct, check_scales
from dmm_exp.errors import REASON, UserError, explained, listed
from dmm_exp.forget import Selector, read_rows
from dmm_exp.models import Normalised

Data = Any  # (inputs, labels), a map-style torch Dataset of such pairs, or a dataset of this package
WORD_NUMBERS = (torch.int32, torch.int64)
RAW = Normalisation(1.0, [0.0], [1.0])  # a network of the user's own gets its inputs as they are


def examples_of(train: Data, validation: Data | None) -> Examples:
    """Return training and unseen points as :class:`Examples`; classes of raw tensors are not named yet.

    Raises:
        UserError: they are not what is expected.
    """
    if isinstance(train, Dataset):
        train = train.load()
    if isinstance(train, Examples):
        if validation is not None:
            raise UserError("validation: train is a dataset of this package, which has unseen points of its own")
        return train
    parts = {"train": _tensors(train, "train")}
    if validation is not None:
        parts["validation"] = _tensors(validation, "validation")
        kinds = [(list(inputs.shape[1:]), dtype_of(inputs)) for inputs, _ in parts.values()]
        if kinds[0] != kinds[1]:
            own, wanted = (f"{shape} {dtype}" for shape, dtype in reversed(kinds))
            raise UserError(f"validation: its inputs are {own}, those of train {wanted}")
        if parts["train"][0].is_floating_point():
            check_scales({key: inputs.numpy() for key, (inputs, _) in parts.items()})
    inputs, labels = (torch.cat(both) for both in zip(*parts.values(), strict=True))
    words = Words(int(inputs.max()) + 1, learnt=None) if inputs.dtype in WORD_NUMBERS else None
    clean = torch.zeros(len(labels), dtype=torch.bool)
    return Examples(inputs, labels, len(parts["train"][1]), [], RAW, clean, words=words)


def _tensors(data: Data, key: str) -> tuple[Tensor, Tensor]:
    """Return (inputs, labels) as float32, uint8 or numbers of words (int32 or int64), and int64."""
    if isinstance(data, TensorDataset):
        data = data.tensors
    elif isinstance(data, TorchDataset):
        data = _collected(data, key)
    if not isinstance(data, Sequence) or isinstance(data, str) or len(data) != 2:
        raise UserError(
            f"{key} is a {type(data).__name__}; expected (inputs, labels), a map-style torch Dataset of such "
            "pairs, or a dataset of this package"
        )
    inputs, labels = _tensor(data[0], f"{key} inputs"), _tensor(data[1], f"{key} labels")
    if labels.ndim != 1 or inputs.ndim < 2 or len(inputs) != len(labels) or inputs.numel() == 0:
        raise UserError(
            f"{key}: inputs {list(inputs.shape)} and labels {list(labels.shape)}; expected [examples, ...] and "
            "[examples], at least one"
        )
    return _checked_inputs(inputs, key), _checked_labels(labels, key)


def _checked_labels(labels: Tensor, key: str) -> Tensor:
    if labels.dtype not in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        raise UserError(f"{key}: labels are {dtype_of(labels)}; expected whole numbers, one class for each example")
    if int(labels.min()) < 0:
        raise UserError(f"{key}: a label is {int(labels.min())}; expected classes from 0 on")
    return labels.long()


def _checked_inputs(inputs: Tensor, key: str) -> Tensor:
    if inputs.dtype == torch.uint8:
        return inputs
    if inputs.dtype in WORD_NUMBERS:
        return _checked_words(inputs, key)
    if not inputs.is_floating_point():
        raise UserError(
            f"{key}: inputs are {dtype_of(inputs)}; expected floating-point numbers, 8-bit images (uint8), or texts as "
            "numbers of words (int64 or int32)"
        )
    single = inputs.float()
    if not single.isfinite().all():
        raise UserError(f"{key}: an input is NaN or infinite; expected finite numbers")
    if inputs.dtype == torch.float64:
        check_distinct(inputs.numpy(), single.numpy(), f"{key} inputs")
    return single


def _checked_words(inputs: Tensor, key: str) -> Tensor:
    """Return numbers of words ``[texts, length]`` as they are."""
    if inputs.ndim != 2:
        raise UserError(
            f"{key}: inputs are whole numbers {list(inputs.shape)}, which stand for words; expected [texts, length], "
            "or floating-point numbers for a network that takes numbers"
        )
    if int(inputs.min()) < 0:
        raise UserError(f"{key}: a number of a word is {int(inputs.min())}; expected numbers from 0 on")
    return inputs


def _tensor(value: Any, what: str) -> Tensor:
    """Return numbers as an ordinary tensor on the CPU."""
    sentence = f"{what}: cannot be made into a tensor ({REASON}); expected numbers"
    with explained(sentence, TypeError, ValueError, RuntimeError):
        if not isinstance(value, Tensor):
            return torch.from_numpy(np.require(value, requirements=["C", "W"]))
        if value.layout != torch.strided or value.is_quantized:
            raise TypeError(f"{value.layout}, {value.dtype}")
        return value.detach().cpu()


def _collected(data: TorchDataset[Any], key: str) -> tuple[Tensor, Tensor]:
    """Return all examples of a map-style dataset, each fetched once."""
    expected = "a length, and (input, label) for every index, all inputs of one shape, labels being whole numbers"
    with explained(f"{key}: this dataset cannot be read ({REASON}); expected {expected}"):
        with torch.random.fork_rng(devices=[]):  # what a dataset draws (augmentation) is the same in every call
            torch.manual_seed(0)
            pairs = [data[index] for index in range(len(data))]  # pyright: ignore[reportArgumentType]
        inputs = [_tensor(pair[0], f"{key} inputs") for pair in pairs]
        labels = [operator.index(pair[1]) for pair in pairs]
        return torch.stack(inputs), torch.tensor(labels, dtype=torch.long)


def with_classes(examples: Examples, answer: Tensor) -> Examples:
    """Return examples with as many classes as the network tells apart."""
    classes = answer.shape[1]
    largest = max(int(examples.labels.max()), len(examples.class_names) - 1)
    if largest >= classes:
        raise UserError(
            f"train: labels go up to {largest}, the network gives {classes} logits; expected labels from 0 to "
            f"{classes - 1}"
        )
    if examples.class_names and _are_other_numbers(examples.class_names, classes):
        raise UserError(
            f"train: its labels {listed(examples.class_names)} are classes that are numbered from 0, but the network "
            f"gives {classes} logits; if these are for labels from 0 to {classes - 1}, name all of these classes with "
            f"dataset.class_names"
        )
    names = examples.class_names + [str(label) for label in range(len(examples.class_names), classes)]
    return replace(examples, class_names=names)


def _are_other_numbers(names: Sequence[str], classes: int) -> bool:
    """Return whether names are labels, smaller than the number of logits, that were numbered again without gaps."""
    if not all(name.isdecimal() for name in names):
        return False
    labels = [int(name) for name in names]
    return labels == sorted(labels) and len(names) <= labels[-1] < classes


def rows_of(train: Data, examples: Examples) -> Callable[[Tensor], TorchDataset[Any]]:
    """Return what gives a recipe that is a function its part of the training set, with inputs as the network gets them.

    A torch Dataset stays one of its kind, anything else becomes a TensorDataset.
    """
    if isinstance(train, TorchDataset):
        return lambda rows: Subset(train, rows.tolist())
    constants, inputs, labels = vars(examples.normalisation), examples.inputs, examples.labels
    as_given = Normalised(nn.Identity(), **constants, input_shape=examples.input_shape)
    return lambda rows: TensorDataset(as_given(inputs[rows]), labels[rows])


def dtype_of(values: Tensor) -> str:
    """Return the name of a tensor's type, as in ``int64``."""
    return str(values.dtype).removeprefix("torch.")


def read(forget: Any, examples: Examples, key: str = "forget") -> Rows:
    """Return the training rows that have to go.

    Args:
        forget: what :func:`dmm_exp.forget.read_rows` takes, or a selector of :mod:`dmm_exp.forget`.
        examples: the dataset.
        key: what errors begin with.

    Raises:
        UserError: there are no such rows.
    """
    if not isinstance(forget, Selector):
        return read_rows(forget, examples, key)
    if forget.needs_scores:
        raise UserError(f"{key}: {type(forget).__name__} needs scores of examples; expected forget.indices=FILE")
    return forget.rows(examples)


def forget_rows(forget: Any, examples: Examples, *, whole_classes: bool = False, gone: Rows | None = None) -> Rows:
    """Return the training rows that have to go, if they can go.

    Args:
        forget: what :func:`read` takes, or returned.
        examples: the dataset.
        whole_classes: whether a class may lose its last example.
        gone: rows that went before; they cannot go again.

    Raises:
        UserError: there are no such rows, or they cannot go.
    """
    rows, labels = read(forget, examples), examples.labels[: examples.n_train]
    left = torch.ones(examples.n_train, dtype=torch.bool) if gone is None else ~gone.mask
    again = rows.indices[~left[rows.indices]]
    if len(again):
        raise UserError(f"{rows.key}: {int(again[0])} was deleted before; expected indices that are still there")
    before, after = (torch.bincount(labels[kept], minlength=examples.n_classes) for kept in (left, left & ~rows.mask))
    if not after.any():
        raise UserError(f"{rows.key}: nothing of the training set would be left; expected some of it to be retained")
    vanished = ((before > 0) & (after == 0)).nonzero().squeeze(1)
    if len(vanished) and not whole_classes:
        raise UserError(
            f"{rows.key}: no example of class {examples.class_names[int(vanished[0])]} would be left; pass "
            "whole_classes=True (on the command line request.whole_classes=true) if that is meant"
        )
    return rows
