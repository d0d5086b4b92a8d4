"""What a person should know about the rows before trusting the result."""

from __future__ import annotations

import pytest
import torch

from dmm_exp.data import Examples, Normalisation, Rows
from dmm_exp.deletion.cautions import cautions, copies

ROWS, UNSEEN = 100, 40


def examples(inputs: torch.Tensor | None = None) -> Examples:
    inputs = torch.randn(ROWS + UNSEEN, 2, 3, generator=torch.Generator().manual_seed(0)) if inputs is None else inputs
    labels = torch.arange(ROWS + UNSEEN) % 5
    corrupted = torch.zeros(len(labels), dtype=torch.bool)
    return Examples(inputs, labels, ROWS, list("abcde"), Normalisation(1.0, [0.0], [1.0]), corrupted)


def rows_of(indices: torch.Tensor) -> Rows:
    return Rows(indices, ROWS)


def test_rows_like_any_others_need_no_caution():
    assert cautions(examples(), rows_of(torch.arange(20))) == []


def test_few_rows_are_less_than_a_percentile_needs():
    assert cautions(examples(), rows_of(torch.arange(19))) == [
        "a 95th percentile over 19 deleted rows is close to their largest value"
    ]
    assert "over 1 deleted row is" in cautions(examples(), rows_of(torch.tensor([3])))[0]


def test_a_large_share_of_a_class_is_named():
    rows = torch.arange(ROWS)[torch.arange(ROWS) % 5 == 1][:10]
    (first, _) = cautions(examples(), rows_of(rows))
    assert first.startswith("50% of class b goes; predicted effects of rows are too small")
    assert cautions(examples(), rows_of(rows), knows_groups=True) == cautions(examples(), rows_of(rows))[1:]
    both = torch.cat([rows, rows + 1]).sort().values
    assert cautions(examples(), rows_of(both))[0].startswith("50% of class b, 50% of class c go; ")


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_copies_that_stay_are_named(kind):
    inputs = (100 * torch.rand(ROWS + UNSEEN, 2, 3, generator=torch.Generator().manual_seed(0))).to(kind)
    inputs[50], inputs[77], inputs[ROWS + 4] = inputs[3], inputs[8], inputs[3]
    found = " | ".join(cautions(examples(inputs), rows_of(torch.arange(20))))
    assert "2 exact copies of deleted rows stay in the training set: row 50, 77; " in found
    assert "1 exact copy of deleted rows" in found
    assert "row 4 of validation" in found


def test_copies_that_go_too_are_no_copies_that_stay():
    inputs = torch.randn(ROWS + UNSEEN, 6)
    inputs[5] = inputs[3]
    assert cautions(examples(inputs), rows_of(torch.arange(20))) == []


def test_copies_are_what_a_plain_comparison_finds():
    inputs = torch.randint(0, 2, (200, 5)).to(torch.uint8)
    rows = torch.tensor([0, 7, 9])
    others = [p for p in range(200) if p not in rows.tolist()]
    expected = [p for p in others if any(torch.equal(inputs[p], inputs[r]) for r in rows)]
    assert copies(inputs, rows).tolist() == expected
