"""What is imported later is what its name says."""

import pickle

import pytest

from dmm_exp.config.later import Later


def test_it_calls_what_it_names_and_can_be_sent_to_another_process():
    later = pickle.loads(pickle.dumps(Later("fractions:Fraction")))
    assert later(1, denominator=2) == Later("fractions:Fraction")("1/2")


def test_what_does_not_exist_is_an_error_of_its_own_kind():
    with pytest.raises(ModuleNotFoundError):
        Later("no_such_module:name")()
    with pytest.raises(AttributeError):
        Later("fractions:NoSuchName")()
