"""The competition's score of a run: its floor lies between doing nothing and 1, and utility scales it."""

from __future__ import annotations

import numpy as np
import pytest

from dmm_exp.evaluation.competition import competition_metrics

ACCURACIES = {
    f"accuracy/{name}/{group}": {"unlearned": 0.45}.get(name, 0.9)
    for name in ("unlearned", "oracle", "floor", "original")
    for group in ("retain", "val")
}


def margins(members: int = 60) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    shifts = {"oracle": 0.0, "floor": 0.0, "unlearned": 1.0, "original": 4.0}
    return {name: (draw.normal(size=(members, 80)) + shift).astype(np.float32) for name, shift in shifts.items()}


def test_doing_nothing_scores_less_than_half_unlearned_models_and_these_less_than_retrained_ones():
    found = competition_metrics(margins(), ACCURACIES)
    worst, own, floor = (found[f"competition/quality{end}"] for end in ("_original", "", "_floor"))
    assert worst < own < floor < 1
    assert found["competition/epsilon_original"] > found["competition/epsilon"] > found["competition/epsilon_floor"]
    assert found["competition/quality_low"] < own < found["competition/quality_high"]


def test_lost_accuracy_lowers_the_score():
    found = competition_metrics(margins(), ACCURACIES)
    assert found["competition/score"] == pytest.approx(0.25 * found["competition/quality"])
    assert found["competition/score_floor"] == pytest.approx(found["competition/quality_floor"])


def test_few_models_have_no_score():
    assert competition_metrics(margins(19), ACCURACIES) == {}
