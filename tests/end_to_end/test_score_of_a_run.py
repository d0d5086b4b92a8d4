"""A run's models, exported as arrays and scored from them, have the run's own scores."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from results_of_runs import SMALLEST

from dmm_exp.artifacts.inventory import Inventory

NAMES = {"oracle": "retrained", "floor_oracle": "retrained_again", "original": "originals"}
NEEDS_A_PIPELINE = ("cost/", "seconds/", "effect/", "lds")


def export(outputs: Path, run: Path, folder: Path) -> list[str]:
    """Write logits, labels and groups of a run, and return the words that score them."""
    names = []
    for entry in Inventory(outputs).entries:
        if (name := "unlearned" if entry.kind == "unlearned" else NAMES.get(entry.role)) is not None:
            np.save(folder / f"{name}.npy", entry.artifact.stacked("logits").numpy())
            names.append(name)
    points = pd.read_parquet(run / "points.parquet")
    np.save(folder / "labels.npy", points["label"].to_numpy())
    np.save(folder / "validation.npy", np.flatnonzero(points["group"] == "val"))
    words = [f"{name}={name}.npy" for name in (*names, "labels", "validation")]
    return [*words, f"forget={run / 'forget.json'}"]


def checkpoints(outputs: Path, folder: Path) -> list[str]:
    """Write a run's networks as files of weights, and return the words that score them."""
    words = []
    for entry in Inventory(outputs).entries:
        if (name := "unlearned" if entry.kind == "unlearned" else NAMES.get(entry.role)) is not None:
            (folder / name).mkdir(parents=True)
            words.append(f"{name}={folder / name}")
            places = [
                (shard, place)
                for shard, (first, end) in enumerate(entry.artifact.layout)
                for place in range(end - first)
            ]
            for number, (shard, place) in enumerate(places):
                tensors = entry.artifact.some_members(shard, place, place + 1)
                weights = {key.removeprefix("params/"): tensors[key][0] for key in tensors if key.startswith("params/")}
                torch.save(weights, folder / name / f"{number:02}.pt")
    return words


@pytest.mark.slow
def test_a_run_that_is_exported_and_scored_has_its_own_scores(
    start: Callable, command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    settings = ["seed=3", "evaluation/klom=paper"]
    run = start(tmp_path / "outputs", *SMALLEST[2:], "forget=random", "unlearner=finetune", "n_models=20", *settings)
    arrays = export(tmp_path / "outputs", run.folder, tmp_path)
    assert len(arrays) == 7
    done = command("score", *arrays, "output=scored", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    own, found = run.metrics, json.loads((tmp_path / "scored" / "metrics.json").read_text())
    assert found == {name: value for name, value in own.items() if not name.startswith(NEEDS_A_PIPELINE)}
    folders = checkpoints(tmp_path / "outputs", tmp_path / "weights")
    done = command(
        "score", *folders, arrays[-1], "dataset=digits", "model=mlp", "output=again", *settings, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again == pytest.approx(found, abs=0.02)  # networks one by one round otherwise than stacked ones
    assert {"tow_mia_floor_low", "klom/forget/p95_low", "ulira/false_positive_rate_high", "mia/original"} <= set(found)
    for table in ("points", "members"):
        there, here = (pd.read_parquet(place / f"{table}.parquet") for place in (run.folder, tmp_path / "scored"))
        pd.testing.assert_frame_equal(here, there.loc[:, list(here.columns)], check_exact=True)
        assert set(there) - set(here) <= {"corrupted"}
