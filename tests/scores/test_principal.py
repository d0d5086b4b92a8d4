"""Principal components of the datamodel matrix, against forming the matrix."""

import numpy as np
import torch

from dmm_exp.scores.principal import principal_projections


def pool(members=60, n_train=40):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(members, n_train, generator=generator) < 0.5
    outputs = torch.randn(members, n_train, generator=generator)
    outputs[:, :20] += 3 * masks[:, :1]  # example 0 moves the first twenty points
    return outputs, masks


def by_hand(outputs, masks, penalty):
    outputs = outputs.double().numpy()
    inclusion = masks.double().numpy() - masks.double().numpy().mean(0)
    gram = inclusion @ inclusion.T
    gram += penalty * np.diag(gram).mean() * np.eye(len(gram))
    matrix = (inclusion.T @ np.linalg.solve(gram, outputs - outputs.mean(0))).T  # [targets, sources]
    left, values, _ = np.linalg.svd(matrix - matrix.mean(0))
    return left[:, :2] * values[:2]


def test_projections_are_those_of_the_whole_matrix():
    found, expected = principal_projections(*pool()).numpy(), by_hand(*pool(), 1.0)
    for column in range(2):
        sign = np.sign(found[:, column] @ expected[:, column])
        np.testing.assert_allclose(found[:, column], sign * expected[:, column], atol=1e-8)


def test_the_sign_is_settled_and_the_result_repeats():
    first = principal_projections(*pool())
    assert torch.equal(first, principal_projections(*pool()))
    assert (first[first.abs().argmax(0), torch.arange(2)] > 0).all()


def test_points_that_one_example_moves_lie_on_one_side():
    first = principal_projections(*pool())[:, 0]
    assert (first[:20].mean() - first[20:].mean()).abs() > 2 * (first[:20].std() + first[20:].std())
