"""The leaderboard of all rows: one page that opens offline, and the same as Markdown, CSV and LaTeX."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from dmm_exp.console.latex import best_two, latex_table
from dmm_exp.console.tables import markdown_table
from dmm_exp.console.words import MISSING, further, number, two_digits
from dmm_exp.files.reading import Json
from dmm_exp.files.writing import write_text
from dmm_exp.leaderboard.blocks import further_models, interval
from dmm_exp.leaderboard.page import FLOOR_RULE, RULE, quality_against_cost
from dmm_exp.leaderboard.ranking import COST, ENDS, FURTHER, KLOM, SUM, few_models, floors, gaps, score
from dmm_exp.leaderboard.rows import PARTS, SCORES, Row
from dmm_exp.leaderboard.standings import Board, Standings
from dmm_exp.leaderboard.tables import cost_of, leaderboard_latex, leaderboard_markdown, plain
from dmm_exp.metrics.better import better
from dmm_exp.report.charts import Chart, Interval, interval_chart
from dmm_exp.report.figures import keep
from dmm_exp.report.html import page

HERE = Path(__file__).parent
OVERALL_RULE = (
    "The mean of the mean ranks of all boards; 1 is the best. In brackets a 95 % interval: boards, kinds of forget "
    "sets and forget sets of a kind are drawn with replacement. With few of each the interval is rather too narrow, "
    "and it does not hold what other models would change. A method that is not ranked on every board has no mean. "
    "Costs are means over the boards that a method is on: gradient evaluations of unlearning ÷ those of retraining. "
    "Further models are those that the method looks at, in retrainings."
)
OVERALL = ("", "mean rank", "95 % interval", "cost", "further models")  # heads
BOARD_RULE = (
    "By kind of forget set: P95 KLoM on forget, retain and validation points in nats, mean over its draws; below, its "
    "rank, in brackets the mean over draws of the 95 % interval over models on forget points, and the sum of both "
    "directions of KLoM. Press a cell for all its scores with floors and intervals, its "
    "settings and its command. Press a heading to sort."
)
AGAINST_RULE = (
    "On every forget set that both have: the mean of the three P95 KLoM of each in nats, the difference, and what "
    "independent retraining has. The better of both is bold. So is the difference where the 95 % intervals of P95 "
    "KLoM on forget points do not overlap."
)
CHART_RULE = "Mean rank over boards with its 95 % interval; to the left is better. References have none."


def build(rows: Sequence[Row], folder: Path, *, title: str, runs: Path, command: str) -> Path:
    """Write ``leaderboard.html``, ``.md``, ``.csv`` and ``.tex``, and return the path of the page.

    Args:
        rows: of all boards.
        folder: where the files go.
        title: of the page.
        runs: folder of runs, to which the page leads where they are.
        command: what to type to get the page again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    standings = Standings.of(rows)
    write_text(folder / "leaderboard.csv", cells_of(standings).to_csv(index=False))
    write_text(folder / "leaderboard.md", markdown_of(standings, title))
    write_text(folder / "leaderboard.tex", latex_of(standings, title))
    charts = [*ranks_chart(standings), *(_cost_chart(board) for board in standings.boards)]
    links = {row.run: link for row in rows if (link := _link(runs / row.run, folder))}
    shown = _Shown(standings, title, command, links)
    text = page(
        HERE / "rows.html.j2",
        script=(HERE / "rows.js").read_text(encoding="utf-8"),
        shown=shown,
        charts={chart.name: chart for chart in charts},
        data=Markup(_as_data(shown)),
        overall_rule=OVERALL_RULE,
        board_rule=BOARD_RULE,
        against_rule=AGAINST_RULE,
    )
    write_text(folder / "leaderboard.html", text)
    keep(charts, folder)
    return folder / "leaderboard.html"


def _link(run: Path, start: Path) -> str | None:
    """Return where a run's report is, or else its points; None where the run is not there."""
    for name in ("report.html", "points.parquet"):
        if (run / name).is_file():
            return Path(os.path.relpath(run.absolute() / name, start.absolute())).as_posix()
    return None


def cells_of(standings: Standings) -> pd.DataFrame:
    """Return one row a cell: what it is, its rank on its forget set, its score, all values, floors, ends and costs."""
    ranks = {
        (board.name, one["method"], one["kind"], one["forget"]): one["rank"]
        for board in standings.boards
        for one in board.grid.to_dict("records")
    }
    found = []
    for row in (row for board in standings.boards for row in board.rows):
        names = {"board": row.board, "method": row.method, "kind": row.kind, "forget": row.forget}
        more = {"reference": row.reference, "rank": ranks[row.board, row.method, row.kind, row.forget]}
        more |= {"score": score(row.metrics()), "n_models": row.n_models, "seed": row.seed, "id": row.id}
        values = {
            name if part == "value" else f"{name}_{part}": row.scores.get(name, {}).get(part)
            for name in SCORES
            for part in PARTS
        }
        costs = {f"cost/{name}": value for name, value in row.cost.items()}
        found.append({**names, **more, **values, **costs, "command": row.command})
    return pd.DataFrame(found).dropna(axis=1, how="all")


def overall_rows(standings: Standings) -> list[list[str]]:
    """Return the ranking over all boards as texts: the head (:data:`OVERALL` and the boards), then every method."""
    boards, table = [board.name for board in standings.boards], standings.overall
    models = dict(zip(table.index, table[list(FURTHER)].sum(axis=1, min_count=1).tolist(), strict=True))
    rows = [[*OVERALL, *boards]]
    for method, row in table.to_dict("index").items():
        label = f"{method} (reference)" if row["reference"] else str(method)
        ends = "" if math.isnan(row["mean_rank"]) else interval(row["low"], row["high"])
        costs = [two_digits(row[COST]), further_models(models[method])]
        rows.append([label, number(row["mean_rank"]), ends, *costs, *(number(row[name]) for name in boards)])
    return rows


def with_ends(row: Mapping[Any, Any]) -> str:
    """Return a mean rank with its interval, if it has one."""
    if math.isnan(row["low"]) or math.isnan(row["mean_rank"]):
        return number(row["mean_rank"])
    return f"{number(row['mean_rank'])} [{number(row['low'])}, {number(row['high'])}]"


def markdown_of(standings: Standings, title: str) -> str:
    """Return all tables for GitHub."""
    overall = [[plain(text) for text in row] for row in overall_rows(standings)]
    parts = [f"# {plain(title)}", markdown_table(overall), OVERALL_RULE, RULE, FLOOR_RULE]
    for board in standings.boards:
        warnings = few_models(board.outcomes)
        parts += [f"## {plain(board.name)}", question_of(board), *warnings, leaderboard_markdown(board.outcomes)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def latex_of(standings: Standings, title: str) -> str:
    """Return all tables for a paper: the ranking over all boards, the ranks on each, then every board's own."""
    rows, n_own = overall_rows(standings), len(OVERALL)
    own, by_board = [row[:n_own] for row in rows], [[row[0], *row[n_own:]] for row in rows]
    small = {(place, 2): "scriptsize" for place, row in enumerate(own) if row[2]}
    parts = [
        latex_table(own, f"{title}. {OVERALL_RULE}", marks=small | _best(standings, ["mean_rank"])),
        latex_table(by_board, f"{title}: mean rank on each board.", marks=_best(standings, rows[0][n_own:])),
    ]
    parts += [leaderboard_latex(board.outcomes, f"{title}, {board.name}") for board in standings.boards]
    return "\n".join(parts)


def _best(standings: Standings, names: Sequence[str]) -> dict[tuple[int, int], str]:
    """Return the marks of some columns of a table that begins with names, by row and column; none on references."""
    table = standings.overall
    ranked = ~table["reference"].to_numpy(bool)
    return {
        (place + 1, column): mark
        for column, name in enumerate(names, 1)
        for place, mark in best_two(table[name].where(ranked).tolist(), lower=True).items()
    }


def question_of(board: Board) -> str:
    """Say what the methods of a board are asked."""
    row = next((row for row in board.rows if not row.is_given), board.rows[0])
    said = [f"N = {row.n_models} models", f"seed {row.seed}"]
    said += [f"{key}={value}" for key, value in row.recipe.task.items() if key not in ("n_models", "seed")]
    points = f"{row.points['forget'] + row.points['retain']:,} training and {row.points['val']:,} validation points"
    return f"{points}; {', '.join(said)}."


def ranks_chart(standings: Standings) -> Iterator[Chart]:
    """Describe the mean rank of every method that has one, with its interval; nothing where none has."""
    table = standings.ranked
    found = [
        Interval(str(method), row["mean_rank"], row["low"], row["high"])
        for method, row in table.to_dict("index").items()
    ]
    if found:
        yield interval_chart("mean_ranks", "Mean ranks", CHART_RULE, {"mean rank": {"": found}})


def _cost_chart(board: Board) -> Chart:
    name = f"quality_against_cost_{board.name}"
    return replace(quality_against_cost(board.outcomes), name=name, title=f"Quality against cost, {board.name}")


@dataclass(frozen=True)
class _Shown:
    """What the template reads.

    Attributes:
        standings: of all boards.
        title: of the page.
        command: what to type to get it again.
        links: name of a run → where its report or its points are.
    """

    standings: Standings
    title: str
    command: str
    links: Mapping[str, str]

    @property
    def facts(self) -> list[tuple[str, Any]]:
        """How much of what there is."""
        rows = [row for board in self.standings.boards for row in board.rows]
        methods = {row.method for row in rows if not row.reference}
        sets = {(row.board, row.kind, row.forget) for row in rows}
        counts = [("cells", len(rows)), ("methods", len(methods)), ("boards", len(self.standings.boards))]
        return [*counts, ("forget sets", len(sets)), ("models in each ensemble", _range(row.n_models for row in rows))]

    @property
    def warnings(self) -> list[str]:
        """What to beware of."""
        return [f"{board.name}: {said}" for board in self.standings.boards for said in few_models(board.outcomes)]

    @property
    def story(self) -> list[str]:
        """Who is first, and how that is found."""
        ranked = self.standings.ranked
        first = ranked.query("mean_rank == mean_rank.min()")
        verb = "is" if len(first) == 1 else "are"
        said = (
            [f"{' and '.join(map(str, first.index))} {verb} first, with a mean rank of {with_ends(first.iloc[0])}."]
            if len(first) and not self.warnings
            else []
        )
        return [*said, RULE, FLOOR_RULE]

    @property
    def overall(self) -> list[Json]:
        """The ranking over boards: label, whether it is a reference, and pairs of text and number to sort by."""
        names = [board.name for board in self.standings.boards]
        return [
            {
                "method": str(method),
                "reference": row["reference"],
                "cells": [
                    _sortable(with_ends(row), row["mean_rank"]),
                    *(_sortable(number(row[name]), row[name]) for name in names),
                    _sortable(cost_of(row), row[COST]),
                ],
            }
            for method, row in self.standings.overall.to_dict("index").items()
        ]

    def question(self, board: Board) -> str:
        """What the methods of a board are asked."""
        return question_of(board)

    def kinds(self, board: Board) -> list[str]:
        """The kinds of forget sets of a board."""
        return [str(kind) for kind in floors(board.outcomes).index]

    def table(self, board: Board) -> list[Json]:
        """A board's ranking: for each kind values, rank and score; ToW and cost are means."""
        kinds = self.kinds(board)
        return [
            {
                "method": str(method),
                "reference": row["reference"],
                "rank": _sortable(with_ends(row), row["mean_rank"]),
                "kinds": [(kind, *_kind_cell(row, kind)) for kind in kinds],
                "tow": _sortable(number(row["tow"], ".3f"), row["tow"]),
                "cost": (*_sortable(two_digits(row[COST]), row[COST]), further(row)),
            }
            for method, row in board.standing.to_dict("index").items()
        ]

    def floor(self, board: Board) -> list[str]:
        """The noise floor of each kind, and of tug-of-war."""
        found = floors(board.outcomes)
        kloms = [
            _joined(row[f"klom_floor/{group}/p95"] for group in ("forget", "retain", "val"))
            for _, row in found.iterrows()
        ]
        return [*kloms, number(float(found["tow_floor"].to_numpy(float).mean()), ".3f")]

    @property
    def gaps(self) -> list[str]:
        """What is missing."""
        return [f"{board.name}: {gap}" for board in self.standings.boards for gap in gaps(board.grid)]


def _kind_cell(row: Mapping[Any, Any], kind: str) -> tuple[str, str, str]:
    """Return a cell's three P95 KLoM, what stands below them, and what it is sorted by."""
    total = _joined(row[f"{kind}/{name}"] for name in SUM)
    rank = row[f"{kind}/rank"]
    below = [f"#{rank:.1f}".removesuffix(".0")] if not math.isnan(rank) else []
    below += [ends] if (ends := interval(*(row[f"{kind}/{name}"] for name in ENDS[KLOM[0]]))) else []
    below += [f"sum {total}"] if total != MISSING else []
    return _joined(row[f"{kind}/{name}"] for name in KLOM), "\n".join(below), _key(row[f"{kind}/score"])


def _joined(values: Iterator[float] | Any) -> str:
    texts = [number(value) for value in values]
    return MISSING if set(texts) == {MISSING} else " / ".join(texts)


def _sortable(text: str, value: float) -> tuple[str, str]:
    return text, _key(value)


def _key(value: float) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def _range(values: Iterator[int]) -> str:
    known = sorted(set(values))
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def _as_data(shown: _Shown) -> str:
    """Return what the page's script shows of every cell, as JSON that ends no element of the page."""
    cells = [_cell(row, shown.links.get(row.run)) for board in shown.standings.boards for row in board.rows]
    ways = {name: way for name in SCORES if (way := better(name)) is not None}
    text = json.dumps({"cells": cells, "better": ways}, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", chr(92) + "u003c")


def _cell(row: Row, link: str | None) -> Json:
    made = ", ".join(f"{name} {version}" for name, version in sorted(row.made_with.items()))
    return {
        "board": row.board, "method": row.method, "kind": row.kind, "forget": row.forget, "id": row.id,
        "score": score(row.metrics()), "points": dict(row.points), "from": row.settings_from, "made": made,
        "settings": {key: json.dumps(value) for key, value in row.recipe.settings.items()},
        "scores": {name: [row.scores[name].get(part) for part in PARTS] for name in SCORES if name in row.scores},
        "cost": dict(row.cost), "command": row.command, "given": row.is_given, "link": link,
    }  # fmt: skip
