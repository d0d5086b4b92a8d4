"""The page of all rows in a browser: it sorts, opens cells, compares two methods, and fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axes import misleading
from browser import Browser, faults

from dmm_exp.leaderboard.build import build
from dmm_exp.leaderboard.recipe import Recipe
from dmm_exp.leaderboard.rows import Row, forget_digest
from dmm_exp.report.figures import kept

SETS = [
    ("random", "random seed=0"),
    ("random", "random seed=1"),
    ("rum_high_mem", "rum_high_mem"),
    ("class", "class label=2"),
]
METHODS = {"dmm": 1.0, "finetune": 2.0, "gradient_ascent": 30.0, "retrain": 0.5}


def rows(n_models: int = 80) -> Iterator[Row]:
    for board in ("digits", "letters"):
        for method, value in METHODS.items():
            for kind, forget in SETS:
                recipe = Recipe({"dataset": board, "model": "mlp", "forget": kind, "unlearner": method}, {})
                parts = {"value": value, "low": value - 0.3, "high": value + 0.3, "floor": 0.7}
                yield Row(
                    board, method, kind, forget, method == "retrain", "run", f"{method}__0123456789", "0123456789",
                    forget_digest([1]), {"forget": 50, "retain": 100, "val": 20}, n_models, 0,
                    {f"klom/{group}/p95": parts for group in ("forget", "retain", "val")}, recipe.command,
                    {"ratio": 0.1}, recipe, "fair/random/dmm",
                )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    return build(list(rows()), folder, title="Leaderboard", runs=folder, command="again")


BOARD = "[...document.querySelectorAll('table.board')].find((table) => table.querySelector('[data-fixed]'))"
ORDER = f"[...{BOARD}.tBodies[0].rows].map((row) => row.cells[0].firstChild.textContent.trim())"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_asks_for_nothing(browser: Browser, page: Path, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.call("Emulation.setDeviceMetricsOverride", **size)
    browser.open(page)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.requests == []
    assert browser.complaints == []


def test_the_page_is_right_on_every_screen_and_on_paper(browser: Browser, page: Path) -> None:
    assert faults(browser, page) == []
    assert misleading(kept(page.parent)) == []


@pytest.mark.parametrize("count", [79, 80])
def test_a_board_of_few_models_is_warned_about(tmp_path: Path, count: int) -> None:
    path = build(list(rows(count)), tmp_path, title="Leaderboard", runs=tmp_path, command="again")
    for text in (path.read_text(encoding="utf-8"), (tmp_path / "leaderboard.md").read_text(encoding="utf-8")):
        assert text.count(f"Only {count} models in an ensemble.") == (2 if count < 80 else 0)
        assert f"N = {count} models" in text
    assert "[0.70, 1.30]" in path.read_text(encoding="utf-8")  # dmm's interval on forget points


def test_a_heading_sorts_and_the_floor_and_references_keep_their_ends(browser: Browser, page: Path) -> None:
    browser.open(page)
    usual = ["independent retraining", "dmm", "finetune", "gradient_ascent", "retrain"]
    assert browser.value(ORDER) == usual
    browser.value(f"{BOARD}.tHead.rows[0].cells[2].click()")
    assert browser.value(ORDER) == usual
    browser.value(f"{BOARD}.tHead.rows[0].cells[2].click()")
    assert browser.value(ORDER) == ["independent retraining", "gradient_ascent", "finetune", "dmm", "retrain"]


def test_a_cell_opens_with_its_scores_and_its_command(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.value("document.querySelector('button[data-board=letters][data-method=dmm][data-kind=random]').click()")
    told = browser.value("document.getElementById('cell').innerText")
    assert "dmm on letters, random" in told
    assert "0.700 to 1.300" in told
    assert "python -m dmm_exp dataset=letters model=mlp forget=random unlearner=dmm" in told
    assert browser.value("document.querySelectorAll('#cell option').length") == 2
    browser.value("document.querySelector('#cell .close').click()")
    assert not browser.value("document.getElementById('cell').open")


def test_two_methods_stand_against_each_other(browser: Browser, page: Path) -> None:
    browser.open(page)
    sums = "document.getElementById('sums').textContent"
    assert browser.value(sums).startswith(
        "dmm is better on 8 and worse on 0 of 8 forget sets; on 8 the intervals do not"
    )
    browser.value("of.value = 'digits'; one.value = 'finetune'; one.dispatchEvent(new Event('change'))")
    assert browser.value(sums).startswith("finetune is better on 0 and worse on 0 of 4 forget sets; on 0")
    assert browser.value("document.querySelectorAll('#against tbody tr').length") == 4
