"""Rows of texts, as numbers of words, are deleted in Python and by command; a number that is no word is refused."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import trained
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from dmm_exp import Ledger, prepare, train, unlearn
from dmm_exp.commands.cli import main
from dmm_exp.config.instantiate import instantiate
from dmm_exp.deletion.recipes import composed
from dmm_exp.ensembles.work import model_factory
from dmm_exp.errors import UserError
from dmm_exp.models import EmbeddingBag
from dmm_exp.records.files import read

WORDS, LENGTH, CLASSES = 30, 6, 3
RECIPE: dict[str, Any] = {"epochs": 40, "batch_size": 16, "optimizer": {"lr": 0.5}}
GONE = [3, 5, 9]
MOVES_INPUTS = ["amun", "boundary_shrink", "unsir"]


def texts(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return texts whose class is the most frequent kind of their words, padded with zeros."""
    inputs = torch.randint(1, WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    labels = torch.stack([(inputs % CLASSES == kind).sum(1) for kind in range(CLASSES)], 1).argmax(1)
    inputs[::4, 5:] = 0
    labels[::9] = (labels[::9] + 1) % CLASSES  # to be memorized
    return inputs, labels


DATA, UNSEEN = texts(90, 0), texts(40, 1)


class OwnBag(nn.Module):
    """A person's own network, with PyTorch's bag of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(WORDS, 8, mode="mean"), nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.bag(inputs))


class Counting(nn.Module):
    """A network that takes int64 only."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WORDS, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.dtype != torch.int64:
            raise TypeError(f"takes int64, got {inputs.dtype}")
        return self.head(functional.one_hot(inputs, WORDS).float().sum(1))


def bag() -> nn.Module:
    torch.manual_seed(0)
    return EmbeddingBag([LENGTH], CLASSES, WORDS, width=8)


@cache
def network() -> nn.Module:
    return train(bag(), DATA, RECIPE)


def deleted(model: nn.Module | None = None, data: Any = DATA, **more: Any) -> Any:
    options = {"method": "finetune epochs=2", "validation": UNSEEN, "progress": False, **more}
    return unlearn(network() if model is None else model, data, GONE, **options)


def moved(one: nn.Module, other: nn.Module) -> bool:
    values = other.state_dict()
    return any(not torch.equal(value, values[name]) for name, value in one.state_dict().items())


def refused(call: Any) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize(
    "method", ["finetune epochs=1", "dmm epochs=1", "scrub epochs=1", "neggrad_plus epochs=1", "ssd"]
)
def test_rows_of_texts_are_deleted(method, tmp_path):
    result = deleted(method=method)
    assert moved(result.model, network())
    assert result.model(DATA[0]).shape == (90, CLASSES)
    assert read(result.save(tmp_path))["removed"]["indices"] == GONE
    assert any("inputs are numbers of words" in warning for warning in result.warnings)


def test_retraining_takes_texts_too():
    result = deleted(method="retrain", recipe=RECIPE)
    assert (result.model(DATA[0]).argmax(1) == DATA[1])[10:].float().mean() > 0.8


@pytest.mark.parametrize("kind", ["bag of PyTorch", "int64 only"])
def test_a_network_of_ones_own_gets_its_numbers_as_they_are(kind):
    torch.manual_seed(0)
    own = train(OwnBag() if kind == "bag of PyTorch" else Counting(), DATA, RECIPE)
    result = deleted(own)
    assert type(result.model) is type(own)
    assert moved(result.model, own)


@pytest.mark.parametrize("make", [lambda x, y: (x.numpy(), y.numpy()), TensorDataset, lambda x, y: (x.int(), y)])
def test_arrays_datasets_and_int32_give_the_same_network(make):
    result = deleted(data=make(*DATA), validation=make(*UNSEEN))
    assert not moved(result.model, deleted().model)


@pytest.mark.parametrize("method", MOVES_INPUTS)
def test_a_method_that_moves_inputs_is_refused_in_a_sentence(method, tmp_path):
    said = refused(lambda: deleted(method=method))
    assert "moves inputs by small amounts, and inputs of this dataset are words" in said
    ledger = Ledger(tmp_path / "book", network(), DATA, method=method, validation=UNSEEN, progress=False)
    assert "moves inputs by small amounts" in refused(lambda: ledger.delete([3]))
    assert not (tmp_path / "book" / "ledger.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x - 1, "train: a number of a word is -1; expected numbers from 0 on"),
        (
            lambda x: x[:, None],
            "train: inputs are whole numbers [90, 1, 6], which stand for words; expected [texts, le",
        ),
        (
            lambda x: x.to(torch.int16),
            "train: inputs are int16; expected floating-point numbers, 8-bit images (uint8), ",
        ),
        (lambda x: torch.cat([x[:-1], torch.full((1, LENGTH), WORDS)]), "largest number of a word is 30, in point 89"),
        (
            lambda x: torch.cat([x[:-1], torch.full((1, LENGTH), 2**40)]),
            f"largest number of a word is {2**40}, in point",
        ),
    ],
)
def test_numbers_that_are_no_words_of_the_network_are_refused_everywhere(change, said, tmp_path):
    data = change(DATA[0].clone()), DATA[1]
    calls = [
        lambda: deleted(data=data, validation=None),
        lambda: train(bag(), data, RECIPE),
        lambda: prepare(bag(), data, RECIPE, tmp_path / "pool", size=40, progress=False),
        lambda: Ledger(tmp_path / "book", network(), data, method="finetune", progress=False),
    ]
    for call in calls:
        assert said in refused(call)
    assert not list(tmp_path.iterdir())


def test_whole_numbers_for_a_network_that_takes_numbers_are_refused_in_a_sentence():
    said = refused(lambda: deleted(nn.Linear(LENGTH, CLASSES)))
    assert "model: cannot be applied to inputs [8, 6] of train" in said


def test_validation_must_be_of_the_same_kind():
    assert "those of train [6] int64" in refused(lambda: deleted(validation=(UNSEEN[0].float(), UNSEEN[1])))


def test_a_pool_of_texts_answers_requests_and_forgets_rows(tmp_path):
    shorter = {**RECIPE, "epochs": 8}
    pool = prepare(bag(), DATA, shorter, tmp_path / "pool", size=40, validation=UNSEEN, chunk_size=20, progress=False)
    options: dict[str, Any] = {"method": "dmm epochs=1", "pool": pool, "progress": False}
    network = train(bag(), DATA, shorter)
    result = unlearn(network, DATA, GONE, verify=3, **options)
    assert result.verification["oracles"] == 3
    ledger = Ledger(tmp_path / "book", network, DATA, **options)
    ledger.delete([3, 5])
    ledger.purge()
    assert not pool.examples().inputs[[3, 5]].any()
    assert pool.examples().inputs.dtype == torch.int64
    zeros = DATA[0].clone()
    zeros[[3, 5]] = 0
    assert Ledger(tmp_path / "book", network, (zeros, DATA[1]), **options).delete([7]).forgotten == [3, 5, 7]


# ---------------------------------------------------------------------- by command

TABLE = [
    "dataset=table", "dataset.path=texts.csv", "dataset.formats.table.label=topic", "model=embedding_bag",
    "dataset.formats.table.text={_target_: dmm_exp.data.HashedWords, column: text, length: 8, buckets: 60}",
    "executor=local", "model.network.width=8",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Any) -> Path:
    """Texts of three topics, a network that learnt them, others, and rows to delete."""
    monkeypatch.chdir(tmp_path)
    topics = {
        "sport": "team match win ball goal",
        "food": "bread salt warm soup oil",
        "music": "drum flute loud song tune",
    }
    draw = np.random.default_rng(0)
    rows = [f"{topic},{' '.join(draw.permutation(words.split()))} {row}"
            for row, (topic, words) in enumerate(50 * list(topics.items()))]  # fmt: skip
    (tmp_path / "texts.csv").write_text("\n".join(["topic,text", *rows]) + "\n", encoding="utf-8")
    (tmp_path / "rows.csv").write_text("3\n1\n4\n")
    config = composed(TABLE)
    examples = instantiate(config.dataset).load()
    for number, name in enumerate(("net", "unlearned/0", "unlearned/1", "retrained/0", "retrained/1")):
        torch.manual_seed(number)
        made = model_factory(config.model.network, examples)()
        trained(made, examples.inputs[: examples.n_train], examples.labels[: examples.n_train], steps=30)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save(made.network.state_dict(), tmp_path / f"{name}.pt")
    return tmp_path


def run(monkeypatch: Any, capsys: Any, *words: str) -> tuple[Any, str, str]:
    monkeypatch.setattr("sys.argv", ["dmm-exp", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, *capsys.readouterr()


def test_rows_of_a_table_of_texts_are_deleted_by_command_and_the_record_is_verified(folder, monkeypatch, capsys):
    asked = ["unlearn", *TABLE, "request.checkpoint=net.pt", "forget.indices=rows.csv"]
    code, _, err = run(monkeypatch, capsys, *asked, "unlearner=finetune", "unlearner.epochs=1")
    assert code == 0, err
    assert json.loads((folder / "unlearned" / "deletion.json").read_text())["removed"]["indices"] == [1, 3, 4]
    assert run(monkeypatch, capsys, "verify", "unlearned")[0] == 0
    for method in MOVES_INPUTS:
        code, _, err = run(monkeypatch, capsys, *asked, f"unlearner={method}", "request.output=other")
        assert code == 2
        assert "moves inputs by small amounts" in err
        assert not (folder / "other").exists()


def test_networks_for_texts_are_scored(folder, monkeypatch, capsys):
    words = ["unlearned=unlearned", "retrained=retrained", "forget=rows.npy", "output=scored"]
    np.save("rows.npy", [1, 3, 4])
    code, _, err = run(monkeypatch, capsys, "score", *TABLE[:5], TABLE[6], *words)
    assert code == 0, err
    assert "klom/forget/p95" in json.loads((folder / "scored" / "metrics.json").read_text())
