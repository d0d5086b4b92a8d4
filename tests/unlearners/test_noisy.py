"""Noisy fine-tuning: what it certifies, by other computations, and what its steps are."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from tiny_tasks import few_digits, fitting, full, loss, make, originals, ready, same, sgd, task, tiny, unlearn, usual
from torch.nn import functional

from dmm_exp.errors import UserError
from dmm_exp.unlearners.certificate import NoisySteps, delta_of, epsilon_of, mu_of

# ---------------------------------------------------------------------- the Gaussian mechanism


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 2.5])
def test_delta_is_the_integral_of_what_one_normal_density_has_above_the_other(epsilon, mu):
    def excess(x):
        return max(0.0, stats.norm.pdf(x, mu) - math.exp(epsilon) * stats.norm.pdf(x))

    expected, _ = integrate.quad(excess, epsilon / mu + mu / 2, mu + 30)
    assert delta_of(epsilon, mu) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("epsilon", [0.05, 1.0, 8.0, 500.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-9])
def test_epsilon_and_mu_are_inverse_to_each_other(epsilon, delta):
    assert epsilon_of(delta, mu_of(epsilon, delta)) == pytest.approx(epsilon, rel=1e-6)


def test_the_noise_of_the_analytic_gaussian_mechanism_is_below_the_classical_one():
    """Sensitivity 1, ε = 1, δ = 1e-5: about 3.73, where √(2·ln(1.25/δ)) = 4.84 is the classical sufficient amount."""
    sigma = 1 / mu_of(1.0, 1e-5)
    assert sigma == pytest.approx(3.7304, abs=1e-3)
    assert sigma < math.sqrt(2 * math.log(1.25 / 1e-5))


def test_no_separation_needs_no_epsilon_and_no_noise_an_infinite_one():
    assert epsilon_of(1e-5, 0.0) == 0
    assert (epsilon_of(1e-5, math.inf), delta_of(3.0, math.inf)) == (math.inf, 1.0)


# ---------------------------------------------------------------------- noisy steps

STEPS = {"count": 5, "rate": 0.1, "clip": 2.0, "decay": 3.0, "radius": 4.0}


def test_one_step_without_gradients_is_the_gaussian_mechanism_on_the_start():
    """Output perturbation of a model in a ball of radius 4: sensitivity 8."""
    steps = NoisySteps(count=1, rate=0.0, clip=1.0, decay=0.0, radius=4.0)
    assert steps.noise_for(1.0, 1e-5) == pytest.approx(8 * 3.7304, abs=1e-2)


@pytest.mark.parametrize("decay", [0.0, 3.0, 10.0])
def test_two_runs_that_gradients_drive_apart_are_as_far_apart_as_is_certified(decay):
    """Their exact laws, by the moments of one run after another: the certificate cannot be smaller."""
    steps = NoisySteps(**{**STEPS, "decay": decay})
    above, below, variance = steps.radius, -steps.radius, 0.0
    for _ in range(steps.count):
        above = above - steps.rate * (-steps.clip + decay * above)
        below = below - steps.rate * (steps.clip + decay * below)
        variance = (1 - steps.rate * decay) ** 2 * variance + 0.7**2
    assert steps.mu(0.7) == pytest.approx((above - below) / math.sqrt(variance))


@pytest.mark.parametrize("decay", [0.0, 0.5, 3.0, 9.9, 10.0])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_shifts_of_the_proof_can_be_made(count, decay):
    """Their distances never fall below zero, end there, and add up to the μ that is certified."""
    steps = NoisySteps(**{**STEPS, "count": count, "decay": decay})
    shifts = [steps.separation * steps.kept ** (count - t) / steps.spread**2 for t in range(1, count + 1)]
    distance = 2 * steps.radius
    for shift in shifts:
        distance = steps.kept * distance + 2 * steps.rate * steps.clip - shift
        assert distance >= -1e-9
    assert distance == pytest.approx(0, abs=1e-9)
    assert math.sqrt(sum(shift**2 for shift in shifts)) / 0.7 == pytest.approx(steps.mu(0.7))


def test_no_other_runs_are_further_apart_than_is_certified():
    """Random clipped steps in the plane, without noise: never more than the separation."""
    steps, generator = NoisySteps(**STEPS), np.random.default_rng(0)
    for _ in range(50):
        one, other = (vector / np.linalg.norm(vector) * steps.radius for vector in generator.normal(size=(2, 2)))
        for _ in range(steps.count):
            first, second = (vector / np.linalg.norm(vector) * steps.clip for vector in generator.normal(size=(2, 2)))
            one, other = steps.kept * one - steps.rate * first, steps.kept * other - steps.rate * second
        assert np.linalg.norm(one - other) <= steps.separation + 1e-12


def epsilon(noise=1.0, **settings):
    return epsilon_of(1e-5, NoisySteps(**{**STEPS, **settings}).mu(noise))


def test_more_noise_certifies_more_and_none_nothing():
    values = [epsilon(noise) for noise in (0.0, 0.1, 1.0, 10.0, 1e3)]
    assert values[0] == math.inf
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.01


def test_what_makes_runs_more_alike_certifies_more():
    assert epsilon(radius=8.0) > epsilon() > epsilon(radius=1.0)
    assert epsilon(clip=4.0) > epsilon() > epsilon(clip=0.5)
    without_gradients = [epsilon(count=count, rate=0.1, clip=1e-12) for count in (1, 5, 20, 50)]
    assert without_gradients == sorted(without_gradients, reverse=True)


# ---------------------------------------------------------------------- the method


def test_what_is_asked_for_is_certified_and_other_methods_certify_nothing():
    found = make("noisy_finetune", epsilon=3.0, delta=1e-6).certified
    assert found == {"epsilon": pytest.approx(3.0), "delta": 1e-6}
    assert make("finetune").certified == make("retrain").certified == {}


@lru_cache
def noisy_only(network="mlp", **settings):
    return unlearn("noisy_finetune", tiny(network), epochs=0, **settings)


def test_noise_is_as_large_as_the_certificate_says():
    """Without gradients a parameter's variance at the end is the noise's, times the spread's square."""
    settings = {"noisy_rate": 1e-6, "noisy_decay": 5e5, "noisy_steps": 6, "radius": 1e-9}
    method = make("noisy_finetune", **settings)
    values = torch.cat([value.detach().flatten() for value in noisy_only(**settings).ensemble.params.values()])
    assert float(values.std()) == pytest.approx(method.noise * method.steps.spread, rel=0.03)


def test_a_step_is_that_of_the_theorem():
    """By hand, and with so weak a certificate that noise does not count: a scaled start, a clipped gradient, decay."""
    settings = {"noisy_steps": 1, "noisy_rate": 0.1, "noisy_decay": 2.0, "noisy_clip": 0.3, "radius": 3.0}
    settings |= {"epsilon": 1e11, "batch_size": 1000}
    model = tiny().originals.member(1).train()
    parameters = list(model.parameters())
    norm = torch.cat([value.detach().flatten() for value in parameters]).norm()
    assert norm > 3
    with torch.no_grad():
        for value in parameters:
            value *= 3 / norm
    rows = tiny().retain
    functional.cross_entropy(model(few_digits().inputs[rows]), few_digits().labels[rows]).backward()
    size = torch.cat([value.grad.flatten() for value in parameters]).norm()
    assert size > 0.3
    found = noisy_only(**settings).ensemble.member(1)
    for own, value in zip(found.parameters(), parameters, strict=True):
        expected = value - 0.1 * (value.grad * 0.3 / size + 2 * value)
        torch.testing.assert_close(own, expected, atol=2e-4, rtol=1e-3)


def test_noise_differs_between_members_steps_and_parameters():
    values = [value.detach() for value in noisy_only(radius=1e-9, noisy_clip=1e-9).ensemble.params.values()]
    assert all(not torch.equal(value[0], value[1]) for value in values)
    flat = torch.cat([value.flatten(1) for value in values], dim=1)
    assert all(len(member.unique()) > 0.99 * len(member) for member in flat)


def test_where_the_originals_were_hardly_matters_under_a_strong_certificate():
    """The same noise from two starts ends at nearly the same models, in multiples of the noise."""
    method = make("noisy_finetune", epsilon=0.1)
    other = replace(tiny(), originals=tiny().untrained())
    runs = [unlearn("noisy_finetune", some, epochs=0, epsilon=0.1).ensemble.params for some in (tiny(), other)]
    flat = [torch.cat([value.detach().flatten(1) for value in run.values()], dim=1) for run in runs]
    apart = (flat[0] - flat[1]).norm(dim=1) / (method.noise * method.steps.spread)
    assert float(apart.max()) <= mu_of(0.1, 1e-5) * (1 + 1e-4)
    assert float(apart.max()) > 0


def test_statistics_of_batch_norm_know_nothing_of_the_original():
    """After the noisy steps they are those of a new network; the repair learns new ones."""
    new = tiny("cnn").untrained().stats
    for name, value in noisy_only("cnn").ensemble.stats.items():
        assert torch.equal(value, new[name])
    changed = tiny("cnn").originals.copy()
    for value in changed.stats.values():
        value.add_(3)
    other = unlearn("noisy_finetune", replace(tiny("cnn"), originals=changed))
    assert same(other, usual("noisy_finetune", "cnn"))
    assert any(not torch.equal(value, new[name]) for name, value in other.ensemble.stats.items())


def test_what_was_forgotten_is_looked_at_no_more():
    inputs = few_digits().inputs.clone()
    inputs[tiny().forget] = 0
    blank = replace(tiny(), examples=replace(few_digits(), inputs=inputs))
    after = unlearn("noisy_finetune", blank).ensemble.params
    assert all(torch.equal(value, after[key]) for key, value in usual("noisy_finetune").ensemble.params.items())


def test_the_epochs_that_follow_repair_what_noise_has_done():
    some = task()
    noisy, repaired = (full("noisy_finetune", some, epochs=epochs).logits for epochs in (0, 4))
    assert loss(noisy, some.retain) > 2
    assert loss(repaired, some.retain) < 0.3
    assert loss(originals(some), some.retain) < loss(noisy, some.retain)


def test_an_epoch_is_a_pass_over_the_retain_set():
    rows = torch.cat(list(ready("noisy_finetune", task()).batches(0)), dim=1)
    assert torch.equal(rows.sort().values, task().retain.expand(3, -1))


def test_frozen_parameters_are_refused():
    some = fitting("noisy_finetune")
    model = some.originals.member(0)
    next(model.parameters()).requires_grad_(False)
    frozen = replace(some, originals=type(some.originals).stack([model] * 3))
    with pytest.raises(UserError, match=r"are frozen, and may know what has to go; expected a network of which all"):
        unlearn("noisy_finetune", frozen)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epsilon": -1.0}, r"epsilon=-1.0, unlearner.delta=1e-05: expected at least 0, and a number in \(0, 1\)"),
        ({"delta": 0.0}, r"delta=0.0: expected at least 0, and a number in \(0, 1\)"),
        ({"noisy_steps": 0}, "noisy_steps=0, .*expected at least 1"),
        ({"radius": 0.0}, r"radius=0.0: expected at least 1, 0, a number above 0, 0, and a number above 0"),
        ({"noisy_decay": 101.0}, r"noisy_rate=0.01 times noisy_decay=101.0: expected at most 1"),
    ],
)
def test_settings_that_certify_nothing_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        make("noisy_finetune", **settings)


def test_momentum_of_the_repair_is_not_part_of_the_noisy_steps():
    plain, other = (unlearn("noisy_finetune", tiny(), epochs=0, optimizer=sgd(lr=lr)) for lr in (0.1, 0.9))
    assert same(plain, other)
