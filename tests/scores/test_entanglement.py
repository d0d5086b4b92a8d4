"""The entanglement score against a plain transcription, and what it says."""

import itertools

import numpy as np
import pytest
import torch

from dmm_exp.errors import UserError
from dmm_exp.scores import entanglement, entanglement_columns


def features(members=2, points=90, width=5, seed=0):
    return torch.randn(members, points, width, generator=torch.Generator().manual_seed(seed))


def by_hand(phi, forget):
    """One member, as the formula reads."""
    phi = phi.double().numpy()
    f = phi[forget.numpy()]
    r = np.delete(phi, forget.numpy(), axis=0)
    mu_r, mu_f = r.mean(0), f.mean(0)
    mu = (mu_r + mu_f) / 2
    within = np.mean(np.sum((r - mu_r) ** 2, 1)) + np.mean(np.sum((f - mu_f) ** 2, 1))
    return within / (0.5 * (np.sum((mu_r - mu) ** 2) + np.sum((mu_f - mu) ** 2)))


def test_it_is_the_formula():
    phi, forget = features(), torch.arange(7, 30)
    expected = np.mean([by_hand(member, forget) for member in phi])
    assert float(entanglement(phi, forget)) == pytest.approx(expected, rel=1e-12)


def test_translation_scale_and_rotation_change_nothing():
    phi, forget = features(), torch.arange(20)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1))).Q
    moved = 3.7 * (phi @ rotation) - 11
    assert float(entanglement(moved, forget)) == pytest.approx(float(entanglement(phi, forget)), rel=1e-4)


def test_it_grows_as_the_two_sets_mix():
    apart = features()
    scores = []
    for distance in (8.0, 4.0, 2.0, 1.0):
        phi = apart.clone()
        phi[:, :30] += distance
        scores.append(float(entanglement(phi, torch.arange(30))))
    assert scores == sorted(scores)


def test_sets_with_one_mean_are_infinitely_entangled():
    phi = torch.tensor([[[-1.0], [1.0], [-2.0], [2.0]]])
    assert float(entanglement(phi, torch.tensor([0, 1]))) == float("inf")


def test_groups_are_nearly_equal_and_ordered_by_distance():
    phi = features(points=100)
    columns = entanglement_columns(phi, groups=7)
    groups = [np.flatnonzero(columns["es_group"] == group) for group in range(7)]
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    for nearer, farther in itertools.pairwise(groups):
        assert columns["es_distance"][nearer].max() <= columns["es_distance"][farther].min()
    for points in groups:
        assert columns["es"][points] == pytest.approx(float(entanglement(phi, torch.tensor(points))))


@pytest.mark.parametrize("groups", [0, 1, 91])
def test_groups_that_cannot_be_are_refused(groups):
    with pytest.raises(UserError, match=f"groups={groups}: expected from 2 to 90"):
        entanglement_columns(features(), groups=groups)


@pytest.mark.parametrize("forget", [torch.arange(0), torch.arange(90)])
def test_nothing_is_entangled_with_an_empty_set(forget):
    with pytest.raises(UserError, match="both sets must hold some"):
        entanglement(features(), forget)
