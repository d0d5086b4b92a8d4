"""What was learnt last is shared by whoever asks for the same."""

from __future__ import annotations

import gc
import weakref

import pytest

from dmm_exp.attribution import Effect, Learned
from dmm_exp.pipeline import Last, Shared


class Something(Learned):
    def effect(self, rows) -> Effect:
        raise NotImplementedError


def test_the_same_is_learnt_once_and_something_else_takes_its_place():
    last, lessons = Last(), []

    def learn() -> Learned:
        lessons.append(Something())
        return lessons[-1]

    assert last.obtain("one", learn) is last.obtain("one", learn)
    assert last.obtain("other", learn) is last.obtain("other", learn)
    last.obtain("one", learn)
    assert len(lessons) == 3


def test_what_was_learnt_is_let_go_of_before_the_next_is_learnt():
    last = Last()
    first = weakref.ref(last.obtain("one", Something))

    def learn() -> Learned:
        gc.collect()
        assert first() is None
        return Something()

    last.obtain("other", learn)


def test_a_failed_lesson_is_not_kept():
    last = Last()
    with pytest.raises(ZeroDivisionError):
        last.obtain("one", lambda: 1 / 0)
    assert isinstance(last.obtain("one", Something), Something)


def test_runs_that_compute_make_their_own_objects():
    made = [Shared().once(object, "forget", {"seed": 1}) for _ in range(2)]
    shared = Shared()
    made += [shared.once(object, "forget", {"seed": 1}) for _ in range(2)]
    assert len({id(one) for one in made}) == 4


def test_runs_that_are_planned_share_the_objects_of_equal_parts():
    shared = Shared(made={})
    first, other, place, again = (
        shared.once(object, path, {"seed": seed})
        for path, seed in [("forget", 1), ("forget", 2), ("dataset", 1), ("forget", 1)]
    )
    assert again is first
    assert len({id(first), id(other), id(place)}) == 3
