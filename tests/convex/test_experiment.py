"""The experiment as a person meets it: a folder with tables, figures and a page, the same for the same seed."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from axes import misleading
from browser import faults

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.ranges import check_ranges
from dmm_exp.config.schema import register
from dmm_exp.convex.experiment import run_convex
from dmm_exp.convex.page import _curves_chart
from dmm_exp.errors import UserError
from dmm_exp.report.figures import kept
from dmm_exp.report.palette import colour_of, dashes

TINY = [
    "experiment=convex_ridge", "convex.repeats=3", "convex.tuning_repeats=2", "convex.steps=60", "convex.passes=5",
    "convex.pool.size=12", "convex.base.n=50", "convex.base.d=8", "convex.base.rare=2", "convex.base.size=3",
]  # fmt: skip


def composed(*overrides):
    register()
    (config,) = check_overrides(config_directory(), overrides)
    check_ranges(config)
    return config


def tiny(outputs, *overrides):
    config = composed(*TINY, f"paths.outputs={outputs}", *overrides)
    chosen = {"base": {}, "few": {"matched": 0.5}}
    return replace(config, convex=replace(config.convex, settings=chosen))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_convex(tiny(tmp_path_factory.mktemp("first")), [])


def test_an_experiment_leaves_tables_figures_and_a_page(finished):
    table = pd.read_csv(finished / "table.csv")
    assert set(table["setting"]) == {"base", "few"}
    assert len(table) == 2 * 7 * 2  # settings, methods, schedules
    assert len(pd.read_csv(finished / "floors.csv")) == 12
    curves = pd.read_parquet(finished / "curves.parquet")
    assert (curves.groupby(["setting", "method", "schedule"])["seed"].nunique() == 3).all()
    np.testing.assert_allclose(curves.loc[curves["step"] == 0, "distance"], 1, rtol=1e-12)  # up to rounding
    names = ["distance", "excess", "schedules", "rates", "floors", "spectra"]
    assert [chart.name for chart in kept(finished)] == names
    assert "Distance to exact retraining" in (finished / "convex.html").read_text()


def test_the_page_is_right_on_every_screen_and_on_paper(browser, finished):
    assert faults(browser, finished / "convex.html") == []
    assert misleading(kept(finished)) == []


def test_a_line_that_leaves_its_panel_is_named_and_not_drawn_along_its_edge(finished):
    curves = pd.read_parquet(finished / "curves.parquet")
    away = (curves["setting"] == "few") & (curves["method"] == "ascent_descent") & (curves["step"] > 30)
    chart = _curves_chart(curves.assign(distance=curves["distance"].mask(away, 1e9)), "distance", "", "")
    for panel in chart.panels:
        above = [mark for mark in panel.marks if mark.form == "line" and mark.y.max() >= panel.y.high]
        assert [mark.label for mark in above] == (["ascent–descent"] if panel.title == "few" else [])
        assert all((mark.y != panel.y.high).all() for mark in above)
    assert "at the top" in chart.caption
    assert "ascent–descent in few." in chart.caption
    assert "at the top" not in _curves_chart(curves, "distance", "", "").caption


def test_a_method_has_one_colour_in_all_figures_and_each_schedule_its_dashes(finished):
    charts = {chart.name: {mark.label: mark.role for mark in chart.legend} for chart in kept(finished)}
    constant = charts["schedules"]["SGD on R, constant step"]
    assert constant == charts["distance"]["SGD on R"] == charts["floors"]["SGD on R, measured"]
    decaying = charts["schedules"]["SGD on R, decaying step"]
    assert colour_of(decaying) == colour_of(constant)
    assert dashes(decaying) != dashes(constant)


def test_captions_state_what_was_found(finished):
    captions = {chart.name: chart.caption for chart in kept(finished)}
    table = pd.read_csv(finished / "table.csv")
    own = table[(table["setting"] == "base") & (table["method"] == "sgd")].set_index("schedule")["distance"]
    for schedule, distance in own.items():
        assert f"SGD on R, {schedule} step {distance:.2g}" in captions["schedules"]
    assert re.search(r"in [012] of 2 settings", captions["spectra"])


@pytest.fixture
def without_page(monkeypatch):
    """Leave the page and its figures to the tests that look at them."""
    monkeypatch.setattr("dmm_exp.convex.page.write_page", lambda *_: None)


@pytest.mark.usefixtures("without_page")
def test_the_same_seed_gives_the_same_numbers_and_another_others(finished, tmp_path):
    again = run_convex(tiny(tmp_path), [])
    assert (again / "table.csv").read_bytes() == (finished / "table.csv").read_bytes()
    other = pd.read_csv(run_convex(tiny(tmp_path, "seed=1"), []) / "table.csv")
    assert not np.allclose(other["excess"], pd.read_csv(finished / "table.csv")["excess"])


@pytest.mark.usefixtures("without_page")
def test_what_an_interrupted_experiment_finished_is_kept(tmp_path):
    folder = run_convex(tiny(tmp_path), [])
    before = (folder / "table.csv").read_bytes()
    kept, lost = (folder / "settings" / name for name in ("base.json", "few.json"))
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    assert run_convex(tiny(tmp_path), []) == folder
    assert kept.stat().st_mtime_ns == stamp
    assert lost.exists()
    assert (folder / "table.csv").read_bytes() == before


def test_a_plan_makes_nothing(tmp_path, capsys):
    run_convex(tiny(tmp_path, "dry_run=true"), [])
    assert "few: data=gaussian, n=50" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("convex.loss=hinge", "convex.loss=hinge: expected one of ridge, logistic"),
        ("convex.base.forget=unusal", "did you mean 'unusual'?"),
        ("convex.base.size=200", "size=200: expected a whole number from 1 to below n"),
        ("convex.base.penalty=0", "penalty=0.0: expected a number above 0"),
        ("convex.base.matched=2", "matched=2.0: expected a share from 0 to 1"),
        ("convex.base.nosie=1", "did you mean 'convex.base.noise'?"),
        ("convex.base.n=many", "convex.base.n=many"),
        ("+convex.settings.base.sise=3", "did you mean 'size'?"),
        ("+convex.settings.base.n=few", "convex.settings.base.n=few: expected a whole number"),
        ("+convex.settings.base.data=digits", "data=digits: expected gaussian"),
        ("convex.multiples=[]", "convex.multiples=[]: expected a list of positive numbers"),
        ("convex.pool.alpha=1", "convex.pool.alpha=1.0: expected a fraction in (0, 1)"),
        ("convex.repeats=501", "convex.repeats=501: expected at most 500"),
    ],
)
def test_mistakes_are_one_sentence(override, said):
    with pytest.raises(UserError) as error:
        composed("experiment=convex_ridge", override)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("convex.settings.digits_random.n=2000", "n=2000: expected at most 1797"),
        ("+convex.settings.digits_random.condition=10.0", "only gaussian inputs have it"),
        ("convex.settings.digits_random.forget=unusual", "forget=unusual: expected random or mislabelled"),
        ("convex.base.noise=0.7", "noise=0.7: expected a number from 0 to 0.5"),
    ],
)
def test_mistakes_with_real_data_are_one_sentence(override, said):
    with pytest.raises(UserError) as error:
        composed("experiment=convex_logistic", override)
    assert said in str(error.value)


def test_the_command_line_comes_here_and_refuses_with_exit_code_2(command, tmp_path):
    planned = command(*TINY, "dry_run=true", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.splitlines()[0].startswith("base: data=gaussian, n=50, d=8")
    refused = command(*TINY, "convex.base.size=0", cwd=tmp_path)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
