"""A tiny folder in EasyDUB's layout, scored as EasyDUB's published scripts do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]
ORACLES, TRAIN, UNSEEN, SET = 12, 30, 8, 2
FORGET = np.array([17, 3, 22, 9])  # in no order
RETAIN = np.setdiff1d(np.arange(TRAIN), FORGET)


def answers(seed: int, models: int) -> np.ndarray:
    """Draw margins of training rows, then of unseen points; oracles (even seeds) are off on the forget set."""
    drawn = np.random.default_rng(seed).normal(2.0, 1.0, (models, TRAIN + UNSEEN))
    drawn[:, FORGET] += seed % 2
    return drawn.astype(np.float32)


ORACLE, PRETRAIN, UNLEARNED = answers(0, ORACLES), answers(1, ORACLES), answers(3, 5)


def save(folder: Path, margins: np.ndarray, epoch: int = 23) -> None:
    place = folder / "resnet9"
    place.mkdir(parents=True)
    for number, row in enumerate(margins):
        np.save(place / f"id_{number}_epoch_{epoch}.npy", row)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as easydub/EasyDUB-dataset is laid out; model 10 comes after model 9, not after model 1."""
    root = tmp_path_factory.mktemp("files") / "EasyDUB-dataset"
    oracle, pretrain = (root / "margins" / "cifar10" / kind for kind in ("oracle", "pretrain"))
    parts = {"retain": RETAIN, "forget": FORGET, "val": np.arange(TRAIN, TRAIN + UNSEEN)}
    for phase, points in parts.items():
        save(oracle / f"forget_{SET}" / phase, ORACLE[:, points])
        save(root.parent / "mine" / phase, UNLEARNED[:, points], epoch=5)
    save(pretrain / "retain", PRETRAIN[:, :TRAIN])
    save(pretrain / f"forget_{SET}", PRETRAIN[:, FORGET])
    save(pretrain / "val", PRETRAIN[:, TRAIN:])
    (root / "forget_sets" / "cifar10").mkdir(parents=True)
    np.save(root / "forget_sets" / "cifar10" / f"forget_set_{SET}.npy", FORGET)
    np.save(root.parent / "u.npy", UNLEARNED[:, np.concatenate([RETAIN, FORGET, np.arange(TRAIN, TRAIN + UNSEEN)])])
    return root


def divergence(first: np.ndarray, second: np.ndarray) -> float:
    """One point as EasyDUB computes it: 20 bins over the joint range, its end left out, floored where needed."""
    low, high = min(first.min(), second.min()), max(first.max(), second.max())
    edges = np.linspace(low, high, 21)
    counts = [[np.sum(np.digitize(side, edges) == place) for place in range(1, 21)] for side in (first, second)]
    p, q = (np.array(side) / sum(side) for side in counts)
    return float(sum(a * np.log(a / max(b, 1e-5)) for a, b in zip(p, q, strict=True) if a > 0))


def percentile(margins: np.ndarray, oracle: np.ndarray, points: np.ndarray) -> float:
    return float(np.percentile([divergence(margins[:, point], oracle[:, point]) for point in points], 95))


def metrics(command: Command, folder: Path, *words: str) -> dict[str, float]:
    output = folder / "scored"
    common = (f"forget_set={SET}", "evaluation/klom=easydub_v2", f"output={output}")
    done = command("score", *words, *common, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads((output / "metrics.json").read_text())


@pytest.mark.parametrize("unlearned", ["u.npy", "mine"])
def test_scores_are_those_of_the_published_scripts(
    command: Command, published: Path, tmp_path: Path, unlearned: str
) -> None:
    found = metrics(command, tmp_path, f"easydub={published}", f"unlearned={published.parent / unlearned}")
    groups = {"forget": FORGET, "retain": RETAIN, "val": np.arange(TRAIN, TRAIN + UNSEEN)}
    for group, points in groups.items():
        expected = {"klom": UNLEARNED, "klom_floor": ORACLE[5:10], "klom_original": PRETRAIN[:5]}
        for name, margins in expected.items():
            assert found[f"{name}/{group}/p95"] == pytest.approx(percentile(margins, ORACLE[:5], points), abs=1e-9)
    points = pd.read_parquet(tmp_path / "scored" / "points.parquet")
    assert points["margin_unlearned"].tolist() == UNLEARNED.mean(0).tolist()
    assert np.flatnonzero(points["group"] == "forget").tolist() == sorted(FORGET)


def test_without_originals_doing_nothing_is_left_out(command: Command, published: Path, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "forget_sets").symlink_to(published / "forget_sets")
    (tmp_path / "part" / "margins" / "cifar10").mkdir(parents=True)
    (tmp_path / "part" / "margins" / "cifar10" / "oracle").symlink_to(published / "margins" / "cifar10" / "oracle")
    found = metrics(command, tmp_path, "easydub=part", f"unlearned={published.parent / 'u.npy'}", "models=4")
    assert found["klom/forget/p95"] == pytest.approx(percentile(UNLEARNED[:4], ORACLE[:4], FORGET), abs=1e-9)
    assert "klom_original/forget/p95" not in found


def test_what_is_missing_or_does_not_fit_is_one_sentence(command: Command, published: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", UNLEARNED[:, :-1])
    save(tmp_path / "half" / "retain", UNLEARNED[:, RETAIN])
    save(tmp_path / "half" / "forget", UNLEARNED[:4, FORGET])
    save(tmp_path / "half" / "val", UNLEARNED[:, TRAIN:])
    save(tmp_path / "less" / "retain", UNLEARNED[:, RETAIN[1:]])
    save(tmp_path / "less" / "forget", UNLEARNED[:, FORGET])
    save(tmp_path / "less" / "val", UNLEARNED[:, TRAIN:])
    for words, sentence in {
        ("forget_set=3", "unlearned=short.npy"): "forget_3/retain/resnet9 has no id_X_epoch_Y.npy",
        (
            f"forget_set={SET}",
            "unlearned=short.npy",
        ): "expected margins [models, 38]: 26 of retain, 4 of forget, 8 of val",
        (f"forget_set={SET}", "unlearned=half"): "half/forget: has 4 models and half/retain 5",
        (f"forget_set={SET}", "unlearned=less"): "id_0_epoch_23.npy: has 25 margins; expected 26",
        (
            f"forget_set={SET}",
            f"unlearned={published.parent / 'mine'}",
            "models=6",
        ): "has 5 models; expected at least 6",
    }.items():
        done = command("score", f"easydub={published}", *words, "output=o", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert sentence in done.stderr
        assert not (tmp_path / "o").exists()
