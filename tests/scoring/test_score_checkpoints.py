"""Folders of checkpoints, asked about a dataset of ours."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from dmm_exp.models import MLP

Command = Callable[..., subprocess.CompletedProcess[str]]
TASK = ("dataset=digits", "model=mlp", "model.network.hidden=[8]", "unlearned=unlearned", "retrained=retrained")


def network(number: int) -> MLP:
    torch.manual_seed(number)
    return MLP([64], 10, [8])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two unlearned and four retrained networks, and a forget set."""
    np.save(tmp_path / "forget.npy", np.arange(30))
    for number, name in enumerate(("unlearned", "unlearned", "retrained", "retrained", "retrained", "retrained")):
        (tmp_path / name).mkdir(exist_ok=True)
        save_file(network(number).state_dict(), tmp_path / name / f"{number}.safetensors")
    return tmp_path


def test_networks_are_asked_for_their_logits(command: Command, folder: Path) -> None:
    (folder / "unlearned" / "1.safetensors").unlink()
    torch.save({"state_dict": network(1).state_dict()}, folder / "unlearned" / "1.pt")
    done = command("score", *TASK, "forget=forget.npy", "output=scored", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "scored" / "metrics.json").read_text())
    assert {"klom_floor/forget/p95", "tow", "mia/unlearned", "accuracy/oracle/val"} <= set(found)
    points = pd.read_parquet(folder / "scored" / "points.parquet")
    images, labels = load_digits(return_X_y=True)
    assert points["group"].value_counts().to_dict() == {"retain": 1408, "val": 359, "forget": 30}
    assert np.flatnonzero(points["group"] == "forget").tolist() == list(range(30))
    assert sorted(points["label"]) == sorted(labels)
    assert len(points) == len(images)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["forget=forget.npy", "originals=empty"], "originals=empty: holds no checkpoint; expected files ending in"),
        (["forget=forget.npy", "originals=pickled"], "pickled/a.pt: holds more than numbers and would run code"),
        (["forget=forget.npy", "originals=other"], "other/a.safetensors: "),
        (["forget=forget.npy", "originals=nowhere"], "originals=nowhere: there is no such folder"),
        (["forget=val.npy"], "forget=val.npy: lists points from 1438 to 1438; expected some from 0 to 1437"),
        ([], "forget: is missing"),
        (["forget=forget.npy", "easydub=.", "forget_set=1"], "is of what easydub= holds"),
    ],
)
def test_bad_checkpoints_get_one_sentence(command: Command, folder: Path, words: list[str], sentence: str) -> None:
    for name in ("empty", "pickled", "other"):
        (folder / name).mkdir()
    torch.save({"net": network(0), "path": folder}, folder / "pickled" / "a.pt")
    save_file(MLP([64], 10, [9]).state_dict(), folder / "other" / "a.safetensors")
    np.save(folder / "val.npy", np.array([1438]))
    done = command("score", *TASK, *words, "output=scored", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert not (folder / "scored").exists()
