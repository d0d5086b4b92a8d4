from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmm_exp.report import figures
from dmm_exp.report.canvas import png
from dmm_exp.report.html import render, write_report
from dmm_exp.report.result import RunResult
from dmm_exp.report.words import narrative, share_within_floor

ALL_FIGURES = [draw.__name__ for draw, *_ in figures.FIGURES]


@pytest.fixture(scope="module")
def folder(run: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(run, tmp_path_factory.mktemp("run")).parent


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


class References(HTMLParser):
    """Collects everything a browser would fetch or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "iframe", "object", "base"}:
            self.found.append(tag)
        watched = {"src", "href", "srcset", "action", "poster", "background"}
        self.found += [value for name, value in attrs if name in watched and value]


def test_the_page_asks_nothing_of_the_network(page: str) -> None:
    assert all(reference.startswith("data:image/png;base64,") for reference in References(page).found)
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert not any("@import" in style or "url(" in style for style in styles)


def test_every_figure_is_in_the_page_and_in_the_folder(page: str, folder: Path) -> None:
    for name in ALL_FIGURES:
        assert f'<figure id="{name}">' in page
        assert (folder / "figures" / f"{name}.png").stat().st_size > 1000
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000


def test_figures_come_before_the_table(page: str) -> None:
    assert page.index("<figure") < page.index("<table")


def test_nothing_but_the_results_is_left_in_the_folder(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["figures", "report.html"]


@pytest.mark.parametrize("field", ["name", "choices", "stages", "config", "provenance"])
def test_a_persons_text_is_escaped(make_run: Callable[..., RunResult], field: str) -> None:
    evil = "<b>x</b>"
    run = make_run()
    values = {
        "name": evil,
        "choices": {"unlearner": evil, "forget": evil},
        "stages": [type(run.stages[0])(evil, evil, 0.0, False)],
        "config": {evil: evil},
        "provenance": {"command": evil},
    }
    text = render(make_run(**{field: values[field]}), [])
    assert evil not in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text


def test_class_names_with_markup_or_dollars_are_drawn_as_they_are(make_run: Callable[..., RunResult]) -> None:
    figure = figures.margin_histograms(make_run(class_names=[r"$\frac{", "<b>x</b>"] * 5))
    assert figure is not None
    assert png(figure).startswith(b"\x89PNG")


def test_a_run_without_metrics_still_has_a_report(make_run: Callable[..., RunResult]) -> None:
    run = make_run(metrics={}, stages=[], provenance={})
    drawn = [draw.__name__ for draw, *_ in figures.FIGURES if draw(run) is not None]
    assert drawn == [name for name in ALL_FIGURES if name != "quality_against_cost"]
    text = render(run, [])
    assert "No noise floor was measured" in text
    assert not re.search(r"\bnan\b|\bNone\b", text)


def test_a_run_without_extras_draws_only_what_it_has(make_run: Callable[..., RunResult]) -> None:
    run = make_run()
    points = run.points[["point", "group", "label", "klom"]]
    bare = make_run(points=points, metrics={}, history=pd.DataFrame(), images=np.zeros((len(points), 64)))
    assert [drawn.name for drawn in figures.draw_all(bare)] == ["klom_by_group"]


def test_an_empty_forget_set_is_no_reason_to_fail(make_run: Callable[..., RunResult]) -> None:
    run = make_run()
    points = run.points.assign(group=np.where(run.points["group"] == "forget", "retain", run.points["group"]))
    assert figures.margin_histograms(make_run(points=points)) is None
    assert figures.klom_by_group(make_run(points=points)) is not None
    assert share_within_floor(make_run(points=points)) is None


@pytest.mark.parametrize(("members", "warned"), [(79, True), (80, False)])
def test_small_ensembles_are_warned_about(make_run: Callable[..., RunResult], members: int, warned: bool) -> None:
    run = make_run(members=members)
    assert bool(narrative(run).warnings) is warned
    assert (f"Only {members} models" in render(run, [])) is warned


def test_the_share_in_words_is_the_share_by_hand(run: RunResult) -> None:
    forget = [row for row in run.points.to_dict("records") if row["group"] == "forget"]
    limit = np.percentile([row["klom_floor"] for row in forget], 95)
    by_hand = sum(row["klom"] <= limit for row in forget) / len(forget)
    assert share_within_floor(run) == pytest.approx(by_hand)
    assert narrative(run).meaning[0].startswith(f"{100 * by_hand:.0f} % of the {len(forget)} forget points")


def test_the_floor_itself_scores_about_95_per_cent(run: RunResult) -> None:
    assert share_within_floor(run, "klom_floor", "retain") == pytest.approx(0.95, abs=0.01)


def test_a_method_worse_than_nothing_is_called_that(run: RunResult, make_run: Callable[..., RunResult]) -> None:
    worse = {**run.metrics, "klom/forget/p95": run.metrics["klom_original/forget/p95"] + 0.1}
    assert "further from retraining than leaving the models alone" in " ".join(
        narrative(make_run(metrics=worse)).meaning
    )


def test_shown_points_start_with_the_most_changed_and_reach_down_the_ranking(run: RunResult) -> None:
    shown = figures.shown_points(run)
    change = (run.points["margin_oracle"] - run.points["margin_original"]).abs().to_numpy()
    ranked = sorted(run.rows("forget"), key=lambda row: -change[row])
    assert shown[:5] == ranked[:5]
    assert len(set(shown)) == 8
    assert max(ranked.index(row) for row in shown) > len(ranked) / 2


@pytest.mark.parametrize(
    ("shape", "dtype", "low", "high"),
    [((3, 1, 8, 8), "uint8", 0, 16), ((3, 3, 8, 8), "uint8", 0, 255), ((3, 3, 8, 8), "float32", -2, 2)],
)
def test_pictures_lie_between_black_and_white(shape: tuple[int, ...], dtype: str, low: int, high: int) -> None:
    images = np.random.default_rng(0).uniform(low, high, shape).astype(dtype)
    pictures = figures.as_pictures(images)
    assert pictures.shape == ((3, 8, 8) if shape[1] == 1 else (3, 8, 8, 3))
    assert 0.0 <= pictures.min() < 0.1
    assert 0.9 < pictures.max() <= 1.0


def test_flat_vectors_are_not_pictures() -> None:
    assert not figures.is_picture(np.zeros((5, 64)))


def test_arrays_of_different_points_are_refused(make_run: Callable[..., RunResult]) -> None:
    with pytest.raises(ValueError, match="columns for 300 points"):
        make_run(margins={"unlearned": np.zeros((3, 299), np.float32)})
