"""A search never sees what is reported, finds what a loop over runs finds, and goes on where it stopped."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides, compose_forget_sets, forget_overrides
from dmm_exp.config.schema import register
from dmm_exp.config.tables import read_rows, settings_in
from dmm_exp.errors import UserError
from dmm_exp.files.digests import digest_of
from dmm_exp.runs.run import run
from dmm_exp.search import Grid, Optuna, Range, settings_of, with_settings
from dmm_exp.search.spaces import Settings, at_ends, grid, read_space
from dmm_exp.search.strategies import Space

FOLDER = Path(config_directory()) / "hparams_search" / "spaces"
SPACES = yaml.safe_load((FOLDER / "digits.yaml").read_text())
UNLEARNERS = {path.stem for path in (Path(config_directory()) / "unlearner").glob("*.yaml")}
CHOICES = {"dataset": "digits", "model": "mlp", "forget": "random", "unlearner": "gradient_ascent"}
QUICK = [
    "experiment=quick", "executor=local", "evaluation.report=false", "logger=none", "forget=random",
    "n_models=3", "training.epochs=1", "training.batch_size=512",
    "unlearner=gradient_ascent", "hparams_search.spaces.gradient_ascent.optimizer.lr=[0.001,0.01]",
    "hparams_search.spaces.gradient_ascent.epochs=[1,3]",
]  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


def searched(outputs, *overrides, strategy="grid", tuning='["random seed=9","random seed=8"]'):
    register()
    own = [f"hparams_search={strategy}", f"forget_tuning={tuning}", f"paths.outputs={outputs}"]
    (config,) = check_overrides(config_directory(), [*own, *QUICK, *overrides])
    return run(config, CHOICES, table=False)


def folder_of(outputs):
    """Return the folder of the latest search."""
    files = (outputs / "searches").glob("gradient_ascent__*/*/trials.csv")
    return max(files, key=lambda path: path.stat().st_mtime).parent


def trials_of(folder):
    """Return the records of everything that was tried on the same sets."""
    return [json.loads(path.read_text()) for path in sorted((folder.parent / "trials").glob("*.json"))]


@pytest.fixture(scope="module")
def finished(outputs):
    return searched(outputs), folder_of(outputs)


def found_in(folder):
    """Return the row that a search wrote."""
    return read_rows(folder / "settings.csv")["gradient_ascent"]


def alone(outputs, folder, *overrides):
    """Return the metrics of an ordinary run at the settings that a search found."""
    settings = [f"unlearner.{key}={value}" for key, value in settings_in(found_in(folder)).items()]
    common = [text for text in QUICK if not text.startswith("hparams_search")]
    register()
    (config,) = check_overrides(config_directory(), [*common, *settings, f"paths.outputs={outputs}", *overrides])
    return run(config, CHOICES, table=False)


def test_every_combination_is_tried_on_every_set(finished):
    table = pd.read_csv(finished[1] / "trials.csv")
    tried = set(zip(table["epochs"], table["optimizer.lr"], strict=True))
    assert tried == {(1, 0.001), (3, 0.001), (1, 0.01), (3, 0.01)}
    for seed in (8, 9):
        assert table[f"random seed={seed}: klom/forget/p95"].notna().all()


def test_what_is_found_is_reproduced_by_its_file(finished, outputs):
    best = pd.read_csv(finished[1] / "trials.csv").iloc[0]
    for seed in (8, 9):
        metrics = alone(outputs, finished[1], f"forget.seed={seed}").metrics
        for name in ("klom/forget/p95", "klom/retain/p95", "klom/val/p95", "tow", "cost/ratio"):
            assert metrics[name] == pytest.approx(best[f"random seed={seed}: {name}"], rel=1e-12), name


def test_the_best_is_the_smallest_mean(finished):
    table = pd.read_csv(finished[1] / "trials.csv")
    means = sum(table[f"random seed={seed}: klom/{g}/p95"] for seed in (8, 9) for g in ("forget", "retain", "val")) / 6
    assert table["value"].to_numpy() == pytest.approx(means.to_numpy())
    best = table.loc[means.idxmin()]
    row = found_in(finished[1])
    assert settings_in(row) == {"epochs": best["epochs"], "optimizer.lr": best["optimizer.lr"]}
    assert (row["tried"], row["value"]) == (str(len(table)), f"{best['value']:.3f}")


def test_the_reported_run_is_the_ordinary_run_at_the_best_settings(finished, outputs):
    run_, folder = finished
    assert alone(outputs, folder).folder == run_.folder


def test_models_of_candidates_are_not_kept(finished, outputs, tmp_path):
    searched(tmp_path)
    assert len(list((tmp_path / "artifacts" / "unlearned").iterdir())) == 1  # those of the reported run


def test_a_search_goes_on_where_it_stopped(finished, outputs):
    folder = finished[1]
    first, *others = sorted((folder.parent / "trials").glob("*.json"))
    text, times = first.read_text(), [path.read_text() for path in others]
    first.write_text("{")  # half-written
    marked = json.loads(others[0].read_text())
    others[0].write_text(json.dumps(marked | {"error": "taken from the record"}))
    searched(outputs)
    assert first.read_text() == text
    assert json.loads(others[0].read_text())["error"] == "taken from the record"
    others[0].write_text(times[0])


def test_a_larger_grid_tries_only_what_is_new(finished, outputs):
    before = {path: path.stat().st_mtime_ns for path in (outputs / "artifacts" / "evaluation").iterdir()}
    records = len(trials_of(finished[1]))
    searched(outputs, "hparams_search.spaces.gradient_ascent.epochs=[1,2,3]")
    assert len(trials_of(finished[1])) == records + 2
    assert len(pd.read_csv(folder_of(outputs) / "trials.csv")) == 6
    assert set(before) <= set((outputs / "artifacts" / "evaluation").iterdir())


def test_the_reported_set_is_refused_for_tuning(outputs):
    with pytest.raises(UserError, match="'random' is the forget set that is reported"):
        searched(outputs, tuning='["random"]')


def test_a_set_that_mostly_holds_reported_examples_is_refused(outputs):
    with pytest.raises(UserError, match="shares 40 of the 40 examples"):
        searched(outputs, "forget.size=40", tuning='["random size=60"]')


def test_a_search_without_forget_sets_is_refused(outputs):
    with pytest.raises(UserError, match=r"forget_tuning=\[\]: a search needs forget sets"):
        searched(outputs, tuning="[]")


def test_costly_settings_are_not_chosen(outputs):
    with pytest.raises(UserError, match=r"none of 4 settings worked \(cost"):
        searched(outputs, "hparams_search.max_cost=0.0001")


def test_settings_that_diverge_are_passed_over(outputs):
    lr = "hparams_search.spaces.gradient_ascent.optimizer.lr=[1e30,0.001]"
    assert searched(outputs, lr).metrics["cost/ratio"] > 0
    table = pd.read_csv(folder_of(outputs) / "trials.csv").sort_values("optimizer.lr")
    assert table["error"].str.contains("diverged").sum() == 2
    assert table["error"].isna().sum() == 2


def test_an_unknown_metric_is_refused(outputs):
    with pytest.raises(UserError, match="'klom/nothing' is not among"):
        searched(outputs, "hparams_search.metrics=[klom/nothing]", tuning='["random seed=7"]')


def test_settings_are_saved_as_a_row_that_composes(finished, outputs, tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    conf.mkdir()
    monkeypatch.setattr("dmm_exp.runs.run.config_directory", lambda: str(conf))
    monkeypatch.setattr(
        "dmm_exp.runs.run.compose_forget_sets",
        lambda folder, texts: compose_forget_sets(config_directory(), texts),
    )
    searched(outputs, "hparams_search.save=small/random")
    (config,) = check_overrides(config_directory(), ["experiment=small/random/gradient_ascent"], [str(conf)])
    assert config.unlearner["optimizer"]["lr"] == settings_in(found_in(finished[1]))["optimizer.lr"]
    assert [path.name for path in (conf / "experiment" / "small").iterdir()] == ["random.csv"]


@pytest.mark.parametrize("save", ["../x", "a b", "/etc/x", "x.yaml"])
def test_a_name_that_would_leave_the_folder_is_refused(outputs, save):
    with pytest.raises(UserError, match=r"hparams_search\.save="):
        searched(outputs, f"hparams_search.save='{save}'")


def test_optuna_goes_on_with_its_study(tmp_path):
    lr = "hparams_search.spaces.gradient_ascent.optimizer.lr=1e-4..1e-2 log"
    tuning = '["random seed=9"]'
    searched(tmp_path, lr, "hparams_search.trials=2", strategy="optuna", tuning=tuning)
    first = {digest_of(trial["settings"]) for trial in trials_of(folder_of(tmp_path))}
    searched(tmp_path, lr, "hparams_search.trials=4", strategy="optuna", tuning=tuning)
    everything = trials_of(folder_of(tmp_path))
    assert first <= {digest_of(trial["settings"]) for trial in everything}
    assert 2 < len(everything) <= 4
    assert all(1e-4 <= trial["settings"]["optimizer.lr"] <= 1e-2 for trial in everything)
    assert all(trial["settings"]["epochs"] in (1, 3) for trial in everything)
    assert len(list((tmp_path / "searches").glob("*/optuna__*/optuna.db"))) == 1
    searched(tmp_path, lr, "hparams_search.trials=4", strategy="optuna", tuning=tuning)  # there is nothing left to try
    assert trials_of(folder_of(tmp_path)) == everything


@pytest.mark.parametrize("file", ["digits", "fair"])
def test_every_unlearner_with_settings_has_a_space_that_fits(file):
    register()
    spaces = yaml.safe_load((FOLDER / f"{file}.yaml").read_text())
    settled = {"do_nothing", "dm_direct", "retrain", "function"}  # nothing to search, or what the user says
    assert set(spaces) == UNLEARNERS - settled
    for name in spaces:
        (config,) = check_overrides(config_directory(), [f"unlearner={name}"])
        space, own = read_space(spaces, name, config.unlearner), settings_of(config.unlearner)
        for key, values in space.items():
            if isinstance(values, Range):
                assert values.low <= own[key] <= values.high, f"{name}.{key}={own[key]}: its own setting is not tried"
            else:
                assert len(values) > 0


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ({}, "has none for unlearner=x"),
        ({"x": {"lrr": [1]}}, "no such key; did you mean 'lr'"),
        ({"x": {"lr": 3}}, "expected a list of values"),
        ({"x": {"lr": []}}, "expected a list of values"),
        ({"x": {"lr": "2..1"}}, "with LOW < HIGH"),
        ({"x": {"lr": "0..1 log"}}, "with 0 < LOW"),
        ({"x": {"lr": "a..b"}}, "expected LOW..HIGH"),
        ({"x": {"lr": "1"}}, "expected LOW..HIGH"),
    ],
)
def test_a_space_that_cannot_be_is_refused(spaces, message):
    with pytest.raises(UserError, match=message):
        read_space(spaces, "x", {"_target_": "y", "lr": 1, "epochs": 2})


def test_a_grid_refuses_a_range_and_optuna_takes_it():
    space = {"lr": Range(0.1, 1.0)}
    with pytest.raises(UserError, match="a grid needs a list"):
        Grid(spaces={}).size(space)
    assert Optuna(spaces={}, trials=7).size(space) == 7


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1..8", Range(1, 8)),
        ("1e-4..0.1 log", Range(1e-4, 0.1, True)),
        ("0.5..2", Range(0.5, 2)),
        ("[1..8 log", Range(1, 8, True, (True, False))),
        ("0.5..1]", Range(0.5, 1, limits=(False, True))),
    ],
)
def test_a_range_in_words_is_its_ends(text, found):
    assert read_space({"x": {"lr": text}}, "x", {"lr": 1}) == {"lr": found}


def test_a_range_is_widened_where_a_value_is_near_an_end_that_is_no_limit():
    plain, log = Range(0.0, 1.0), Range(0.01, 1.0, True)
    assert plain.widened(0.5) == plain
    assert plain.widened(0.95) == Range(0.0, 1.5)
    assert plain.widened(0.05) == Range(-0.5, 1.0)
    assert (log.widened(0.9).low, log.widened(0.9).high) == pytest.approx((0.01, 10))
    assert (log.widened(0.011).low, log.widened(0.011).high) == pytest.approx((0.001, 1))
    limited = Range(1, 8, True, (True, False))
    assert limited.widened(1) == limited
    assert limited.widened(8) == replace(limited, high=23)
    assert Range(2, 3).widened(2) == Range(1, 3)


def test_settings_at_an_end_that_is_no_limit_are_named():
    space = {"a": Range(1, 8, limits=(True, False)), "b": [1, 2, 3], "c": ["x", "y"], "d": [5]}
    assert at_ends(space, {"a": 1, "b": 2, "c": "x", "d": 5}) == []
    assert at_ends(space, {"a": 8, "b": 3, "c": "y", "d": 5}) == ["a", "b"]


def minimised(folder: Path, trials: int, best: float, **options: Any) -> tuple[list[Settings], Space]:
    """Return what a search for the minimum of ``(log10 lr - best)²`` tries from .01 on, and its ranges in the end."""
    tried: list[Settings] = []

    def evaluate(alike: Sequence[Settings]) -> list[float]:
        tried.extend(alike)
        return [(math.log10(settings["lr"]) - best) ** 2 for settings in alike]

    folder.mkdir(exist_ok=True)
    strategy = Optuna(spaces={}, trials=trials, **options)
    return tried, strategy.run({"lr": Range(1e-3, 1e-1, True)}, {"lr": 0.01}, evaluate, folder)


def test_a_search_that_widens_finds_what_lies_outside(tmp_path):
    tried, space = minimised(tmp_path / "a", 40, best=1.0, widen=True)
    assert tried[0] == {"lr": 0.01}
    assert len(tried) == 40
    assert space["lr"].high > 10 > space["lr"].low
    assert min(abs(math.log10(settings["lr"]) - 1) for settings in tried) < 0.3
    assert all(float(f"{settings['lr']:.3g}") == settings["lr"] for settings in tried)  # as people write them
    narrow, same = minimised(tmp_path / "b", 40, best=1.0)
    assert max(settings["lr"] for settings in narrow) <= 0.1
    assert same == {"lr": Range(1e-3, 1e-1, True)}


def test_an_interrupted_search_that_widens_tries_what_a_whole_one_does(tmp_path):
    whole, _ = minimised(tmp_path / "a", 16, best=0.0, widen=True)

    class Interrupted(Exception):
        pass

    def evaluate(alike: Sequence[Settings]) -> list[float]:
        seen.extend(alike)
        if len(seen) == 9:
            raise Interrupted
        return [math.log10(settings["lr"]) ** 2 for settings in alike]

    seen: list[Settings] = []
    (tmp_path / "b").mkdir()
    with pytest.raises(Interrupted):
        Optuna(spaces={}, trials=16, widen=True).run(
            {"lr": Range(1e-3, 1e-1, True)}, {"lr": 0.01}, evaluate, tmp_path / "b"
        )
    rest, _ = minimised(tmp_path / "b", 16, best=0.0, widen=True)
    assert rest[:8] == seen[:8]  # recalled
    assert rest == whole


def test_a_grid_is_the_product_of_its_lists():
    assert list(grid({"a": [1, 2], "b.c": [3]})) == [{"a": 1, "b.c": 3}, {"a": 2, "b.c": 3}]


def test_settings_are_put_in_their_places_and_nothing_else_changes():
    before = {"epochs": 1, "optimizer": {"lr": 1, "momentum": 0.9}}
    assert with_settings(before, {"optimizer.lr": 2}) == {"epochs": 1, "optimizer": {"lr": 2, "momentum": 0.9}}
    assert before["optimizer"]["lr"] == 1
    assert settings_of(before) == {"epochs": 1, "optimizer.lr": 1, "optimizer.momentum": 0.9}


def test_a_forget_set_in_words_is_its_overrides():
    assert forget_overrides("class label=3 fraction=0.5") == ["forget=class", "forget.label=3", "forget.fraction=0.5"]


@pytest.mark.parametrize("text", ["", "seed=1", "no_such_set", "random sed=1"])
def test_a_forget_set_that_does_not_exist_is_refused(text):
    register()
    with pytest.raises(UserError):
        compose_forget_sets(config_directory(), [text])
