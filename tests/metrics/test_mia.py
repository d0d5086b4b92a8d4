"""The membership inference attack: against a plain loop, and where its answer is known."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from sklearn.svm import SVC

from dmm_exp.errors import UserError
from dmm_exp.metrics import mia

FORGET, RETAIN, VAL = 30, 140, 60
GROUPS = np.repeat([0, 1, 2], [FORGET, RETAIN, VAL])
CLASSES = 4
LABELS = np.random.default_rng(0).integers(0, CLASSES, len(GROUPS))
FEATURES = ["confidence", "correctness", "entropy", "modified_entropy", "probabilities"]


def answers(strength, members=3, seed=1):
    """Logits whose true class stands out by the strength of its group (forget, retain, val)."""
    logits = np.random.default_rng(seed).normal(size=(members, len(GROUPS), CLASSES))
    logits[:, np.arange(len(GROUPS)), LABELS] += np.asarray(strength, dtype=float)[GROUPS]
    return logits.astype(np.float32)


def observe(logits, label, feature):
    """One point, as the definitions read."""
    exponentials = [math.exp(value) for value in logits.astype(float)]
    p = [value / sum(exponentials) for value in exponentials]
    others = [c for c in range(len(p)) if c != label]
    return {
        "confidence": [p[label]],
        "correctness": [float(max(p) == p[label])],
        "entropy": [-sum(value * math.log(value) for value in p)],
        "modified_entropy": [
            -(1 - p[label]) * math.log(p[label]) - sum(p[c] * math.log(1 - p[c]) for c in others),
        ],
        "probabilities": p,
    }[feature]


@pytest.mark.parametrize("feature", FEATURES)
def test_the_attack_equals_a_plain_loop(feature):
    logits = answers([2, 4, 2])
    expected = []
    for member in range(len(logits)):
        seen = np.array([observe(z, y, feature) for z, y in zip(logits[member], LABELS, strict=True)])
        generator = np.random.default_rng([7, member])
        inside = generator.choice(np.flatnonzero(GROUPS == 1), 50, replace=False)
        outside = generator.choice(np.flatnonzero(GROUPS == 2), 50, replace=False)
        attack = SVC(C=3).fit(seen[[*inside, *outside]], [1] * 50 + [0] * 50)
        expected.append(1 - attack.predict(seen[GROUPS == 0]).mean())
    np.testing.assert_allclose(mia(logits, LABELS, GROUPS, feature=feature, largest=50, seed=7), expected, atol=1e-12)


def features_of(logits, label, feature):
    return sys.modules["dmm_exp.metrics.mia"].FEATURES[feature](np.array([logits], dtype=float), np.array([label]))[0]


@pytest.mark.parametrize("feature", FEATURES)
def test_features_are_those_of_the_definitions(feature):
    logits = np.random.default_rng(5).normal(size=(20, CLASSES)) * 3
    for z, y in zip(logits, LABELS, strict=False):
        np.testing.assert_allclose(features_of(z, y, feature), observe(z, y, feature), rtol=1e-9)


def test_the_modified_entropy_of_a_sure_answer_is_its_distance_from_the_truth():
    assert features_of([60.0, 0.0, 0.0], 0, "modified_entropy") == pytest.approx(0.0, abs=1e-20)
    # 1 - p of the wrong class is 2·exp(-60), far below what 1 - p keeps in float64
    assert features_of([60.0, 0.0, 0.0], 1, "modified_entropy") == pytest.approx(60 + 60 - math.log(2), rel=1e-9)
    assert np.isfinite(features_of([3e38, -3e38, 0.0], 1, "modified_entropy")).all()


@pytest.mark.parametrize("feature", FEATURES)
def test_forget_points_that_look_held_out_are_called_non_members_and_the_others_not(feature):
    certain, lost = 12, -12
    held_out, learnt = (answers([like, certain, lost]) for like in (lost, certain))
    if feature == "entropy":  # sure and wrong is as sure as sure and right
        held_out, learnt = (answers([like, certain, 0]) for like in (0, certain))
    assert mia(held_out, LABELS, GROUPS, feature=feature).min() > 0.9
    assert mia(learnt, LABELS, GROUPS, feature=feature).max() < 0.1


def test_an_attack_on_equal_distributions_is_a_guess():
    assert mia(answers([2, 2, 2], members=40), LABELS, GROUPS).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("feature", FEATURES)
def test_features_that_are_all_equal_give_one_half_and_no_warning(feature, recwarn):
    logits = np.zeros((2, len(GROUPS), CLASSES), dtype=np.float32)
    logits[:, np.arange(len(GROUPS)), LABELS] = 9.0
    labels = LABELS
    if feature == "probabilities":
        labels = np.zeros_like(LABELS)
        logits = np.tile(np.float32([9, 0, 0, 0]), (2, len(GROUPS), 1))
    np.testing.assert_array_equal(mia(logits, labels, GROUPS, feature=feature), 0.5)
    assert not recwarn.list


def test_features_that_hardly_differ_give_a_number():
    logits = answers([300, 300, 300])  # entropies of about exp(-300)
    scores = mia(logits, LABELS, GROUPS, feature="entropy")
    assert ((scores >= 0) & (scores <= 1)).all()


def test_the_same_seed_gives_the_same_scores_and_another_seed_others():
    logits = answers([2, 3, 2])
    first = mia(logits, LABELS, GROUPS)
    np.testing.assert_array_equal(first, mia(logits, LABELS, GROUPS))
    assert (first != mia(logits, LABELS, GROUPS, seed=1)).any()


def test_a_member_does_not_depend_on_those_after_it():
    logits = answers([2, 3, 2])
    np.testing.assert_array_equal(mia(logits[:2], LABELS, GROUPS), mia(logits, LABELS, GROUPS)[:2])


def test_retain_points_are_drawn_at_random_and_not_the_first_by_index():
    strength = np.full(len(GROUPS), -12.0)
    strength[np.flatnonzero(GROUPS == 1)[:30]] = strength[np.flatnonzero(GROUPS == 2)[::2]] = 12.0
    logits = strength[None, :, None] * np.eye(CLASSES)[LABELS]
    # like the forget points are 110 of 140 retain and half of the validation points, but none of the first 30 retain
    np.testing.assert_array_equal(mia(np.tile(logits, (5, 1, 1)), LABELS, GROUPS, largest=30), 0.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": np.ones(len(GROUPS), dtype=int)}, "no point of forget"),
        ({"groups": GROUPS[:5]}, "groups has shape"),
        ({"groups": GROUPS + 1}, r"holds \[1, 2, 3\]"),
        ({"feature": "confidense"}, "did you mean 'confidence'"),
        ({"largest": 0}, "largest is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"labels": LABELS + CLASSES}, "expected class indices"),
        ({"logits": np.full((2, len(GROUPS), CLASSES), np.nan)}, "NaN"),
        ({"logits": np.zeros((2, len(GROUPS)))}, r"\[members, points, classes\]"),
    ],
)
def test_bad_input_is_named_in_one_sentence(change, words):
    given = {"logits": answers([1, 1, 1]), "labels": LABELS, "groups": GROUPS, **change}
    with pytest.raises(UserError, match=words):
        mia(**given)
