"""Whatever it is given, ``unlearn`` returns a network like the given one, or says in one sentence what is wrong.

``FUZZ_EXAMPLES=2000 python -m pytest tests/deletion/test_fuzzing.py`` tries more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from networks import IMAGE, NETWORKS, Pairs, blobs, cnn, mlp, trained
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset

from dmm_exp import Unlearned, prepare, train, unlearn
from dmm_exp.errors import UserError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
WIDTH, CLASSES, ROWS = 3, 3, 30
METHODS = [
    "ascent_descent",
    "bad_teacher",
    "dmm",
    "finetune",
    "gradient_ascent",
    "l1_sparse",
    "neggrad_plus",
    "random_label",
    "salun",
    "scrub",
]
RECIPE = {"epochs": 8, "batch_size": 16}


class Answers(nn.Module):
    """A network that answers what a test says."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(WIDTH, CLASSES), answer

    def forward(self, inputs: Tensor) -> Any:
        return self.answer(self.layer(inputs.flatten(1)))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield torch.zeros(WIDTH), 0


class Uncopyable(nn.Linear):
    def __deepcopy__(self, _: Any) -> Any:
        raise RuntimeError("this layer\ncannot be copied")


def recipe_function(model: nn.Module, dataset: Any, seed: int) -> nn.Module:
    inputs = torch.stack([pair[0] for pair in dataset]).float()
    labels = torch.tensor([int(pair[1]) for pair in dataset])
    loss = nn.functional.cross_entropy(model(inputs), labels)
    with torch.no_grad():
        values = [value for value in model.parameters() if value.requires_grad]
        for value, slope in zip(values, torch.autograd.grad(loss, values), strict=True):
            value -= 0.1 * slope
    return model


def raises(*_: Any) -> Any:
    raise RuntimeError("on\npurpose")


def mostly(valid: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from(range(12)).flatmap(lambda die: other if die == 7 else valid)


def poisoned(value: float) -> nn.Module:
    network = mlp(WIDTH, CLASSES)
    with torch.no_grad():
        network[1].weight[0, 0] = value  # pyright: ignore[reportIndexIssue]
    return network


VALUES = st.one_of(
    st.booleans(),
    st.integers(),
    st.integers(0, 3).map(lambda power: 10 ** (100 * power)),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=4),
    st.lists(st.one_of(st.integers(-5, 40), st.floats(), st.text(max_size=3), st.none()), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([object(), nn.Linear, np.int64(3), np.float32(2), torch.tensor(2), torch.zeros(2, 2)]),
)
JUNK = st.none() | VALUES

OTHER_MODELS = st.one_of(
    JUNK,
    st.sampled_from(
        [
            lambda: nn.ReLU(),
            lambda: nn.Linear(WIDTH + 1, CLASSES),
            lambda: nn.Linear(WIDTH, 1),
            lambda: nn.Linear(WIDTH, 2),
            lambda: nn.LazyLinear(CLASSES),
            lambda: nn.Linear(WIDTH, CLASSES, device="meta"),
            lambda: nn.Linear(WIDTH, CLASSES, dtype=torch.complex64),
            lambda: nn.Bilinear(WIDTH, WIDTH, CLASSES),
            lambda: Uncopyable(WIDTH, CLASSES),
            lambda: poisoned(float("nan")),
            lambda: poisoned(float("inf")),
            lambda: poisoned(1e38),
            lambda: nn.Sequential(nn.Linear(WIDTH, CLASSES), nn.Softmax(1)),
            lambda: Answers(lambda logits: logits[:, None]),
            lambda: Answers(lambda logits: (logits, logits)),
            lambda: Answers(lambda logits: logits.argmax(1)),
            lambda: Answers(lambda logits: logits.long()),
            lambda: Answers(lambda logits: logits[:1]),
            lambda: Answers(lambda logits: None),
            lambda: Answers(lambda logits: logits.detach()),
            lambda: Answers(lambda logits: logits / 0),
            lambda: Answers(lambda logits: logits.numpy()),
            lambda: Answers(raises),
            lambda: nn.Embedding(4, CLASSES),
            lambda: nn.LSTM(WIDTH, CLASSES),
            lambda: nn.MultiheadAttention(CLASSES, 1),
        ]
    ).map(lambda make: make()),
)


@st.composite
def models(draw: st.DrawFn, image: bool, data: tuple[Tensor, Tensor]) -> nn.Module:
    torch.manual_seed(draw(st.integers(0, 3)))
    width = WIDTH if not image else 36
    network = cnn(CLASSES) if image and draw(st.booleans()) else draw(st.sampled_from(NETWORKS[1:]))(width, CLASSES)
    trained(network, *data, steps=30, lr=0.03)
    if draw(st.sampled_from(range(8))) == 5:
        network.requires_grad_(False)
    return network.train(draw(st.booleans()))


@st.composite
def datasets(draw: st.DrawFn, image: bool, count: int) -> tuple[Any, tuple[Tensor, Tensor]]:
    """A dataset of some kind, and the same as tensors that a network can be trained on."""
    inputs, labels = blobs(count, 36 if image else WIDTH, CLASSES, seed=draw(st.integers(0, 3)))
    inputs = inputs.view(-1, *IMAGE) if image else inputs
    if draw(st.integers(0, 4)) == 0:
        inputs = inputs.abs().to(draw(st.sampled_from([torch.uint8, torch.float64, torch.float16])))
    labels = labels.to(draw(st.sampled_from([torch.int64, torch.int32, torch.uint8])))
    kinds = [
        lambda: (inputs, labels),
        lambda: [inputs.numpy(), labels.numpy()],
        lambda: (inputs.tolist(), labels.tolist()) if inputs.dtype != torch.uint8 else (inputs, labels),
        lambda: TensorDataset(inputs, labels),
        lambda: Pairs(inputs, labels),
    ]
    return draw(st.sampled_from(kinds))(), (inputs.float(), labels.long())


@st.composite
def other_datasets(draw: st.DrawFn) -> Any:
    inputs, labels = blobs(ROWS, WIDTH, CLASSES)
    wrong = [
        lambda: (inputs,),
        lambda: inputs,
        lambda: (inputs[1:], labels),
        lambda: (inputs[:0], labels[:0]),
        lambda: (inputs[:, :0], labels),
        lambda: (inputs[:, 0], labels),
        lambda: (inputs.long(), labels),
        lambda: (inputs.to_sparse(), labels),
        lambda: (inputs.to("meta"), labels),
        lambda: (inputs + 1j, labels),
        lambda: (inputs / 0, labels),
        lambda: (inputs * 1e38, labels),
        lambda: (torch.cat([inputs[:-1], 1e38 * inputs[-1:].sign()]), labels),
        lambda: (inputs[:, :2], labels),
        lambda: (inputs[:, None, None], labels),
        lambda: (inputs, labels.float()),
        lambda: (inputs, labels - 1),
        lambda: (inputs, labels + 1),
        lambda: (inputs, labels + 2**40),
        lambda: (inputs, labels[:, None]),
        lambda: (inputs, nn.functional.one_hot(labels)),
        lambda: (inputs, [str(label) for label in labels]),
        lambda: (inputs, None),
        lambda: {"inputs": inputs, "labels": labels},
        lambda: iter([inputs, labels]),
        lambda: TensorDataset(inputs),
        lambda: TensorDataset(inputs, inputs),
        lambda: Pairs(inputs, labels[:-1].float() + 0.5),  # labels are cut to whole numbers
        lambda: TensorDataset(inputs, labels + 0.5),
        lambda: Pairs(inputs[:-1], labels),
        lambda: Pairs([torch.zeros(i % 2 + 1) for i in range(ROWS)], labels),  # pyright: ignore[reportArgumentType]
        lambda: Stream(),
        lambda: (np.array([["a"] * WIDTH] * ROWS), labels),
        lambda: (np.array([[None] * WIDTH] * ROWS), labels),
        lambda: ([[0.0] * (i % 2) for i in range(ROWS)], labels),
        lambda: (inputs[:2], labels[:2]),
        lambda: (inputs[:1], labels[:1]),
        lambda: (inputs, torch.zeros(ROWS, dtype=torch.long)),
    ]
    return draw(st.one_of(JUNK, st.sampled_from(wrong).map(lambda make: make())))


FORGET = st.one_of(
    st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=8, unique=True),
    st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=8, unique=True).map(torch.tensor),
    st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=8, unique=True).map(lambda rows: np.array(rows, np.int16)),
    st.integers(1, 5).map(range),
)
OTHER_FORGET = st.one_of(
    JUNK,
    st.lists(st.integers(-3, ROWS + 3), max_size=ROWS),
    st.lists(st.integers(), max_size=3),
    st.lists(st.lists(st.integers(0, ROWS - 1), max_size=2), max_size=3),
    st.lists(st.booleans(), min_size=ROWS, max_size=ROWS),
    st.sampled_from(
        [
            range(ROWS),
            range(0, ROWS, CLASSES),
            torch.zeros(ROWS, dtype=torch.bool),
            torch.tensor([1.0]),
            torch.tensor([1.0]).bfloat16(),
            torch.tensor([[1]]),
            torch.tensor([1j]),
            torch.tensor([2]).to("meta"),
            torch.tensor([0, 2, 0]).to_sparse(),
            np.array([1, 2], np.uint64),
            np.array([2**64 - 1], np.uint64),
            np.array(["1"]),
            np.array(["2020-01-01"], "datetime64[s]"),
            np.array([float("nan")]),
            {1, 2},
            (i for i in range(3)),
            b"\x01\x02",
        ]
    ),
)
OPTIMIZER = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
SETTINGS = {"_target_": "dmm_exp.unlearners.Finetune", "epochs": 1, "batch_size": 8, "optimizer": OPTIMIZER}
SETTINGS |= {"schedule": {"_target_": "dmm_exp.ensembles.schedules.Constant"}}
METHOD = st.one_of(
    st.sampled_from([*(f"{name} epochs=1" for name in METHODS), "influence", "ssd alpha=1.5", "retrain"]),
    st.just(SETTINGS),
)
NUMBERS = st.one_of(st.integers(-2, 3), st.floats(), st.sampled_from(["null", "a", "1,2", "[1,2]", "${seed}", "1e30"]))
OTHER_METHOD = st.one_of(
    JUNK,
    st.sampled_from(["oracle_matching", "do_nothing", "dm_direct", "dmm epochs", "dmm epochs=1 epochs=2", "epochs=2"]),
    st.sampled_from(["fintune", "fair/rum_high_mem/salun", "../model/mlp", "finetune optimizer=adam", "a/b", "/"]),
    st.builds("{} {}={}".format, st.sampled_from(METHODS), st.sampled_from(["epochs", "batch_size"]), NUMBERS),
    st.builds("{} {}={}".format, st.sampled_from(METHODS), st.just("optimizer.lr"), NUMBERS).map("{} epochs=1".format),
    st.builds(lambda key, value: {**SETTINGS, key: value}, st.sampled_from(sorted(SETTINGS)), JUNK),
    st.builds(
        lambda target: {"_target_": target},
        st.sampled_from(["os.getcwd", "torch.nn.Linear", "dmm_exp.unlearners.DMM", "no.such", "builtins.print", ""]),
    ),
)
OTHER_RECIPE = st.one_of(
    JUNK,
    st.sampled_from(
        [
            "sgd_one_cicle",
            "../training/sgd_one_cycle",
            {"epochs": 0},
            {"epochs": True},
            {"epochs": 1.5},
            {"epoch": 1},
            {"batch_size": -1},
            {"optimizer": "adam"},
            {"optimizer": {"lr": -1}},
            {"optimizer": {"lr": "fast"}},
            {"optimizer": {"_target_": "torch.optim.Nadam"}},
            {"schedule": None},
            {"schedule": {"_target_": "torch.nn.Linear"}},
            {"augmentation": {"flip": True}},
            {"augmentation": {"turn": 3}},
            {"label_smoothing": 7},
            {"label_smoothing": "much"},
            {3: 4},
            lambda model, dataset, seed: None,
            lambda model, dataset, seed: nn.Linear(1, 1),
            lambda model, dataset, seed: poisoned(float("nan")),
            lambda model: model,
            raises,
        ]
    ),
)
BUDGET = st.sampled_from([None, None, None, 10, 60.0, "20s", "1min"])
OTHER_BUDGET = st.one_of(JUNK, st.sampled_from(["50%", "0%", "-3%", "1e-9", 1e-9, "10 years", "nan", "9" * 400, "٣%"]))
OTHER_FACTORY = st.one_of(
    VALUES,
    st.sampled_from([lambda: nn.Linear(2, 2), lambda: None, raises, lambda: mlp(WIDTH, CLASSES)]),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool for one network and one dataset."""
    folder = tmp_path_factory.mktemp("pool")
    return prepare(mlp(WIDTH, CLASSES), blobs(ROWS, WIDTH, CLASSES), RECIPE, folder, size=40, progress=False).folder


@st.composite
def calls(draw: st.DrawFn, pool: Path) -> dict[str, Any]:
    """Arguments of ``unlearn``, most of them sensible."""
    if draw(st.integers(0, 3)) == 0:  # a request that a pool answers
        data, validation = blobs(ROWS, WIDTH, CLASSES), None
        model = train(mlp(WIDTH, CLASSES), data, RECIPE)
        pools, recipes = st.sampled_from([pool, str(pool)]), st.sampled_from([None, RECIPE])
    else:
        image = draw(st.booleans())
        data, tensors = draw(datasets(image, ROWS))
        model = draw(models(image, tensors))
        validation = draw(st.one_of(st.none(), datasets(image, draw(st.integers(1, 12))).map(lambda pair: pair[0])))
        pools, recipes = st.sampled_from([None, False, True]), st.sampled_from([None, None, RECIPE, recipe_function])
    other_pools = st.one_of(JUNK, st.sampled_from([pool, pool.parent, pool / "x\0"]))
    call = {
        "model": draw(mostly(st.just(model), OTHER_MODELS)),
        "train": draw(mostly(st.just(data), other_datasets())),
        "forget": draw(mostly(FORGET, OTHER_FORGET)),
        "method": draw(mostly(METHOD, OTHER_METHOD)),
        "recipe": draw(mostly(recipes, OTHER_RECIPE)),
        "pool": draw(mostly(pools, other_pools)),
        "budget": draw(mostly(BUDGET, OTHER_BUDGET)),
        "verify": draw(mostly(st.sampled_from([0] * 9 + [3]), st.one_of(JUNK, st.integers(-2, 3)))),
        "seed": draw(mostly(st.integers(0, 2**70), JUNK)),
        "validation": draw(mostly(st.just(validation), other_datasets())),
        "factory": draw(mostly(st.none(), OTHER_FACTORY)),
        "whole_classes": draw(st.booleans()),
    }
    if call["verify"].__class__ is int and call["verify"] > 3:
        call["verify"] = 3  # more would only take longer
    return call


def state(model: Any) -> Any:
    """Return everything that must not change of a network."""
    if not isinstance(model, nn.Module):
        return None
    tensors = model.state_dict()
    numbers = {name: value.clone() for name, value in tensors.items() if not (value.is_meta or _lazy(value))}
    return numbers, [module.training for module in model.modules()], [p.requires_grad for p in model.parameters()]


def _lazy(value: Tensor) -> bool:
    return nn.parameter.is_lazy(value)


def same(before: Any, after: Any) -> bool:
    if before is None:
        return after is None
    equal = (torch.equal(value.nan_to_num(), after[0][name].nan_to_num()) for name, value in before[0].items())
    return all(equal) and before[1:] == after[1:]


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
@given(data=st.data())
def test_unlearn_returns_a_network_or_says_in_one_sentence_what_is_wrong(prepared: Path, data: st.DataObject) -> None:
    call = data.draw(calls(prepared))
    patch = pytest.MonkeyPatch()
    patch.setattr("dmm_exp.deletion.request.SIZE", 40)  # pools for one call alone
    before, drawn = state(call["model"]), torch.get_rng_state()
    try:
        found = unlearn(**call, progress=False)
    except UserError as error:
        event(f"refused: {str(error).split(':')[0].split('=')[0][:30]}")
        said = str(error)
    else:
        event("unlearned")
        said = None
        assert isinstance(found, Unlearned)
        assert type(found.model) is type(call["model"])
        after = state(found.model)
        assert all(value.isfinite().all() for value in after[0].values())
        assert after[1:] == before[1:]
        assert {n: (v.shape, v.dtype) for n, v in after[0].items()} == {
            n: (v.shape, v.dtype) for n, v in before[0].items()
        }
        assert all(np.isfinite(value) for value in found.metrics.values())
    finally:
        patch.undo()
    assert said is None or (len(said) > 10 and len(said.splitlines()) == 1)
    assert same(before, state(call["model"]))
    assert torch.equal(drawn, torch.get_rng_state())
