"""Memorization on pools where it is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmm_exp.scores import memorization, memorization_columns

MEMBERS, N_TRAIN, N_POINTS, CLASSES = 40, 6, 9, 3
CERTAIN = 40.0  # a logit so large that the softmax is 1 in float32
FORMS = ["correctness", "probability"]


def random_masks(members: int, n_train: int, seed: int = 0) -> Tensor:
    """Return masks in complementary pairs."""
    half = torch.rand(members // 2, n_train, generator=torch.Generator().manual_seed(seed)) < 0.5
    return torch.stack([half, ~half], dim=1).flatten(0, 1)


def answers(right: Tensor, labels: Tensor) -> Tensor:
    """Return logits ``[members, points, classes]`` that are certain, and right where ``right`` says so."""
    answer = torch.where(right, labels, (labels + 1) % CLASSES)
    return CERTAIN * torch.nn.functional.one_hot(answer, CLASSES).float()


@pytest.fixture
def pool() -> tuple[Tensor, Tensor, Tensor]:
    """Point 0 is right when learnt, 1 always, 2 never, 3 only when not learnt, the others when learnt too."""
    masks, labels = random_masks(MEMBERS, N_TRAIN), torch.arange(N_POINTS) % CLASSES
    right = torch.ones(MEMBERS, N_POINTS, dtype=torch.bool)
    right[:, :N_TRAIN] = masks
    right[:, 1], right[:, 2], right[:, 3] = True, False, ~masks[:, 3]
    return answers(right, labels), masks, labels


@pytest.mark.parametrize("form", FORMS)
def test_memorization_is_the_difference_that_presence_makes(pool, form):
    score, error = memorization(*pool, form)
    torch.testing.assert_close(score, torch.tensor([1.0, 0.0, 0.0, -1.0, 1.0, 1.0]))
    torch.testing.assert_close(error, torch.zeros(N_TRAIN))


def test_the_order_of_members_does_not_matter(pool):
    logits, masks, labels = pool
    logits = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(MEMBERS, generator=torch.Generator().manual_seed(2))
    for form in FORMS:
        score, error = memorization(logits, masks, labels, form)
        again, error_again = memorization(logits[order], masks[order], labels, form)
        torch.testing.assert_close(score, again)
        torch.testing.assert_close(error, error_again)


def test_probability_is_the_softmax_of_the_label():
    logits = torch.tensor([[[2.0, 0.0]], [[0.0, 0.0]], [[2.0, 0.0]], [[0.0, 0.0]]])
    masks = torch.tensor([[True], [False], [True], [False]])
    score, error = memorization(logits, masks, torch.tensor([0]), "probability")
    assert score.item() == pytest.approx(0.880797 - 0.5, abs=1e-5)
    assert error.item() == pytest.approx(0.0, abs=1e-6)


def test_correctness_counts_right_answers():
    right = torch.tensor([True, True, True, False, True, False, False, False])[:, None]
    masks = torch.tensor([True, True, True, True, False, False, False, False])[:, None]
    logits = answers(right, torch.tensor([2]))
    score, error = memorization(logits, masks, torch.tensor([2]), "correctness")
    assert score.item() == pytest.approx(0.75 - 0.25)
    assert error.item() == pytest.approx((0.25 / 4 + 0.25 / 4) ** 0.5)  # variance of 1, 1, 1, 0 is 1/4


@pytest.mark.parametrize("form", FORMS)
def test_the_standard_error_is_the_spread_over_repetitions(form):
    repetitions, members = 4000, 60
    generator = torch.Generator().manual_seed(0)
    masks, labels = random_masks(members, repetitions, seed=1), torch.zeros(repetitions, dtype=torch.long)
    logits = torch.randn(members, repetitions, 2, generator=generator)
    logits[..., 0] += masks.float()  # every point is one repetition of the same experiment
    score, error = memorization(logits, masks, labels, form)
    assert error.square().mean().sqrt().item() == pytest.approx(score.std().item(), rel=0.05)


def test_both_forms_come_with_their_errors(pool):
    logits, masks, labels = pool
    logits = logits / 20
    columns = memorization_columns(logits, masks, labels)
    assert len(columns) == 4
    for name, form in (("memorization", "probability"), ("memorization_correctness", "correctness")):
        score, error = memorization(logits, masks, labels, form)
        assert columns[name].tolist() == score.tolist()
        assert columns[f"{name}_se"].tolist() == error.tolist()
