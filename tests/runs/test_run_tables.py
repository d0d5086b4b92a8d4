from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from dmm_exp.console.tables import print_table
from dmm_exp.console.words import MISSING
from dmm_exp.runs.result import RunResult
from dmm_exp.runs.tables import SweepCell, headline_data, numbers_table, sweep_table
from dmm_exp.runs.words import narrative


def printed(table: Any) -> str:
    stream = io.StringIO()
    print_table(table, stream)
    return stream.getvalue()


def cell(forget: str, unlearner: str, p95: float | None, **more: Any) -> SweepCell:
    metrics = {} if p95 is None else {"klom/forget/p95": p95, "klom_floor/forget/p95": 0.6}
    choices = {"forget": forget, "unlearner": unlearner, "attribution": "datamodels", "model": "mlp"}
    return SweepCell(choices, metrics, **{"error": "it broke" if p95 is None else None, **more})


def test_headline_has_floor_then_nothing_then_method(run: RunResult) -> None:
    assert [row.label for row in headline_data(run).rows] == ["independent retraining", "doing nothing", "dmm"]


def test_headline_and_report_have_what_a_method_certifies_beside_what_is_measured(run: RunResult) -> None:
    proved = {"certified/epsilon": 2.0, "certified/delta": 1e-5, "competition/epsilon": 3.25}
    certain = replace(run, metrics={**run.metrics, **proved})
    said = "certified (ε, δ) = (2, 1e-05), measured ε 3.25"
    assert said in headline_data(certain).rows[-1].note
    assert any(said in sentence and "of the method alone" in sentence for sentence in narrative(certain).meaning)
    assert "certified" not in headline_data(run).rows[-1].note + " ".join(narrative(run).meaning)


@pytest.mark.parametrize(("doubt", "said"), [(0.7, False), (1.1, True)])
def test_headline_and_report_say_when_a_forget_set_is_unlike_anything_the_pool_knows(
    run: RunResult, doubt: float, said: bool
) -> None:
    unsure = replace(run, metrics={**run.metrics, "effect/doubt/forget": doubt})
    text = printed(numbers_table(headline_data(unsure)))
    assert max(map(len, text.splitlines())) <= 100
    assert ("unlike" in text) == said
    sentences = " ".join(narrative(unsure).meaning)
    assert ("unlike anything the pool knows" in sentences) == said
    assert ("1.1 standard deviations" in sentences) == said


def test_headline_fits_in_a_hundred_columns_and_loses_nothing(run: RunResult) -> None:
    text = printed(numbers_table(headline_data(run)))
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "\x1b" not in text
    assert f"{run.metrics['klom/forget/p95']:.2f}" in text


def test_every_column_of_independent_retraining_is_filled(run: RunResult) -> None:
    floor, nothing, _ = headline_data(run).rows
    assert MISSING not in {value.value for row in (floor, nothing) for value in row.cells}
    assert (floor.cells[3].value, floor.cells[3].detail) == ("0.981", "0.979–0.984")


def test_below_tug_of_war_stands_its_interval_and_below_the_cost_what_is_shared(run: RunResult) -> None:
    *_, tug, _, cost = headline_data(run).rows[2].cells
    assert (tug.value, tug.detail) == ("0.973", "0.971–0.976")
    assert (cost.value, cost.detail) == ("0.021", "+ 1,705\nshared")
    assert "±" not in printed(numbers_table(headline_data(run)))


def test_a_headline_at_its_widest_fits_in_a_hundred_columns(run: RunResult) -> None:
    wide = dict.fromkeys((name for name in run.metrics if name.startswith("klom")), 11.48)
    sure = dict.fromkeys((name for name in run.metrics if name.startswith("accuracy")), 1.0)
    text = printed(
        numbers_table(headline_data(replace(run, metrics={**run.metrics, **wide, **sure, "cost/shared": 98_765.4})))
    )
    assert max(map(len, text.splitlines())) <= 100
    assert "+ 98,765" in text


@pytest.mark.parametrize(("cost", "words"), [(1709.3, "+ 1,709"), (0.24, "+ 0.24"), (75.2, "+ 75")])
def test_sweep_puts_the_shared_cost_below_the_ratio(cost: float, words: str) -> None:
    costs = {"cost/ratio": 0.49, "cost/shared": cost}
    text = printed(sweep_table([SweepCell({"forget": "a", "unlearner": "dmm"}, costs)]))
    assert text.index("0.49") < text.index(words)
    own = SweepCell({"forget": "a", "unlearner": "oracle_matching"}, {"cost/ratio": 0.68, "cost/own": cost})
    assert words in printed(sweep_table([own]))
    free = SweepCell({"forget": "a", "unlearner": "dmm"}, {**costs, "cost/shared": 0.0})
    assert "+ 0" not in printed(sweep_table([free]))


def test_a_sweep_of_usual_names_fits_in_a_hundred_columns() -> None:
    metrics = {f"klom{end}/{group}/p95": 9.99 for end in ("", "_floor") for group in ("forget", "retain", "val")}
    metrics |= {"tow": 0.9, "cost/ratio": 0.49, "cost/shared": 1705.0, "cost/attribution": 1.0}
    choices = {"forget": "rum_high_mem", "unlearner": "finetune", "attribution": "best"}
    assert max(map(len, printed(sweep_table([SweepCell(choices, metrics)])).splitlines())) <= 100


def test_the_report_says_floors_intervals_and_what_requests_share(run: RunResult) -> None:
    text = " ".join(narrative(run).meaning)
    assert "0.973 (95 % interval 0.971 to 0.976), where 1 is equal accuracies; independently retrained models" in text
    assert "right about 56 % (95 % interval 54 % to 58 %) of unlearned models" in text
    assert (
        "50 %, and on independently retrained models 50 %. It takes 44 % of retrained models that are new to it" in text
    )
    assert "can share cost 1,705 retrainings more; 1,709 fall to this request." in text


def test_headline_shows_a_dash_for_every_missing_metric(make_run: Callable[..., RunResult]) -> None:
    rows = headline_data(make_run(metrics={})).rows
    assert {value.value for value in rows[2].cells} == {MISSING}


def test_refinement_is_part_of_the_method(make_run: Callable[..., RunResult]) -> None:
    assert make_run(choices={"unlearner": "dmm", "refinement": "rum"}).method == "dmm + rum"


def test_sweep_sorts_cells_by_forget_p95_within_a_forget_set() -> None:
    cells = [cell("b", "one", 3.0), cell("a", "two", 9.0), cell("b", "three", 1.0), cell("b", "four", None)]
    lines = [line.split()[:2] for line in printed(sweep_table(cells)).splitlines()]
    order = [tuple(words) for words in lines if words and words[0] in {"a", "b"}]
    assert order == [("b", "three"), ("b", "one"), ("b", "four"), ("a", "two")]


def test_sweep_lists_failures_with_the_first_line_of_their_error() -> None:
    text = printed(sweep_table([cell("a", "one", 1.0), cell("a", "two", None, error="no such [thing]\ntraceback")]))
    assert "1 of 2 cells failed" in text
    assert "a, two: no such [thing]" in text
    assert "traceback" not in text


@pytest.mark.parametrize("length", [40, 400])
def test_sweep_through_a_pipe_keeps_long_names_whole(length: int) -> None:
    assert "x" * length in printed(sweep_table([cell("x" * length, "one", 1.0, overrides=["seed=2"])]))


def test_sweep_shows_only_what_sets_cells_apart() -> None:
    console = Console(file=io.StringIO(), width=200)
    table = sweep_table([cell("a", "one", 1.0), cell("a", "two", 2.0)])
    console.print(table)
    headers = [str(column.header) for column in table.columns]
    assert "model" not in headers
    assert "overrides" not in headers
    assert "attribution" not in headers  # no metric says that it was used


def test_importing_the_rooms_of_reports_is_light() -> None:
    heavy = "{'matplotlib', 'pandas', 'numpy', 'jinja2', 'rich', 'wandb'}"
    code = f"import sys, dmm_exp.report, dmm_exp.console, dmm_exp.runs; print(sorted({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
