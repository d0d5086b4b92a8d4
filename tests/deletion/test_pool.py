"""A pool is prepared once, grows, survives interruptions and damage, and serves one network only."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import blobs, mlp, trained
from torch import Tensor, nn

from dmm_exp import Pool, prepare, train, unlearn
from dmm_exp.attribution import EmpiricalBayes, GroupKriging
from dmm_exp.ensembles import by_function
from dmm_exp.errors import UserError
from dmm_exp.files.reading import read_json
from dmm_exp.files.writing import write_json
from dmm_exp.records.pool import FILE
from dmm_exp.store.store import SEAL, sealed

WIDTH, CLASSES, ROWS = 4, 3, 30
DATA = blobs(ROWS, WIDTH, CLASSES)
RECIPE: dict[str, Any] = {"epochs": 8, "batch_size": 16}


def descend(model: nn.Module, dataset: Any, seed: int) -> nn.Module:
    """A recipe of a person's own: some steps of gradient descent."""
    inputs, labels = (torch.stack([torch.as_tensor(pair[part]) for pair in dataset]) for part in (0, 1))
    return trained(model, inputs, labels, steps=20)


def network(recipe: Any = RECIPE) -> nn.Module:
    """Return a network that was trained by a recipe."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return train(mlp(WIDTH, CLASSES), DATA, recipe)


def made(folder: Path, recipe: Any = RECIPE, *, model: Any = None, train: Any = DATA, **more: Any) -> Pool:
    model = mlp(WIDTH, CLASSES) if model is None else model
    return prepare(model, train, recipe, folder, **{"size": 40, "progress": False, **more})


def artifacts(folder: Path) -> dict[str, bytes]:
    """Return the content of every shard, by artifact and file."""
    files = sorted((folder / "artifacts").glob("*/*/shard-*.safetensors"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def answer(pool: Any, model: nn.Module | None = None, **more: Any) -> dict[str, Tensor]:
    options = {"method": "dmm epochs=1", "progress": False, **more}
    return unlearn(network() if model is None else model, DATA, [1, 5, 9], pool=pool, **options).model.state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


def refused(call: Any) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("pool")).folder


@pytest.fixture
def pool(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the pool, which a test may damage."""
    return Path(shutil.copytree(prepared, tmp_path / "pool"))


def test_a_pool_and_its_folder_give_the_same_answer_twice(prepared):
    opened = Pool.open(prepared)
    assert (opened.size, opened.models) == (40, 40 + (4 + 5 + 5 + 18) + 8)
    first = answer(opened)
    assert equal(answer(prepared), first)
    assert equal(answer(str(prepared), recipe=RECIPE), first)
    assert opened.seconds > opened.retraining > 0
    assert opened.break_even(opened.retraining / 2) == pytest.approx(2 * opened.seconds / opened.retraining, rel=0.2)
    assert opened.break_even(opened.retraining) is None


def test_requests_of_another_process_learn_nothing_anew(prepared, monkeypatch):
    monkeypatch.setattr(GroupKriging, "learn", None)
    monkeypatch.setattr(EmpiricalBayes, "learn", None)
    found = unlearn(network(), DATA, [2, 4], pool=prepared, method="dmm epochs=1", progress=False)
    assert "doubt/forget" in found.metrics


def test_requests_to_an_opened_pool_share_what_was_learnt_from_it(prepared, monkeypatch):
    taken_up, recall = [], GroupKriging.recall
    monkeypatch.setattr(GroupKriging, "recall", lambda *given: taken_up.append(1) or recall(*given))
    opened, model = Pool.open(prepared), network()
    for rows in ([6, 7], [8], [3, 11]):
        unlearn(model, DATA, rows, pool=opened, method="dmm epochs=1", progress=False)
    assert len(taken_up) == 1


@pytest.mark.parametrize(("most", "said"), [(0.0, True), (100.0, False)])
def test_rows_that_are_unlike_anything_the_pool_knows_are_named(pool, monkeypatch, most, said):
    monkeypatch.setattr("dmm_exp.deletion.execution.UNKNOWN", most)
    found = unlearn(network(), DATA, [1, 5, 9], pool=pool, method="dmm epochs=1", progress=False).warnings
    assert any("unlike anything the pool knows" in warning for warning in found) == said
    assert not any("part of a class" in warning for warning in found)  # its estimator knows groups


def test_a_pool_knows_how_well_it_predicts_models_that_it_did_not_learn_from(tmp_path):
    learns = made(tmp_path / "learns", {"epochs": 20, "batch_size": 8, "optimizer": {"lr": 0.3}}, size=400)
    alike = made(tmp_path / "alike", {"epochs": 1, "optimizer": {"lr": 0.0}}, size=40)
    assert learns.lds is not None
    assert learns.lds > 0.2
    assert alike.lds is None or abs(alike.lds) < 0.2
    assert Pool.open(learns.folder) == learns


def test_a_prepared_pool_is_not_made_again(pool):
    before, model = artifacts(pool), mlp(WIDTH, CLASSES)
    drawn = torch.get_rng_state()
    assert made(pool, model=model).models == 80
    assert torch.equal(torch.get_rng_state(), drawn)
    assert artifacts(pool) == before


def test_a_pool_that_grows_equals_one_made_at_once(pool, tmp_path):
    grown = made(pool, size=48)
    assert grown.size == 48
    whole = made(tmp_path / "whole", size=48)
    assert equal(answer(grown), answer(whole))
    assert made(pool, size=40).size == 48  # it does not shrink


def test_an_interrupted_pool_goes_on_where_it_stopped(prepared, tmp_path, monkeypatch):
    trained_seeds, stop = [], 12
    one = by_function._trained

    def interrupted(train: Any, network: nn.Module, rows: Tensor, seed: int) -> Any:
        if len(trained_seeds) == stop:
            raise KeyboardInterrupt
        trained_seeds.append(seed)
        return one(train, network, rows, seed)

    monkeypatch.setattr(by_function, "_trained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "pool", descend)
    assert "holds no finished pool" in refused(lambda: Pool.open(tmp_path / "pool"))
    first, stop = len(trained_seeds), 10**6
    trained_seeds.clear()
    made(tmp_path / "pool", descend)
    resumed = len(trained_seeds)
    trained_seeds.clear()
    made(tmp_path / "whole", descend)
    assert len(trained_seeds) <= first + resumed <= len(trained_seeds) + 5  # at most one chunk is trained twice
    assert resumed < len(trained_seeds)
    assert artifacts(tmp_path / "pool").keys() == artifacts(tmp_path / "whole").keys()
    assert artifacts(tmp_path / "pool") == artifacts(tmp_path / "whole")
    model = network(descend)
    assert equal(answer(tmp_path / "pool", model), answer(tmp_path / "whole", model))


# ---------------------------------------------------------------------- what predicts


def test_a_pool_for_single_effects_is_smaller_and_is_gone_on_with(tmp_path):
    folder = tmp_path / "pool"
    assert made(folder, attribution="empirical_bayes").models == 40 + 8 + 8
    assert not list(folder.glob("artifacts/design/*"))
    before = artifacts(folder)
    assert made(folder).attribution == "empirical_bayes"
    assert artifacts(folder) == before
    assert all(value.isfinite().all() for value in answer(folder).values())
    before = artifacts(folder)
    assert "holds a pool for empirical_bayes; expected that" in refused(lambda: made(folder, attribution="best"))
    assert artifacts(folder) == before
    assert made(folder, size=48).models == 48 + 12 + 8


def test_a_pool_of_the_first_format_predicts_as_it_did(tmp_path):
    folder = tmp_path / "pool"
    now = answer(made(folder, attribution="empirical_bayes"))
    facts = json.loads((folder / FILE).read_text())
    write_json(folder / FILE, sealed({**without(facts, "attribution", SEAL), "format": 1}))
    assert Pool.open(folder).attribution == "empirical_bayes"
    assert equal(answer(folder), now)


def without(facts: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in names}


def test_a_pool_from_which_nothing_could_be_learnt_for_want_of_memory_is_refused_before_it_is_trained(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("dmm_exp.ensembles.memory.machine_memory", lambda: 5e4)
    said = refused(lambda: made(tmp_path / "pool"))
    assert said.startswith("pool.designs: GroupKriging of 32 members by design, 30 points and 3 classes")
    assert 'a smaller size= than 40, or attribution="empirical_bayes"' in said
    assert not artifacts(tmp_path / "pool")


def test_of_one_class_no_part_is_left_out(tmp_path):
    data = (DATA[0], torch.zeros(ROWS, dtype=torch.long))
    pool = made(tmp_path / "pool", train=data)
    assert pool.models == 40 + 18 + 8
    found = unlearn(train(mlp(WIDTH, CLASSES), data, RECIPE), data, [1, 5], pool=pool, method="dmm epochs=1")
    assert all(value.isfinite().all() for value in found.model.state_dict().values())


# ---------------------------------------------------------------------- damage


def test_every_flipped_byte_of_the_record_is_noticed_and_mended(pool):
    text = (pool / FILE).read_bytes()
    first = answer(pool)
    for place in range(0, len(text), len(text) // 25):
        changed = bytearray(text)
        changed[place] ^= 1
        if json_or_none(bytes(changed)) == json.loads(text):
            continue
        (pool / FILE).write_bytes(bytes(changed))
        assert "prepare() mends it" in refused(lambda: Pool.open(pool))
    (pool / FILE).write_bytes(text[: len(text) // 2])
    assert "prepare() mends it" in refused(lambda: answer(pool))
    before = artifacts(pool)
    made(pool)
    assert artifacts(pool) == before
    assert equal(answer(pool), first)


def json_or_none(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_a_damaged_shard_is_made_again(pool):
    before = artifacts(pool)
    flip(pool / max(before, key=lambda name: len(before[name])))
    made(pool)
    assert artifacts(pool) == before


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 255
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["pool", "originals", "estimator", "design"])
def test_a_request_trusts_nothing_that_is_damaged_and_mends_what_it_reads(kind, pool):
    expected, before = answer(pool), artifacts(pool)
    found = {path: read_json(path) for path in (pool / "artifacts").glob("*/*/manifest.json")}
    role = {"pool": "subset", "originals": "original", "design": "design"}.get(kind, "")
    folders = [
        path.parent
        for path, manifest in found.items()
        if manifest["kind"] == ("ensemble" if role else kind)
        and str(manifest["config"].get("role", "")).startswith(role)
    ]
    learnt = next((pool / "artifacts" / "estimator").iterdir())
    for folder in folders:
        flip(sorted(folder.glob("*.safetensors"))[0])
    shutil.rmtree(pool / "artifacts" / "effect")
    assert equal(answer(pool), expected)
    if kind == "design":  # it is read where the estimator learns
        assert artifacts(pool) != before
        shutil.rmtree(learnt)
        shutil.rmtree(pool / "artifacts" / "effect")
        assert equal(answer(pool), expected)
    assert folders
    assert artifacts(pool) == before


# ---------------------------------------------------------------------- the wrong pool


def test_a_pool_of_something_else_is_refused_and_left_alone(prepared):
    inputs, labels = DATA
    files = sorted(str(path) for path in prepared.rglob("*"))

    def deleted(model: Any = None, train: Any = DATA, **more: Any) -> Any:
        options = {"method": "dmm epochs=1", "progress": False, **more}
        return unlearn(mlp(WIDTH, CLASSES) if model is None else model, train, [1], pool=prepared, **options)

    def zeros() -> nn.Module:
        model = mlp(WIDTH, CLASSES)
        return model.apply(lambda layer: nn.init.zeros_(layer.weight) if isinstance(layer, nn.Linear) else None)

    assert "was trained on other data" in refused(lambda: deleted(train=(inputs + 1e-3, labels)))
    assert "was trained on other data" in refused(lambda: deleted(train=(inputs, labels.roll(1))))
    assert "another architecture" in refused(lambda: deleted(nn.Sequential(nn.Linear(WIDTH, CLASSES))))
    assert "initialised otherwise" in refused(lambda: deleted(factory=zeros))
    assert "was trained by another one" in refused(lambda: deleted(recipe={**RECIPE, "epochs": 2}))
    assert "was trained by another one" in refused(lambda: deleted(recipe=descend))
    assert "another network or recipe" in refused(lambda: made(prepared, {**RECIPE, "epochs": 2}))
    assert "another network or recipe" in refused(lambda: made(prepared, seed=1))
    assert sorted(str(path) for path in prepared.rglob("*")) == files


def test_a_pool_on_other_data_does_not_take_the_place_of_one(prepared):
    assert "other data" in refused(lambda: made(prepared, train=(DATA[0] + 1, DATA[1])))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 39}, "size=39: expected an even number"),
        ({"size": 41}, "size=41"),
        ({"size": "many"}, "size=many"),
        ({"seed": -1}, "seed=-1"),
        ({"attribution": "kriging"}, "attribution=kriging: expected 'best', 'empirical_bayes'"),
        ({"budget": "50%"}, "is a share of a retraining"),
        ({"budget": -1}, "budget=-1"),
        ({"recipe": "slowly"}, "recipe=slowly"),
        ({"recipe": None}, "recipe is a NoneType"),
        ({"model": nn.ReLU()}, "has no parameters"),
        ({"train": (DATA[0], DATA[1] - 1)}, "a label is -1"),
    ],
)
def test_what_cannot_be_prepared_is_refused_and_nothing_is_written(tmp_path, options, said):
    assert said in refused(lambda: made(tmp_path / "pool", **options))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (lambda model, dataset, seed: None, "returned NoneType"),
        (lambda model, dataset, seed: nn.Linear(2, 2), "another architecture"),
        (lambda model, dataset, seed: 1 / 0, "raised ZeroDivisionError"),
        (lambda model: model, "raised TypeError"),
    ],
)
def test_a_function_that_is_no_recipe_is_refused(tmp_path, recipe, said):
    assert said in refused(lambda: made(tmp_path / "pool", recipe))


def test_a_budget_that_fits_no_pool_is_refused(tmp_path):
    assert "the smallest pool takes about" in refused(lambda: made(tmp_path / "pool", budget=1e-6))


def test_unseen_points_of_a_pool_are_used(tmp_path):
    unseen = blobs(8, WIDTH, CLASSES, seed=3)
    pool = made(tmp_path / "pool", validation=unseen)
    kept = pool.unseen()
    assert kept is not None
    assert torch.equal(kept[0], unseen[0])
    found = unlearn(network(), DATA, [1], pool=pool, method="dmm epochs=1", progress=False)
    assert found.examples["unseen"] == 8
    assert "mia/unlearned" in found.metrics
