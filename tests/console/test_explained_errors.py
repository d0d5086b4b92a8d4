"""Exceptions become sentences."""

import pytest

from dmm_exp.errors import REASON, UserError, explained


def test_an_exception_becomes_a_sentence_with_its_reason_and_is_the_cause():
    with (
        pytest.raises(UserError, match=r"^key: cannot be read \(KeyError: 'x'\); expected x$") as error,
        explained(f"key: cannot be read ({REASON}); expected x"),
    ):
        _ = {}["x"]
    assert isinstance(error.value.__cause__, KeyError)


def test_a_sentence_passes_as_it_is():
    with pytest.raises(UserError, match=r"^the first$"), explained("the second"):
        raise UserError("the first")


def test_exceptions_of_other_kinds_pass():
    with pytest.raises(KeyError), explained("a sentence", OSError, TypeError):
        _ = {}["x"]
