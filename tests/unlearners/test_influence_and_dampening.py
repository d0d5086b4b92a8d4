"""The two methods that do not fine-tune, against the slow way: dense Newton steps, and one gradient at a time."""

from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse.linalg import cg
from tiny_tasks import chunk, few_digits, make, movement, tiny, unlearn, usual
from torch.nn import functional

from dmm_exp.data import Examples, Normalisation
from dmm_exp.ensembles import AllBut, Ensemble
from dmm_exp.errors import UserError
from dmm_exp.models import MLP
from dmm_exp.unlearners import SSD, Influence, UnlearningTask
from dmm_exp.unlearners.dampening import squared_gradients
from dmm_exp.unlearners.influence import conjugate_gradients

# ---------------------------------------------------------------------- a convex problem, solved exactly

POINTS, FEATURES, CLASSES, DAMPING = 60, 4, 3, 0.05
SHAPES = {"head.weight": (CLASSES, FEATURES), "head.bias": (CLASSES,)}
SIZE = sum(int(np.prod(shape)) for shape in SHAPES.values())


@lru_cache
def blobs():
    """Return overlapping classes in float64."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (POINTS,), generator=generator)
    centres = torch.randn(CLASSES, FEATURES, generator=generator, dtype=torch.double)
    inputs = centres[labels] + torch.randn(POINTS, FEATURES, generator=generator, dtype=torch.double)
    nothing = torch.zeros(POINTS, dtype=torch.bool)
    return Examples(inputs, labels, POINTS, list("abc"), Normalisation(1, [0], [1]), nothing)


FORGET = torch.tensor([2, 11, 17, 30, 31])
RETAIN = AllBut(POINTS, FORGET).indices(range(1))[0]


def unflattened(theta):
    parts = theta.split([int(np.prod(shape)) for shape in SHAPES.values()])
    return {name: part.view(shape) for part, (name, shape) in zip(parts, SHAPES.items(), strict=True)}


def objective(theta, points):
    """Return ``(1/n)·Σ ℓ + ½·damping·‖θ‖²`` over some points; n counts all of them, the forgotten too."""
    params = unflattened(theta)
    logits = blobs().inputs[points] @ params["head.weight"].T + params["head.bias"]
    entropy = functional.cross_entropy(logits, blobs().labels[points], reduction="sum")
    return entropy / POINTS + DAMPING / 2 * theta.square().sum()


def optimum(points):
    """Return where the objective is smallest."""

    def value_and_slope(x):
        theta = torch.tensor(x, requires_grad=True)
        value = objective(theta, points)
        (slope,) = torch.autograd.grad(value, theta)
        return value.item(), slope.numpy()

    found = minimize(value_and_slope, np.zeros(SIZE), jac=True, method="BFGS", options={"gtol": 1e-11})
    return torch.from_numpy(found.x)


@lru_cache
def learnt():
    return optimum(torch.arange(POINTS))


def newton_step(theta):
    """Return one step of Newton's method on the retain objective, by a dense solve."""
    theta = theta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective(theta, RETAIN), theta)
    bend = torch.func.hessian(partial(objective, points=RETAIN))(theta.detach())
    return torch.from_numpy(np.linalg.solve(bend.numpy(), -slope.numpy()))


def task_of(*thetas):
    """Return originals with the given parameters, and five points to forget."""
    build = lambda: MLP([FEATURES], CLASSES, hidden=[]).double()  # noqa: E731
    params = [unflattened(theta) for theta in thetas]
    stacked = {name: torch.stack([member[name] for member in params]) for name in SHAPES}
    originals = Ensemble(build().to("meta"), stacked, {})
    return UnlearningTask(
        originals, blobs(), FORGET, RETAIN, 0, range(len(thetas)), None, build, {}, make_trainer=lambda **_: None
    )


def flat(ensemble, row):
    return torch.cat([ensemble.params[name][row].detach().flatten() for name in SHAPES])


EXACT = {"damping": DAMPING, "iterations": 100, "tolerance": 1e-12}


def test_the_influence_step_is_newtons_step_on_the_retain_objective():
    after = flat(Influence(**EXACT).unlearn(task_of(learnt())).ensemble, 0)
    step = newton_step(learnt())
    assert step.norm() > 0.05
    torch.testing.assert_close(after - learnt(), step, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("block_size", [1, 7, 1000])
def test_the_influence_step_does_not_depend_on_blocks(block_size):
    after = flat(Influence(**EXACT, block_size=block_size).unlearn(task_of(learnt())).ensemble, 0)
    torch.testing.assert_close(after - learnt(), newton_step(learnt()), atol=1e-8, rtol=1e-6)


def test_the_influence_step_leads_most_of_the_way_to_the_retrained_optimum():
    after, retrained = flat(Influence(**EXACT).unlearn(task_of(learnt())).ensemble, 0), optimum(RETAIN)
    assert (after - retrained).norm() < 0.2 * (learnt() - retrained).norm()


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0])
def test_scale_is_the_length_of_the_step(scale):
    after = flat(Influence(**EXACT, scale=scale).unlearn(task_of(learnt())).ensemble, 0)
    torch.testing.assert_close(after - learnt(), scale * newton_step(learnt()), atol=1e-8, rtol=1e-6)


def test_members_take_steps_of_their_own():
    """The step is ``H⁻¹·(1/n)·Σ ∇ℓ`` wherever a member stands, at an optimum or not."""
    thetas = [learnt(), learnt() + 0.3, 0.1 * learnt(), torch.zeros(SIZE, dtype=torch.double)]
    after = Influence(**EXACT).unlearn(task_of(*thetas)).ensemble
    for row, theta in enumerate(thetas):
        slope = torch.func.grad(lambda x: objective(x, FORGET) - DAMPING / 2 * x.square().sum())(theta)
        bend = torch.func.hessian(partial(objective, points=RETAIN))(theta)
        torch.testing.assert_close(flat(after, row) - theta, torch.linalg.solve(bend, slope), atol=1e-8, rtol=1e-6)
        alone = Influence(**EXACT).unlearn(task_of(theta)).ensemble
        torch.testing.assert_close(flat(after, row), flat(alone, 0), atol=1e-10, rtol=1e-10)


def test_more_damping_makes_a_shorter_step():
    lengths = [
        (flat(Influence(**{**EXACT, "damping": damping}).unlearn(task_of(learnt())).ensemble, 0) - learnt()).norm()
        for damping in (0.01, 0.1, 1.0, 10.0)
    ]
    assert lengths == sorted(lengths, reverse=True)


def test_a_sample_of_all_retain_points_is_all_of_them():
    whole, sampled = (
        flat(Influence(**EXACT, curvature_sample=size).unlearn(task_of(learnt())).ensemble, 0) for size in (None, 1000)
    )
    assert torch.equal(whole, sampled)


def test_curvature_of_samples_is_right_on_average():
    steps = [
        flat(Influence(**EXACT, curvature_sample=40).unlearn(replace(task_of(learnt()), seed=seed)).ensemble, 0)
        - learnt()
        for seed in range(40)
    ]
    assert len({tuple(step.tolist()) for step in steps}) == 40
    assert (torch.stack(steps).mean(0) - newton_step(learnt())).norm() < 0.1 * newton_step(learnt()).norm()


# ---------------------------------------------------------------------- influence on networks


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_influence_of_scale_zero_does_nothing(network):
    result = unlearn("influence", tiny(network), scale=0.0)
    assert all(
        torch.equal(value, tiny(network).originals.params[name]) for name, value in result.ensemble.params.items()
    )


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_influence_raises_the_loss_on_the_forget_set(network):
    task = tiny(network)
    forget, labels = task.forget, task.examples.labels
    before, after = (
        functional.cross_entropy(logits[:, forget].flatten(0, 1), labels[forget].repeat(3))
        for logits in (task.originals.logits(task.examples.inputs), usual("influence", network).logits)
    )
    assert after > 1.2 * before


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_influence_on_members_together_equals_alone(network):
    together = unlearn("influence", tiny(network), iterations=8)
    for row in range(3):
        alone = unlearn("influence", chunk(tiny(network), row, row + 1), iterations=8)
        torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-3, rtol=1e-3)


def test_influence_leaves_running_statistics_alone():
    after, before = usual("influence", "cnn").ensemble.stats, tiny("cnn").originals.stats
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize(
    "setting",
    [{"damping": -1.0}, {"iterations": 0}, {"tolerance": -1.0}, {"block_size": 0}, {"curvature_sample": 0}],
    ids=str,
)
def test_influence_out_of_range_is_refused(setting):
    with pytest.raises(UserError, match="expected at least"):
        make("influence", **setting)


# ---------------------------------------------------------------------- conjugate gradients


def systems(members=3, size=12):
    """Return positive definite systems, each harder than the one before, as trees of two tensors."""
    generator = torch.Generator().manual_seed(0)
    turns = torch.linalg.qr(torch.randn(members, size, size, generator=generator, dtype=torch.double)).Q
    spectra = torch.stack([torch.logspace(0, 1.5 * row, size, dtype=torch.double) for row in range(members)])
    matrices = turns @ torch.diag_embed(spectra) @ turns.transpose(1, 2)
    return matrices, torch.randn(members, size, generator=generator, dtype=torch.double)


def tree(vectors):
    return {"a": vectors[:, :4].view(-1, 2, 2), "b": vectors[:, 4:]}


def vectors(parts):
    return torch.cat([parts["a"].flatten(1), parts["b"]], dim=1)


def solve(matrices, right, iterations=500, tolerance=1e-13):
    products = []

    def multiply(x):
        products.append(x)
        return tree(torch.einsum("mij,mj->mi", matrices, vectors(x)))

    return vectors(conjugate_gradients(multiply, tree(right), iterations, tolerance)), len(products)


def test_conjugate_gradients_solve_what_a_dense_solver_solves():
    matrices, right = systems()
    solution, done = solve(matrices, right)
    torch.testing.assert_close(solution, torch.linalg.solve(matrices, right), atol=1e-9, rtol=1e-9)
    assert done < 500


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_few_iterations_give_what_scipy_gives_after_as_many(iterations):
    matrices, right = systems()
    solution, done = solve(matrices, right, iterations)
    assert done == iterations
    for row in range(1, 3):  # the first matrix is the identity: done in one
        expected, _ = cg(matrices[row].numpy(), right[row].numpy(), rtol=0, maxiter=iterations)
        np.testing.assert_allclose(solution[row].numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_solved_member_no_longer_changes():
    matrices, right = systems()
    alone, done = solve(matrices[:1], right[:1])
    assert done == 1
    together, _ = solve(matrices, right)
    torch.testing.assert_close(together[0], alone[0], atol=0, rtol=1e-14)


def test_nothing_on_the_right_needs_no_iteration():
    solution, done = solve(systems()[0], torch.zeros(3, 12, dtype=torch.double))
    assert done == 0
    assert (solution == 0).all()


def test_a_curvature_that_is_not_positive_is_refused():
    matrices, right = systems()
    with pytest.raises(UserError, match="damping"):
        solve(-matrices, right)


# ---------------------------------------------------------------------- selective synaptic dampening


def by_examples(task, row, points):
    """Return the sum of squared gradients of single examples, one after another, by plain autograd."""
    model = task.originals.member(row).eval()
    totals = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for point in points.tolist():
        model.zero_grad()
        one = slice(point, point + 1)
        functional.cross_entropy(model(task.examples.inputs[one]), task.examples.labels[one]).backward()
        for name, value in model.named_parameters():
            totals[name] += value.grad.square()
    return totals


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_squared_gradients_are_those_of_a_loop_over_examples(network):
    task = tiny(network)
    for row in (0, 2):
        found = squared_gradients(task.originals, row, task.examples, task.forget)
        for name, value in by_examples(task, row, task.forget).items():
            torch.testing.assert_close(found[name], value, atol=1e-7, rtol=1e-3)


def importance(task, row):
    """Return every weight's importance to the forget set, and to the whole training set."""
    forget = squared_gradients(task.originals, row, task.examples, task.forget)
    everyone = squared_gradients(task.originals, row, task.examples, torch.arange(task.examples.n_train))
    return {name: (forget[name] / len(task.forget), everyone[name] / task.examples.n_train) for name in forget}


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize(("alpha", "dampening"), [(1.5, 1.0), (2.0, 0.3), (1.2, 1.5)])
def test_ssd_shrinks_what_the_rule_chooses_by_its_formula_and_nothing_else(network, alpha, dampening):
    task, shrunk = tiny(network), 0
    result = unlearn("ssd", task, alpha=alpha, dampening=dampening)
    for row in range(3):
        for name, (own, everyone) in importance(task, row).items():
            before, after = task.originals.params[name][row].detach(), result.ensemble.params[name][row].detach()
            chosen, borderline = own > alpha * everyone, (own / (alpha * everyone) - 1).abs() < 1e-4
            factor = (dampening * everyone / own).clamp(max=1)
            assert torch.equal(after[~chosen & ~borderline], before[~chosen & ~borderline])
            some = chosen & ~borderline
            torch.testing.assert_close(after[some], before[some] * factor[some], atol=1e-7, rtol=1e-3)
            shrunk += int((after[some].abs() < before[some].abs()).sum())
    assert shrunk > 50


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_ssd_with_an_infinite_threshold_does_nothing(network):
    task, result = tiny(network), unlearn("ssd", tiny(network), alpha=float("inf"))
    assert all(torch.equal(value, task.originals.tensors()[name]) for name, value in result.ensemble.tensors().items())


def test_no_weight_is_more_important_to_a_part_than_the_whole_allows():
    """The forget set's share of the whole bounds the ratio of importances: a fifth can never exceed five."""
    assert (movement(unlearn("ssd", tiny(), alpha=2.0), tiny()) > 0).all()
    assert (movement(unlearn("ssd", tiny(), alpha=4.999), tiny()) == 0).all()
    with pytest.raises(UserError, match="expected less than 5"):
        unlearn("ssd", tiny(), alpha=5.0)


def test_the_cost_of_influence_does_not_depend_on_the_chunk():
    loose = {"tolerance": 0.03, "curvature_sample": None, "iterations": 20}
    alone = [unlearn("influence", chunk(tiny(), row, row + 1), **loose).sample_gradients for row in range(3)]
    assert alone == [unlearn("influence", tiny(), **loose).sample_gradients] * 3


def test_ssd_of_strength_zero_removes_what_it_chooses():
    result = unlearn("ssd", tiny(), alpha=2.0, dampening=0.0)
    changed = {name: value != tiny().originals.params[name] for name, value in result.ensemble.params.items()}
    assert sum(int(mask.sum()) for mask in changed.values()) > 50
    assert all((result.ensemble.params[name][mask] == 0).all() for name, mask in changed.items())


def test_ssd_raises_the_loss_on_the_forget_set_more_than_on_the_retain_set():
    task = tiny()
    losses = [
        functional.cross_entropy(logits[:, points].flatten(0, 1), task.examples.labels[points].repeat(3))
        for logits in (task.originals.logits(task.examples.inputs), unlearn("ssd", task, alpha=1.5).logits)
        for points in (task.forget, task.retain)
    ]
    assert losses[2] - losses[0] > max(0.1, losses[3] - losses[1])


def test_ssd_on_members_together_equals_alone():
    alone, together = unlearn("ssd", chunk(tiny("cnn"), 1, 2)).ensemble, usual("ssd", "cnn").ensemble
    assert all(torch.equal(value[0], together.tensors()[name][1]) for name, value in alone.tensors().items())


@pytest.mark.parametrize("setting", [{"alpha": -1.0}, {"dampening": -0.1}], ids=str)
def test_ssd_out_of_range_is_refused(setting):
    with pytest.raises(UserError, match="expected numbers of at least 0"):
        SSD(**setting)


def test_weights_of_unused_inputs_are_left_alone():
    """No importance to anyone: neither chosen nor made into NaN."""
    blank = few_digits().inputs.clone().float()
    blank[:, :, 0] = 16 * 0.305  # the mean: zero after normalisation
    task = replace(tiny(), examples=replace(few_digits(), inputs=blank))
    result = unlearn("ssd", task, alpha=0.0)
    assert torch.isfinite(result.logits).all()
