"""Scores of single examples side by side: how well each stands in for memorization, as a table and on a page."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from dmm_exp.console.words import MISSING, signed
from dmm_exp.report.charts import Chart, Panel, axis, dots, log10, log_axis
from dmm_exp.report.html import Page, Section, write_sections
from dmm_exp.scores import score_names

REFERENCE = "memorization"
TITLE = "Spearman's correlation with memorization"
CAPTION = (
    "One point a training example: its memorization (probability form) against every other score, with Spearman's "
    "correlation."
)
RULE = "The 95 % intervals are over examples, by Fisher's transformation with the variance of Bonett and Wright (2000)."
MOST_SHOWN = 5_000
MEANINGS = {
    "memorization": "how much likelier the right answer on an example is with it in training than without it",
    "memorization_correctness": "the same, counted in right answers rather than by the probability of the true class",
    "pc1": "place on the first principal component of the datamodels: a group of examples with similar effects",
    "pc2": "place on the second one",
    "es": "entanglement: how far the features of an example's group overlap with those of all other examples",
    "es_distance": "distance of an example's features from the mean of all; it decides on the groups of es",
    "confidence": "probability of the true class, mean over training",
    "max_confidence": "the largest probability of any class, mean over training",
    "entropy": "entropy of the probabilities in nats, mean over training",
    "binary_accuracy": "share of visits in training with the right answer",
    "loss_curvature": "how much the loss bends around the example",
    "held_out_retraining": "how much fine-tuning on the validation points changes the answer",
}


def correlations(scores: pd.DataFrame, reference: str = REFERENCE) -> pd.DataFrame:
    """Return Spearman's correlation of every score with memorization, the strongest first.

    Columns: ``score``, ``spearman``, ``low``, ``high`` (95 % interval over examples by Fisher's transformation with the
    variance ``(1 + ρ²/2) / (n − 3)`` of Bonett and Wright, 2000). A score that is the same for all examples has none of
    the three.
    """
    memorized = scores[reference].to_numpy()
    rows = [
        {"score": name, **_correlation(scores[name].to_numpy(), memorized)}
        for name in score_names(scores.columns)
        if name != reference
    ]
    return pd.DataFrame(rows).sort_values("spearman", key=lambda values: -values.abs(), ignore_index=True)


def _correlation(values: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    known = np.isfinite(values) & np.isfinite(reference)
    if len(np.unique(values[known])) < 2:
        return dict.fromkeys(("spearman", "low", "high"), float("nan"))
    rho = float(stats.spearmanr(values[known], reference[known])[0])  # type: ignore[arg-type]
    half = 1.96 * np.sqrt((1 + rho**2 / 2) / max(int(known.sum()) - 3, 1))
    with np.errstate(divide="ignore"):  # of a perfect correlation: both ends are it
        low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    return {"spearman": rho, "low": float(low), "high": float(high)}


def correlation_rows(found: pd.DataFrame) -> list[list[str]]:
    """Return the correlations as text, the head first."""
    rows = [[row["score"], signed(row["spearman"], ".3f"), _interval(row)] for row in found.to_dict("records")]
    return [["score", "ρ", "95 % interval"], *rows]


def _interval(row: Mapping[Hashable, float]) -> str:
    known = not math.isnan(row["low"])
    return f"{signed(row['low'], '.3f')} to {signed(row['high'], '.3f')}" if known else MISSING


def meanings(names: Iterable[str]) -> list[str]:
    """Return a line for each of these scores, with what it is; one that is not of this package has none."""
    return [f"{name}: {MEANINGS[name]}." for name in names if name in MEANINGS]


def scores_chart(scores: pd.DataFrame, found: pd.DataFrame) -> Chart:
    """Describe memorization against every other score, a panel each in the order of the correlations."""
    shown = scores.iloc[:: max(1, -(-len(scores) // MOST_SHOWN))]
    y = axis(REFERENCE, shown[REFERENCE])
    panels = []
    for row in found.to_dict("records"):
        values, name = shown[row["score"]], row["score"].replace("_", " ")
        x = log10(values) if is_skewed(values) else values
        across = log_axis(name, x) if is_skewed(values) else axis(name, x, count=4)
        panels.append(Panel(across, y, [dots("ink", x, shown[REFERENCE])], name, f"ρ = {signed(row['spearman'])}"))
    return Chart("scores", "Scores against memorization", CAPTION, panels, across=3, height=0.74)


def is_skewed(values: pd.Series) -> bool:
    """Say whether positive values span so much that most of them would lie on top of one another."""
    return bool((values > 0).all() and values.max() > 20 * values.median())


def write_scores_page(scores: pd.DataFrame, found: pd.DataFrame, folder: Path, *, title: str, command: str) -> Path:
    """Write ``scores.html`` and what its figure shows into a folder; returns the path of the page.

    Args:
        scores: one row an example, a column a score.
        found: see :func:`correlations`.
        folder: where to.
        title: of the page.
        command: what to type to get it again.
    """
    facts = [("training examples", f"{len(scores):,}"), ("scores", len(found) + 1)]
    sections = [
        Section(TITLE, RULE, rows=correlation_rows(found), notes=meanings([REFERENCE, *found["score"]])),
        Section(chart=scores_chart(scores, found)),
    ]
    return write_sections(Page(title, command, facts, sections), folder / "scores.html")
