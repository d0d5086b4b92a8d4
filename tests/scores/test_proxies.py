"""Proxies of memorization: known numbers, and the curvature against plain autograd."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn
from torch.nn import functional

from dmm_exp.ensembles import Ensemble
from dmm_exp.errors import UserError
from dmm_exp.models import CNN, MLP, Normalised
from dmm_exp.scores import loss_curvature, symmetric_kl

MEMBERS, POINTS, CLASSES = 3, 7, 4
LABELS = torch.arange(POINTS) % CLASSES


def random_logits(seed: int = 0, points: int = POINTS) -> Tensor:
    return 3 * torch.randn(MEMBERS, points, CLASSES, generator=torch.Generator().manual_seed(seed))


def test_the_symmetric_divergence_is_scipys_both_ways():
    before, after = random_logits(1), random_logits(2)
    p, q = (special.softmax(logits.double().numpy(), axis=2) for logits in (before, after))
    expected = (stats.entropy(p, q, axis=2) + stats.entropy(q, p, axis=2)).mean(0)
    np.testing.assert_allclose(symmetric_kl(before, after), expected, rtol=1e-4)
    torch.testing.assert_close(symmetric_kl(after, before), symmetric_kl(before, after))


def test_answers_that_did_not_change_diverge_by_nothing():
    before = random_logits()
    torch.testing.assert_close(symmetric_kl(before, before), torch.zeros(POINTS))
    torch.testing.assert_close(symmetric_kl(before, before + 5.0), torch.zeros(POINTS), atol=1e-5, rtol=0)


def test_bad_logits_are_named_in_one_sentence():
    with pytest.raises(UserError, match=r"\[members, points, classes\]"):
        symmetric_kl(torch.zeros(POINTS, CLASSES), torch.zeros(POINTS, CLASSES))
    with pytest.raises(UserError, match="same shape"):
        symmetric_kl(random_logits(), random_logits()[:1])


SHAPE = (2, 4, 4)
CONSTANTS = {"scale": 255.0, "mean": [0.4, 0.6], "std": [0.2, 0.3], "input_shape": SHAPE}


def networks(kind: type[nn.Module] = CNN) -> Ensemble:
    """Two members behind a normalisation; the CNN has BatchNorm, whose statistics must be left alone."""
    make = {CNN: lambda: CNN(SHAPE, CLASSES, [3], batch_norm=True), MLP: lambda: MLP(SHAPE, CLASSES, [])}[kind]
    return Ensemble.initialise(lambda: Normalised(make(), **CONSTANTS), seeds=[1, 2])


def images(points: int = POINTS) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (points, *SHAPE), generator=generator, dtype=torch.uint8)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_point_curvature(module: Normalised, image: Tensor, label: Tensor, signs: Tensor, step: float) -> float:
    """One member and one point by plain autograd, one direction after another."""

    def gradient(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        loss = functional.cross_entropy(module.network(x[None]), label[None])
        return torch.autograd.grad(loss, x)[0]

    centre = module.normalise(image)
    changes = [(gradient(centre + step * v) - gradient(centre)) / step for v in signs]
    return float(np.mean([float(change.square().sum()) for change in changes]))


@pytest.mark.parametrize("kind", [CNN, MLP])
def test_the_curvature_is_that_of_plain_autograd(kind):
    ensemble, inputs, step, directions = networks(kind), images(), 0.05, 3
    found = loss_curvature(ensemble, inputs, LABELS, step=step, directions=directions, generator=draws())
    signs = 2 * torch.randint(2, (POINTS, directions, *SHAPE), generator=draws(), dtype=torch.int8) - 1
    expected = [
        np.mean([one_point_curvature(ensemble.member(m), inputs[i], LABELS[i], signs[i], step) for m in range(2)])
        for i in range(POINTS)
    ]
    assert found.shape == (POINTS,)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)


class Bowl(nn.Module):
    """Logits whose cross-entropy for class 0 is exactly ``Σ a x²/2 + 1``."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.a = nn.Parameter(slope * torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        loss = (self.a * inputs.square()).sum(1) / 2 + 1
        return torch.stack([-loss, torch.log(-torch.expm1(-loss))], dim=1)


@pytest.mark.parametrize("step", [0.01, 0.5])
def test_the_curvature_of_a_quadratic_loss_is_its_squared_hessian_in_normalised_inputs(step):
    bowls = [Normalised(Bowl(s), scale=10.0, mean=[0.5], std=[0.25], input_shape=(3,)) for s in (1.0, 2.0)]
    inputs = torch.tensor([[5, 5, 5], [6, 4, 7]], dtype=torch.uint8)
    labels = torch.zeros(2, dtype=torch.long)
    found = loss_curvature(Ensemble.stack(bowls), inputs, labels, step=step, directions=2, generator=draws())
    torch.testing.assert_close(found, torch.full((2,), (14.0 + 4 * 14.0) / 2), rtol=2e-3, atol=0)


def test_the_expectation_is_the_squared_frobenius_norm_of_the_hessian():
    ensemble, inputs = networks(MLP)[:1], images(2)
    found = loss_curvature(ensemble, inputs, LABELS[:2], directions=2000, generator=draws())
    module = ensemble.member(0)
    for i in range(2):

        def loss(x: Tensor, i: int = i) -> Tensor:
            return functional.cross_entropy(module.network(x[None]), LABELS[i][None])

        hessian = torch.autograd.functional.hessian(loss, module.normalise(inputs[i])).flatten(3).flatten(0, 2)
        assert float(found[i]) == pytest.approx(float(hessian.square().sum()), rel=0.1)


def test_the_curvature_does_not_depend_on_how_points_fall_into_blocks(monkeypatch):
    ensemble, inputs = networks(), images()
    whole = loss_curvature(ensemble, inputs, LABELS, generator=draws())
    monkeypatch.setattr(sys.modules["dmm_exp.scores.proxies"], "VALUES_AT_ONCE", 2 * 32 * 3)
    torch.testing.assert_close(loss_curvature(ensemble, inputs, LABELS, generator=draws()), whole, rtol=1e-3, atol=1e-7)


def test_measuring_the_curvature_changes_nothing():
    ensemble = networks().train()
    before = {name: value.clone() for name, value in ensemble.tensors().items()}
    loss_curvature(ensemble, images(), LABELS, directions=1, generator=draws())
    assert ensemble.training
    assert all(value.grad is None for value in ensemble.params.values())
    for name, value in ensemble.tensors().items():
        assert torch.equal(value, before[name]), name


def test_bad_questions_about_the_curvature_are_named_in_one_sentence():
    ensemble, inputs = networks(), images()
    with pytest.raises(UserError, match="step is 0"):
        loss_curvature(ensemble, inputs, LABELS, step=0, generator=draws())
    with pytest.raises(UserError, match="directions is 0"):
        loss_curvature(ensemble, inputs, LABELS, directions=0, generator=draws())
    with pytest.raises(UserError, match="one for each input"):
        loss_curvature(ensemble, inputs, LABELS[:3], generator=draws())
    bare = Ensemble.initialise(lambda: MLP(SHAPE, CLASSES), seeds=[0])
    with pytest.raises(UserError, match="expected Normalised"):
        loss_curvature(bare, inputs, LABELS, generator=draws())
