"""Deletions that follow one another: what is kept, what is refused, and when retraining is due."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from itertools import product

import pytest
import torch
from ledger_kills import wrong_after_kills
from networks import Casting, trained
from torch import nn

from dmm_exp import Ledger, Limits, train
from dmm_exp.deletion import ledger as ledger_module
from dmm_exp.deletion.drift import Drift
from dmm_exp.errors import UserError
from dmm_exp.records import chain as chain_module
from dmm_exp.records.chain import CHAIN, Chain
from dmm_exp.records.chain_reading import read
from dmm_exp.records.files import read as read_record

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


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    book = ledger(tmp_path, learnt, data, method="dmm epochs=40 schedule.decay=0.95")
    book.delete([0, 1, 2, 3, 4])
    second = book.delete([5, 6, 7, 8, 9])
    assert second.metrics["matched/forget"] > 0.5
    assert second.forgotten == list(range(10))


def test_the_ledger_of_something_else_is_refused(tmp_path, network, data):
    ledger(tmp_path, network, data).delete([3])
    with pytest.raises(UserError, match="another network, or of other data"):
        ledger(tmp_path, nn.Linear(4, 2), data)
    (inputs, labels), unseen = data
    with pytest.raises(UserError, match="another network, or of other data"):
        ledger(tmp_path, network, ((inputs + 1, labels), unseen))


@pytest.mark.parametrize("rows", [[3, 4], [60], [], [1.5]])
def test_rows_that_cannot_go_change_nothing(tmp_path, network, data, rows):
    book = ledger(tmp_path, network, data)
    book.delete([3])
    before = content(tmp_path)
    with pytest.raises(UserError):
        book.delete(rows)
    assert content(tmp_path) == before
    assert book.gone == [3]


def test_retraining_is_due_when_a_limit_is_passed(tmp_path, network, data):
    book = ledger(tmp_path, network, data, limits=Limits(share=0.05))
    assert book.delete([1, 2, 3]).warnings[-1].startswith("not verified")
    assert book.due == []
    second = book.delete([4])
    assert book.due == ["6.7% of the training set are gone (limit 0.05)"]
    assert second.warnings[-1] == f"retraining is due: {book.due[0]}"
    assert json.loads((tmp_path / CHAIN).read_text().splitlines()[-1])["due"] == book.due


def test_each_limit_has_its_sentence_and_what_is_unknown_is_never_passed():
    drift = Drift(doubt=2.0, drift=2.0, accuracy=0.5, share=0.5)
    assert len(drift.due(Limits())) == 4
    assert len(replace(drift, doubt=None, drift=None).due(Limits())) == 2
    assert Drift(0.1, 0.1, 0.0, 0.01).due(Limits()) == []


# ---------------------------------------------------------------------- nothing lost, nothing twice


def test_the_same_request_again_returns_what_is_kept(tmp_path, network, data):
    first = ledger(tmp_path, network, data).delete([5, 3])
    before = content(tmp_path)
    again = ledger(tmp_path, network, data).delete([3, 5])
    assert content(tmp_path) == before
    assert torch.equal(numbers(again.model), numbers(first.model))
    for name in ("metrics", "forgotten", "method", "seed", "rows", "weights", "when", "warnings", "cost", "receipt"):
        assert getattr(again, name) == getattr(first, name), name
    assert again.points.equals(first.points.astype(again.points.dtypes))


def test_an_earlier_request_is_returned_with_the_network_that_it_left(tmp_path, network, data):
    book = ledger(tmp_path, network, data)
    first = book.delete([3])
    book.delete([5])
    again = book.delete([3])
    assert torch.equal(numbers(again.model), numbers(first.model))
    assert again.forgotten == [3]
    assert book.gone == [3, 5]


@pytest.mark.parametrize("options", [{"seed": 1}, {"method": "finetune epochs=2"}])
def test_the_same_rows_in_another_way_were_deleted_before(tmp_path, network, data, options):
    ledger(tmp_path, network, data).delete([3])
    with pytest.raises(UserError, match="3 was deleted before"):
        ledger(tmp_path, network, data, **options).delete([3])


def test_what_is_saved_are_the_files_of_the_ledger_and_the_receipt(tmp_path, network, data):
    result = ledger(tmp_path / "book", network, data).delete([3])
    folder, kept = result.save(tmp_path / "out"), tmp_path / "book" / "request-00001"
    assert {name: (folder / name).read_bytes() for name in content(kept)} == content(kept)
    assert (folder / "receipt.txt").read_text() == f"{result.receipt}\n"
    found = read_record(folder)
    assert found["ledger"]["request"] == 1
    assert found["removed"]["sha256"] == result.rows
    with pytest.raises(UserError, match="give the key to Ledger"):
        result.save(tmp_path / "signed", key=tmp_path / "key.pem")


def test_the_digest_of_a_record_is_that_of_salted_digests(tmp_path, network, data):
    ledger(tmp_path / "one", network, data).delete([3])
    ledger(tmp_path / "two", network, data).delete([3])
    one, two = (ledger(tmp_path / name, network, data).entries[0] for name in ("one", "two"))
    assert one["digests"] != two["digests"]
    salt = read(tmp_path / "one").header["salt"]
    inputs, labels = data[0]
    raw = bytes.fromhex(salt) + b"torch.float32[4]" + inputs[3].numpy().tobytes() + labels[3].numpy().tobytes()
    assert one["digests"] == [hashlib.sha256(raw).hexdigest()]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("place", "earlier"),
    [("append", 0), ("write_files", 1), ("settle", 0), ("rename", 1), *product(("_write_lines", "write_head"), (0, 1))],
)
def test_killed_anywhere_nothing_is_lost_and_nothing_there_twice(tmp_path, network, data, monkeypatch, place, earlier):
    """Killed before and after each step; the same request again is carried out once, and the ledger fits."""
    for moment in ("before", "after"):
        folder = tmp_path / moment
        for row in range(earlier):
            ledger(folder, network, data).delete([row])
        with monkeypatch.context() as patch:
            where = {"write_files": ledger_module, "rename": os, "settle": chain_module}.get(place, Chain)
            step = getattr(where, place)

            def killed(*arguments, step=step, moment=moment, **more):
                if moment == "after":
                    step(*arguments, **more)
                raise Killed

            patch.setattr(where, place, killed)
            with pytest.raises(Killed):
                ledger(folder, network, data).delete([30])
        result = ledger(folder, network, data).delete([30])
        assert result.forgotten == [*range(earlier), 30]
        chain = read(folder)
        assert [line["rows"] for line in chain.requests] == [*([row] for row in range(earlier)), [30]]
        assert chain.is_headed
        names = {"ledger.jsonl", "head.json", *(f"request-{number:05d}" for number in range(1, earlier + 2))}
        assert {path.name for path in folder.iterdir()} == names


def test_what_a_killed_process_left_is_removed_by_the_next_request(tmp_path, network, data):
    book = ledger(tmp_path, network, data)
    book.delete([3])
    for name in ("request-00002", ".request-00002.draft"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows").write_text("left")
    (tmp_path / ".ledger.jsonl.77.tmp").write_text("left")
    assert read(tmp_path) is not None
    book.delete([4])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "head.json",
        "ledger.jsonl",
        "request-00001",
        "request-00002",
    ]
    assert (tmp_path / "request-00002" / "deletion.json").exists()


def test_a_request_that_fails_leaves_nothing(tmp_path, network, data):
    book = ledger(tmp_path, network, data)
    book.delete([3])
    before = content(tmp_path)
    with pytest.raises(UserError, match="diverged"):
        ledger(tmp_path, network, data, method="finetune epochs=3 optimizer.lr=1e30").delete([4])
    assert content(tmp_path) == before


# ---------------------------------------------------------------------- rows that are not in the data any more


def without(data, rows):
    (inputs, labels), unseen = data
    inputs = inputs.clone()
    inputs[rows] = 0
    return (inputs, labels), unseen


def test_rows_that_are_gone_may_be_zeros(tmp_path, network, data):
    ledger(tmp_path / "one", network, data).delete([3, 5])
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    whole = ledger(tmp_path / "one", network, data).delete([7])
    blank = ledger(tmp_path / "two", network, without(data, [3, 5])).delete([7])
    assert torch.equal(numbers(blank.model), numbers(whole.model))
    assert blank.rows == whole.rows
    assert blank.points["point"].tolist() == [point for point in whole.points["point"] if point not in (3, 5)]
    assert blank.metrics["margin/given/forget"] != whole.metrics["margin/given/forget"]
    ledger(tmp_path / "one", network, without(data, [3])).delete([8])  # some of them
    assert ledger(tmp_path / "one", network, data).gone == [3, 5, 7, 8]


def test_other_rows_may_not_be_zeros_and_rows_that_are_gone_nothing_else(tmp_path, network, data):
    ledger(tmp_path, network, data).delete([3])
    with pytest.raises(UserError, match="of other data"):
        ledger(tmp_path, network, without(data, [4]))
    (inputs, labels), unseen = data
    other = inputs.clone()
    other[3] += 1
    with pytest.raises(UserError, match="row 3 of train is neither zeros nor what was deleted"):
        ledger(tmp_path, network, ((other, labels), unseen))


def test_predictions_without_a_pool_need_the_rows_that_are_gone(tmp_path, network, data):
    ledger(tmp_path, network, data).delete([3])
    blank = ledger(tmp_path, network, without(data, [3]), method="dmm epochs=1")
    before = content(tmp_path)
    with pytest.raises(UserError, match="row 3 was deleted before and is zeros now"):
        blank.delete([5])
    assert content(tmp_path) == before


@pytest.mark.slow
def test_writers_that_are_killed_lose_nothing_and_leave_nothing(tmp_path):
    """A few kills; ``scripts/chaos.py --ledger --kills 40`` does more."""
    assert wrong_after_kills(tmp_path, kills=6, seed=0) == []


def test_a_network_in_half_precision_goes_on_as_it_was_written(tmp_path, data):
    torch.manual_seed(0)
    network = trained(Casting(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), *data[0]).to(torch.bfloat16)
    book = ledger(tmp_path, network, data)
    first = book.delete([3]).model
    assert next(first.parameters()).dtype == torch.bfloat16
    again = ledger(tmp_path, network, data)
    assert torch.equal(numbers(again.model), numbers(first))
    assert again.delete([5]).forgotten == [3, 5]
