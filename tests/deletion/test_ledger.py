"""Deletions that follow one another: what is kept, what is refused, and when retraining is due."""

import json
from dataclasses import replace

import pytest
import torch
from networks import trained
from torch import nn

from dmm_exp import Ledger, Limits, train
from dmm_exp.deletion.ledger import FILE, Drift
from dmm_exp.errors import UserError

FEW = "finetune epochs=1"


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(90, 4, generator=generator)
    labels = (inputs[:, 0] + torch.randn(90, generator=generator) > 0).long()
    return (inputs[:60], labels[:60]), (inputs[60:], labels[60:])


def untrained():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.fixture(scope="module")
def network(data):
    return trained(untrained(), *data[0])


def ledger(folder, network, data, method=FEW, **options):
    train, unseen = data
    return Ledger(folder, network, train, validation=unseen, method=method, progress=False, **options)


def numbers(module):
    return torch.cat([value.flatten() for value in module.state_dict().values()])


def test_requests_follow_one_another_also_in_another_process(tmp_path, network, data):
    at_once = ledger(tmp_path / "one", network, data)
    at_once.delete([3, 5])
    at_once.delete([7])
    ledger(tmp_path / "two", network, data).delete([5, 3])
    later = ledger(tmp_path / "two", network, data)
    result = later.delete([7])
    assert later.gone == result.forgotten == [3, 5, 7]
    assert torch.equal(numbers(later.model), numbers(at_once.model))
    assert torch.equal(numbers(result.model), numbers(later.model))
    assert not torch.equal(numbers(later.model), numbers(network))
    assert [entry["rows"] for entry in later.entries] == [[3, 5], [7]]


def test_a_request_starts_from_the_network_as_it_is(tmp_path, network, data):
    after_one = ledger(tmp_path, network, data)
    after_one.delete([3, 5])
    alone = ledger(tmp_path / "alone", network, data)
    alone.delete([3, 5, 7])
    after_one.delete([7])
    assert not torch.equal(numbers(after_one.model), numbers(alone.model))


def test_predictions_are_of_everything_that_is_gone(tmp_path, data):
    learnt = train(untrained(), data[0], {"epochs": 60, "batch_size": 10})
    book = ledger(tmp_path, learnt, data, method="dmm epochs=40")
    book.delete([0, 1, 2, 3, 4])
    second = book.delete([5, 6, 7, 8, 9])
    assert second.metrics["matched/forget"] > 0.5
    assert second.forgotten == list(range(10))


def test_what_was_changed_is_refused(tmp_path, network, data):
    book = ledger(tmp_path, network, data)
    book.delete([3])
    book.delete([4])
    path, lines = tmp_path / FILE, (tmp_path / FILE).read_text().splitlines()
    for number, changed in enumerate([lines[0].replace("1", "2", 1), lines[1].replace("[3]", "[9]"), lines[2][:-5]], 1):
        path.write_text("\n".join([*lines[: number - 1], changed, *lines[number:]]) + "\n")
        with pytest.raises(UserError, match=f"line {number} was changed"):
            ledger(tmp_path, network, data)
    path.write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(UserError, match="line 2 was changed"):
        ledger(tmp_path, network, data)
    path.write_text("\n".join(lines) + "\n")
    file = tmp_path / book.entries[-1]["file"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        ledger(tmp_path, network, data).delete([8])


def test_the_ledger_of_something_else_is_refused(tmp_path, network, data):
    ledger(tmp_path, network, data).delete([3])
    with pytest.raises(UserError, match="another network, or of other data"):
        ledger(tmp_path, nn.Linear(4, 2), data)
    (inputs, labels), unseen = data
    with pytest.raises(UserError, match="another network, or of other data"):
        ledger(tmp_path, network, ((inputs + 1, labels), unseen))


@pytest.mark.parametrize("rows", [[3], [3, 4], [60], [], [1.5]])
def test_rows_that_cannot_go_change_nothing(tmp_path, network, data, rows):
    book = ledger(tmp_path, network, data)
    book.delete([3])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError):
        book.delete(rows)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert book.gone == [3]


def test_retraining_is_due_when_a_limit_is_passed(tmp_path, network, data):
    book = ledger(tmp_path, network, data, limits=Limits(share=0.05))
    assert book.delete([1, 2, 3]).warnings[-1].startswith("not verified")
    assert book.due == []
    second = book.delete([4])
    assert book.due == ["6.7% of the training set are gone (limit 0.05)"]
    assert second.warnings[-1] == f"retraining is due: {book.due[0]}"
    assert json.loads((tmp_path / FILE).read_text().splitlines()[-1])["due"] == book.due


def test_each_limit_has_its_sentence_and_what_is_unknown_is_never_passed():
    drift = Drift(doubt=2.0, drift=2.0, accuracy=0.5, share=0.5)
    assert len(drift.due(Limits())) == 4
    assert len(replace(drift, doubt=None, drift=None).due(Limits())) == 2
    assert Drift(0.1, 0.1, 0.0, 0.01).due(Limits()) == []
