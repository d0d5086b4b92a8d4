"""Facts about a request to delete that a person adds: who asked for it and why, and their own ids of the rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dmm_exp.errors import UserError, listed, plain_text, shown
from dmm_exp.files.reading import Json

LONGEST = {"reference": 200, "requested_by": 200, "operator": 200, "reason": 2000}  # characters
LONGEST_ID = 200
WORDS = {"reference": "reference", "requested_by": "requested by", "operator": "operator", "reason": "reason"}
RECORD_IDS = "record_ids"


@dataclass(frozen=True)
class About:
    """Facts about a request. All of them are optional, and none changes the network.

    Attributes:
        reference: such as the number of a ticket.
        requested_by: who asked for the deletion.
        operator: who carried it out.
        reason: why.
        record_ids: training index → the person's own id of that row, in the order of the rows.
    """

    reference: str | None = None
    requested_by: str | None = None
    operator: str | None = None
    reason: str | None = None
    record_ids: Mapping[int, str] | None = None

    @classmethod
    def of(
        cls, texts: Mapping[str, Any], record_ids: Any, rows: Sequence[int], n_train: int, before: str = ""
    ) -> About:
        """Return the checked facts, without line breaks and characters that a terminal obeys.

        Args:
            texts: argument → text, or None.
            record_ids: a list of ids: one for each of the rows, in their order, or one for each training row.
            rows: training indices to delete, in the order in which they were listed.
            n_train: number of training rows.
            before: stands before the names of arguments in errors.

        Raises:
            UserError: something is no text, is empty or too long, or there are not as many ids as rows.
        """
        found = {name: _text(f"{before}{name}", text, LONGEST[name]) for name, text in texts.items()}
        key = f"{before}{RECORD_IDS}"
        return cls(**found, record_ids=None if record_ids is None else _ids(key, record_ids, rows, n_train))

    @classmethod
    def read(cls, content: Json | None) -> About:
        """Return what a record holds under ``request``; records of earlier versions hold nothing."""
        if content is None:
            return cls()
        ids = content[RECORD_IDS]
        return cls(
            **{name: content[name] for name in WORDS},
            record_ids=None if ids is None else {entry["row"]: entry["id"] for entry in ids},
        )

    @property
    def content(self) -> Json:
        """What a record holds under ``request``."""
        ids = self.record_ids
        pairs = None if ids is None else [{"row": row, "id": ids[row]} for row in sorted(ids)]
        return {**{name: getattr(self, name) for name in WORDS}, RECORD_IDS: pairs}

    @property
    def said(self) -> Json:
        """The fields that have a value."""
        return {name: value for name, value in self.content.items() if value is not None}

    def check_same(self, kept: About, where: str, before: str = "") -> None:
        """Raise ``UserError`` if a field differs from that of a kept record.

        Args:
            kept: of the record.
            where: the record, in words.
            before: stands before the names of arguments in errors.
        """
        for part in fields(self):
            own, other = getattr(self, part.name), getattr(kept, part.name)
            if own is not None and own != other:
                value = "nothing" if other is None else _quoted(other)
                raise UserError(
                    f"{before}{part.name}={_quoted(own)}: these rows were deleted before, and {where} has {value} "
                    "there; expected the same, or no value"
                )


def in_words(content: Json | None) -> str:
    """Return what a record holds under ``request`` as one line, which is empty without any fact.

    >>> in_words({"reference": "T-17", "record_ids": [{"row": 3, "id": "a"}, {"row": 9, "id": "b"}]})
    "reference: T-17; record ids: 'a' and 'b'"
    """
    content = content or {}
    parts = [f"{words}: {plain_text(content[name])}" for name, words in WORDS.items() if content.get(name)]
    if ids := content.get(RECORD_IDS):
        names = [entry["id"] for entry in ids]
        parts.append(f"record ids: {_joined(names)}")
    return "; ".join(parts)


def _joined(names: Sequence[str]) -> str:
    return f"'{shown(names[0])}' and '{shown(names[1])}'" if len(names) == 2 else listed(names)


def _quoted(value: object) -> str:
    return shown(", ".join(map(str, value.values())) if isinstance(value, Mapping) else value)


def _text(key: str, value: Any, longest: int) -> str | None:
    """Return a text in one line, None where there is none."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{key}={shown(value)}: is of type {type(value).__name__}; expected a text")
    if len(value) > longest:
        raise UserError(f"{key}={shown(value)}: has {len(value):,} characters; expected at most {longest:,}")
    text = plain_text(value)
    if not re.search(r"\w", text):
        raise UserError(f"{key}={shown(value)}: is empty; expected a text with a letter or a digit")
    return text


def _ids(key: str, values: Any, rows: Sequence[int], n_train: int) -> dict[int, str]:
    """Return the id of each row, in the order of training indices."""
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__len__"):
        raise UserError(f"{key} is a {type(values).__name__}; expected a list of ids, one for each row")
    found = [_id(key, number, value) for number, value in enumerate(values, 1)]
    if len(found) == n_train:
        pairs = {row: found[row] for row in rows}
    elif len(found) == len(rows):
        pairs = dict(zip(rows, found, strict=True))
    else:
        raise UserError(
            f"{key}: holds {len(found):,} ids; expected {len(rows):,}, one for each row in the order of their list, or "
            f"{n_train:,}, one for each training row"
        )
    return {row: pairs[row] for row in sorted(pairs)}


def _id(key: str, number: int, value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value  # numbers of numpy and torch
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UserError(f"{key}: entry {number} is '{shown(value)}' ({type(value).__name__}); expected a text or a "
                        "whole number")  # fmt: skip
    found = _text(f"{key}, entry {number}", str(value), LONGEST_ID)
    assert found is not None
    return found
