"""Classes: from the labels in files to numbers from 0, with the checks that every format needs."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from dmm_exp.errors import UserError, listed

JOINS = "|;,"  # between several labels in one
FEW = 20  # up to so many different labels count as classes, however few examples there are


def comparable(name: str) -> str:
    r"""Return a class name in the form in which names are compared: Unicode can write the same text in several ways.

    >>> comparable("e\u0301") == comparable("\u00e9")
    True
    """
    return unicodedata.normalize("NFC", name)


def classes_of(labels: Mapping[str, np.ndarray], source: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return labels as numbers from 0, and the classes' names: the sorted different labels of all parts.

    scikit-learn's ``LabelEncoder`` does the same. Texts that differ only in their Unicode form are one class.

    Args:
        labels: numbers or texts ``[examples]`` by part.
        source: of the labels; errors begin with it.

    Raises:
        UserError: the labels look like identifiers or like a quantity.
    """
    together = np.concatenate(list(labels.values()))  # numbers become texts if another part has texts
    found = np.unique(together)
    if found.dtype.kind == "U":
        _check_spaces(found, source)
        _check_one_each(found, source)
        if len({comparable(name) for name in found}) < len(found):
            together = np.array([comparable(name) for name in together])
            found = np.unique(together)
    _check_few(found, len(together), source)
    ends = np.cumsum([len(part) for part in labels.values()])
    coded = np.split(np.searchsorted(found, together), ends[:-1])
    return dict(zip(labels, coded, strict=True)), [str(name) for name in found]


def numbered(labels: Mapping[str, np.ndarray], source: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return labels of classes without names as numbers from 0, and names for the classes.

    Labels from 0 on without a gap stay as they are. Others, such as 1 to 3, are coded by :func:`classes_of`, so that
    every class has examples.

    Raises:
        UserError: the labels look like identifiers, or some are negative.
    """
    for part, values in labels.items():
        if values.dtype.kind == "i" and values.min() < 0 and set(np.unique(values).tolist()) != {-1, 1}:
            raise UserError(
                f"labels of the {part} part go from {values.min()} to {values.max()} ({source}): expected whole "
                "numbers from 0, or -1 and 1; remove examples without a label"
            )
    return classes_of(labels, source)


def check_names(names: Sequence[str]) -> None:
    """Raise ``UserError`` for two classes whose names differ only in their Unicode form."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(comparable(name), name)
        if other != name:
            raise UserError(
                f"the classes '{other}' and '{name}' have the same name in two Unicode forms (NFC, NFD); rename one of "
                "them"
            )


def check_classes(train: np.ndarray, unseen: np.ndarray, names: Sequence[str], *, may_be_empty: bool) -> None:
    """Raise ``UserError`` if there is only one class, or a class has no training example.

    Args:
        train: labels of training examples ``[examples]``.
        unseen: labels of unseen examples ``[examples]``.
        names: of all classes.
        may_be_empty: whether a class without any examples is accepted.
    """
    trained, kept_unseen = (np.bincount(labels, minlength=len(names)) for labels in (train, unseen))
    if (trained > 0).sum() == 1:
        name = names[int(trained.argmax())]
        raise UserError(
            f"all {len(train):,} training examples are of one class, '{name}'; expected at least two classes"
        )
    missing = [names[label] for label in np.flatnonzero((trained == 0) & (kept_unseen > 0)).tolist()]
    if missing:
        raise UserError(
            f"no training example has the class {listed(missing)} that unseen examples have; expected every class "
            "among the training examples, or no example of it"
        )
    empty = [names[label] for label in np.flatnonzero((trained == 0) & (kept_unseen == 0)).tolist()]
    if empty and not may_be_empty:
        raise UserError(
            f"the class {listed(empty)} has no examples; take it out (an empty folder, for example), or name all "
            "classes with dataset.class_names if that is meant"
        )


def _check_spaces(names: np.ndarray, source: str) -> None:
    bare: dict[str, str] = {}
    for name in names.tolist():
        other = bare.setdefault(name.strip(), name)
        if other != name:
            raise UserError(f"{source}: the labels '{other}' and '{name}' differ only by spaces; expected one spelling")


def _check_one_each(names: np.ndarray, source: str) -> None:
    """Raise ``UserError`` for a label that joins others: ``drama|comedy`` beside ``drama`` and ``comedy``."""
    single = set(names.tolist())
    for name in names.tolist():
        for mark in JOINS:
            parts = [part.strip() for part in name.split(mark)]
            if len(parts) > 1 and single.issuperset(parts):
                raise UserError(
                    f"{source}: the label {listed([name])} joins the labels {listed(parts)}; expected one class for "
                    "each row (there are no sets of labels)"
                )


def _fractions(found: np.ndarray) -> bool:
    """Return whether labels are numbers, perhaps written as texts, and some of them no whole ones."""
    if found.dtype.kind == "U":
        try:
            found = np.array([float(name.replace(",", ".")) for name in found.tolist()])
        except ValueError:
            return False
    return found.dtype.kind == "f" and bool((found != np.round(found)).any())


def _check_few(found: np.ndarray, examples: int, source: str) -> None:
    is_quantity = _fractions(found)
    if is_quantity and len(found) > min(FEW, examples / 2):
        raise UserError(
            f"{source}: the labels are {len(found):,} different fractions such as {_some(found)}, a quantity; expected "
            "classes (put the quantity into a few ranges, or name what holds the classes)"
        )
    if len(found) > max(FEW, examples / 2):
        raise UserError(
            f"{source}: {examples:,} examples have {len(found):,} different labels such as {_some(found)}, which look "
            "like identifiers or quantities; expected classes, at most half as many as examples"
        )


def _some(found: np.ndarray) -> str:
    return ", ".join(str(value) for value in found[:3])
