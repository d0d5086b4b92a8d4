"""What theory says of convex problems holds of the code, to the digits it should."""

from dataclasses import replace

import numpy as np
import pytest

from dmm_exp.config.convex import ConvexPoolConfig, SettingConfig
from dmm_exp.convex.dynamics import Descent, descend, full_gradient, stochastic_gradient
from dmm_exp.convex.methods import Task, excess_loss, make_task, measure
from dmm_exp.convex.problems import make_problem
from dmm_exp.convex.rates import floors_of, measured_rate
from dmm_exp.convex.solutions import (
    exact_influence,
    leave_group_out,
    one_newton_step,
    pool_masks,
    pool_outputs,
    solve,
)
from dmm_exp.convex.theory import (
    batch_smoothness,
    excited_rate,
    gradient_variance,
    mean_square_rate,
    outside_span,
    smoothness,
    span_condition,
)

SEEDS = range(3)
SMALL = SettingConfig(n=60, d=10, rare=2, size=4)
WIDE = SettingConfig(n=30, d=60, rare=2, size=4, condition=1.0, forget="random")
BINARY = replace(SMALL, noise=0.05)
CONSTANT = np.array([False])


def task_of(setting, loss="ridge"):
    """Return problems with their solutions, without a pool."""
    problem = make_problem(setting, loss, SEEDS)
    trained, retrained = solve(problem.whole), solve(problem.retained)
    return Task(problem, SEEDS, trained, retrained, exact_influence(problem, trained), problem.targets)


def walk(task, part, steps, share=0.95, batch=None):
    """Descend on some examples from θ(S); returns relative distances ``[steps + 1, seeds]``."""
    smooth = smoothness(part) if batch is None else batch_smoothness(part, batch)
    gradient = full_gradient(part) if batch is None else stochastic_gradient(part, batch, steps, SEEDS)
    descent, at = Descent(gradient, steps, 1, 2 / smooth), np.arange(steps + 1)
    walked = descend(descent, task.trained, np.array([share]), CONSTANT, at)
    return measure(task, walked.parameters)[0][..., 0]


@pytest.mark.parametrize(
    ("setting", "loss"), [(SMALL, "ridge"), (WIDE, "ridge"), (BINARY, "logistic"), (WIDE, "logistic")]
)
def test_matching_full_targets_recovers_the_retrained_model(setting, loss):
    task = task_of(replace(setting, noise=0.1), loss)
    assert walk(task, task.matching("om").whole, 1500)[-1].max() < 1e-8


@pytest.mark.parametrize("setting", [SMALL, WIDE, replace(SMALL, size=20, condition=10_000.0)])
def test_ridge_outputs_less_the_exact_effect_are_those_of_retraining(setting):
    problem = make_problem(setting, "ridge", SEEDS)
    trained, retrained = solve(problem.whole), solve(problem.retained)
    effect = problem.inputs @ (trained - leave_group_out(problem, trained))[..., None]
    direct = problem.inputs @ trained[..., None] - effect
    assert np.abs(effect).max() > 0.1
    np.testing.assert_allclose(direct, problem.inputs @ retrained[..., None], atol=1e-10, rtol=0)


def test_descent_is_as_fast_as_its_smallest_eigenvalue_says():
    task = task_of(replace(SMALL, condition=100.0, rare=1))
    retained = task.problem.retained
    values = np.linalg.eigvalsh(retained.hessian(task.retrained)) / len(retained)
    share = 0.5  # of 2/L, so that the smallest eigenvalue decides
    distance = walk(task, retained, 1500, share)
    for seed in SEEDS:
        predicted = 1 - share * 2 / smoothness(retained)[seed] * values[seed, 0]
        measured = measured_rate(np.arange(1501), distance[:, seed])
        assert np.log(measured) == pytest.approx(np.log(predicted), rel=0.02)


def test_matching_is_as_fast_as_the_matched_points_say():
    task = task_of(SMALL)
    part, steps = task.matching("om").whole, 400
    predicted = excited_rate(
        part.hessian(task.retrained) / len(part), task.trained - task.retrained, 1 / smoothness(part)
    )
    measured = [measured_rate(np.arange(steps + 1), column) for column in walk(task, part, steps, 0.5).T]
    np.testing.assert_allclose(np.log(measured), np.log(predicted), rtol=0.02)


def test_matching_has_no_gradient_of_any_example_at_the_target_and_the_retain_loss_has():
    task = task_of(SMALL)
    assert gradient_variance(task.matching("om").whole, task.retrained).max() < 1e-24
    assert gradient_variance(task.problem.retained, task.retrained).min() > 0.1


def test_stochastic_matching_has_no_floor_and_stochastic_descent_has():
    task = task_of(replace(SMALL, condition=1.0))
    matched = walk(task, task.matching("om").whole, 3000, 0.5, batch=4)
    descended = walk(task, task.problem.retained, 3000, 0.5, batch=4)
    assert matched[-1].max() < 1e-9
    assert descended[1000:].min() > 1e-3


def test_few_targets_move_the_error_only_within_their_span():
    task = task_of(replace(WIDE, matched=0.3))
    matching = task.matching("om")
    outside = outside_span(matching.inputs, task.trained - task.retrained)
    assert outside.min() > 0.1
    np.testing.assert_allclose(walk(task, matching.whole, 2000)[-1], outside, rtol=1e-6)


def test_the_error_of_ridge_lies_within_the_span_of_the_training_set():
    task = task_of(WIDE)
    assert outside_span(task.problem.inputs, task.trained - task.retrained).max() < 1e-10
    assert outside_span(task.problem.retained.inputs, task.trained - task.retrained).min() > 0.1


def test_the_error_is_the_gradient_of_the_forgotten_through_the_inverse_curvature():
    task = task_of(SMALL)
    gradient = task.problem.forgotten.loss_gradient(task.trained[..., None])
    error = -np.linalg.solve(task.problem.retained.hessian(task.trained), gradient)[..., 0]
    np.testing.assert_allclose(error, task.trained - task.retrained, atol=1e-10)


def test_the_noise_floor_of_descent_lies_between_its_bounds():
    task = task_of(replace(SMALL, condition=1.0))
    for row in floors_of(task, batch=4, steps=20_000):
        slack = 4 * row["standard_error"]
        assert row["low"] - slack < row["measured"] < row["high"] + slack
        assert row["measured"] > 0.5 * row["low"]


def test_the_mean_square_rate_is_that_of_the_operator_written_out():
    inputs = make_problem(replace(SMALL, d=4, rare=1), "ridge", range(1)).inputs
    eye, step, batch = np.eye(4), 0.1, 3
    rows = inputs[0]
    moment = rows.T @ rows / len(rows)
    single = np.mean([np.kron(np.outer(x, x), np.outer(x, x)) for x in rows], axis=0)
    both = single / batch + (1 - 1 / batch) * np.kron(moment, moment)
    operator = np.eye(16) - step * (np.kron(moment, eye) + np.kron(eye, moment)) + step**2 * both
    radius = np.abs(np.linalg.eigvals(operator)).max()
    assert mean_square_rate(inputs, batch, np.array([step]))[0] == pytest.approx(radius, rel=1e-9)


@pytest.mark.parametrize("loss", ["ridge", "logistic"])
def test_solutions_have_no_gradient(loss):
    problem = make_problem(BINARY, loss, SEEDS)
    at_zero = np.linalg.norm(problem.retained.gradient(np.zeros((3, 10, 1))), axis=1)
    assert (
        np.linalg.norm(problem.retained.gradient(solve(problem.retained)[..., None]), axis=1) < 1e-12 * at_zero
    ).all()


def test_one_newton_step_is_exact_for_ridge_and_near_for_logistic_regression():
    ridge, logistic = task_of(SMALL), task_of(replace(BINARY, penalty=1.0, forget="random"), "logistic")
    np.testing.assert_allclose(one_newton_step(ridge.problem, ridge.trained), ridge.retrained, atol=1e-10)
    missed = np.linalg.norm(logistic.influence - logistic.retrained, axis=1)
    assert (missed < 0.5 * np.linalg.norm(logistic.trained - logistic.retrained, axis=1)).all()
    assert missed.min() > 1e-6


@pytest.mark.parametrize(("setting", "loss"), [(SMALL, "ridge"), (WIDE, "ridge"), (BINARY, "logistic")])
def test_members_of_a_pool_are_the_models_of_their_subsets(setting, loss):
    problem = make_problem(setting, loss, range(1))
    masks = pool_masks(problem, 3, 0.5, np.random.default_rng(0))
    outputs = pool_outputs(problem, 0, masks, solve(problem.whole)[0])
    for mask, found in zip(masks, outputs, strict=True):
        assert mask.sum() == setting.n // 2
        subset = replace(problem, inputs=problem.inputs[:, mask], targets=problem.targets[:, mask])
        np.testing.assert_allclose(found, problem.inputs[0] @ solve(subset.whole)[0], atol=5e-3)


@pytest.mark.parametrize("loss", ["ridge", "logistic"])
def test_excess_loss_is_the_loss_above_its_minimum(loss):
    task = task_of(BINARY, loss)
    retained, error = task.problem.retained, (task.trained - task.retrained)[..., None]
    above = (retained.value(task.trained[..., None]) - retained.value(task.retrained[..., None])) / len(retained)
    np.testing.assert_allclose(excess_loss(task, error), above, rtol=1e-6)
    assert (excess_loss(task, 1e-9 * error) > 0).all()


def test_unusual_examples_condition_the_training_set_and_not_the_retain_set():
    problem = make_problem(SMALL, "ridge", SEEDS)
    assert span_condition(problem.inputs).max() < 0.05 * span_condition(problem.retained.inputs).min()


def test_mislabelled_examples_have_the_other_label():
    right, wrong = (make_problem(replace(BINARY, forget=kind), "logistic", SEEDS) for kind in ("random", "mislabelled"))
    np.testing.assert_array_equal(wrong.forgotten.targets, 1 - right.forgotten.targets)
    np.testing.assert_array_equal(wrong.retained.targets, right.retained.targets)


@pytest.mark.parametrize("data", ["digits", "breast_cancer"])
def test_real_data_are_drawn_by_seed_without_repetition(data):
    setting = SettingConfig(data=data, n=100, d=5, noise=0.0, forget="random")
    first, again, other = (make_problem(setting, "logistic", seeds) for seeds in (range(2), range(2), range(2, 4)))
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert first.inputs.shape == (2, 100, 6)
    assert not np.array_equal(first.inputs, other.inputs)
    assert len(np.unique(first.inputs[0], axis=0)) > 95
    assert 0.2 < first.targets.mean() < 0.8


def test_a_pool_estimates_the_effect_of_the_forgotten():
    setting = replace(SMALL, size=10, condition=1.0, forget="mislabelled")
    pool = ConvexPoolConfig(size=400, alpha=0.5, estimator={"_target_": "dmm_exp.attribution.Datamodel"})
    task = make_task(make_problem(setting, "ridge", SEEDS), SEEDS, pool)
    before, after = ((task.problem.inputs @ found[..., None])[..., 0] for found in (task.trained, task.retrained))
    for seed in SEEDS:
        assert np.corrcoef(before[seed] - after[seed], before[seed] - task.pool[seed])[0, 1] > 0.8


def test_the_mean_square_rate_is_that_within_the_span_of_few_points():
    few = make_problem(WIDE, "ridge", range(1)).inputs[:, :5]
    steps = 1 / batch_smoothness(replace(make_problem(WIDE, "ridge", range(1)), inputs=few, penalty=0.0).whole, 3)
    _, _, axes = np.linalg.svd(few, full_matrices=False)
    inside = few @ axes.transpose(0, 2, 1)
    assert mean_square_rate(few, 3, steps, 2000)[0] == pytest.approx(
        mean_square_rate(inside, 3, steps, 2000)[0], rel=1e-9
    )
    assert mean_square_rate(few, 3, steps, 2000)[0] < 0.999
