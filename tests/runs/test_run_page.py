from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from axes import misleading
from browser import Browser, faults, show
from PIL import Image

from dmm_exp.report.canvas import save
from dmm_exp.report.charts import Panel, Picture
from dmm_exp.report.figures import kept, shown
from dmm_exp.report.palette import DARK, LIGHT
from dmm_exp.runs import cost_figure, figures, point_figures
from dmm_exp.runs.page import render, write_report
from dmm_exp.runs.result import RunResult
from dmm_exp.runs.tables import headline_data
from dmm_exp.runs.words import narrative, share_within_floor

FIGURES = {
    "at_a_glance", "margin_histograms", "klom_by_group", "klom_against_memorization", "quality_against_cost",
    "forgotten_examples", "attack_roc", "effect_scatter", "training_curves",
}  # fmt: skip
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def folder(run: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(run, tmp_path_factory.mktemp("run"), ["this evaluation"]).parent


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


class References(HTMLParser):
    """Collects everything a browser would fetch, and the kinds of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"link", "iframe", "object", "base"}:
            self.found.append(tag)
        if tag == "script":
            self.scripts.append(dict(attrs).get("type"))
        watched = {"src", "href", "srcset", "action", "poster", "background"}
        self.found += [value for name, value in attrs if name in watched and value and not value.startswith("#")]


def told(page: str, name: str) -> dict:
    """Return what the page tells of the dots of a figure."""
    part = page[page.index(f'<figure id="{name}"') :]
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', part)[1])


def test_the_page_asks_nothing_of_the_network(page: str) -> None:
    references = References(page)
    assert references.found
    assert all(reference.startswith("data:image/png;base64,") for reference in references.found)
    assert references.scripts == ["application/json", "application/json", None]
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert not any("@import" in style or "url(" in style for style in styles)
    assert "http" not in re.sub(r"<meta http-equiv=|http://www\.w3\.org/2000/svg", "", page)


def test_every_figure_is_in_the_page_and_kept_beside_it(page: str, folder: Path) -> None:
    assert set(re.findall(r'<figure id="(\w+)"', page)) == FIGURES
    assert {chart.name for chart in kept(folder)} == FIGURES
    assert shown(folder) == ["this evaluation"]


def test_every_figure_of_a_page_can_be_drawn_as_a_file(folder: Path, tmp_path: Path) -> None:
    for chart in kept(folder):
        (path,) = save(chart, tmp_path, ["png"], width=5.5)
        with Image.open(path) as image:
            assert image.width == pytest.approx(5.5 * 144, abs=1)


def test_every_part_that_a_reader_looks_for_is_there(page: str) -> None:
    for part in ("meaning", "numbers", "limits", "details"):
        assert f'id="{part}"' in page
    for words in ("independent retraining", "doing nothing", "0123abc", "Configuration", "Seconds by stage", "48.2"):
        assert words in page


def test_a_stage_that_was_asked_for_twice_is_counted_once(make_run: Callable[..., RunResult]) -> None:
    stage = make_run().stages[0]
    text = render(make_run(stages=[stage, type(stage)(stage.name, stage.detail, stage.seconds, True)]), [])
    assert text.count("3,000 subset models") == 1
    assert "48.2 s in all" in text
    assert "<td>computed</td>" in text


def test_a_first_figure_comes_before_the_table(page: str) -> None:
    assert page.index("<figure") < page.index("<table")


def test_the_numbers_in_the_page_are_the_metrics(page: str, run: RunResult) -> None:
    for name in ("klom/forget/p95", "klom_floor/retain/p95", "klom_original/val/p95"):
        assert f"<td>{run.metrics[name]:.2f}<" in page
    for name in ("ulira/accuracy", "effect/r2/forget", "klom/val/p95"):
        assert f'<th scope="row">{name}</th><td>{run.metrics[name]:.6g}</td>' in page


def test_what_dots_tell_are_the_points(page: str, run: RunResult) -> None:
    found = told(page, "klom_against_memorization")
    forget = run.points[run.points["group"] == "forget"].sort_values("klom", ascending=False)
    count = len(forget)
    numbers = [int(re.match(r"#(\d+) ", title)[1]) for title in found["titles"]]
    assert numbers[:count] == forget["point"].tolist()
    assert found["fields"]["KLoM"][:count] == forget["klom"].round(3).tolist()
    assert found["fields"]["margin, oracle"][:count] == forget["margin_oracle"].astype(float).round(3).tolist()
    assert set(numbers[count:]) == set(run.points["point"][run.points["group"] == "retain"])
    assert len(found["x"]) == len(found["y"]) == len(numbers)
    heights = np.array(found["y"])
    assert np.corrcoef(heights, found["fields"]["KLoM"])[0, 1] == pytest.approx(-1, abs=1e-3)


def test_pictures_of_dots_are_those_of_their_points(page: str, run: RunResult) -> None:
    import base64

    shown = told(page, "klom_against_memorization")["sheet"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["source"].partition(",")[2]))))
    rows = run.rows("forget")
    second = rows[np.argsort(-run.points["klom"].to_numpy()[rows], kind="stable")][1]
    expected = np.rint(run.images[second, 0] / 16 * 255)
    np.testing.assert_array_equal(pixels[:8, 8:16], expected)


def test_very_many_points_make_no_large_page(make_run: Callable[..., RunResult]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70_000, 3, 16, 16)).astype(np.uint8)
    run = make_run(members=8, n_points=70_000, forgotten=6_000, images=images)
    charts = figures.draw_all(run)
    text = render(run, charts)
    assert len(text.encode()) < 5 * MEGABYTE
    found = told(text, "klom_against_memorization")
    assert found["fields"]["group"].count("forget point") == 6_000
    assert 1_000 < found["fields"]["group"].count("retain point") <= figures.SHOWN


def test_the_browser_notices_requests_and_complaints(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://example.invalid/x.png'><script>console.error('no'); missing()</script>")
    browser.open(bad)
    assert browser.requests == ["http://example.invalid/x.png"]
    assert len(browser.complaints) >= 2


def test_a_page_shows_pictures_and_tells_of_dots_without_a_complaint(browser: Browser, folder: Path) -> None:
    browser.open(folder / "report.html")
    place = browser.value(
        """(() => {
        const drawing = document.querySelector("#klom_against_memorization svg.plot");
        drawing.scrollIntoView({ block: "center" });
        const told = JSON.parse(drawing.nextElementSibling.textContent);
        const box = drawing.getBoundingClientRect(), scale = box.width / drawing.viewBox.baseVal.width;
        return { x: box.left + told.x[0] * scale, y: box.top + told.y[0] * scale, title: told.titles[0] };
        })()"""
    )
    browser.value("new Promise(requestAnimationFrame)")
    browser.point_at(place["x"] + 1, place["y"])
    tip = browser.value("document.getElementById('tip').innerText")
    assert place["title"] in tip
    assert "margin, oracle" in tip
    assert browser.value("[...document.images].every((image) => image.naturalWidth > 0)")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    assert browser.requests == []
    assert browser.complaints == []


def test_a_page_fits_a_phone_and_follows_the_dark(browser: Browser, folder: Path) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.call("Emulation.setDeviceMetricsOverride", **size)
    colours = {}
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.open(folder / "report.html")
        assert browser.value("document.documentElement.scrollWidth") == 390
        line = "document.querySelector('.line.unlearned')"
        colours[scheme] = browser.value(f"getComputedStyle({line}).stroke")
    assert colours == {"light": _rgb(LIGHT["unlearned"]), "dark": _rgb(DARK["unlearned"])}
    assert browser.complaints == []


def test_on_a_desk_a_phone_in_the_dark_and_on_paper_nothing_is_wrong(browser: Browser, folder: Path) -> None:
    assert faults(browser, folder / "report.html") == []


def test_the_browser_notices_what_is_wrong(browser: Browser, folder: Path, tmp_path: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    bad = "<div style='width: 2000px'>wide</div><p style='color: #888; background: #777'>pale</p>"
    wrong = page.replace("</main>", f"{bad}</main>").replace("</style>", "td { background: #fff }</style>")
    wrong = re.sub(r'<text x="[\d.]+" y="[\d.]+" text-anchor="end">[^<]*</text>', "", wrong)
    (tmp_path / "wrong.html").write_text(wrong, encoding="utf-8")
    said = "\n".join(faults(browser, tmp_path / "wrong.html"))
    for view in ("wide", "phone", "dark", "paper"):
        assert re.search(rf"^{view}: it is 2\d\d\d wide$", said, re.MULTILINE)
    for words in ("has contrast 1.", "dark: td. is white", "0 words beside the axis"):
        assert words in said


def test_paper_leaves_what_is_long_folded_and_opens_the_rest(browser: Browser, folder: Path) -> None:
    show(browser, folder / "report.html", "paper")
    folded = "[...document.querySelectorAll('details:not([open]) > summary')].map((one) => one.textContent)"
    found = browser.value(folded)
    assert [words.split(" (")[0] for words in found] == ["Configuration", "All metrics"]
    browser.value("dispatchEvent(new Event('afterprint'))")
    assert "As a table" in browser.value(folded)


def test_axes_of_the_page_say_their_scale(folder: Path) -> None:
    charts = kept(folder)
    assert misleading(charts) == []
    assert any(
        panel.x.label.endswith("log scale") for chart in charts for panel in chart.panels if isinstance(panel, Panel)
    )


def test_the_caption_of_memorization_states_what_this_run_has(
    run: RunResult, make_run: Callable[..., RunResult]
) -> None:
    chart = figures.klom_against_memorization(run)
    forget = run.points[run.points["group"] == "forget"]
    for words, column in (("KLoM", "klom"), ("KLoM of doing nothing", "klom_original")):
        rho = forget["memorization"].corr(forget[column], method="spearman")
        assert f"with {words}, ρ = {rho:.2f}".replace("-", "−") in chart.caption
    flat = make_run(points=run.points.assign(memorization=0.5))
    assert "ρ" not in figures.klom_against_memorization(flat).caption


def test_margins_of_shown_points_are_kept_with_every_model(run: RunResult, folder: Path) -> None:
    (chart,) = (chart for chart in kept(folder) if chart.name == "margin_histograms")
    rows = [row for _, row in point_figures.chosen_points(run)]
    for row, panel in zip(rows, chart.panels, strict=True):
        assert isinstance(panel, Panel)
        assert set(panel.samples) == {"oracle", "original", "unlearned"}
        for role, values in panel.samples.items():
            np.testing.assert_allclose(values, run.margins[role][:, row], rtol=1e-5)


def _rgb(colour: str) -> str:
    return "rgb({}, {}, {})".format(*bytes.fromhex(colour[1:]))


def test_nothing_but_the_results_is_left_in_the_folder(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["figures.json", "report.html"]


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


def test_class_names_with_markup_or_dollars_are_drawn_as_they_are(
    make_run: Callable[..., RunResult], tmp_path: Path
) -> None:
    run = make_run(class_names=[r"$\frac{", "<b>x</b></script>"] * 5)
    charts = figures.draw_all(run)
    text = render(run, charts)
    assert "<b>x</b>" not in text
    assert "$\\frac{" in text
    histograms = next(chart for chart in charts if chart.name == "margin_histograms")
    save(histograms, tmp_path)
    assert (tmp_path / "margin_histograms.pdf").read_bytes().startswith(b"%PDF")


def test_a_run_without_metrics_still_has_a_report(make_run: Callable[..., RunResult]) -> None:
    run = make_run(metrics={}, stages=[], provenance={})
    charts = figures.draw_all(run)
    assert {chart.name for chart in charts} == FIGURES - {"quality_against_cost", "at_a_glance"}
    text = render(run, charts)
    assert "No noise floor was measured" in text
    assert not re.search(r"\bnan\b|\bNone\b", text)


def test_a_run_without_extras_draws_only_what_it_has(make_run: Callable[..., RunResult]) -> None:
    run = make_run()
    points = run.points[["point", "group", "label", "klom"]]
    bare = {"points": points, "metrics": {}, "margins": {}, "history": pd.DataFrame(), "roc": pd.DataFrame()}
    charts = figures.draw_all(make_run(**bare, images=np.zeros((len(points), 64))))
    assert [chart.name for chart in charts] == ["klom_by_group", "forgotten_examples"]


def test_inputs_that_are_no_pictures_get_a_table(make_run: Callable[..., RunResult]) -> None:
    run = make_run(images=np.zeros((300, 64)))
    chart = figures.forgotten_images(run)
    value = run.points["klom"].to_numpy()
    ranked = sorted(run.rows("forget"), key=lambda row: -value[row])
    assert not chart.panels
    assert [row[0] for row in chart.table[1:]] == [f"#{row}" for row in ranked[:6] + ranked[-6:]]
    text = render(run, figures.draw_all(run))
    assert "<img" not in text
    assert "sheet" not in told(text, "klom_against_memorization")


def test_the_least_and_the_most_forgotten_are_those_of_extreme_klom(run: RunResult) -> None:
    chart = figures.forgotten_images(run)
    value = run.points["klom"].to_numpy()
    ranked = sorted(run.rows("forget"), key=lambda row: -value[row])
    titles = [picture.title.split(" ")[0] for picture in chart.panels if isinstance(picture, Picture)]
    assert titles == [f"#{row}" for row in ranked[:6] + ranked[-6:]]
    assert [picture.group for picture in chart.panels] == ["least forgotten"] * 6 + ["most forgotten"] * 6


def test_without_memorization_points_lie_by_what_retraining_changes(make_run: Callable[..., RunResult]) -> None:
    run = make_run()
    chart = figures.klom_against_memorization(make_run(points=run.points.drop(columns="memorization")))
    assert chart.name == "klom_against_change"
    (panel,) = chart.panels
    forget = run.rows("forget")
    change = (run.points["margin_oracle"] - run.points["margin_original"]).to_numpy()[forget]
    assert sorted(panel.hover.x[: len(forget)]) == pytest.approx(sorted(change))


def test_an_empty_forget_set_is_no_reason_to_fail(make_run: Callable[..., RunResult]) -> None:
    run = make_run()
    points = run.points.assign(group=np.where(run.points["group"] == "forget", "retain", run.points["group"]))
    empty = make_run(points=points)
    assert figures.klom_against_memorization(empty) is None
    assert figures.forgotten_images(empty) is None
    assert figures.klom_by_group(empty) is not None
    assert [words for words, _ in point_figures.chosen_points(empty)] == [
        "typical retain point",
        "typical validation point",
    ]
    assert share_within_floor(empty) is None


@pytest.mark.parametrize(("members", "warned"), [(79, True), (80, False)])
def test_small_ensembles_are_warned_about(make_run: Callable[..., RunResult], members: int, warned: bool) -> None:
    run = make_run(members=members)
    assert bool(narrative(run).warnings) is warned
    assert (f"Only {members} models" in render(run, [])) is warned


def test_the_share_in_words_is_the_share_by_hand(run: RunResult) -> None:
    forget = [row for row in run.points.to_dict("records") if row["group"] == "forget"]
    limit = np.percentile([row["klom_floor"] + row["klom_reverse_floor"] for row in forget], 95)
    by_hand = sum(row["klom"] + row["klom_reverse"] <= limit for row in forget) / len(forget)
    assert share_within_floor(run) == pytest.approx(by_hand)
    first = f"Indistinguishable from retraining on {100 * by_hand:.0f} % of the {len(forget)} forget points"
    assert narrative(run).meaning[0].startswith(first)


def test_an_older_run_is_judged_by_the_one_direction_that_it_has(run: RunResult, make_run) -> None:
    older = make_run(points=run.points.drop(columns=[name for name in run.points if "reverse" in name]))
    forget = run.points[run.points["group"] == "forget"]
    limit = np.percentile(forget["klom_floor"], 95)
    assert share_within_floor(older) == pytest.approx((forget["klom"] <= limit).mean())


def test_too_small_a_spread_is_not_called_retraining(run: RunResult, make_run) -> None:
    points = run.points.assign(klom=run.points["klom_floor"], klom_reverse=20.0)
    assert share_within_floor(make_run(points=points)) == 0


def test_both_directions_stand_in_the_table_and_in_words(run: RunResult) -> None:
    cell = headline_data(run).rows[2].cells[0]
    reverse = run.metrics["klom_reverse/forget/p95"]
    assert f"{reverse:.2f}, " in cell.detail
    assert f"In the other direction, which does not forgive too small a spread, it is {reverse:.2f}" in " ".join(
        narrative(run).meaning
    )


def test_the_floor_itself_scores_about_95_per_cent(run: RunResult) -> None:
    assert share_within_floor(run, "_floor", "retain") == pytest.approx(0.95, abs=0.01)


def test_a_method_worse_than_nothing_is_called_that(run: RunResult, make_run: Callable[..., RunResult]) -> None:
    worse = {**run.metrics, "klom/forget/p95": run.metrics["klom_original/forget/p95"] + 0.1}
    assert "further from retraining than leaving the models alone" in " ".join(
        narrative(make_run(metrics=worse)).meaning
    )


def test_chosen_points_are_the_extremes_and_an_ordinary_one_of_each_group(run: RunResult) -> None:
    chosen = dict(point_figures.chosen_points(run))
    points, forget = run.points, run.points[run.points["group"] == "forget"]
    change = (forget["margin_oracle"] - forget["margin_original"]).abs()
    ranked = [row for row in change.sort_values(ascending=False).index if row != chosen["most memorized"]]
    assert chosen["most memorized"] == forget["memorization"].idxmax()
    assert chosen["most changed by retraining"] == ranked[0]
    assert chosen["largest KLoM"] == forget["klom"].drop(list(chosen.values())[:2]).idxmax()
    assert len(set(chosen.values())) == 6
    for words, group in (("typical retain point", "retain"), ("typical validation point", "val")):
        values = points["klom"][points["group"] == group]
        assert abs(points["klom"][chosen[words]] - values.median()) == (values - values.median()).abs().min()


def test_histograms_count_every_model_once(run: RunResult) -> None:
    for panel in figures.margin_histograms(run).panels:
        assert isinstance(panel, Panel)
        for mark in panel.marks:
            assert mark.y[1:-1:2].sum() == run.n_models


def test_the_frontier_holds_what_nothing_cheaper_beats() -> None:
    points = [(0.0, 10.0), (0.5, 2.0), (0.2, 3.0), (0.4, 3.0), (1.0, 0.6), (0.5, 1.9), (0.9, 5.0)]
    assert cost_figure.frontier(points) == [(0.0, 10.0), (0.2, 3.0), (0.5, 1.9), (1.0, 0.6)]


def test_other_runs_stand_beside_this_one(run: RunResult, page: str) -> None:
    found = told(page, "quality_against_cost")
    assert found["titles"] == ["dmm (this run)", "scrub", "dm_direct"]
    assert found["fields"]["cost"] == ["0.0213", "0.4", "0"]
    assert "2 other finished runs" in page
    table = figures.quality_against_cost(run).table
    assert [row[0] for row in table[1:]] == ["dmm (this run)", "dm_direct", "scrub"]


def test_checkpoints_are_a_path_with_their_epochs(make_run: Callable[..., RunResult]) -> None:
    end = make_run().metrics
    checkpoints = {1: {**end, "klom/forget/p95": 6.0, "cost/ratio": 0.01}, 4: end}
    chart = figures.quality_against_cost(make_run(checkpoints=checkpoints))
    path, points = (mark for mark in chart.panels[0].marks if mark.role == "unlearned")
    assert (path.form, path.y.tolist()) == ("line", [6.0, end["klom/forget/p95"]])
    assert points.notes == ["1", "4"]


def test_a_run_alone_is_compared_with_the_ends_of_the_scale(make_run: Callable[..., RunResult]) -> None:
    chart = figures.quality_against_cost(make_run(others=[]))
    labels = [mark.label for mark in chart.legend]
    assert labels == ["frontier", "dmm (this run)", "doing nothing", "retraining (at the floor)"]
    assert not chart.table


def test_cumulative_shares_are_exact_and_end_at_one(run: RunResult) -> None:
    panel = figures.klom_by_group(run).panels[0]
    mark = next(mark for mark in panel.marks if mark.role == "unlearned")
    values = np.sort(run.points["klom"][run.rows("forget")].to_numpy())
    np.testing.assert_allclose(mark.x[::2], values)
    assert mark.y[-1] == 1


def test_arrays_of_different_points_are_refused(make_run: Callable[..., RunResult]) -> None:
    with pytest.raises(ValueError, match="columns for 300 points"):
        make_run(margins={"unlearned": np.zeros((3, 299), np.float32)})
