"""Intervals of the attack on ensembles that all methods share are computed once in a process."""

from __future__ import annotations

import numpy as np
import pytest

from dmm_exp.evaluation import likelihood
from dmm_exp.metrics import ulira_intervals


def test_the_same_margins_are_attacked_once_and_others_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*sides):
        calls.append(sides)
        return ulira_intervals(*sides)

    monkeypatch.setattr(likelihood, "ulira_intervals", counted)
    generator = np.random.default_rng(3)
    one, two, three = generator.standard_normal((3, 20, 7)).astype(np.float32)
    first = likelihood.intervals_of(one, two, three)
    assert likelihood.intervals_of(one.copy(), two, three) == first == ulira_intervals(one, two, three)
    assert len(calls) == 1
    other = one.copy()
    other[0, 0] += 1
    for sides in ((other, two, three), (two, one, three), (one, two, None), (one[:, :6], two[:, :6], three[:, :6])):
        assert likelihood.intervals_of(*sides) == ulira_intervals(*sides)
    assert len(calls) == 5
    assert len(likelihood._found) <= likelihood.KEPT
