"""What members answer while they learn: known numbers, and nothing changes by looking."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from dmm_exp.data import Digits, Examples, Normalisation
from dmm_exp.ensembles import AllBut, Ensemble, EnsembleTraining
from dmm_exp.ensembles.schedules import Constant
from dmm_exp.ensembles.trajectory import PROXIES, Trajectory
from dmm_exp.models import MLP, Normalised

MEMBERS, POINTS, CLASSES = 3, 7, 4
LABELS = (torch.arange(POINTS) % CLASSES).expand(MEMBERS, -1)
EVERY = torch.arange(POINTS).expand(MEMBERS, -1)


def random_logits(seed: int = 0) -> Tensor:
    return 3 * torch.randn(MEMBERS, POINTS, CLASSES, generator=torch.Generator().manual_seed(seed))


def found(*visits: Tensor) -> dict[str, Tensor]:
    trajectory = Trajectory(MEMBERS, POINTS)
    for logits in visits:
        trajectory.update(EVERY, logits, LABELS)
    return trajectory.mean()


def test_proxies_are_scipys():
    logits = random_logits()
    p = special.softmax(logits.double().numpy(), axis=2)
    expected = {
        "confidence": np.take_along_axis(p, LABELS[..., None].numpy(), axis=2)[..., 0],
        "max_confidence": p.max(2),
        "entropy": stats.entropy(p, axis=2),
        "binary_accuracy": p.argmax(2) == LABELS.numpy(),
    }
    assert set(found(logits)) == set(PROXIES)
    for name, values in found(logits).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_an_answer_that_knows_nothing():
    values = found(torch.zeros(MEMBERS, POINTS, CLASSES))
    torch.testing.assert_close(values["confidence"], torch.full((MEMBERS, POINTS), 1 / CLASSES))
    torch.testing.assert_close(values["entropy"], torch.full((MEMBERS, POINTS), math.log(CLASSES)))


def test_an_answer_that_is_sure_and_wrong():
    values = found(200 * torch.nn.functional.one_hot((LABELS + 1) % CLASSES, CLASSES).float())
    for name, value in {"confidence": 0.0, "max_confidence": 1.0, "entropy": 0.0, "binary_accuracy": 0.0}.items():
        torch.testing.assert_close(values[name], torch.full((MEMBERS, POINTS), value))


def test_visits_are_averaged_and_members_kept_apart():
    visits = [random_logits(seed) for seed in range(4)]
    for name, values in found(*visits).items():
        torch.testing.assert_close(values, torch.stack([found(logits)[name] for logits in visits]).mean(0))


def test_points_are_found_by_their_indices_and_unseen_ones_have_no_value():
    trajectory, order = Trajectory(MEMBERS, POINTS), torch.tensor([4, 1])
    logits = random_logits()
    trajectory.update(order.expand(MEMBERS, -1), logits[:, order], LABELS[:, order])
    for name, values in trajectory.mean().items():
        torch.testing.assert_close(values[:, order], found(logits)[name][:, order])
        assert values.isnan().sum() == MEMBERS * (POINTS - len(order))


@pytest.fixture(scope="module")
def digits() -> Examples:
    return Digits(Normalisation(16, [0.305], [0.376])).load()


@pytest.fixture
def trained(digits):
    def train(trajectory: Trajectory | None) -> EnsembleTraining:
        members = range(2)
        module = EnsembleTraining(
            subsets=AllBut(digits.n_train, range(50)).indices(members),
            trajectory=trajectory,
            epochs=2,
            batch_size=64,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
            schedule=Constant(),
        )
        shape = digits.input_shape
        normalisation = vars(digits.normalisation)
        build = lambda: Normalised(MLP(shape, 10, [16]), **normalisation, input_shape=shape)  # noqa: E731
        module.attach(Ensemble.initialise(build, members), digits, seed=0, role="original", members=members)
        for epoch in range(2):
            for batch in module.batches(epoch):
                module.losses(batch).sum().backward()
        return module

    return train


def test_training_tells_of_every_point_once_an_epoch_and_is_not_changed_by_it(trained, digits):
    trajectory = Trajectory(2, digits.n_train)
    watched, alone = trained(trajectory), trained(None)
    values = trajectory.mean()
    assert trajectory._sums[-1].unique().tolist() == [0, 2]  # the points left out, and two epochs
    logits = watched.ensemble.eval().logits(digits.inputs[: digits.n_train])
    expected = logits.softmax(2).gather(2, digits.labels[: digits.n_train].expand(2, -1)[..., None]).squeeze(2)
    torch.testing.assert_close(values["confidence"][:, 50:], expected[:, 50:], rtol=1e-4, atol=1e-5)
    for name, parameter in watched.ensemble.params.items():
        assert torch.equal(parameter.grad, alone.ensemble.params[name].grad), name
