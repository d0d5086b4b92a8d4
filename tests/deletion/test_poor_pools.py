"""A pool that predicts little is said to be poor, and networks are trained together in the number that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import blobs, mlp, trained
from torch import nn

from dmm_exp import Ledger, prepare, train, unlearn
from dmm_exp.errors import UserError
from dmm_exp.records.files import read

WIDTH, CLASSES, ROWS = 4, 3, 30
DATA, UNSEEN = blobs(ROWS, WIDTH, CLASSES), blobs(12, WIDTH, CLASSES, seed=1)
RECIPE: dict[str, Any] = {"epochs": 8, "batch_size": 16}
DMM = {"method": "dmm epochs=1", "progress": False}


def made(folder: Path, **more: Any) -> Any:
    options = {"size": 40, "progress": False, "attribution": "empirical_bayes", "validation": UNSEEN, **more}
    return prepare(mlp(WIDTH, CLASSES), DATA, options.pop("recipe", RECIPE), folder, **options)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return train(mlp(WIDTH, CLASSES), DATA, RECIPE)


@pytest.fixture
def poor(monkeypatch):
    """Every pool predicts little."""
    monkeypatch.setattr("dmm_exp.deletion.deletion.Deletion.lds", lambda _: 0.04)


@pytest.fixture
def good(monkeypatch):
    monkeypatch.setattr("dmm_exp.deletion.deletion.Deletion.lds", lambda _: 0.6)


def test_a_poor_pool_is_named_when_it_is_prepared_and_in_each_record(poor, tmp_path, capsys):
    pool = made(tmp_path / "pool")
    said = "the pool is poor: it predicts models that it did not learn from with LDS 0.04 (1 is best): that is next to"
    assert said in " ".join(capsys.readouterr().err.split())
    result = unlearn(network(), DATA, [1, 5], pool=pool, **DMM)
    assert any(warning.startswith(said) for warning in result.warnings)
    found = read(result.save(tmp_path / "out"))["pool"]
    assert (found["lds"], found["quality"]) == (0.04, pool.quality)
    assert "The pool is poor" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_good_pool_is_not(good, tmp_path, capsys):
    pool = made(tmp_path / "pool")
    assert "poor" not in capsys.readouterr().err
    assert not any("poor" in warning for warning in unlearn(network(), DATA, [1, 5], pool=pool, **DMM).warnings)


def test_a_method_that_predicts_nothing_does_not_care(poor, tmp_path):
    result = unlearn(network(), DATA, [1, 5], pool=made(tmp_path), method="finetune epochs=1", progress=False)
    assert not any("poor" in warning for warning in result.warnings)


@pytest.mark.parametrize(("share", "said"), [(-0.5, "explains 0 %"), (0.1, "explains 10 %"), (0.5, None)])
def test_a_prediction_that_retraining_does_not_bear_out_is_named(good, tmp_path, monkeypatch, share, said):
    from dmm_exp.deletion import execution

    verify = execution.verify

    def other(*given: Any) -> Any:
        found, retrained = verify(*given)
        return {**found, "effect/r2/forget": share}, retrained

    monkeypatch.setattr(execution, "verify", other)
    result = unlearn(network(), DATA, [1, 5], pool=made(tmp_path), verify=3, **DMM)
    found = [warning for warning in result.warnings if "(R²)" in warning]
    assert bool(found) == (said is not None)
    assert said is None or (said in found[0] and "3 retrained networks" in found[0])


def shards(folder: Path) -> dict[str, int]:
    """Return how many shards each ensemble of a pool has."""
    found = {path.parent: len(list(path.parent.glob("shard-*.safetensors"))) for path in folder.rglob("shard-*.saf*")}
    return {f"{path.parent.name}/{path.name}": count for path, count in found.items()}


def test_networks_are_trained_together_as_asked_and_the_number_changes_no_result(tmp_path):
    one, other = made(tmp_path / "ten", chunk_size=10), made(tmp_path / "four", chunk_size=4)
    ten, four = shards(one.folder), shards(other.folder)
    assert ten.keys() == four.keys()
    assert sorted(ten.values()) == [1, 1, 4]  # 8 on everything, 8 on three quarters, 40 on halves
    assert sorted(four.values()) == [2, 2, 10]
    answers = [unlearn(network(), DATA, [1, 5], pool=pool, chunk_size=size, **DMM).model.state_dict()
               for pool, size in ((one, 10), (other, "auto"))]  # fmt: skip
    for name, value in answers[0].items():
        torch.testing.assert_close(value, answers[1][name], rtol=1e-3, atol=1e-4)


def test_a_verification_trains_as_many_together_as_asked(tmp_path):
    pool = made(tmp_path, chunk_size=20)
    unlearn(network(), DATA, [1, 5], pool=pool, verify=6, chunk_size=3, **DMM)
    assert 2 in shards(tmp_path).values()  # six networks by three


def test_a_function_trains_as_many_between_two_savings_as_asked(tmp_path):
    def recipe(model: nn.Module, dataset: Any, seed: int) -> nn.Module:
        inputs, labels = (torch.stack([torch.as_tensor(pair[part]) for pair in dataset]) for part in (0, 1))
        return trained(model, inputs, labels, steps=2)

    assert 5 in shards(made(tmp_path, recipe=recipe, chunk_size=8).folder).values()  # forty networks by eight


@pytest.mark.parametrize("size", [0, -1, True, 2.5, "all", None])
def test_a_number_of_networks_that_cannot_be_is_refused_before_anything_is_made(tmp_path, size):
    calls = [
        lambda: made(tmp_path / "pool", chunk_size=size),
        lambda: unlearn(network(), DATA, [1], method="finetune", chunk_size=size, progress=False),
        lambda: Ledger(tmp_path / "book", network(), DATA, method="finetune", chunk_size=size, progress=False),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"chunk_size=.*: expected a whole number of at least 1, or 'auto'"):
            call()
    assert not list(tmp_path.iterdir())
