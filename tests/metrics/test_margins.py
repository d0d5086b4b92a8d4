"""Margins and correctness."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.special import logsumexp

from dmm_exp.errors import UserError
from dmm_exp.metrics import accuracy, margins


def test_margins_equal_the_definition_in_float64():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(5, 30, 7)) * 4, generator.integers(0, 7, 30)
    others = np.array(
        [[logsumexp(np.delete(logits[m, i], labels[i])) for i in range(30)] for m in range(5)],
    )
    found = margins(logits, labels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, logits[:, np.arange(30), labels] - others, rtol=1e-5, atol=1e-5)


def test_margins_of_huge_logits_do_not_overflow():
    logits = np.array([[[3e4, -3e4, 1e4], [-3e4, 3e4, 3e4]]], dtype=np.float32)
    np.testing.assert_allclose(margins(logits, [0, 0])[0], [2e4, -6e4 - np.log(2)], rtol=1e-7)


def test_two_classes_give_the_difference_of_logits():
    np.testing.assert_allclose(margins([[[1.5, -2.0]]], [1]), [[-3.5]])


def test_margins_do_not_depend_on_blocks_of_members_and_leave_their_input_alone(monkeypatch):
    logits = np.random.default_rng(1).normal(size=(9, 11, 4)).astype(np.float32)
    copy, labels = logits.copy(), np.arange(11) % 4
    whole = margins(logits, labels)
    monkeypatch.setattr(sys.modules["dmm_exp.metrics.margins"], "_VALUES_PER_BLOCK", 100)
    np.testing.assert_array_equal(margins(logits, labels), whole)
    np.testing.assert_array_equal(logits, copy)


def test_margins_of_half_precision_logits_are_computed_in_float32():
    logits = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float16)
    np.testing.assert_array_equal(margins(logits, [0, 1, 2, 0, 1]), margins(logits.astype(np.float32), [0, 1, 2, 0, 1]))


def test_tensors_are_accepted():
    import torch

    logits, labels = torch.randn(3, 6, 4), torch.arange(6) % 4
    np.testing.assert_array_equal(margins(logits, labels), margins(logits.numpy(), labels.numpy()))
    assert accuracy(logits, labels).tolist() == (logits.argmax(2) == labels).tolist()


def test_a_positive_margin_means_correct():
    generator = np.random.default_rng(2)
    logits, labels = generator.normal(size=(4, 50, 3)), generator.integers(0, 3, 50)
    correct = accuracy(logits, labels)
    assert correct.dtype == np.bool_
    assert correct[margins(logits, labels) > 0].all()


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (np.zeros((2, 3)), [0, 0], r"\[members, points, classes\]"),
        (np.zeros((2, 3, 1)), [0, 0, 0], "two classes"),
        (np.zeros((2, 3, 4)), [0, 0], "3 whole numbers"),
        (np.zeros((2, 3, 4)), [0.0, 1.0, 2.0], "whole numbers"),
        (np.zeros((2, 3, 4)), [0, 4, 1], "from 0 to 3"),
        (np.zeros((2, 3, 4)), [0, -1, 1], "from 0 to 3"),
    ],
)
def test_bad_input_is_named_in_one_sentence(logits, labels, words):
    for function in (margins, accuracy):
        with pytest.raises(UserError, match=words):
            function(logits, labels)
