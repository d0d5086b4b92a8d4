from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from axes import misleading
from browser import Browser, faults

from dmm_exp.compare.looks import method_roles
from dmm_exp.leaderboard.blocks import Ranking
from dmm_exp.leaderboard.page import quality_against_cost, write_leaderboard
from dmm_exp.leaderboard.ranking import Outcome, score, standing
from dmm_exp.leaderboard.tables import block_data, leaderboard_latex, leaderboard_markdown, print_leaderboard
from dmm_exp.report.canvas import save
from dmm_exp.report.figures import kept
from dmm_exp.report.palette import colour_of, marker

EVIL = "<b>x|y</b>"


def metrics(value: float, cost: float = 0.1, tow: float = 0.9) -> dict[str, float]:
    """Three P95 KLoM whose mean is ``value``."""
    kloms = {"klom/forget/p95": value + 0.2, "klom/retain/p95": value - 0.1, "klom/val/p95": value - 0.1}
    floors = {f"klom_floor/{group}/p95": 0.6 for group in ("forget", "retain", "val")}
    return kloms | floors | {"cost/ratio": cost, "tow": tow, "tow_floor": 0.94}


def cell(method: str, kind: str, value: float, draw: int = 0, reference: bool = False, **more: Any) -> Outcome:
    return Outcome(method, kind, f"{kind} seed={draw}", reference, **{"metrics": metrics(value), **more})


def failed(method: str, kind: str, draw: int = 0) -> Outcome:
    return cell(method, kind, 1.0, draw, error="out of [memory]\ntraceback", metrics={})


# Two draws of one kind and one of another, so that averaging over sets and averaging over kinds differ.
BOARD = [
    *(cell("one", "random", 1.0, 0), cell("two", "random", 2.0, 0), cell("three", "random", 3.0, 0)),
    *(cell("one", "random", 1.0, 1), cell("two", "random", 3.0, 1), cell("three", "random", 2.0, 1)),
    *(cell("one", "class", 3.0), cell("two", "class", 1.0), cell("three", "class", 2.0)),
]
REFERENCES = [
    cell(name, kind, value, draw, reference=True)
    for name, value in (("retrain", 0.6), ("do_nothing", 9.0))
    for kind, draw in (("random", 0), ("random", 1), ("class", 0))
]
CHECKPOINTS = {1: metrics(5.0, 0.05), 2: metrics(2.0, 0.1)}


def printed(cells: list[Outcome]) -> str:
    stream = io.StringIO()
    print_leaderboard(cells, stream)
    return stream.getvalue()


def latex(cells: list[Outcome]) -> str:
    return leaderboard_latex(cells, "Board")


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of all tables in a text as the terminal, Markdown or LaTeX shows them."""
    lines = [line.strip().removesuffix(r"\\") for line in text.splitlines()]
    between = re.compile(r"(?<!\\)\||(?<!\\)&| {2,}")
    return [[cell.strip() for cell in between.split(line.strip("| ")) if cell.strip()] for line in lines]


ENDS = {
    f"klom/{group}/p95_{end}": value
    for group in ("forget", "retain", "val")
    for end, value in (("low", 0.81), ("high", 1.93))
}
SUMS = {f"klom_sum{kind}/{group}/p95": 2.5 for kind in ("", "_floor") for group in ("forget", "retain", "val")}


def rich_board(n_models: int = 80) -> list[Outcome]:
    """A board of four kinds whose runs know everything."""
    methods = ["gradient_ascent", "oracle_matching", *(f"method_{index}" for index in range(10))]
    kinds = ("random", "rum_high_mem", "rum_mid_mem", "class")
    return [
        cell(name, kind, 0.6 + 5.5 * place, draw, name == "oracle_matching", n_models=n_models,
             metrics={**metrics(0.6 + 5.5 * place), **ENDS, **SUMS, "cost/shared": 1705.0, "cost/own": 95.0})
        for kind in kinds for draw in range(2) for place, name in enumerate(methods)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cells = [*BOARD, *REFERENCES, cell(EVIL, "random", 2.0, epochs=CHECKPOINTS), failed(EVIL, "class")]
    return write_leaderboard(cells, tmp_path_factory.mktemp("board"), title=f"Board {EVIL}", command=f"run {EVIL}")


def test_the_score_is_the_mean_of_three_groups() -> None:
    assert score({"klom/forget/p95": 3.0, "klom/retain/p95": 1.0, "klom/val/p95": 2.0}) == 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_needs_three_finite_numbers(value: float) -> None:
    assert score(metrics(1.0) | {"klom/val/p95": value}) is None
    assert score({"klom/forget/p95": 3.0, "klom/retain/p95": 1.0}) is None


def test_ranks_are_averaged_over_draws_and_then_over_kinds() -> None:
    table = standing(BOARD)
    assert table["random/rank"].to_dict() == {"one": 1.0, "two": 2.5, "three": 2.5}
    assert table["class/rank"].to_dict() == {"one": 3.0, "two": 1.0, "three": 2.0}
    assert table["mean_rank"].to_dict() == {"two": 1.75, "one": 2.0, "three": 2.25}
    assert list(table.index) == ["two", "one", "three"]


def test_measures_are_averaged_over_draws_and_then_over_kinds() -> None:
    cells = [
        *(cell("one", "random", 1.0, 0, metrics=metrics(1.0, 0.1, 1.0)), cell("one", "random", 3.0, 1)),
        cell("one", "class", 6.0, metrics=metrics(6.0, 0.5, 0.8)),
    ]
    row = standing(cells).loc["one"]
    assert row["random/score"] == pytest.approx(2.0)
    assert row["random/klom/forget/p95"] == pytest.approx(2.2)
    assert row["score"] == pytest.approx(4.0)
    assert row["tow"] == pytest.approx(((1.0 + 0.9) / 2 + 0.8) / 2)
    assert row["cost/ratio"] == pytest.approx(0.3)


def test_ties_share_their_average_rank() -> None:
    cells = [cell("one", "random", 1.0), cell("two", "random", 1.0), cell("three", "random", 2.0)]
    assert standing(cells)["mean_rank"].to_dict() == {"one": 1.5, "two": 1.5, "three": 3.0}


def test_references_come_last_and_change_no_rank() -> None:
    table = standing([*REFERENCES, *BOARD])
    assert list(table.index) == ["two", "one", "three", "retrain", "do_nothing"]
    assert table["mean_rank"].isna().tolist() == [False, False, False, True, True]
    assert table.loc[["two", "one", "three"], "mean_rank"].equals(standing(BOARD)["mean_rank"])


def test_a_method_that_did_not_finish_everywhere_has_no_mean_rank_and_says_why() -> None:
    extra = [cell("best", "random", 0.7, 0), failed("best", "random", 1), cell("late", "class", 0.8)]
    table = standing([*BOARD, *extra])
    assert list(table.index[:3]) == ["two", "one", "three"]
    assert table.loc[["best", "late"], "mean_rank"].isna().all()
    assert table.loc["best", "missing"] == "random seed=1: failed: out of [memory]; class seed=0: not run"
    assert math.isnan(table.loc["best", "random/rank"])  # the draw that did not fail may be the easier one
    assert table.loc["late", "class/rank"] == 1.0
    assert table.loc["one", "missing"] == ""


def test_a_run_without_klom_is_not_ranked() -> None:
    table = standing([cell("one", "random", 1.0), cell("two", "random", 1.0, metrics={"tow": 0.5})])
    assert table["mean_rank"].tolist()[0] == 1.0
    assert table.loc["two", "missing"] == "random seed=0: no KLoM"


def test_no_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one outcome"):
        standing([])


SHOWN = [printed, leaderboard_markdown, latex]


@pytest.mark.parametrize("show", SHOWN)
def test_every_table_shows_every_method_below_the_floor_in_order(show: Any) -> None:
    names = {"independent retraining", "noise floor", "one", "two", "three", "retrain", "do_nothing"}
    first = [row[0].strip("*").replace("\\", "") for row in rows_of(show([*REFERENCES, *BOARD])) if row]
    shown = [name for name in first if name in names]
    assert shown[0] in {"independent retraining", "noise floor"}
    assert shown == [shown[0], "two", "one", "three", "retrain", "do_nothing"] * 3


@pytest.mark.parametrize("show", SHOWN)
def test_every_cell_is_one_number(show: Any) -> None:
    one = re.compile(r"(\\(textbf|underline)\{)?[\d.,]+\}?|–|--|(\\scriptsize\{)?\[[\d.]+, [\d.]+\]\}?")
    found = 0
    for label, *cells in filter(None, rows_of(show(rich_board()))):
        if re.fullmatch(r"\*?(independent retraining|noise floor|(gradient|oracle|method)\\?_\w+)\*?", label):
            assert all(map(one.fullmatch, cells)), cells
            found += 1
    assert found == 13 * 9


@pytest.mark.parametrize("show", SHOWN)
def test_a_kind_shows_three_values_and_a_rank(show: Any) -> None:
    bare = re.sub(r"\\(?:textbf|underline)\{([^}]*)\}", r"\1", show(BOARD))
    numbers = [row[1:] for row in rows_of(bare) if row and row[0] == "two"]
    assert ["2.70", "2.40", "2.40", "2.5"] in numbers
    assert ["1.20", "0.90", "0.90", "1"] in numbers


@pytest.mark.parametrize("show", [printed, leaderboard_markdown])
def test_failures_are_listed_with_the_first_line_of_their_error(show: Any) -> None:
    text = show([*BOARD, failed("four", "random")])
    assert "random seed=0, four: failed: out of [memory]" in text
    assert "class seed=0, four: not run" in text
    assert "traceback" not in text


@pytest.mark.parametrize("show", [printed, leaderboard_markdown])
def test_a_method_that_refuses_sets_is_listed_once_and_apart_from_failures(show: Any) -> None:
    def refused(draw: int, count: int) -> Outcome:
        error = f"unlearner=unsir: forgets whole classes, and {count} examples of class 0 are to be kept"
        return cell("unsir", "random", 1.0, draw, error=error, metrics={})

    wrong = cell("ssd", "random", 1.0, error="unlearner.alpha=25: no weight can be that much", metrics={})
    text = " ".join(show([*BOARD, refused(0, 147), refused(1, 148), cell("unsir", "class", 2.0), wrong]).split())
    apart, missing = text.partition("Missing:")[::2]
    reason = "unsir on random seed=0, random seed=1 (for the first): forgets whole classes, and 147 examples of class 0"
    assert reason in apart.partition("Not applicable:")[2]
    assert "unsir" not in missing
    assert "random seed=0, ssd: failed: unlearner.alpha=25" in missing


def test_a_page_lists_refusals_apart_from_what_is_missing(tmp_path: Path) -> None:
    error = "unlearner=unsir: forgets whole classes"
    cells = [*BOARD, *(cell("unsir", "random", 1.0, draw, error=error, metrics={}) for draw in (0, 1))]
    text = write_leaderboard([*cells, cell("unsir", "class", 2.0)], tmp_path, title="Board", command="run").read_text()
    assert text.count("forgets whole classes") == 1
    assert "What does not apply" in text
    assert "What is missing" not in text


def test_retraining_has_its_tug_of_war_and_methods_the_models_that_they_look_at() -> None:
    dear = cell("dear", "random", 1.0, metrics={**metrics(1.0), "cost/shared": 1705.0, "cost/own": 95.0})
    free = cell("free", "random", 2.0, metrics={**metrics(2.0), "cost/shared": 0.0, "cost/own": 0.0})
    ranking = Ranking.of([dear, free, cell("plain", "random", 3.0)])
    floor, *rows = block_data(ranking, ranking.blocks[0].columns).rows
    assert [value.value for value in floor.cells[1:]] == ["0.940", "1", "–"]
    assert {row.label: row.cells[-1].value for row in rows} == {"dear": "1,800", "free": "0", "plain": "–"}


def test_every_table_fits_in_80_columns_and_breaks_no_name() -> None:
    own = "a_method_with_a_name_of_34_letters"
    lines = printed([*rich_board(4), failed(own, "random"), *REFERENCES]).splitlines()
    assert max(map(len, lines)) <= 80
    for name in ("gradient_ascent", "oracle_matching", own, "independent retraining"):
        assert sum(line.startswith(f"{name} ") for line in lines) == 9


@pytest.mark.parametrize("count", [79, 80])
def test_no_method_is_first_where_models_are_few(count: int, tmp_path: Path) -> None:
    page = write_leaderboard(rich_board(count), tmp_path, title="Board", command="run").read_text(encoding="utf-8")
    words = "Only 79 models in an ensemble. With fewer than 80"
    assert ("gradient_ascent is first" in page) is (count == 80)
    assert ('class="method"' in page) is (count == 80)
    for text in (page, printed(rich_board(count)), latex(rich_board(count)), (tmp_path / "leaderboard.md").read_text()):
        assert (words in " ".join(text.split())) is (count == 79)


def test_a_paper_has_intervals_whose_meaning_is_named_and_the_best_two_ranked() -> None:
    ranks, random, *_ = latex(rich_board()).split("% Needs")[1:]
    assert "95 \\% interval, for which forget sets and their kinds are drawn with replacement" in ranks
    assert "95 \\% interval over models" in random
    found = {row[0].replace("\\", ""): row[1:] for row in rows_of(random) if len(row) > 2}
    interval = r"\scriptsize{[0.81, 1.93]}"
    assert found["gradient_ascent"][:2] == [r"\textbf{0.80}", interval]
    assert found["oracle_matching"][:2] == ["6.30", interval]  # a reference
    assert found["method_0"][:2] == [r"\underline{11.80}", interval]
    assert found["noise floor"] == ["0.60", "0.60", "0.60", "--"]


def test_pages_show_the_size_of_ensembles_and_intervals_and_warn_of_few_models(tmp_path: Path) -> None:
    ends = {"klom/forget/p95_low": 0.81, "klom/forget/p95_high": 1.93}
    values = {"one": 1.0, "two": 2.0}
    sets = [("random", 0), ("random", 1), ("class", 0)]
    for count in (79, 80):
        cells = [
            cell(name, kind, value, draw, metrics={**metrics(value), **ends}, n_models=count)
            for name, value in values.items()
            for kind, draw in sets
        ]
        text = write_leaderboard(cells, tmp_path, title="Board", command="run").read_text(encoding="utf-8")
        assert f"models in each ensemble</span> {count}" in text
        assert "[0.81, 1.93]" in text
        assert ("one is first, with a mean rank of 1.00 [1.00, 1.00]." in text) is (count >= 80)
        words = "With fewer than 80, KLoM is mostly sampling noise; here the floor alone is 0.60 to 0.60"
        assert (words in text) is (count < 80)
        assert (words in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")) is (count < 80)


def test_the_interval_of_a_mean_rank_says_how_much_it_depends_on_the_sets() -> None:
    def details(cells: list[Outcome]) -> dict[str, str]:
        ranking = Ranking.of(cells)
        return {row.label: row.cells[0].detail for row in block_data(ranking, ranking.blocks[0].columns).rows}

    found = details([*BOARD, *REFERENCES])
    low, high = map(float, found["two"].strip("[]").split(", "))
    assert 1.0 <= low < 1.75 < high <= 3.0
    assert found["retrain"] == ""
    assert set(details([cell("one", "random", 1.0), cell("two", "random", 2.0)]).values()) == {""}


def test_markdown_tables_stay_tables_whatever_names_hold() -> None:
    ranks, random = leaderboard_markdown([cell(EVIL, EVIL, 1.0)]).split("\n\n**")
    for text, bars in ((ranks, 6), (random, 6)):
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert len(table) == 4
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {bars}
        assert "<b>" not in text


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_the_figure_has_a_panel_for_each_kind(kinds: int) -> None:
    chart = quality_against_cost([cell("one", f"kind {index}", 1.0) for index in range(kinds)])
    assert [panel.title for panel in chart.panels] == [f"kind {i}" for i in range(kinds)]


def test_the_figure_joins_checkpoints_and_ends_in_the_result() -> None:
    chart = quality_against_cost([cell("one", "random", 2.0, epochs=CHECKPOINTS), cell("two", "random", 4.0)])
    (panel,) = chart.panels
    role = method_roles(["one", "two"])["one"]
    path, steps, end = (mark for mark in panel.marks if mark.role == role)
    assert (path.form, steps.form, end.form, end.large) == ("line", "dots", "dots", True)
    for mark in (path, steps):
        np.testing.assert_allclose(10**mark.x, [0.05, 0.1])
        np.testing.assert_allclose(10**mark.y, [5.0, 2.0])
    np.testing.assert_allclose([10 ** end.x[0], 10 ** end.y[0]], [0.1, 2.0])


def test_a_free_method_lies_left_of_every_other_and_is_labelled_so() -> None:
    free = cell("free", "random", 1.0, metrics=metrics(1.0, cost=0.0))
    (panel,) = quality_against_cost([free, cell("dear", "random", 2.0, metrics=metrics(2.0, cost=0.001))]).panels
    places = {mark.label: float(mark.x[0]) for mark in panel.marks if mark.large}
    assert panel.x.low < places["free"] < places["dear"] == pytest.approx(-3)
    assert (places["free"], "0") in panel.x.ticks


def test_methods_look_different_and_references_are_grey() -> None:
    names = [f"method {index}" for index in range(15)]
    chart = quality_against_cost([*(cell(name, "random", 1.0) for name in names), REFERENCES[0]])
    looks = {mark.label: (colour_of(mark.role), marker(mark.role)) for mark in chart.legend}
    assert len({looks[name] for name in names}) == 15
    assert looks["retrain"][0] == "other"


def test_a_method_looks_the_same_on_every_board_whatever_its_place() -> None:
    names = ["dmm", "scrub", "salun", "finetune", "mine"]
    boards = [
        [cell(name, "random", float(place)) for place, name in enumerate(order, 1)] for order in (names, names[::-1])
    ]
    one, other = ({mark.label: mark.role for mark in quality_against_cost(board).legend} for board in boards)
    assert one == other


@pytest.mark.parametrize(
    "cells",
    [
        [failed("one", "random")],
        [cell("one", "random", 1.0, metrics={})],
        [cell("one", "random", 1.0, metrics=metrics(1.0, cost=0.0))],
        [cell("$\\frac{", "random", 1.0, metrics=metrics(1.0, cost=7.0))],
        [cell("one", "random", 1.0, metrics={f"klom/{group}/p95": 1.0 for group in ("forget", "retain", "val")})],
    ],
    ids=["failed", "no metrics", "free", "dear", "neither floor nor cost"],
)
def test_little_is_enough_to_draw_and_write(cells: list[Outcome], tmp_path: Path) -> None:
    assert save(quality_against_cost(cells), tmp_path, ["png"])[0].read_bytes().startswith(b"\x89PNG")
    text = write_leaderboard(cells, tmp_path, title="Board", command="run").read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b|\bNone\b", text)


def test_everything_is_written(page: Path) -> None:
    names = {str(path.relative_to(page.parent)) for path in page.parent.rglob("*") if path.is_file()}
    assert names == {
        "leaderboard.html",
        "leaderboard.csv",
        "leaderboard.md",
        "leaderboard.tex",
        "cells.csv",
        "figures.json",
    }
    assert [chart.name for chart in kept(page.parent)] == ["quality_against_cost"]


def test_the_page_is_right_on_every_screen_and_on_paper(browser: Browser, page: Path) -> None:
    assert faults(browser, page) == []
    assert misleading(kept(page.parent)) == []


def test_the_page_asks_nothing_of_the_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sources = re.findall(r"\b(?:src|href|srcset|action|poster)\s*=\s*[\"']?([^\"'>\s]+)", text)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert '<svg class="plot"' in text
    assert "@import" not in text
    assert "url(" not in text


def test_the_page_escapes_names(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text
    assert "Board &lt;b&gt;x|y&lt;/b&gt;" in text
    assert "run &lt;b&gt;" in text


def test_csv_files_hold_the_standing_and_every_checkpoint(page: Path) -> None:
    table = pd.read_csv(page.with_name("leaderboard.csv"), index_col="method")
    assert list(table.index) == ["two", "one", "three", EVIL, "retrain", "do_nothing"]
    cells = pd.read_csv(page.with_name("cells.csv"))
    assert len(cells) == len(BOARD) + len(REFERENCES) + 3
    (path,) = [rows for name, rows in cells.dropna(subset=["epoch"]).groupby("method")]
    assert path["epoch"].tolist() == [1, 2]
    assert path["klom/forget/p95"].tolist() == pytest.approx([5.2, 2.2])
    assert path["final"].tolist() == [False, True]
