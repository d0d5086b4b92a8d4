"""The page of a run, ``report.html``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dmm_exp.compare.runs import is_used, used_attribution
from dmm_exp.console.words import number, percent, trainings, two_digits
from dmm_exp.files.writing import write_text
from dmm_exp.report.charts import Chart
from dmm_exp.report.figures import keep
from dmm_exp.report.html import Tile, page
from dmm_exp.runs.audits import audit_data
from dmm_exp.runs.figures import draw_all
from dmm_exp.runs.result import RunResult
from dmm_exp.runs.single import single_data, single_words
from dmm_exp.runs.tables import headline_data
from dmm_exp.runs.words import narrative, share_within_floor

REPORT = "report.html"
_LEADS = 1  # figures that stand before the table


def write_report(result: RunResult, folder: Path, shows: Any = None) -> Path:
    """Write ``report.html``, and beside it what its figures show, into a run's folder; returns the path of the page.

    The page makes no request to anything outside itself, and appears whole or not at all. ``shows`` is what
    :func:`dmm_exp.report.figures.shown` will say of the page.
    """
    charts = draw_all(result)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / REPORT, render(result, charts))
    keep(charts, folder, shows)
    return folder / REPORT


def render(result: RunResult, charts: Sequence[Chart]) -> str:
    """Return the page as text."""
    return page(Path(__file__).with_name("page.html.j2"), **_context(result, charts))


def _context(result: RunResult, charts: Sequence[Chart]) -> dict[str, Any]:
    """Collect what the template shows."""
    # A stage that was asked for several times took its time once.
    stages = list({(stage.name, stage.detail, stage.seconds): stage for stage in reversed(result.stages)}.values())[
        ::-1
    ]
    return {
        "result": result,
        "facts": _facts(result),
        "tiles": _tiles(result),
        "story": narrative(result),
        "leads": charts[:_LEADS],
        "charts": charts[_LEADS:],
        "headline": headline_data(result),
        "audits": audit_data(result),
        "single": single_data(result),
        "single_words": single_words(result),
        "metrics": [(name, f"{value:.6g}") for name, value in sorted(result.metrics.items())],
        "stages": stages,
        "seconds": sum(stage.seconds for stage in stages),
        "slowest": max([stage.seconds for stage in stages], default=0.0) or 1.0,
        "config": yaml.safe_dump(result.config, sort_keys=False, allow_unicode=True),
    }


def _tiles(result: RunResult) -> list[Tile]:
    """Return the few numbers that stand for the run; those that do not apply are absent."""
    metrics, tiles = result.metrics, []
    share, nothing = share_within_floor(result), share_within_floor(result, "_original")
    if share is not None:
        note = "retraining: 95 % by construction"
        note += "" if nothing is None else f", doing nothing: {percent(nothing)}"
        tiles.append(Tile(percent(share), "of forget points indistinguishable from retraining", note))
    if "klom/forget/p95" in metrics:
        ends = [("floor", "klom_floor/forget/p95"), ("doing nothing", "klom_original/forget/p95")]
        note = ", ".join(f"{words}: {number(metrics[name])}" for words, name in ends if name in metrics)
        tiles.append(Tile(number(metrics["klom/forget/p95"]), "KLoM P95 on forget points, nats", note))
    if "ulira/accuracy" in metrics:
        found, floor = percent(metrics["ulira/accuracy"]), metrics.get("ulira_floor/accuracy")
        note = "guessing: 50 %" + ("" if floor is None else f", independent retraining: {percent(floor)}")
        tiles.append(Tile(found, "accuracy of the attack that tells unlearned models from oracles", note))
    if "cost/ratio" in metrics:
        ratio = two_digits(metrics["cost/ratio"])
        common = metrics.get("cost/shared")
        note = "retraining: 1" + (f", and {trainings(common)} that requests can share" if common else "")
        tiles.append(Tile(ratio, "of the cost of retraining, for one model", note))
    return tiles


def _facts(result: RunResult) -> list[tuple[str, str]]:
    """Return the short facts below the title: what was chosen, and how much of it."""
    attribution = used_attribution(result.choices, result.metrics)
    choices = {**result.choices, "attribution": attribution or ""}
    shown = [name for name in _QUESTION if name in choices] + [name for name in choices if name in _ANSWER]
    facts = [(name, choices[name]) for name in shown if is_used(choices[name])]
    facts += [(f"part {name}", method) for name, method in result.part_methods.items() if method]
    klom = result.choices.get("evaluation/klom", "default")
    facts += [("KLoM", f"as in {klom}")] if klom != "default" else []
    if result.n_models is not None:
        facts.append(("models", f"{result.n_models:,}"))
    return [*facts, ("forget points", f"{len(result.rows('forget')):,}"), ("points", f"{len(result.points):,}")]


# The choices that say which question was asked and how it was answered; the rest stands in the configuration.
_QUESTION = ("dataset", "model", "forget")
_ANSWER = ("unlearner", "refinement", "attribution", "pool", "training", "experiment", "hparams_search")
