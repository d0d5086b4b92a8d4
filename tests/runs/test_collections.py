"""Python looks for garbage seldom while many objects are made that stay, and as before afterwards."""

import gc

import pytest

from dmm_exp.runs.job import fewer_collections


def fail(before, objects):
    assert gc.get_threshold() == (objects, *before[1:])
    raise KeyError


@pytest.mark.parametrize("objects", [0, 40_000])
def test_thresholds_are_as_before_also_after_an_error(objects):
    before = gc.get_threshold()
    with pytest.raises(KeyError), fewer_collections(objects):
        fail(before, objects)
    assert gc.get_threshold() == before
