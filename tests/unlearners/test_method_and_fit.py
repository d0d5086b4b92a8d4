"""A method is its settings: what it does to a task is another object, and one method serves any number of tasks."""

from __future__ import annotations

import pytest
import torch
from tiny_tasks import FINE_TUNING, METHODS, fitting, make, ready, same, usual

from dmm_exp.unlearners import Fit


@pytest.mark.parametrize("name", METHODS)
def test_unlearning_changes_nothing_of_the_method(name):
    method = make(name)
    before = dict(vars(method))
    assert same(method.unlearn(fitting(name)), usual(name))
    assert vars(method).keys() == before.keys()
    assert all(vars(method)[key] is value for key, value in before.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_does_the_same_to_a_task_whatever_it_did_before(name):
    method = make(name)
    method.unlearn(fitting(name, "cnn", 30))
    assert same(method.unlearn(fitting(name)), usual(name))


@pytest.mark.parametrize("name", [name for name in FINE_TUNING if name != "negmerge"])  # which fits several times
def test_two_fits_of_one_method_know_nothing_of_each_other(name):
    method = make(name)
    first, second = Fit(method, fitting(name)), Fit(method, fitting(name, "mlp", 30))
    second.result()
    assert same(first.result(), usual(name))


@pytest.mark.parametrize(("name", "kept"), [("dmm", "targets"), ("oracle_matching", "targets"), ("scrub", "teacher")])
def test_what_a_method_keeps_for_a_task_stays_as_it_was(name, kept):
    fit = ready(name, fitting(name), epochs=1)
    before = fit.kept[kept].clone()
    fit.result()
    assert torch.equal(fit.kept[kept], before)
