"""Many methods on many forget sets in one ranking: for the terminal, for documents, as a figure and as a page.

Everything here takes *cells*: one mapping for each method on each forget set, with

* ``method``, a label that tells methods apart, and ``reference``, true if it takes no part in the ranking;
* ``forget``, the exact forget set in words (``random seed=1``), and ``choices``, whose ``forget`` is its kind;
* ``status``, ``"done"`` or ``"failed"``, and the ``error`` of those that failed;
* ``metrics``, the content of ``metrics.json``; any name may be absent;
* ``epochs``, optional: what the same run measured on its way, ``{"epoch": 2, "metrics": {...}}`` each, by increasing
  epoch; the last equals ``metrics``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from rich import box
from rich.table import Table
from rich.text import Text

from dmm_exp.files.writing import write_text
from dmm_exp.report.canvas import Drawn, literal, panels, png, style
from dmm_exp.report.html import page
from dmm_exp.report.palette import COLOURS, LINES
from dmm_exp.report.result import GROUPS
from dmm_exp.report.tables import MISSING, Cell, HeadlineData, HeadlineRow, cost, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KLOM = [f"klom/{group}/p95" for group in GROUPS]
FLOOR = [f"klom_floor/{group}/p95" for group in GROUPS]
COST = "cost/ratio"
MEASURES = ["rank", "score", *KLOM, "tow", COST]
"""What ``standing`` gives for every kind of forget set, in this order."""

CAPTION = (
    "One panel a kind of forget set, mean over its draws. Down and to the left is better: as close as retraining, for "
    "less. A line joins the checkpoints of one method, and ends in a large marker where its ranked result is. The pale "
    "band is the Pareto frontier: no method is better without costing more. References are grey."
)
RULE = (
    "On every forget set, methods are ranked by the mean of their P95 KLoM on forget, retain and validation points, in "
    "nats. Ranks are averaged over the draws of one kind of forget set, then over kinds. References have no rank (they "
    "mark an end of the scale, look at retrained models, or predict answers without making a model), nor has a method "
    "that did not finish everywhere."
)
FLOOR_RULE = (
    "The first row is the noise floor: the KLoM between two ensembles that were both retrained without the forget set, "
    "which is the best to hope for. Differences that are small beside it mean little, whatever the ranks."
)

# Okabe and Ito's palette without its yellow, which is hard to see on white; with eight markers that makes 56 pairs.
_METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1c1c1c")
_MARKERS = "os^DvPX<"
_NATS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10)


def score(metrics: Mapping[str, float]) -> float | None:
    """Return what methods are ranked by: the mean of P95 KLoM over forget, retain and validation points, in nats.

    Lower is better. ``None`` unless all three are there and finite.
    """
    values = [metrics.get(name, math.nan) for name in KLOM]
    return sum(values) / len(values) if all(map(math.isfinite, values)) else None


def standing(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rank methods; returns one row a method: the ranked first, best first, then the unfinished, then references.

    On every forget set the methods that finished are ranked by ``score``, ties at their average rank. Everything is
    averaged over the draws of a kind of forget set, then over kinds. Columns:

    * ``reference``; ``mean_rank``; ``score``, ``tow`` and ``cost/ratio``, averages over kinds;
    * ``KIND/rank``, ``KIND/score``, ``KIND/klom/forget/p95`` … for every kind and each of ``MEASURES``;
    * ``missing``: the forget sets without a score and why, ``""`` if there are none.

    Ranks are NaN for references, and wherever a method has no score on one of the forget sets averaged over; its other
    numbers are averages of what there is. Of several cells with one method and forget set the last counts.
    Raises ``ValueError`` without any cell.
    """
    grid = _grid(cells)
    by_kind = _mean(grid, ["method", "kind"])
    overall = _mean(by_kind, ["method"])
    missing = {method: [] for method in overall.index}
    for row in _unfinished(grid):
        missing[row["method"]].append(f"{row['forget']}: {row['status']}")
    columns = {"reference": grid.groupby("method", sort=False)["reference"].first(), "mean_rank": overall["rank"]}
    columns |= {name: overall[name] for name in ("score", "tow", COST)}
    for kind in grid["kind"].unique():
        columns |= {f"{kind}/{name}": by_kind.xs(kind, level="kind")[name] for name in MEASURES}
    table = pd.DataFrame({**columns, "missing": ["; ".join(gaps) for gaps in missing.values()]})
    return table.sort_values(["reference", "mean_rank", "score"])


def _mean(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Average measures within groups; a rank only if none is missing, as the easier part would flatter."""
    ranks = frame.groupby(by, sort=False)["rank"].agg(lambda ranks: ranks.mean(skipna=False))
    return _averages(frame, by, MEASURES).assign(rank=ranks)


def _averages(frame: pd.DataFrame, by: list[str], names: list[str]) -> pd.DataFrame:
    """Average columns within groups, which stay in order of appearance."""
    groups: Any = frame.groupby(by, sort=False)  # pandas' own annotations take the mean for a number
    return groups[names].mean()


def _unfinished(grid: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return the rows of methods and forget sets without a score."""
    return grid.query("status != 'done'").to_dict("records")


def _grid(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row for each method on each forget set, run or not, with its rank on this set."""
    final = _tidy(cells).query("final").drop_duplicates(["method", "kind", "forget"], keep="last")
    methods = final.groupby("method", sort=False)["reference"].any().reset_index()
    sets = final[["kind", "forget"]].drop_duplicates()
    found = final.drop(columns="reference")
    grid = methods.merge(sets, how="cross").merge(found, "left", on=["method", "kind", "forget"])
    ranks = grid[~grid["reference"]].groupby(["kind", "forget"])["score"].rank()
    return grid.fillna({"status": "not run"}).assign(rank=ranks)


def _tidy(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row a checkpoint of a cell with all metrics; ``final`` marks the one that counts in the ranking."""
    if not cells:
        raise ValueError("a leaderboard needs at least one cell")
    rows = [row for cell in cells for row in _rows(cell)]
    leading = ["method", "reference", "kind", "forget", "status", "epoch", "final", "score"]
    names = sorted({name for row in rows for name in row}.difference(leading).union(*[KLOM, FLOOR, ["tow", COST]]))
    frame = pd.DataFrame(rows, columns=pd.Index([*leading, *names]))
    return frame.astype(dict.fromkeys(["epoch", "score", *names], np.float64))


def _rows(cell: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row for each checkpoint of a cell; the last is the cell's result."""
    failed = cell["status"] == "failed"
    metrics: Mapping[str, float] = {} if failed else cell.get("metrics") or {}
    steps: Sequence[Mapping[str, Any]] = [] if failed else cell.get("epochs") or []
    shared = {"method": str(cell["method"]), "reference": bool(cell["reference"]), "forget": str(cell["forget"])}
    shared |= {"kind": str(cell["choices"]["forget"]), "status": _status(cell, metrics)}
    for step in steps[:-1]:
        yield {**shared, **step["metrics"], "epoch": step["epoch"], "final": False, "score": score(step["metrics"])}
    epoch = steps[-1]["epoch"] if steps else None
    yield {**shared, **metrics, "epoch": epoch, "final": True, "score": score(metrics)}


def _status(cell: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """Say in one line whether a cell can be ranked, and if not why."""
    if cell["status"] == "failed":
        error = str(cell.get("error") or "").strip() or "no error message"
        return f"failed: {error.splitlines()[0]}"
    return "no KLoM" if score(metrics) is None else "done"


def _floors(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the noise floor of every kind, ``[kinds, groups]`` in nats; it depends on retrained models alone."""
    return _averages(_averages(_tidy(cells), ["kind", "forget"], FLOOR), ["kind"], FLOOR)


def leaderboard_data(cells: Sequence[Mapping[str, Any]]) -> HeadlineData:
    """Build the ranking as plain text: noise floor, methods, references; notes mark what takes no part in the ranking.

    A kind's cell is its P95 KLoM on forget, retain and validation points, and its rank.
    """
    floors = _floors(cells)
    kinds = [Cell(str(kind), "forget / retain / val") for kind in floors.index]
    floor = [Cell(_joined(values)) for values in floors.to_numpy()]
    rows = [HeadlineRow("independent retraining", "noise floor", [Cell(MISSING), *floor, Cell(MISSING), Cell("1")])]
    for place, (method, row) in enumerate(standing(cells).to_dict("index").items()):
        note = "reference" if row["reference"] else ""
        ends = [Cell(number(row["tow"], ".3f")), Cell(cost(row[COST]))]
        values = [Cell(number(row["mean_rank"])), *(_kind_cell(row, kind.value) for kind in kinds), *ends]
        rows.append(HeadlineRow(str(method), note, values, emphasis=place == 0 and not math.isnan(row["mean_rank"])))
    return HeadlineData([Cell("mean", "rank"), *kinds, Cell("ToW"), Cell("cost", "ratio")], rows)


def _kind_cell(row: Mapping[Any, Any], kind: str) -> Cell:
    """Return a method's P95 KLoM in a kind of forget sets, with its rank below."""
    rank = row[f"{kind}/rank"]
    place = "" if math.isnan(rank) else f"#{rank:.1f}".removesuffix(".0")
    return Cell(_joined(row[f"{kind}/{name}"] for name in KLOM), place)


def _joined(values: Iterable[float]) -> str:
    """Join three numbers; one dash when there is none."""
    texts = [number(value) for value in values]
    return MISSING if set(texts) == {MISSING} else " / ".join(texts)


def _gaps(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each cell that failed or was not run."""
    return [f"{row['forget']}, {row['method']}: {row['status']}" for row in _unfinished(_grid(cells))]


def leaderboard_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return the ranking for the terminal, about 140 columns wide with four kinds; what is missing stands below it."""
    data = leaderboard_data(cells)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    widest = max(len(row.label) for row in data.rows[1:])  # methods keep one line; the floor's label may take two
    table.add_column("P95 KLoM,\nnats", overflow="fold", max_width=max(widest, len("independent")))
    for column in data.columns:
        table.add_column(Text(f"{column.value}\n{column.detail}"), justify="right", overflow="fold")
    columns = [_one_line([row.cells[index] for row in data.rows]) for index in range(len(data.columns))]
    for row, *texts in zip(data.rows, *columns, strict=True):
        shade = "dim" if row.note else "bold" if row.emphasis else ""
        table.add_row(*(Text(text, shade) for text in (row.label, *texts)))
    if gaps := _gaps(cells):
        table.caption = Text("\n" + "\n  ".join([f"{len(gaps)} results are missing:", *gaps]), style="red")
        table.caption_justify = "left"
    return table


def _one_line(column: Sequence[Cell]) -> list[str]:
    """Put details beside their values, all equally wide so that they stand below one another."""
    width = max(len(cell.detail) for cell in column)
    return [f"{cell.value} {cell.detail:<{width}}" if width else cell.value for cell in column]


def leaderboard_markdown(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the ranking as a GitHub table, references in italics and what is missing below."""
    data = leaderboard_data(cells)
    lines = [["", *map(_beside, data.columns)], ["---", *["---:"] * len(data.columns)]]
    for row in data.rows:
        label = f"*{_plain(row.label)}*" if row.note else _plain(row.label)
        lines.append([label, *map(_beside, row.cells)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    gaps = "".join(f"- {_plain(gap)}\n" for gap in _gaps(cells))
    return f"{table}\n" + (f"\nMissing:\n\n{gaps}" if gaps else "")


def _beside(cell: Cell) -> str:
    """Put a cell's detail beside its value."""
    return _plain(f"{cell.value} {cell.detail}".strip())


def _plain(text: str) -> str:
    """Keep a person's text from being read as Markdown or HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")


def quality_against_cost(cells: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw score against cost ratio, a panel a kind of forget set; costs of 0 have their place left of the others."""
    looks, floors, paths = _looks(standing(cells)), _floors(cells), _paths(cells)
    with style():
        figure, axes = panels(len(floors), 2, 3.7, sharex=True, sharey=True)
        for panel, (kind, floor) in zip(axes, floors.mean(axis=1, skipna=False).items(), strict=True):
            panel.set_title(literal(str(kind)))
            panel.axhline(floor, color=COLOURS["floor"], linestyle=LINES["floor"], label="noise floor")
            _draw_methods(panel, paths.query("kind == @kind"), looks)
        _scale(axes, paths)
        _legend_below(figure, axes[0])
    return figure


def _looks(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Give every method a colour and a marker of its own; references are grey, and only their markers differ."""
    looks: dict[str, dict[str, Any]] = {}
    for place, (method, reference) in enumerate(table["reference"].items()):
        colour = "#8c8c8c" if reference else _METHOD_COLOURS[place % len(_METHOD_COLOURS)]
        looks[str(method)] = {"color": colour, "marker": _MARKERS[place % len(_MARKERS)]}
    return looks


def _paths(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return cost and score of every method, mean over draws by kind and checkpoint, in the order of epochs."""
    known = _tidy(cells).dropna(subset=["score", COST])
    epoch = known["epoch"].mask(known["final"], np.inf)  # the result comes last, however many epochs it took
    means = _averages(known.assign(epoch=epoch), ["kind", "method", "reference", "epoch"], [COST, "score"])
    return means.reset_index().sort_values("epoch")


def _draw_methods(panel: Axes, paths: pd.DataFrame, looks: Mapping[str, dict[str, Any]]) -> None:
    """Draw a panel's methods above their frontier: checkpoints small and joined, results large."""
    frontier = _frontier(paths.query("not reference"))
    band: dict[str, Any] = {"color": "#dfe7ee", "lw": 6, "zorder": 1, "label": "Pareto frontier"}
    panel.step(frontier[COST], frontier["score"], where="post", **band)
    for method, look in looks.items():
        path = paths.query("method == @method")
        result = path.query("epoch == inf")
        panel.plot(path[COST], path["score"], **look, lw=1.1, ms=3.5, alpha=0.8, zorder=2)
        panel.plot(result[COST], result["score"], **look, ls="", ms=8.5, mec="white", mew=0.7, zorder=3,
                   label=literal(method))  # fmt: skip


def _frontier(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points, by increasing cost, that no cheaper or equally cheap point beats."""
    ordered = points.sort_values([COST, "score"])
    return ordered.assign(best=ordered["score"].cummin().shift(fill_value=np.inf)).query("score < best")


def _scale(axes: Sequence[Axes], paths: pd.DataFrame) -> None:
    """Scale both axes logarithmically, with half a decade between cost 0 and the smallest other cost."""
    costs = [1.0, *paths[COST][paths[COST] > 0]]
    least, most = 0.8 * min(costs), max(costs)
    decades = 10.0 ** np.arange(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1)
    for panel in axes:
        panel.set_xscale("symlog", linthresh=least, linscale=0.5)
        panel.set_xticks([0, *decades], ["0", *(f"{decade:g}" for decade in decades)])
        panel.set_xlim(-0.25 * least, 1.5 * most)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(FixedLocator(_NATS))  # unlike `set_yticks`, it leaves the limits alone
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_minor_locator(NullLocator())
        panel.tick_params(labelbottom=True)  # the panel below may be missing
    for panel in axes[-2:]:
        panel.set_xlabel("cost of unlearning ÷ cost of retraining")
    for panel in axes[::2]:
        panel.set_ylabel("mean of three P95 KLoM (nats)")


def _legend_below(figure: Figure, panel: Axes) -> None:
    """Put one legend below all panels, methods in the order of the ranking."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, handlelength=2.0)


def write_leaderboard(cells: Sequence[Mapping[str, Any]], folder: Path, *, title: str, command: str) -> Path:
    """Write a leaderboard into ``folder`` and return the path of its page, ``leaderboard.html``.

    Beside it stand ``leaderboard.csv`` (``standing``), ``cells.csv`` (one row a checkpoint, with all metrics of its
    cell), ``leaderboard.md``, and ``figures/quality_against_cost`` as png, svg and pdf. The page makes no request to
    anything outside itself. ``command`` is what to type to get all this again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure = quality_against_cost(cells)
    drawn = Drawn("quality_against_cost", "Quality against cost", CAPTION, figure, png(figure))
    drawn.save(folder / "figures")
    write_text(folder / "leaderboard.csv", standing(cells).to_csv())
    write_text(folder / "cells.csv", _tidy(cells).to_csv(index=False))
    words = [f"# {_plain(title)}", leaderboard_markdown(cells), RULE, FLOOR_RULE]
    write_text(folder / "leaderboard.md", "\n\n".join(map(str.strip, words)) + "\n")
    write_text(folder / "leaderboard.html", _page(cells, drawn, title=title, command=command))
    return folder / "leaderboard.html"


def _page(cells: Sequence[Mapping[str, Any]], drawn: Drawn, *, title: str, command: str) -> str:
    """Return the page as text."""
    return page(
        "leaderboard.html.j2",
        title=title,
        command=command,
        data=leaderboard_data(cells),
        gaps=_gaps(cells),
        story=[*_winner(cells), RULE, FLOOR_RULE],
        facts=_facts(cells),
        drawn=drawn,
        picture=base64.b64encode(drawn.png).decode("ascii"),
    )


def _winner(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say who is first, if anyone is."""
    ranks = standing(cells)["mean_rank"].dropna().to_dict()
    first = [str(method) for method, rank in ranks.items() if rank == min(ranks.values())]
    verb = "is" if len(first) == 1 else "are"
    return [f"{' and '.join(first)} {verb} first, with a mean rank of {min(ranks.values()):.2f}."] if first else []


def _facts(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Count what is compared."""
    grid, references = _grid(cells), len(standing(cells).query("reference"))
    counts = {"methods": grid["method"].nunique() - references, "references": references}
    return list(
        {**counts, "forget sets": grid["forget"].nunique(), "kinds of forget sets": grid["kind"].nunique()}.items()
    )
