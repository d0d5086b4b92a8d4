"""All rows of one value of a column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dmm_exp.data import Examples, Normalisation
from dmm_exp.errors import UserError
from dmm_exp.forget import OneGroup

USERS = ["17", "5", "170", "17", "u 5", "", "017", "17", "5"]


def examples(**columns: list[str]) -> Examples:
    labels = torch.arange(12) % 3
    nothing = torch.zeros(12, dtype=torch.bool)
    return Examples(torch.zeros(12, 1), labels, 9, [*"abc"], Normalisation(1, [0.0], [1.0]), nothing, columns=columns)


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ("17", [0, 3, 7]),
        (17, [0, 3, 7]),
        (np.int64(17), [0, 3, 7]),
        (17.0, [0, 3, 7]),
        (" 17", [0, 3, 7]),
        ("017", [6]),
        ("u 5", [4]),
        ("", [5]),
    ],
)
def test_a_group_is_all_rows_with_this_text(value: Any, rows: list[int]):
    selector = OneGroup("user", value)
    selector.check(examples(user=USERS))
    chosen = selector.rows(examples(user=USERS))
    assert chosen.tolist() == selector.select(examples(user=USERS)).tolist() == rows
    assert chosen.indices.dtype == torch.int64


def test_it_says_which_group_was_read():
    assert OneGroup("user", 17).rows(examples(user=USERS)).read == "user=17 (3 rows)"
    assert OneGroup("user", "017").rows(examples(user=USERS)).read == "user=017 (1 row)"


@pytest.mark.parametrize(
    ("columns", "selector", "message"),
    [
        ({}, OneGroup("user", 17), r"^forget\.column=user: the dataset names no groups of rows; .*table\.group_by="),
        ({"user": USERS}, OneGroup("users", 17), r"^forget\.column=users: expected one of 'user'; did you mean 'user'"),
        (
            {"user": USERS},
            OneGroup("user", 171),
            r"^forget\.value=171: no training row has this value; expected one of the 6 of the column 'user' "
            r"\('', '017', '17' and 3 more\); did you mean '17",
        ),
        ({"user": ["1"] * 9}, OneGroup("user", 1), "chose 9 of 9 training examples"),
    ],
)
def test_what_is_not_there_is_said(columns: dict[str, list[str]], selector: OneGroup, message: str):
    with pytest.raises(UserError, match=message):
        selector.rows(examples(**columns))
