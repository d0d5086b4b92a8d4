"""Correlations of scores with memorization: scipy's numbers, intervals that cover, nothing where nothing varies."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from axes import misleading
from browser import faults
from scipy import stats

from dmm_exp.report.figures import kept
from dmm_exp.runs.scores_page import MEANINGS, correlations, is_skewed, scores_chart, write_scores_page
from dmm_exp.scores import FAMILIES, score_names


def table(points: int = 200, slope: float = 1.0, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    memorization = generator.random(points)
    columns = {
        "point": range(points),
        "memorization": memorization,
        "memorization_se": 0.1,
        "weak": generator.random(points),
        "strong": -slope * memorization + 0.2 * generator.normal(size=points),
        "constant": 1.0,
        "es_group": 3,
    }
    return pd.DataFrame(columns)


def test_correlations_are_scipys_and_the_strongest_is_first():
    found = correlations(table()).set_index("score")
    assert list(found.index) == ["strong", "weak", "constant"]
    for name in ("strong", "weak"):
        expected = stats.spearmanr(table()["memorization"], table()[name])[0]
        assert found.loc[name, "spearman"] == pytest.approx(expected)
        assert found.loc[name, "low"] < expected < found.loc[name, "high"]
    assert found.loc["constant"].isna().all()


def test_intervals_cover_the_correlation_of_many_examples():
    truth = correlations(table(100_000)).set_index("score").loc["strong", "spearman"]
    trials = [correlations(table(80, seed=seed)).set_index("score").loc["strong"] for seed in range(1, 101)]
    assert 88 <= sum(trial["low"] <= truth <= trial["high"] for trial in trials) <= 100


def test_the_figure_has_a_panel_for_every_score():
    chart = scores_chart(table(), correlations(table()))
    assert [panel.title for panel in chart.panels] == ["strong", "weak", "constant"]
    for panel in chart.panels:
        (mark,) = panel.marks
        np.testing.assert_allclose(mark.x, table()[panel.title])
        np.testing.assert_allclose(mark.y, table()["memorization"])


def test_the_page_holds_the_correlations_and_the_figure(tmp_path):
    found = correlations(table())
    page = write_scores_page(table(), found, tmp_path, title="<b>Scores</b>", command="python -m x").read_text()
    assert "<b>Scores" not in page
    assert f"<td>−{-found['spearman'][0]:.3f}</td>" in page
    assert "nan" not in page
    assert "– to –" not in page
    assert page.count('<svg class="plot"') == 3
    assert [chart.name for chart in kept(tmp_path)] == ["scores"]


def test_the_page_is_right_on_every_screen_and_on_paper(browser, tmp_path):
    skewed = table().assign(loss_curvature=np.exp(4 * table()["memorization"]))
    page = write_scores_page(skewed, correlations(skewed), tmp_path, title="Scores", command="python -m x")
    assert faults(browser, page) == []
    assert misleading(kept(tmp_path)) == []


def test_heavy_tails_are_shown_on_a_logarithmic_axis():
    assert is_skewed(pd.Series([1.0, 1.0, 1.0, 50.0]))
    assert not is_skewed(pd.Series([1.0, 2.0, 3.0]))
    assert not is_skewed(pd.Series([-1.0, 1.0, math.inf]))


def test_every_score_of_the_page_is_explained_there(tmp_path):
    known = score_names(name for names in FAMILIES.values() for name in names)
    assert set(MEANINGS) == set(known)
    scores = table().rename(columns={"weak": "es", "strong": "held_out_retraining", "constant": "of_my_own"})
    page = write_scores_page(scores, correlations(scores), tmp_path, title="Scores", command="python -m x").read_text()
    explained = ("memorization", "es", "held_out_retraining")
    assert [name for name in MEANINGS if f">{name}: {MEANINGS[name].split()[0]}" in page] == list(explained)


def test_negative_numbers_of_the_page_have_one_sign(tmp_path):
    found = correlations(table())
    assert found["spearman"][0] < 0
    page = write_scores_page(table(), found, tmp_path, title="Scores", command="python -m x").read_text()
    shown = re.sub(r"<(style|script|svg class=\"plot\").*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert re.findall(r"-\d[\d.]*", shown) == []
    assert f"−{-found['spearman'][0]:.3f}" in shown
