"""Many methods on many forget sets in one ranking: for the terminal, for documents, as a figure and as a page.

Everything here takes *cells*: one mapping for each method on each forget set, with

* ``method``, a label that tells methods apart, and ``reference``, true if it takes no part in the ranking;
* ``forget``, the exact forget set in words (``random seed=1``), and ``choices``, whose ``forget`` is its kind (``random``);
* ``status``, ``"done"`` or ``"failed"``, and the ``error`` of those that failed;
* ``metrics``, the content of ``metrics.json``; any name may be absent;
* ``epochs``, optional: what the same run measured on its way, ``{"epoch": 2, "metrics": {...}}`` with epochs that increase;
  the last equals ``metrics``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rich import box
from rich.table import Table
from rich.text import Text

from dmm_exp.report.canvas import COLOURS, LINES, Drawn, literal, panels, png, style
from dmm_exp.report.result import GROUPS
from dmm_exp.report.tables import MISSING, Cell, HeadlineData, HeadlineRow, cost, number
from dmm_exp.store.files import write_text

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
    "nats. Ranks are averaged over the draws of one kind of forget set, then over kinds. References, which mark an end "
    "of the scale or look at retrained models, have no rank, nor has a method that did not finish everywhere."
)
FLOOR_RULE = (
    "The first row is the noise floor: the KLoM between two ensembles that were both retrained without the forget set, "
    "which is the best to hope for. Differences that are small beside it mean little, whatever the ranks."
)

_TEMPLATES = Path(__file__).parent / "templates"
# Okabe and Ito's palette without its yellow, which is invisible on white. Seven colours and eight markers give 56 pairs.
_METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1c1c1c")
_MARKERS = "os^DvPX*"


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
    """
    grid = _grid(cells)
    by_kind = _mean(grid, ["method", "kind"])
    overall = _mean(by_kind, ["method"])
    unfinished = grid[grid["status"] != "done"]
    gaps = (unfinished["forget"] + ": " + unfinished["status"]).groupby(unfinished["method"]).agg("; ".join)
    columns = {"reference": grid.groupby("method", sort=False)["reference"].first(), "mean_rank": overall["rank"]}
    columns |= {name: overall[name] for name in ("score", "tow", COST)}
    for kind in grid["kind"].unique():
        columns |= {f"{kind}/{name}": by_kind.xs(kind, level="kind")[name] for name in MEASURES}
    table = pd.DataFrame({**columns, "missing": gaps.reindex(overall.index, fill_value="")})
    return table.sort_values(["reference", "mean_rank", "score"])


def _mean(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Average measures within groups; a rank only if none is missing, as the easier part would flatter."""
    groups = frame.groupby(by, sort=False)
    return groups[MEASURES].mean().assign(rank=groups["rank"].agg(lambda ranks: ranks.mean(skipna=False)))


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
    rows = [row for cell in cells for row in _rows(cell)]
    leading = ["method", "reference", "kind", "forget", "status", "epoch", "final", "score"]
    names = sorted({name for row in rows for name in row}.difference(leading).union(*[KLOM, FLOOR, ["tow", COST]]))
    frame = pd.DataFrame(rows, columns=pd.Index([*leading, *names]))
    return frame.astype(dict.fromkeys(["epoch", "score", *names], np.float64))


def _rows(cell: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row for each checkpoint of a cell; the last is the cell's result."""
    metrics = {} if cell["status"] == "failed" else cell.get("metrics") or {}
    shared = {"method": str(cell["method"]), "reference": bool(cell["reference"]), "forget": str(cell["forget"])}
    shared |= {"kind": str(cell["choices"]["forget"]), "status": _status(cell, metrics)}
    *early, last = cell.get("epochs") or [{"epoch": None}]
    for step in early:
        yield {**shared, **step["metrics"], "epoch": step["epoch"], "final": False, "score": score(step["metrics"])}
    yield {**shared, **metrics, "epoch": last["epoch"], "final": True, "score": score(metrics)}


def _status(cell: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """Say in one line whether a cell can be ranked, and if not why."""
    if cell["status"] == "failed":
        return "failed: " + str(cell.get("error") or "no error message").strip().splitlines()[0]
    return "no KLoM" if score(metrics) is None else "done"


def _floors(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the noise floor of every kind, ``[kinds, groups]`` in nats; it depends on retrained models alone."""
    return _tidy(cells).groupby(["kind", "forget"], sort=False)[FLOOR].mean().groupby("kind", sort=False).mean()


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
        cells_by_kind = [_kind_cell(row, kind.value) for kind in kinds]
        ends = Cell(number(row["mean_rank"])), Cell(number(row["tow"], ".3f")), Cell(cost(row[COST]))
        first = place == 0 and not math.isnan(row["mean_rank"])
        rows.append(HeadlineRow(str(method), note, [ends[0], *cells_by_kind, *ends[1:]], emphasis=first))
    return HeadlineData([Cell("mean", "rank"), *kinds, Cell("ToW"), Cell("cost", "ratio")], rows)


def _kind_cell(row: Mapping[Any, Any], kind: str) -> Cell:
    """Return a method's P95 KLoM in a kind of forget sets, with its rank below."""
    rank = row[f"{kind}/rank"]
    return Cell(_joined(row[f"{kind}/{name}"] for name in KLOM), "" if math.isnan(rank) else f"#{rank:.3g}")


def _joined(values: Any) -> str:
    """Join three numbers; one dash when there is none."""
    texts = [number(value) for value in values]
    return MISSING if set(texts) == {MISSING} else " / ".join(texts)


def _gaps(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each cell that failed or was not run."""
    grid = _grid(cells)
    missing = grid[grid["status"] != "done"]
    return [f"{row.forget}, {row.method}: {row.status}" for row in missing.itertuples()]


def leaderboard_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return the ranking for the terminal, about 140 columns wide with four kinds; what is missing stands below it."""
    data = leaderboard_data(cells)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("\nKLoM P95 and rank", overflow="fold")
    for column in data.columns:
        table.add_column(Text(f"{column.value}\n{column.detail}"), justify="right", overflow="fold")
    for row in data.rows:
        shade = "dim" if row.note else "bold" if row.emphasis else ""
        texts = [_one_line(cell, column) for cell, column in zip(row.cells, data.columns, strict=True)]
        table.add_row(*(Text(text, shade) for text in (row.label, *texts)))
    if gaps := _gaps(cells):
        table.caption = Text("\n" + "\n  ".join([f"{len(gaps)} results are missing:", *gaps]), style="red")
        table.caption_justify = "left"
    return table


def _one_line(cell: Cell, column: Cell) -> str:
    """Put a rank beside its values, so that ranks of one kind stand below one another."""
    return f"{cell.value} {cell.detail:<5}" if "/" in column.detail else cell.value


def leaderboard_markdown(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the ranking as a GitHub table, references in italics and what is missing below."""
    data = leaderboard_data(cells)
    titles = ["", *(f"{column.value} {column.detail}".strip() for column in data.columns)]
    lines = [titles, ["---", *["---:"] * len(data.columns)]]
    for row in data.rows:
        label = f"*{_plain(row.label)}*" if row.note else _plain(row.label)
        lines.append([label, *(f"{cell.value} {cell.detail}".strip() for cell in row.cells)])
    table = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    gaps = "".join(f"- {_plain(gap)}\n" for gap in _gaps(cells))
    return f"{table}\n" + (f"\nMissing:\n\n{gaps}" if gaps else "")


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
            _draw_methods(panel, paths[paths["kind"] == kind], looks)
        _scale(axes, paths)
        _legend_below(figure, axes, list(looks))
    return figure


def _looks(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Give every method a colour and a marker of its own; references are grey, and only their markers differ."""
    looks: dict[str, dict[str, Any]] = {}
    for number_of, (method, reference) in enumerate(table["reference"].items()):
        colour = "#8c8c8c" if reference else _METHOD_COLOURS[number_of % len(_METHOD_COLOURS)]
        looks[str(method)] = {"color": colour, "marker": _MARKERS[number_of % len(_MARKERS)]}
    return looks


def _paths(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return cost and score of every method, mean over draws by kind and checkpoint, in the order of epochs."""
    known = _tidy(cells).dropna(subset=["score", COST])
    epoch = known["epoch"].mask(known["final"], np.inf)  # the result comes last, however many epochs it took
    by = ["kind", "method", "reference", "epoch"]
    return known.assign(epoch=epoch).groupby(by)[[COST, "score"]].mean().reset_index()


def _draw_methods(panel: Axes, paths: pd.DataFrame, looks: Mapping[str, dict[str, Any]]) -> None:
    """Draw a panel's methods above their frontier: checkpoints small and joined, results large."""
    frontier = _frontier(paths[~paths["reference"]])
    panel.step(
        frontier[COST], frontier["score"], where="post", color="#dfe7ee", lw=7, zorder=1, label="Pareto frontier"
    )
    for method, look in looks.items():
        path = paths[paths["method"] == method]
        panel.plot(path[COST], path["score"], **look, lw=1.1, ms=3.5, alpha=0.8, zorder=2)
        panel.plot(path[COST][-1:], path["score"][-1:], **look, ls="", ms=8.5, mec="white", mew=0.7, zorder=3,
                   label=literal(method))  # fmt: skip


def _frontier(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points, by increasing cost, that no cheaper or equally cheap point beats."""
    ordered = points.sort_values([COST, "score"])
    return ordered[ordered["score"] < ordered["score"].cummin().shift(fill_value=np.inf)]


def _scale(axes: Sequence[Axes], paths: pd.DataFrame) -> None:
    """Scale both axes logarithmically, with a linear stretch from cost 0 to the decade of the smallest cost."""
    costs = paths[COST][paths[COST] > 0]
    decades = 10.0 ** np.arange(math.floor(math.log10(costs.min())) if len(costs) else -1, 1)
    for panel in axes:
        panel.set_xscale("symlog", linthresh=decades[0], linscale=0.35)
        panel.set_xticks([0, *decades], ["0", *(f"{decade:g}" for decade in decades)])
        panel.set_xlim(-0.3 * decades[0], 1.5 * max(1.0, costs.max() if len(costs) else 1.0))
        panel.set_yscale("log")
        panel.set_yticks([0.1, 0.2, 0.5, 1, 2, 5, 10], ["0.1", "0.2", "0.5", "1", "2", "5", "10"])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_minor_locator(NullLocator())
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("cost of unlearning ÷ cost of retraining")
    for panel in axes[::2]:
        panel.set_ylabel("mean of three P95 KLoM (nats)")
    if len(paths):
        axes[0].set_ylim(0.8 * paths["score"].min(), 1.25 * paths["score"].max())


def _legend_below(figure: Figure, axes: Sequence[Axes], methods: Sequence[str]) -> None:
    """Put one legend below all panels, methods in the order of the ranking."""
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, handlelength=2.0)


def write_leaderboard(cells: Sequence[Mapping[str, Any]], folder: Path, *, title: str, command: str) -> Path:
    """Write a leaderboard into ``folder`` and return the path of its page, ``leaderboard.html``.

    Beside it stand ``leaderboard.csv`` (``standing``), ``cells.csv`` (one row a checkpoint of a cell, with all metrics),
    ``leaderboard.md``, and ``figures/quality_against_cost`` as png, svg and pdf. The page makes no request to anything
    outside itself. ``command`` is what to type to get all this again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure = quality_against_cost(cells)
    drawn = Drawn("quality_against_cost", "Quality against cost", CAPTION, figure, png(figure))
    drawn.save(folder / "figures")
    with style():
        FigureCanvasPdf(figure).print_pdf(folder / "figures" / f"{drawn.name}.pdf", metadata={"CreationDate": None})
    write_text(folder / "leaderboard.csv", standing(cells).to_csv())
    write_text(folder / "cells.csv", _tidy(cells).to_csv(index=False))
    write_text(
        folder / "leaderboard.md", f"# {_plain(title)}\n\n{leaderboard_markdown(cells)}\n{RULE}\n\n{FLOOR_RULE}\n"
    )
    write_text(folder / "leaderboard.html", _page(cells, drawn, title=title, command=command))
    return folder / "leaderboard.html"


def _page(cells: Sequence[Mapping[str, Any]], drawn: Drawn, *, title: str, command: str) -> str:
    """Return the page as text."""
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("leaderboard.html.j2").render(
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
    ranks = standing(cells)["mean_rank"]
    first = [str(method) for method in ranks.index[ranks == ranks.min()]]
    if not first:
        return []
    return [f"{' and '.join(first)} {'is' if len(first) == 1 else 'are'} first, with a mean rank of {ranks.min():.2f}."]


def _facts(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Count what is compared."""
    grid = _grid(cells)
    references = int(grid.groupby("method")["reference"].first().sum())
    counts = {"methods": grid["method"].nunique() - references, "references": references}
    return [
        *counts.items(),
        ("kinds", grid["kind"].nunique()),
        ("forget sets", len(grid[["kind", "forget"]].drop_duplicates())),
    ]
