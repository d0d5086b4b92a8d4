"""Many runs side by side, as one page: a figure, the tables of the terminal, and links to every run's own report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmm_exp.compare.looks import roles_beside
from dmm_exp.compare.names import NOTES, name_of, words_of
from dmm_exp.compare.paper import heads, means_of, notes, rules
from dmm_exp.compare.tables import (
    RANKS_RULE,
    TESTS_RULE,
    Comparison,
    ranks_texts,
    tests_texts,
    unranked_lines,
    untested_lines,
)
from dmm_exp.console.tables import fitting, without_constants
from dmm_exp.report.charts import Chart, Interval, interval_chart
from dmm_exp.report.html import Link, Page, Section, sections_page

CAPTION = (
    "One panel a metric, one mark a method with its 95 % interval where it has one. An arrow beside a metric's name "
    "points to the better."
)
WIDTH = 90  # letters across a page of paper
_METHOD = "method"
_PLAIN = ("dataset", "model", "forget", "unlearner", "refinement")  # keys whose values speak for themselves


def comparison_page(found: Comparison, path: Path, *, left_out: Sequence[str], command: str) -> str:
    """Return the page as text; it makes no request to anything outside itself.

    Args:
        found: what is shown.
        path: where the page will be, from which links to runs start.
        left_out: a line for each run that takes no part.
        command: what to type to get the page again.
    """
    sections = [*_means(found), *_ranks(found), *_tests(found), Section(chart=metrics_by_method(found))]
    sections.append(Section("Runs", rows=_runs(found, path), words=2))
    if left_out:
        sections.append(Section("What is left out", rows=[["run"], *([line] for line in left_out)]))
    facts = [("runs", len(found.runs)), ("methods", found.runs[_METHOD].nunique()), ("blocks", found.n_blocks)]
    return sections_page(Page("Comparison", command, facts, sections, warnings=found.warnings))


def _means(found: Comparison) -> Iterator[Section]:
    """Yield a table for each score with groups of points, and one for scores without."""
    means = means_of(found)
    rule = " ".join(rules(found, means))
    for title, metrics in _by_score(found).items():
        own = " ".join(notes(found)) if any(map(metrics.__contains__, NOTES)) else ""
        rows = means.of(metrics).texts(metrics)
        whole = Section(f"Means: {title}", f"{rule} {own}".strip(), rows=rows, words=means.n_texts)
        yield from _parts(whole)
        rule = ""


def _by_score(found: Comparison) -> dict[str, dict[str, str]]:
    """Return, by the title of a table, its metrics, each with its head."""
    named, tables = heads(found), {}
    alone = ", ".join(words_of(metric) for metric in found.metrics if not name_of(metric)[1])
    for metric, head in named.items():
        group = name_of(metric)[1]
        tables.setdefault(head if group else alone, {})[metric] = group or head
    return tables


def _ranks(found: Comparison) -> Iterator[Section]:
    """Yield the mean ranks, where there are any."""
    if found.ranks.empty:
        return
    head, *rows = ranks_texts(found)
    head = [_short(name) for name in head]
    yield from _parts(Section("Mean ranks", RANKS_RULE, rows=[head, *rows], words=2), ["blocks"], unranked_lines(found))


def _short(metric: str) -> str:
    """Return a metric's name without its unit."""
    return words_of(metric).replace(" (nats)", "")


def _tests(found: Comparison) -> Iterator[Section]:
    """Yield a table of paired differences for each metric that has some."""
    head, *rows = tests_texts(found)
    metrics, rule = list(dict.fromkeys(found.tests["metric"])), TESTS_RULE
    for metric in metrics:
        own = [row[1:] for name, row in zip(found.tests["metric"], rows, strict=True) if name == metric]
        title = f"Paired differences from {found.baseline}: {_labels(found)[metric]}"
        notes = untested_lines(found) if metric == metrics[-1] else ()
        yield from _parts(Section(title, rule, rows=[head[1:], *own], words=3), ["over", "blocks"], notes)
        rule = ""


def _parts(whole: Section, same: Sequence[str] = (), notes: Sequence[str] = ()) -> Iterator[Section]:
    """Yield a section whose table is divided so that each part fits on paper, with what all rows share in its rule.

    Args:
        whole: the section.
        same: columns of words that may go into the rule.
        notes: lines below its last part.
    """
    texts = [[str(text) for text in row] for row in whole.rows]
    shared, rows, words = without_constants(texts, whole.words, same)
    parts = fitting(rows, words, WIDTH)
    rule = " ".join(filter(None, (f"All rows: {shared}." if shared else "", whole.rule)))
    for place, part in enumerate(parts):
        title, last = f"{whole.title}, continued" if place else whole.title, place + 1 == len(parts)
        yield Section(title, "" if place else rule, rows=part, words=words, notes=notes if last else ())


def _runs(found: Comparison, path: Path) -> list[list[str | Link]]:
    """Return each run's name, a relative link to its report if it has one, its method and draws; the head first."""
    start = path.absolute().parent
    rows: list[list[str | Link]] = [["run", "method", "seed"]]
    for row in found.runs.to_dict("records"):
        report = Path(row["folder"]).absolute() / "report.html"
        name = Link(row["name"], Path(os.path.relpath(report, start)).as_posix()) if report.is_file() else row["name"]
        rows.append([name, row[_METHOD], str(row.get("seed", ""))])
    return rows


def metrics_by_method(found: Comparison) -> Chart:
    """Describe every metric: a line for all that runs share but the method, in it a mark with its interval a method.

    A method looks as it does in all figures; references are grey.
    """
    panels: dict[str, dict[str, list[Interval]]] = {label: {} for label in _labels(found).values()}
    for row in found.means.to_dict("records"):
        interval = Interval(_row(found, row), row["mean"], row["low"], row["high"])
        panels[_labels(found)[row["metric"]]].setdefault(str(row.get(_METHOD, "")), []).append(interval)
    roles = roles_beside(map(str, found.means[_METHOD]), found.references) if _METHOD in found.by else None
    caption = CAPTION + " References are grey." * bool(roles and found.references)
    return interval_chart("metrics_by_method", "Metrics by method", caption, panels, roles)


def _labels(found: Comparison) -> dict[str, str]:
    return {metric: f"{words_of(metric)} {arrow}".rstrip() for metric, arrow in found.metrics.items()}


def _row(found: Comparison, row: Mapping[Any, Any]) -> str:
    return _joined(row, [key for key in found.by if key != _METHOD])


def _joined(row: Mapping[Any, Any], keys: Sequence[str]) -> str:
    return ", ".join(str(row[key]) if key in _PLAIN else f"{key}={row[key]}" for key in keys)
