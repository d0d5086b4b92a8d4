"""Scores of single examples side by side: how well each stands in for memorization, as a table and as a figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.table import Table
from scipy import stats

from dmm_exp.report.canvas import Drawn, panels, png, style
from dmm_exp.report.palette import COLOURS
from dmm_exp.report.tables import number
from dmm_exp.scores import score_names

REFERENCE = "memorization"
CAPTION = (
    "One point a training example: its memorization (probability form) against every other score, with Spearman's "
    "correlation. Scores that are high for easy examples fall."
)
MOST_SHOWN = 5_000


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
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    return {"spearman": rho, "low": float(low), "high": float(high)}


def correlation_table(found: pd.DataFrame) -> Table:
    """Return the correlations for the terminal."""
    table = Table("score", box=box.SIMPLE, title="Spearman's correlation with memorization", title_justify="left")
    for name in ("ρ", "95 % interval"):
        table.add_column(name, justify="right")
    for row in found.to_dict("records"):
        table.add_row(row["score"], number(row["spearman"], ".3f"), f"{row['low']:.3f} to {row['high']:.3f}")
    return table


def draw_scores(scores: pd.DataFrame, found: pd.DataFrame) -> Drawn:
    """Draw memorization against every other score, a panel each in the order of the correlations."""
    shown = scores.iloc[:: max(1, -(-len(scores) // MOST_SHOWN))]
    with style():
        figure, axes = panels(len(found), 4, 2.5)
        for place, (panel, row) in enumerate(zip(axes, found.to_dict("records"), strict=True)):
            panel.scatter(shown[row["score"]], shown[REFERENCE], s=7, color=COLOURS["unlearned"], alpha=0.35, lw=0,
                          rasterized=True)  # fmt: skip
            panel.set_title(f"{row['score'].replace('_', ' ')}\nρ = {number(row['spearman'])}")
            if is_skewed(shown[row["score"]]):
                panel.set_xscale("log")
            else:
                panel.xaxis.set_major_locator(MaxNLocator(4))
            if place % 4 == 0:
                panel.set_ylabel("memorization")
    return Drawn("scores", "Scores against memorization", CAPTION, figure, png(figure))


def is_skewed(values: pd.Series) -> bool:
    """Say whether positive values span so much that most of them would lie on top of one another."""
    return bool((values > 0).all() and values.max() > 20 * values.median())
