"""What ``unlearn`` returns, and what it refuses."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from networks import IMAGE, NETWORKS, Pairs, blobs, cnn, dropping, mlp, trained
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dmm_exp import Unlearned, train, unlearn
from dmm_exp.config.folders import config_directory
from dmm_exp.console.progress import Console
from dmm_exp.data import Normalisation, Rows
from dmm_exp.deletion.given import given
from dmm_exp.deletion.options import Options
from dmm_exp.deletion.recipes import composed, method_of, training_of
from dmm_exp.deletion.request import _alone
from dmm_exp.ensembles import AllBut, Ensemble, EnsembleTraining, member_seed
from dmm_exp.ensembles.work import model_factory, recipe, trainer_factory
from dmm_exp.errors import UserError
from dmm_exp.executors import Local
from dmm_exp.models import margin

WIDTH, CLASSES, ROWS = 4, 3, 60
DATA, UNSEEN, GONE = blobs(ROWS, WIDTH, CLASSES), blobs(30, WIDTH, CLASSES, seed=9), [3, 10, 20, 41]
RECIPE = {"epochs": 2, "batch_size": 16}


def made(model: nn.Module, train: Any = DATA, forget: Any = GONE, **more: Any) -> Unlearned:
    return unlearn(model, train, forget, **{"method": "finetune epochs=1", "progress": False, **more})


def numbers(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def network(make: Any = mlp) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained(make(WIDTH, CLASSES), *DATA, steps=30)


def gently(net: nn.Module, retain_loader: Any, forget_loader: Any, val_loader: Any) -> None:
    """Ascend on the forgotten rows by one small step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for inputs, labels in forget_loader:
        (-torch.nn.functional.cross_entropy(net(inputs), labels)).backward()
    optimizer.step()


def methods() -> list[str]:
    paths = Path(config_directory(), "unlearner").glob("*.yaml")
    names = sorted({path.stem for path in paths} - {"function"})
    settings = {name: method_of(name) for name in names}
    references = {"do_nothing", "dm_direct", "oracle_matching", "retrain"}
    short = {name: f"{name} epochs=1" if "epochs" in settings[name] else name for name in names}
    return [short[name] for name in names if name not in references and name != "ssd"] + [
        "ssd alpha=0.001 dampening=0.001",
        "function function=test_unlearning.gently",
    ]


# ---------------------------------------------------------------------- the network


@pytest.mark.parametrize("method", ["finetune epochs=1", "dmm epochs=1", "ssd alpha=0.001 dampening=0.001"])
@pytest.mark.parametrize("training", [True, False])
def test_the_given_network_and_the_programs_random_numbers_are_left_alone(method, training):
    model = network(dropping).train(training)
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    before, drawn, drawn_by_numpy = numbers(model), torch.get_rng_state(), np.random.get_state()[1].copy()
    found = made(model, method=method)
    assert equal(numbers(model), before)
    assert not equal(numbers(found.model), before)
    assert all(bool((value.grad == 1).all()) and value.requires_grad for value in model.parameters())
    assert [module.training for module in model.modules()] == [training] * len(list(model.modules()))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert (np.random.get_state()[1] == drawn_by_numpy).all()


@pytest.mark.parametrize(
    ("make", "dtype"),
    [*((make, torch.float32) for make in NETWORKS), (mlp, torch.float64), (mlp, torch.bfloat16), (mlp, torch.float16)],
)
def test_the_result_is_of_the_given_type_mode_and_precision(make, dtype):
    model = network(make).to(dtype).train()
    found = made(model, method="finetune epochs=1 optimizer.lr=0.3").model
    assert type(found) is type(model)
    assert all(module.training for module in found.modules())
    assert {n: (v.dtype, v.shape) for n, v in numbers(found).items()} == {
        n: (v.dtype, v.shape) for n, v in numbers(model).items()
    }
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in model.parameters()]
    changed = {name for name, value in numbers(found).items() if not torch.equal(value, model.state_dict()[name])}
    assert changed
    assert not any(not value.requires_grad for name, value in model.named_parameters() if name in changed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_told_of_the_result_is_what_the_returned_network_answers(dtype):
    found = made(network().to(dtype), method="finetune epochs=1 optimizer.lr=0.3")
    with torch.no_grad():
        answers = found.model.float().eval()(DATA[0])  # its numbers, as its precision has rounded them
    told = torch.tensor(found.points["margin_unlearned"].to_numpy())[:ROWS]
    torch.testing.assert_close(told.double(), margin(answers.double(), DATA[1]), atol=1e-4, rtol=1e-4)


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)


def test_a_lightning_module_stays_one():
    model = trained(Module(), *DATA)
    assert isinstance(made(model).model, Module)
    assert equal(numbers(made(model).model.net), numbers(made(model.net).model))  # pyright: ignore


REFUSALS = {
    ("ct", "vectors"): "kernels of convolutions",
    ("unsir", "vectors"): "whole classes",
    ("unsir", "images"): "whole classes",
    **{("rewind", kind): "keeps no checkpoint" for kind in ("vectors", "images")},
    **{("sisa", kind): "trains a network on each" for kind in ("vectors", "images")},
}


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("kind", ["vectors", "images"])
def test_every_method_takes_a_network_of_ones_own(method, kind):
    if kind == "vectors":
        model, data = network(), DATA
    else:
        inputs, labels = blobs(ROWS, 36, CLASSES)
        data = (inputs.view(-1, *IMAGE), labels)
        model = trained(cnn(CLASSES), *data, steps=20, lr=0.01)
    if refusal := REFUSALS.get((method.split()[0], kind)):
        with pytest.raises(UserError, match=refusal):
            made(model, data, method=method, seed=3)
        return
    found = made(model, data, method=method, seed=3)
    after = numbers(found.model)
    assert not equal(after, numbers(model))
    assert all(value.isfinite().all() for value in after.values())
    assert (found.forgotten, found.seed, found.examples["train"]) == (GONE, 3, ROWS)
    assert found.cost.sample_gradients > 0


# ---------------------------------------------------------------------- determinism


@pytest.mark.parametrize("method", ["dmm epochs=1", "scrub epochs=1", "random_label epochs=1", "bad_teacher epochs=1"])
def test_a_seed_determines_the_result_whatever_was_drawn_before(method):
    model, results = network(dropping), []
    for before, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(before)
        results.append(numbers(made(model, method=method, seed=seed).model))
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])


def test_the_order_and_kind_of_rows_and_data_change_nothing():
    model, (inputs, labels) = network(), DATA
    expected = made(model, method="dmm epochs=1")
    for rows in (GONE[::-1], torch.tensor(GONE), np.array(GONE)):
        assert equal(numbers(made(model, forget=rows, method="dmm epochs=1").model), numbers(expected.model))
    for data in (TensorDataset(inputs, labels), Pairs(inputs, labels), (inputs.numpy(), labels.numpy())):
        found = made(model, data, method="dmm epochs=1")
        assert equal(numbers(found.model), numbers(expected.model))
        assert found.rows == expected.rows
    assert made(model, forget=[3, 10, 20, 42]).rows != expected.rows


def test_a_change_that_the_precision_rounds_away_is_said():
    model = network().bfloat16()
    found = made(model, method="finetune epochs=1 optimizer.lr=1e-6")
    assert equal(numbers(found.model), numbers(model))
    assert found.metrics["margin/unlearned/forget"] == found.metrics["margin/given/forget"]
    assert any("no answer of the network changed" in warning for warning in found.warnings)
    assert not any("changed" in warning for warning in made(network()).warnings)


def test_other_rows_give_another_network():
    model = network()
    assert not equal(numbers(made(model, forget=[1, 2]).model), numbers(made(model, forget=[4, 5]).model))


# ---------------------------------------------------------------------- what it achieves


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Any, Any, list[int]]:
    """A network on part of scikit-learn's digits, the data, and rows that it knows by heart."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    inputs, labels = torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target)
    labels[:20] = (labels[:20] + 1) % 10  # wrong labels can only be known by heart
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    train, unseen = (inputs[:400], labels[:400]), (inputs[400:600], labels[400:600])
    return trained(model, *train, steps=400, lr=0.5), train, unseen, list(range(20))


@pytest.mark.parametrize("method", ["dmm epochs=3", "scrub", "influence", "ascent_descent"])
def test_forgotten_rows_are_answered_less_surely(digits, method):
    model, train, unseen, rows = digits
    found = unlearn(model, train, rows, method=method, validation=unseen, progress=False)
    of = found.metrics
    assert of["margin/unlearned/forget"] < of["margin/given/forget"] - 0.03
    assert of["accuracy/given/forget"] > 0.9
    assert of["accuracy/unlearned/val"] > of["accuracy/given/val"] - 0.1
    drop = {group: of[f"margin/given/{group}"] - of[f"margin/unlearned/{group}"] for group in ("forget", "retain")}
    assert drop["forget"] > drop["retain"]
    if method.startswith("dmm"):
        assert of["matched/forget"] > 0.2
        assert of["margin/predicted/forget"] < of["margin/given/forget"]
        assert any("gradients of the given network alone" in warning for warning in found.warnings)
    assert any("not verified" in warning for warning in found.warnings)


def test_metrics_are_those_of_the_networks(digits):
    model, train, unseen, rows = digits
    found = unlearn(model, train, rows, method="finetune epochs=1", validation=unseen, progress=False)
    for name, one in (("given", model), ("unlearned", found.model)):
        right = (one(unseen[0]).argmax(1) == unseen[1]).float().mean()
        assert found.metrics[f"accuracy/{name}/val"] == pytest.approx(float(right))
        sure = margin(one(train[0][rows]), train[1][rows]).mean()
        assert found.metrics[f"margin/{name}/forget"] == pytest.approx(float(sure.detach()), abs=1e-3)


def test_without_a_pool_effects_add_up_to_the_gap_of_generalisation(tmp_path):
    inputs, labels = blobs(200, WIDTH, CLASSES, seed=5)
    guessed = torch.where(torch.rand(200, generator=torch.Generator().manual_seed(0)) < 0.3, 0, labels)
    known = given(network(), DATA, (inputs, guessed))  # unseen points are answered worse
    deletion = _alone(known, None, tmp_path, Options(), Local(), Console(quiet=True))
    learned = deletion.effects.learned(Rows(torch.tensor([0]), ROWS))
    answers = deletion.subject.stacked("logits")[0]
    effects = learned.predict(torch.eye(ROWS))  # of including each example, on all logits
    labels, small = known.examples.labels, 1e-3
    on_own = torch.stack([effects[row, row] for row in range(ROWS)])
    before, after = (
        margin(answers[:ROWS].double() + step * on_own.double(), labels[:ROWS]) for step in (-small, small)
    )
    linearised = float(((after - before) / (2 * small)).mean())
    margins = margin(answers.double(), labels)
    assert linearised == pytest.approx(float(margins[:ROWS].mean() - margins[ROWS:].mean()), rel=1e-3)
    assert linearised > 0


def test_retraining_is_what_the_engine_makes_of_the_recipe():
    model = network()
    found = made(model, method="retrain", recipe=RECIPE, seed=5)
    known = given(model, DATA)
    start = Ensemble.initialise(known.build, [member_seed(5, "retrained", 0, "initialisation")])
    rows = AllBut(ROWS, torch.tensor(GONE)).indices(range(1))
    training = EnsembleTraining(subsets=rows, **recipe(training_of(RECIPE, known)))
    training.attach(start, known.examples, seed=5, role="retrained", members=range(1))
    training.fit(trainer_factory(composed([]).trainer))
    assert equal(numbers(found.model), numbers(start.member(0).network))  # pyright: ignore
    assert found.cost.ratio == pytest.approx(1)
    assert model_factory(known.network, known.examples)().normalise(DATA[0]).dtype == torch.float32
    assert vars(known.examples.normalisation) == vars(Normalisation(1.0, [0.0], [1.0]))


def test_verification_compares_with_retrained_networks():
    found = made(network(), recipe=RECIPE, verify=4, validation=UNSEEN)
    said = found.verification
    assert said["oracles"] == 4
    for name in ("given", "unlearned", "others", "alone", "method"):
        for group in ("forget", "retain", "val"):
            assert np.isfinite(said[f"distance/{name}/{group}"])
    assert 0 < said["distance/others/retain"] < 50
    assert any(key.startswith("klom") for key in said)
    assert found.cost.verification > 0
    assert not any("not verified" in warning for warning in found.warnings)
    assert any("4 retrained networks" in warning for warning in found.warnings)


# ---------------------------------------------------------------------- budgets


def test_a_share_of_a_retraining_cuts_epochs():
    """One epoch of fine-tuning and one of the recipe both see every retained row once."""
    recipe_of_four = {"epochs": 4, "batch_size": 16}
    for share, epochs in (("50%", 2), ("100%", 4), ("30%", 1)):
        found = made(network(), method="finetune epochs=8", recipe=recipe_of_four, budget=share)
        assert found.method["epochs"] == found.cost.epochs == epochs
        assert found.cost.ratio == pytest.approx(epochs / 4)
        assert any(f"{epochs} of 8 epochs" in warning for warning in found.warnings)
    with pytest.raises(UserError, match=r"budget=10%: is less than one epoch of Finetune takes; expected at least 25"):
        made(network(), method="finetune epochs=8", recipe=recipe_of_four, budget="10%")


def test_seconds_that_are_enough_change_nothing():
    model = network()
    free, bound = made(model, method="finetune epochs=2"), made(model, method="finetune epochs=2", budget="10min")
    assert equal(numbers(free.model), numbers(bound.model))
    assert bound.cost.epochs == 2
    with pytest.raises(UserError, match=r"budget=0\.0001: is less than one epoch"):
        made(model, budget=0.0001)


def test_a_method_without_epochs_says_that_nothing_was_cut():
    assert any("does not go by epochs" in text for text in made(network(), method="influence", budget=60).warnings)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"forget": [ROWS]}, "forget: 60 is out of range"),
        ({"forget": []}, "forget: is empty"),
        ({"method": "fintune"}, "did you mean 'finetune'"),
        ({"method": ""}, "is not an unlearner"),
        ({"method": None}, "method=None: expected the name of one of conf/unlearner"),
        ({"method": {"epochs": 1}}, "or a mapping with a _target_"),
        ({"method": {"_target_": "os.getcwd"}}, "method: cannot be made from these settings"),
        ({"method": {"_target_": "torch.nn.Identity"}}, "torch.nn.Identity is no unlearner"),
        ({"method": {"_target_": "dmm_exp.unlearners.DMM"}}, "dmm_exp.unlearners.DMM needs epochs and batch_size"),
        ({"method": "finetune epochs=-1"}, "epochs=-1"),
        ({"method": "finetune epochs=a"}, "epochs"),
        ({"method": "finetune epochs=1,2"}, "stands for 2 configurations"),
        ({"method": "finetune epoch=1"}, "did you mean"),
        ({"method": "finetune optimizer.lr=-1"}, "Invalid learning rate: -1"),
        ({"method": "do_nothing"}, "DoNothing is a reference"),
        ({"method": "oracle_matching"}, "OracleMatching is a reference"),
        ({"method": "dm_direct"}, "DMDirect is a reference"),
        ({"method": "retrain"}, "needs a recipe"),
        ({"method": "rewind"}, "of which a given network keeps no checkpoint; expected another method"),
        ({"method": "sisa"}, "SISA cuts the data into parts and trains a network on each"),
        ({"method": "gradient_ascent epochs=3 optimizer.lr=1e30"}, "diverged"),
        ({"method": "ssd"}, "alpha=26.2"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"seed": torch.zeros(2, 2)}, "seed=tensor("),
        ({"verify": 3}, "give recipe="),
        ({"verify": 3, "recipe": RECIPE}, "give validation="),
        ({"verify": 2, "recipe": RECIPE}, "verify=2: expected 0"),
        ({"verify": True}, "verify=True"),
        ({"pool": "no_such_folder"}, "pool=no_such_folder: holds no finished pool"),
        ({"pool": True, "method": "dmm"}, "pool=True"),
        ({"pool": 3}, "pool=3"),
        ({"budget": "50%"}, "a share of a retraining takes a recipe"),
        ({"budget": 0}, "budget=0"),
        ({"budget": "soon\nplease"}, "budget=soon please"),
        ({"recipe": "sgd_one_cicle"}, "did you mean 'sgd_one_cycle'"),
        ({"validation": (torch.zeros(3, WIDTH + 1), torch.zeros(3, dtype=torch.long))}, "validation"),
        ({"train": (torch.cat([DATA[0][1:], torch.full((1, WIDTH), 3e38)]), DATA[1])}, "not finite"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = network()
    before = copy.deepcopy(numbers(model))
    with pytest.raises(UserError) as error:
        made(model, **options)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert equal(numbers(model), before)
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------------- a pool, or none


def test_a_recipe_alone_prepares_no_pool_and_names_both_other_ways(monkeypatch, capsys):
    monkeypatch.setattr("dmm_exp.deletion.request.prepare_given", None)
    found = made(network(), method="dmm epochs=1", recipe=RECIPE, validation=UNSEEN, progress=True)
    (warning,) = [text for text in found.warnings if "gradients of the given network alone" in text]
    assert re.search(r'retraining this network takes about .* and is exact \(method="retrain"\)', warning)
    assert "a pool of 1,884 networks (prepare(), or pool=True) takes at most about" in warning
    shown = capsys.readouterr().err
    assert shown.index("retraining this network") < shown.index("unlearning")
    assert found.pool is None
    assert found.cost.retraining > 0


def test_a_pool_for_one_call_is_prepared_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("dmm_exp.deletion.request.SIZE", 40)
    recipe = {**RECIPE, "epochs": 8}
    model = train(mlp(WIDTH, CLASSES), DATA, recipe)
    found = made(model, method="dmm epochs=1", recipe=recipe, validation=UNSEEN, pool=True)
    assert found.pool.size == 40
    assert not found.pool.folder.exists()
    assert any("prepared for this call alone" in text for text in found.warnings)
    with pytest.raises(UserError, match="pool=True: a pool is trained by a recipe"):
        made(network(), method="dmm epochs=1", pool=True)
