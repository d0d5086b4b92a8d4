"""A network that does not belong to its data, or to a pool, is refused before anything is deleted from it."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import blobs, mlp, trained
from torch import Tensor, nn

from dmm_exp import Ledger, Pool, prepare, train, unlearn
from dmm_exp.data import Examples, Normalisation
from dmm_exp.deletion import belonging
from dmm_exp.deletion.belonging import Answers, check_answers, check_pool, distance
from dmm_exp.deletion.rows import RAW
from dmm_exp.errors import UserError

WIDTH, CLASSES, ROWS = 4, 3, 60
DATA, UNSEEN = blobs(ROWS, WIDTH, CLASSES), blobs(30, WIDTH, CLASSES, seed=9)
RECIPE: dict[str, Any] = {"epochs": 8, "batch_size": 16, "optimizer": {"lr": 0.05}}


def refused(call: Any) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def network(recipe: Any = RECIPE, data: Any = DATA, seed: int = 0) -> nn.Module:
    if recipe is RECIPE and data is DATA:
        return copy.deepcopy(usual(seed))
    return made(recipe, data, seed)


@cache
def usual(seed: int) -> nn.Module:
    return made(RECIPE, DATA, seed)


def made(recipe: Any, data: Any, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return train(nn.Linear(WIDTH, CLASSES), data, recipe, seed=seed)


def examples(labels: Any, classes: int) -> Examples:
    labels = torch.as_tensor(labels)
    names = [str(name) for name in range(classes)]
    return Examples(torch.zeros(len(labels), 1), labels, len(labels), names, RAW, torch.zeros(len(labels)).bool())


def checked(answers: Any, labels: Any, classes: int) -> None:
    """Check a network that answers with these classes."""
    logits = nn.functional.one_hot(torch.as_tensor(answers), classes).float()
    check_answers(logits[None], examples(labels, classes))


# ---------------------------------------------------------------------- its data


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("rows", [2, 6, 20, 400])
def test_a_network_that_is_right_is_accepted_however_few_the_rows(classes, rows):
    labels = torch.arange(rows) % classes
    checked(labels, labels, classes)


def test_a_network_that_guesses_is_refused_with_both_numbers():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 10
    for _ in range(20):
        said = refused(lambda: checked(torch.randint(0, 10, (200,), generator=generator), labels, 10))
        assert "of the 200 training rows" in said
        assert "where chance gives 10.0%" in said


@pytest.mark.parametrize("rows", [20, 1000])
def test_always_answering_the_most_frequent_class_is_chance(rows):
    labels = (torch.arange(rows) < rows // 10).long()
    said = refused(lambda: checked(torch.zeros(rows).long(), labels, 2))
    assert "answers 90.0%" in said
    assert "chance gives 90.0%" in said


def test_a_rare_class_that_is_found_now_and_then_is_more_than_chance():
    labels = (torch.arange(1000) < 10).long()
    answers = torch.zeros(1000).long()
    answers[[0, 1, 2, 500]] = 1  # three of ten, and one that is none: 99.2 % are right, 99.0 % are of one class
    checked(answers, labels, 2)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_labels_may_be_noisy(share):
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(1000) % 10
    noise = torch.randint(0, 10, (1000,), generator=generator)
    labels = torch.where(torch.rand(1000, generator=generator) < share, noise, truth)
    checked(truth, labels, 10)  # it learned the truth, and none of the noise


@pytest.mark.parametrize("order", [lambda k: (k + 1) % 10, lambda k: 9 - k, lambda k: torch.where(k < 2, 1 - k, k)])
def test_classes_in_another_order_are_refused_even_if_only_two_are_exchanged(order):
    labels = torch.arange(400) % 10
    said = refused(lambda: checked(order(labels), labels, 10))
    assert "same order of classes" in said or "100.0% if the classes stood in another order" in said


def test_a_network_that_is_often_wrong_keeps_its_order_of_classes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 10
    wrong = torch.rand(300, generator=generator) < 0.6
    checked(torch.where(wrong, torch.randint(0, 10, (300,), generator=generator), labels), labels, 10)


def test_rows_of_one_class_tell_nothing():
    checked(torch.zeros(20).long(), torch.zeros(20).long(), 3)
    checked(torch.ones(20).long(), torch.zeros(20).long(), 3)


WRONG = {
    "never trained": lambda net: network({**RECIPE, "optimizer": {"lr": 0.0}}, seed=2),
    "classes in another order": lambda net: nn.Sequential(net, Columns([1, 2, 0])),
    "otherwise normalised": lambda net: nn.Sequential(Shifted(), net),
    "trained on other labels": lambda net: network(data=(DATA[0], DATA[1][torch.randperm(ROWS)])),
}


class Columns(nn.Module):
    """Puts columns into another order."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order = order

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, self.order]


class Shifted(nn.Module):
    """Subtracts a mean that was not subtracted in training."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - 100


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("way", ["unlearn", "recipe", "ledger"])
def test_a_network_that_was_not_trained_on_the_data_is_refused_in_every_way(tmp_path, monkeypatch, kind, way):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    wrong = WRONG[kind](network())
    options: dict[str, Any] = {"method": "finetune epochs=1", "progress": False}
    if way == "ledger":
        said = refused(lambda: Ledger("book", wrong, DATA, **options).delete([1]))
        assert not list(tmp_path.rglob("*.jsonl"))
    elif way == "unlearn":
        said = refused(lambda: unlearn(wrong, DATA, [1], **options))
        assert list(tmp_path.iterdir()) == []
    else:
        monkeypatch.setattr("dmm_exp.deletion.request.prepare_given", None)  # no pool is trained for it
        said = refused(lambda: unlearn(wrong, DATA, [1], recipe=RECIPE, pool=True, progress=False))
    assert "of the 60 training rows as they are labelled" in said


# ---------------------------------------------------------------------- its pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    return prepare(network(), DATA, RECIPE, folder, size=40, validation=UNSEEN, progress=False).folder


def deleted(pool: Path, model: nn.Module, **more: Any) -> Any:
    return unlearn(model, DATA, [1, 5], pool=pool, method="dmm epochs=1", progress=False, **more)


def test_a_network_trained_by_the_recipe_of_the_pool_belongs_to_it(pool, tmp_path):
    for seed in range(3):
        found = deleted(pool, network(seed=seed))
        assert 0.2 < found.metrics["pool_distance/retain"] < belonging.FAR
        assert 0.2 < found.metrics["pool_distance/val"] < belonging.FAR
        assert not any("another recipe" in warning for warning in found.warnings)
    written = json.loads((found.save(tmp_path / "out") / "deletion.json").read_text())
    assert written["quality"]["metrics"]["pool_distance/val"] == found.metrics["pool_distance/val"]
    assert any("as far from the mean of the pool's full models" in text for text in written["quality"]["in_words"])
    assert "as far from the mean of the pool's full models" in str(found)


OTHER = {
    "far longer": lambda: network({**RECIPE, "epochs": 600}),
    "hardly": lambda: network({**RECIPE, "epochs": 8, "optimizer": {"lr": 0.005}}),
    "by other code": lambda: trained(network(), *DATA, steps=300),
    "with weight decay": lambda: network({**RECIPE, "optimizer": {"lr": 0.05, "weight_decay": 1.0}}),
    "on inputs ten times as large": lambda: network(data=(10 * DATA[0], DATA[1])),
}


@pytest.mark.parametrize("kind", OTHER)
def test_a_network_trained_otherwise_is_refused_with_its_distance_and_the_pool_is_left_alone(pool, kind):
    before = files(pool)
    said = refused(lambda: deleted(pool, OTHER[kind]()))
    assert f"pool={pool}: the network does not belong to it" in said
    assert "times as far" in said
    assert "at most 4" in said
    assert files(pool) == before


def test_a_ledger_checks_the_network_as_it_was_given(pool, tmp_path):
    refused(lambda: Ledger(tmp_path / "a", OTHER["far longer"](), DATA, pool=pool, progress=False).delete([1]))
    book = Ledger(tmp_path / "b", network(), DATA, pool=pool, method="dmm epochs=1", progress=False)
    first, second = (book.delete([row]).metrics for row in (1, 5))
    assert second["pool_distance/val"] == first["pool_distance/val"]


def test_without_unseen_points_the_kept_rows_alone_are_compared(tmp_path):
    bare = prepare(network(), DATA, RECIPE, tmp_path, size=40, progress=False).folder
    found = deleted(bare, network()).metrics
    assert "pool_distance/retain" in found
    assert "pool_distance/val" not in found
    assert "on kept rows" in refused(lambda: deleted(bare, OTHER["far longer"]()))


def test_methods_that_do_not_predict_ask_no_pool(pool):
    found = unlearn(OTHER["far longer"](), DATA, [1], pool=pool, method="finetune epochs=1", progress=False)
    assert "pool_distance/retain" not in found.metrics


def test_a_pool_of_an_earlier_version_is_compared_too(pool, tmp_path):
    import shutil

    older = Path(shutil.copytree(pool, tmp_path / "older"))
    shutil.rmtree(older / "artifacts" / "answers")
    assert deleted(older, network()).metrics == pytest.approx(deleted(pool, network()).metrics)
    assert Pool.open(older).models == 80


# ---------------------------------------------------------------------- the distance


def drawn(members: int, points: int = 400, spread: float = 1.0, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(3, spread, (members, points)).astype(np.float32)


@pytest.mark.parametrize("members", [2, 8, 100])
def test_a_network_like_the_others_is_about_as_far_away_as_these(members):
    found = [distance(drawn(1, seed=seed + 1)[0], drawn(members, seed=1000 + seed)) for seed in range(50)]
    assert 0.85 < np.mean(found) < 1.15


def test_the_distance_has_no_unit():
    own, full = drawn(1, seed=5)[0] + 3, drawn(20)
    assert distance(10 * own, 10 * full) == pytest.approx(distance(own, full), rel=1e-4)
    assert distance(own + 7, full + 7) == pytest.approx(distance(own, full), rel=1e-4)


def test_full_models_that_answer_alike_do_not_refuse_for_rounding():
    alike = np.repeat(drawn(1), 8, axis=0)
    assert distance(alike[0], alike) == 0
    assert distance(alike[0] * (1 + 1e-3), alike) < 1
    assert distance(alike[0] + 3, alike) > belonging.FARTHEST


def test_a_few_points_that_are_off_decide_nothing():
    own = drawn(1, seed=5)[0]
    own[:20] += 1e6
    assert distance(own, drawn(20)) < 1.5


def answers(margins: Any, right: float) -> Answers:
    correct = np.arange(margins.shape[1]) < right * margins.shape[1]
    return Answers(margins, np.repeat(correct[None], len(margins), axis=0))


def test_a_network_that_is_far_less_accurate_is_refused_with_both_numbers():
    groups = {"forget": np.arange(10), "retain": np.arange(10, 400)}
    full, own = answers(drawn(8), 0.99), drawn(1, seed=5)
    check_pool("pool=p", answers(own, 0.97), full, groups)
    said = refused(lambda: check_pool("pool=p", answers(own, 0.6), full, groups))
    assert "answers 59.0% of the kept rows right, these 99.0%" in said


def test_between_the_limits_there_is_a_warning():
    groups = {"retain": np.arange(200), "val": np.arange(200, 400)}
    own = drawn(1, seed=5)
    own[:, 200:] += 2.2
    found, warnings = check_pool("pool=p", answers(own, 0.99), answers(drawn(20), 0.99), groups)
    assert belonging.FAR < found["pool_distance/val"] < belonging.FARTHEST
    assert found["pool_distance/retain"] < belonging.FAR
    assert len(warnings) == 1
    assert "on unseen points" in warnings[0]
    own[:, 200:] += 2
    refused(lambda: check_pool("pool=p", answers(own, 0.99), answers(drawn(20), 0.99), groups))


def test_rows_to_forget_are_left_out():
    groups = {"forget": np.arange(300), "retain": np.arange(300, 400)}
    own = drawn(1, seed=5)
    own[:, :300] += 100
    assert check_pool("pool=p", answers(own, 0.99), answers(drawn(20), 0.99), groups)[1] == []


# ---------------------------------------------------------------------- normalisation


def test_constants_in_front_of_the_network_are_in_the_record(tmp_path):
    constants = Normalisation(2.0, [0.5], [4.0])
    names = [str(name) for name in range(CLASSES)]
    data = Examples(DATA[0], DATA[1], ROWS, names, constants, torch.zeros(ROWS).bool())
    model = trained(mlp(WIDTH, CLASSES), (DATA[0] / 2 - 0.5) / 4, DATA[1])
    for given, expected in ((data, {"scale": 2.0, "mean": [0.5], "std": [4.0]}), (DATA, None)):
        net = model if expected else network()
        found = unlearn(net, given, [1], method="finetune epochs=1", progress=False)
        written = json.loads((found.save(tmp_path / str(bool(expected))) / "deletion.json").read_text())
        assert written["network"]["normalisation"] == found.normalisation == expected
        told = any("(input / 2 - mean) / std, with mean 0.5 and std 4" in text for text in written["guaranteed"])
        assert told == (expected is not None)
