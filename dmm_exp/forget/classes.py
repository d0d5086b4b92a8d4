"""Classes by their names or their positions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from dmm_exp.data import comparable
from dmm_exp.errors import UserError, did_you_mean, shown


def class_index(label: float | bool | str | None, names: Sequence[str], key: str, position: int | None = None) -> int:
    """Return the number of a class that is given by its name or its position.

    A name counts as it is written. If names look like numbers, ``label=1`` is also the class ``1.0`` or ``01``, if
    there is exactly one such class, and never a position. If no name looks like a number, a whole number is a position,
    unless a class at another position has this number in its name.

    Args:
        label: the name, or None.
        names: of all classes, in order.
        key: of the label in the configuration, as in ``forget.label``; the position is a key of the same group.
        position: from 0, or None.

    Raises:
        UserError: there is no such class, or it is not clear which class is meant.
    """
    beside = f"{key.rpartition('.')[0]}.position".lstrip(".")
    if position is not None:
        return _at(position, label, names, (key, beside))
    same = [place for place, name in enumerate(names) if comparable(name) == comparable(str(label))]
    same = same or [place for place, name in enumerate(names) if _means(name, label)]
    if len(same) == 1:
        return same[0]
    if not same and isinstance(label, int) and _is_place(label, names):
        return label
    accepted = "one of" if same or any(_number(name) is not None for name in names) else _places(names) + " or one of"
    several = f" fits {len(same)} classes" if same else ""
    hint = did_you_mean(label, names) if isinstance(label, str) and not same else ""
    raise UserError(
        f"{key}={label}{several}: expected {accepted} {', '.join(names)}{hint}; {beside}=PLACE counts classes from 0"
    )


def _at(position: int, label: float | bool | str | None, names: Sequence[str], keys: tuple[str, str]) -> int:
    given = f"{keys[1]}={shown(position)}"
    if label is not None:
        raise UserError(f"{given}: {keys[0]}={label} is given, too; expected one of them")
    if isinstance(position, bool) or not isinstance(position, int) or not 0 <= position < len(names):
        raise UserError(f"{given}: expected {_places(names)}, the places of {', '.join(names)}")
    return position


def _places(names: Sequence[str]) -> str:
    return f"0 to {len(names) - 1}"


def _means(name: str, label: float | bool | str | None) -> bool:
    """Return whether a name is a label that is written in another way."""
    if isinstance(label, bool):
        return name.lower() == str(label).lower()
    number = _number(str(label))
    return number is not None and number == _number(name)


def _is_place(label: int, names: Sequence[str]) -> bool:
    """Return whether a whole number can only be the position of a class: no other class has it in its name."""
    if isinstance(label, bool) or not 0 <= label < len(names) or any(_number(name) is not None for name in names):
        return False
    return all(label not in map(int, re.findall("[0-9]+", name)) for place, name in enumerate(names) if place != label)


def _number(text: str) -> Decimal | None:
    """Return the exact number that a text looks like; true is 1, and false 0. None for other texts."""
    digits = {"true": "1", "false": "0"}.get(text.lower(), text)
    try:
        float(digits)
        return Decimal(digits)
    except (ValueError, ArithmeticError):
        return None
