"""Tug-of-war."""

from __future__ import annotations

import numpy as np
import pytest

from dmm_exp.errors import UserError
from dmm_exp.metrics import tow, tow_mia

ORACLE = {"forget": 0.6, "retain": 1.0, "val": 0.8}


def test_tow_of_retraining_is_one():
    assert tow(ORACLE, ORACLE) == 1.0


def test_tow_is_the_product_of_the_three_closenesses():
    found = tow({"forget": 1.0, "retain": 0.9, "val": 0.85}, ORACLE)
    assert isinstance(found, float)
    assert found == pytest.approx(0.6 * 0.9 * 0.95)


def test_tow_of_paired_members_keeps_their_shape():
    unlearned = {"forget": [0.5, 0.7], "retain": [1.0, 1.0], "val": [0.8, 0.8]}
    np.testing.assert_allclose(tow(unlearned, ORACLE), [0.9, 0.9])
    assert np.shape(tow(unlearned, unlearned)) == (2,)


def test_tow_mia_takes_the_attack_for_the_forget_accuracy():
    oracle = {"mia": 0.4, "retain": 1.0, "val": 0.8}
    assert tow_mia({**oracle, "mia": 0.1}, oracle) == pytest.approx(0.7)
    assert tow_mia({"mia": 0.1, "retain": 0.9, "val": 0.85}, oracle) == pytest.approx(0.7 * 0.9 * 0.95)
    np.testing.assert_allclose(tow_mia({**oracle, "mia": [0.4, 0.9]}, oracle), [1.0, 0.5])


def test_tow_mia_does_not_take_a_forget_accuracy():
    with pytest.raises(UserError, match="exactly mia, retain, val"):
        tow_mia(ORACLE, ORACLE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"test": 0.5}, "exactly forget, retain, val"),
        ({"val": 80.0}, r"\['val'\] is 80.0"),
        ({"val": float("nan")}, r"\[0, 1\]"),
        ({"val": [0.1, 0.2], "forget": [0.1, 0.2, 0.3]}, "one number of members"),
    ],
)
def test_bad_input_is_named_in_one_sentence(change, words):
    with pytest.raises(UserError, match=words):
        tow({**ORACLE, **change}, ORACLE)


def test_a_missing_group_is_refused():
    with pytest.raises(UserError, match="oracle has the groups"):
        tow(ORACLE, {"forget": 0.5, "retain": 0.5})
