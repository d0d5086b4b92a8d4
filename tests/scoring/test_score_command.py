"""``dmm-exp score`` on arrays that were made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dmm_exp.metrics import klom, mia, split_half_floor, ulira

Command = Callable[..., subprocess.CompletedProcess[str]]
MODELS, POINTS, CLASSES = 24, 90, 3
FORGET, VALIDATION = np.arange(5, 25), np.arange(60, 90)
MARGINS = ("unlearned=u.npy", "retrained=r.npy", "forget=forget.npy")
LOGITS = ("unlearned=lu.npy", "retrained=lr.npy", "retrained_again=lr2.npy", "originals=lo.npy", "labels=labels.npy")


def margins(seed: int, moved: float = 0.0, models: int = MODELS) -> np.ndarray:
    """Draw margins of models that still know forget points by some standard deviations."""
    drawn = np.random.default_rng(seed).normal(3.0, 1.0, (models, POINTS))
    drawn[:, FORGET] += moved
    return drawn.astype(np.float32)


def logits(seed: int, moved: float = 0.0) -> np.ndarray:
    """Draw logits whose labels are the points' numbers modulo the classes."""
    drawn = np.random.default_rng(seed).normal(0.0, 1.0, (MODELS, POINTS, CLASSES))
    drawn[:, np.arange(POINTS), np.arange(POINTS) % CLASSES] += 1.0 + moved * np.isin(np.arange(POINTS), FORGET)
    return drawn.astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with arrays of every kind."""
    place = tmp_path_factory.mktemp("arrays")
    groups = np.ones(POINTS, int)
    groups[FORGET], groups[VALIDATION] = 0, 2
    arrays = {
        **{"u": margins(0, 0.5), "r": margins(1), "r2": margins(2), "o": margins(3, 3.0)},
        **{"lu": logits(0, 1.0), "lr": logits(1), "lr2": logits(2), "lo": logits(3, 3.0)},
        **{"labels": np.arange(POINTS) % CLASSES, "groups": groups, "forget": FORGET, "val": VALIDATION},
        "rr": np.concatenate([margins(1), margins(2)]),
    }
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
    return place


def scored(command: Command, folder: Path, output: Path, *words: str) -> tuple[dict[str, float], Any]:
    """Score, and return metrics and what the command said."""
    done = command("score", *words, f"output={output}", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(output)
    return json.loads((output / "metrics.json").read_text()), done


def test_margins_of_two_ensembles_give_klom_and_the_attack(command: Command, folder: Path, tmp_path: Path) -> None:
    found, done = scored(command, folder, tmp_path / "s", *MARGINS)
    values = klom(margins(0, 0.5), margins(1))
    assert found["klom/forget/p95"] == np.quantile(values[FORGET], 0.95)
    assert found["ulira/accuracy"] == ulira(margins(0, 0.5)[:, FORGET], margins(1)[:, FORGET]).mean()
    points = pd.read_parquet(tmp_path / "s" / "points.parquet")
    assert points["klom"].tolist() == values.tolist()
    assert not {"label", "accuracy_oracle", "klom_original", "klom_floor"} & set(points)
    absent = ("accuracy", "tow", "mia", "klom_original", "cost", "klom/val")
    assert not [name for name in found if name.startswith(absent)]
    for sentence in ("there are no originals", "need logits and labels", "Scores on val points", "Only 24 models"):
        assert sentence in done.stderr
    page = (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    assert "need logits and labels" in page
    assert "doing nothing" not in page


def test_without_a_second_ensemble_the_floor_of_klom_is_that_of_halves(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    found, done = scored(command, folder, tmp_path / "s", *MARGINS)
    floor = split_half_floor(margins(1)[:, FORGET])[0.95]
    assert (found["klom_floor/forget/p95_of_halves"], found["klom_floor/forget/p95"]) == floor
    assert "floor, from halves" in done.stdout
    assert "estimate from halves" in done.stderr
    few, done = scored(command, folder, tmp_path / "t", *MARGINS, "models=12")
    assert "next 12 retrained models are the second ensemble" in done.stderr
    assert few["klom_floor/forget/p95"] == np.quantile(klom(margins(1)[12:], margins(1)[:12])[FORGET], 0.95)


def test_of_twice_as_many_retrained_models_the_second_half_is_the_second_ensemble(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    more = ("unlearned=u.npy", "originals=o.npy", "forget=forget.npy", "validation=val.npy")
    named, _ = scored(command, folder, tmp_path / "a", *more, "retrained=r.npy", "retrained_again=r2.npy")
    halved, done = scored(command, folder, tmp_path / "b", *more, "retrained=rr.npy")
    assert named == halved
    assert "next 24 retrained models are the second ensemble" in done.stderr
    assert {"klom_floor/val/p95", "klom_original/val/p95", "ulira/false_positive_rate"} <= set(named)


def test_retrained_models_are_at_the_floor_and_originals_are_not(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "r3.npy", margins(4))
    words = ("retrained=r.npy", "retrained_again=r2.npy", "originals=o.npy", "forget=forget.npy", "validation=val.npy")
    found, _ = scored(command, folder, tmp_path / "s", f"unlearned={tmp_path / 'r3.npy'}", *words)
    for group in ("forget", "retain", "val"):
        assert found[f"klom/{group}/p95"] == pytest.approx(found[f"klom_floor/{group}/p95"], rel=0.3)
    assert found["klom_original/forget/p95"] > 1.5 * found["klom_floor/forget/p95"]
    assert found["ulira/accuracy"] == pytest.approx(0.5, abs=0.06)
    itself, _ = scored(command, folder, tmp_path / "t", "unlearned=r.npy", *words, "models=9")
    assert itself["klom/forget/p95"] == itself["klom_reverse/retain/p95"] == 0.0


def test_logits_give_every_score_that_needs_no_pipeline(command: Command, folder: Path, tmp_path: Path) -> None:
    found, done = scored(command, folder, tmp_path / "s", *LOGITS, "groups=groups.npy", "method=mine")
    names = ("tow", "tow_floor", "tow_mia_original", "mia/oracle", "mia/floor_low", "accuracy/unlearned/val")
    assert set(names) <= set(found)
    assert found["accuracy/original/forget"] == (logits(3, 3.0).argmax(2)[:, FORGET] == FORGET % CLASSES).mean()
    assert "mine" in done.stdout
    points, members = (pd.read_parquet(tmp_path / "s" / f"{name}.parquet") for name in ("points", "members"))
    assert points["label"].tolist() == [point % CLASSES for point in range(POINTS)]
    effect = logits(3, 3.0).mean(0) - logits(1).mean(0)
    assert points["effect_true"].tolist() == [effect[point, point % CLASSES] for point in range(POINTS)]
    assert (len(members), members["tow_mia"].mean()) == (MODELS, found["tow_mia"])
    said = json.loads((tmp_path / "s" / "score.json").read_text())
    assert set(said["inputs"]) == {word.partition("=")[0] for word in LOGITS} | {"groups"}
    words = ("groups=groups.npy", "models=9", "seed=1", "evaluation.mia.largest=9")
    few, _ = scored(command, folder, tmp_path / "t", *LOGITS, *words)
    groups = np.load(folder / "groups.npy")
    assert few["mia/oracle"] == mia(logits(1)[:9], points["label"], groups, seed=1, largest=9).mean()


def test_without_validation_points_tug_of_war_is_left_out(command: Command, folder: Path, tmp_path: Path) -> None:
    found, done = scored(command, folder, tmp_path / "s", *LOGITS, "forget=forget.npy")
    assert {"accuracy/unlearned/forget", "accuracy/unlearned/retain"} <= set(found)
    assert not [name for name in found if name.startswith(("tow", "mia")) or "/val" in name]
    assert "and with them tug-of-war and membership inference" in done.stderr


def test_klom_has_the_settings_of_runs(command: Command, folder: Path, tmp_path: Path) -> None:
    words = ("evaluation/klom=paper", "evaluation.klom.bins=9")
    found, _ = scored(command, folder, tmp_path / "s", *MARGINS, *words)
    options: Any = {"bins": 9, "drop_maximum": True, "renormalise": True, "floor_everywhere": True}
    assert found["klom/retain/p95"] == np.quantile(
        klom(margins(0, 0.5), margins(1), **options)[np.setdiff1d(np.arange(POINTS), FORGET)], 0.95
    )
    assert "as in paper" in (tmp_path / "s" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*MARGINS], "output: is missing"),
        ([*MARGINS, "output=o", "retraind=r.npy"], "did you mean 'retrained'?"),
        ([*MARGINS, "output=o", "forget=val.npy"], "forget: is given twice"),
        ([*MARGINS, "output=o", "models="], "models: has no value"),
        ([*MARGINS, "output=o", "models=1"], "models=1: expected a whole number of at least 2"),
        ([*MARGINS, "output=o", "models=25"], "unlearned=u.npy: has 24 models; expected at least 25"),
        ([*MARGINS, "output=o", "evaluation/klom=papr"], "evaluation/klom=papr: expected one of default"),
        ([*MARGINS, "output=o", "evaluation.klom.bin=3"], "there is no key 'evaluation.klom.bin'"),
        ([*MARGINS, "output=o", "evaluation.klom.bins=0"], "bins"),
        ([*MARGINS, "output=o", "seed=1,2"], "stands for 2 configurations"),
        ([*MARGINS, "output=o", "seed=-1"], "seed=-1: expected a whole number of at least 0"),
        ([*MARGINS, "output=."], "output=.: is there already; expected a new folder"),
        ([*MARGINS, "output=u.npy/o"], "u.npy is no folder that can be written to"),
        (["retrained=r.npy", "forget=forget.npy", "output=o"], "unlearned: is missing"),
        (["unlearned=u.npy", "forget=forget.npy", "output=o"], "retrained: is missing"),
        (["unlearned=u.npy", "retrained=r.npy", "output=o"], "forget: is missing"),
        ([*MARGINS[:2], "forget=nowhere.npy", "output=o"], "forget=nowhere.npy: there is no such file"),
        ([*MARGINS, "validation=forget.npy", "output=o"], "shares 20 points with forget=forget.npy, the first 5"),
        ([*MARGINS, "retain=val.npy", "output=o"], "retain: 40 of 90 points are in no group, the first 0"),
        ([*MARGINS, "groups=groups.npy", "output=o"], "forget=forget.npy: says what groups= says"),
        ([*MARGINS[:2], "groups=labels.npy", "models=24", "labels=u.npy", "output=o"], "labels=u.npy: holds float32"),
        ([*MARGINS, "retrained_again=r.npy", "output=o"], "retrained=r.npy: both ensembles of retrained models"),
        ([*MARGINS, "originals=lo.npy", "output=o"], "originals=lo.npy: has the shape [24, 90, 3]; expected"),
        (["unlearned=lu.npy", "retrained=lr.npy", "forget=forget.npy", "output=o"], "labels: are missing"),
        ([*LOGITS, "output=o", "forget=nan.npy"], "expected indices of points"),
        (["unlearned=nan.npy", *MARGINS[1:], "output=o"], "unlearned=nan.npy: holds 1 values that are NaN or infinite"),
        (["unlearned=one.npy", *MARGINS[1:], "output=o"], "unlearned=one.npy: has 1 model; expected at least 2"),
        (["unlearned=pickled.npy", *MARGINS[1:], "output=o"], "unlearned=pickled.npy: cannot be read"),
        (["unlearned=two.npz", *MARGINS[1:], "output=o"], "holds 2 arrays ('unlearnt', 'other'); expected one"),
        (["unlearned=far.npy", *MARGINS[1:], "output=o"], "retrained=r.npy: has the shape [24, 90]; expected"),
        (["unlearned=.", *MARGINS[1:], "output=o"], "unlearned=.: is a folder; expected a file, or dataset="),
        ([*MARGINS, "model=mlp", "output=o"], "model=mlp: is for checkpoints; expected dataset=NAME and model=NAME"),
        ([*MARGINS, "dataset=digits", "model=mlp", "output=o"], "unlearned=u.npy: there is no such folder"),
        ([*LOGITS, "dataset=digits", "model=mlp", "output=o"], "labels=labels.npy: is of what dataset= holds"),
        (["easydub=.", *MARGINS, "output=o"], "easydub=FOLDER and forget_set=Z: expected both"),
        (["easydub=.", "forget_set=1", *MARGINS, "output=o"], "retrained=r.npy: is of what easydub= holds"),
        (["easydub=.", "forget_set=1", "output=o"], "unlearned: is missing"),
        (["easydub=.", "forget_set=1", "unlearned=u.npy", "output=o"], "expected the folder EasyDUB-dataset"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence_and_nothing_is_written(
    command: Command, folder: Path, words: list[str], sentence: str
) -> None:
    np.save(folder / "nan.npy", np.where(np.arange(MODELS * POINTS).reshape(MODELS, POINTS) == 5, np.nan, margins(0)))
    np.save(folder / "one.npy", margins(0)[:1])
    np.save(folder / "far.npy", margins(0)[:, :7])
    np.save(folder / "pickled.npy", np.array([[{}]]), allow_pickle=True)
    np.savez(folder / "two.npz", unlearnt=margins(0), other=margins(1))
    before = sorted(folder.iterdir())
    done = command("score", *words, cwd=folder)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert sentence in done.stderr
    assert not done.stdout
    assert sorted(folder.iterdir()) == before


def test_an_empty_folder_is_filled(command: Command, folder: Path, tmp_path: Path) -> None:
    words = [f"{key}={folder / name}" for key, name in (word.split("=") for word in MARGINS)]
    done = command("score", *words, "models=2", "output=.", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "."), done.stderr
    files = {"metrics.json", "points.parquet", "members.parquet", "score.json", "report.html", "figures.json"}
    assert {path.name for path in tmp_path.iterdir()} == files


def test_help_names_every_option(command: Command, tmp_path: Path) -> None:
    from dmm_exp.commands.score import FILES, OTHERS

    said = command("score", "--help", cwd=tmp_path).stdout
    assert not [key for key in (*FILES, *OTHERS) if f"  {key}=" not in said]


def test_neither_margins_nor_logits_need_torch(folder: Path, tmp_path: Path) -> None:
    words = ["score", *LOGITS, "groups=groups.npy", f"output={tmp_path / 's'}"]
    code = (
        "import sys\nfrom dmm_exp.commands import cli\n"
        "try:\n    cli.main()\nfinally:\n    assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
