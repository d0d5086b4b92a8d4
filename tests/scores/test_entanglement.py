"""The entanglement score against a plain transcription, and what it says."""

import numpy as np
import pytest
import torch

from dmm_exp.scores import entanglement, entanglement_groups


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


def test_groups_are_nearly_equal_and_ordered_by_distance():
    phi = features(points=100)
    table = entanglement_groups(phi, groups=7)
    sizes = table.groupby("group").size()
    assert sizes.max() - sizes.min() <= 1
    means = table.groupby("group")["distance"]
    assert (means.min().to_numpy()[1:] >= means.max().to_numpy()[:-1]).all()
    for group, rows in table.groupby("group"):
        points = torch.tensor(rows["point"].to_numpy())
        assert rows["es"].iloc[0] == pytest.approx(float(entanglement(phi, points))), group
