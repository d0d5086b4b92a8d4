"""``python -m dmm_exp.unlearn``."""

import errno
import json
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from networks import checkpoint
from safetensors.torch import load_file

from dmm_exp import prepare
from dmm_exp.commands.cli import main
from dmm_exp.deletion.command import Keys
from dmm_exp.files.writing import settle
from dmm_exp.records.files import read as read_record
from dmm_exp.records.record import write

POOL = ["request.checkpoint=net.pt", "request.recipe=true", "request.pool=p", "request.size=40"]
ASKED = ["request.checkpoint=net.pt", "forget.indices=rows.csv", "unlearner=finetune"]
SMALL = ["model.network.hidden=[8]", "executor=local", "unlearner.epochs=1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint(SMALL, 20)
    (tmp_path / "rows.csv").write_text("row\n3\n1\n4\n")
    return tmp_path


def start(monkeypatch, capsys, *arguments):
    own = [] if any(text.startswith("request.purge") for text in arguments) else SMALL
    monkeypatch.setattr(sys, "argv", ["dmm-exp", "unlearn", *own, *arguments])
    return end(capsys)


def end(capsys):
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_rows_go_from_a_checkpoint(folder, monkeypatch, capsys):
    code, out, err = start(
        monkeypatch, capsys, "request.checkpoint=net.pt", "forget.indices=rows.csv", "unlearner=finetune", "seed=1"
    )
    assert code == 0, err
    assert out.splitlines()[-1] == "unlearned"
    record = json.loads((folder / "unlearned/deletion.json").read_text())
    assert "[1, 3, 4]" in json.dumps(record)
    before, after = torch.load("net.pt"), load_file("unlearned/unlearned.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert (folder / "unlearned/report.html").exists()
    again = start(monkeypatch, capsys, "request.checkpoint=net.pt", "forget.indices=rows.csv", "unlearner=finetune")
    assert again[0] == 2
    assert "holds the record of a deletion" in again[2]


def test_of_two_networks_in_a_file_one_is_named(folder, monkeypatch, capsys):
    network = torch.load("net.pt")
    other = {name: torch.randn_like(value) for name, value in network.items()}
    both = {f"teacher.{name}": value for name, value in other.items()} | {f"student.{n}": v for n, v in network.items()}
    torch.save({"state_dict": both}, "both.pt")
    asked = ["request.checkpoint=both.pt", "forget.indices=rows.csv", "unlearner=finetune"]
    code, _, err = start(monkeypatch, capsys, *asked)
    assert code == 2
    assert "say which one with request.prefix=state_dict." in err
    assert start(monkeypatch, capsys, *asked, "request.prefix=student.")[0] == 0
    assert start(monkeypatch, capsys, *asked[1:], "request.checkpoint=net.pt", "request.output=alone")[0] == 0
    one, alone = (load_file(f"{name}/unlearned.safetensors") for name in ("unlearned", "alone"))
    assert all(torch.equal(one[name], alone[name]) for name in alone)


def test_a_pool_is_prepared_for_the_attribution_that_is_asked_for(folder, monkeypatch, capsys):
    asked = [*POOL, "forget.indices=rows.csv", "unlearner=finetune"]
    wrong = start(monkeypatch, capsys, *asked, "request.attribution=trak")
    assert "attribution=trak: expected 'best', 'empirical_bayes'" in wrong[2]
    assert not (folder / "p").exists()
    for number, more in enumerate([["request.attribution=empirical_bayes"], []]):
        assert start(monkeypatch, capsys, *asked, *more, f"request.output=out{number}")[0] == 0
        assert json.loads((folder / "p" / "pool.json").read_text())["attribution"] == "empirical_bayes"
    other = start(monkeypatch, capsys, *asked, "request.attribution=best", "request.output=other")
    assert "attribution=best: p holds a pool for empirical_bayes" in other[2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors | {"9.weight": torch.ones(2)}, "holds tensors that the network does not have"),
        (lambda tensors: {name: 0 * value for name, value in tensors.items()}, "where chance gives"),
        (lambda tensors: {n: v[..., torch.arange(len(v) - 1, -1, -1), :] if v.shape[0] == 10 and v.ndim > 1 else v
                          for n, v in tensors.items()}, "same order of classes"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("more", [[], POOL[1:], ["request.ledger=book"]])
def test_a_network_that_does_not_fit_is_refused_and_nothing_is_written(folder, monkeypatch, capsys, change, said, more):
    torch.save(change(torch.load("net.pt")), "net.pt")
    code, _, err = start(monkeypatch, capsys, "request.checkpoint=net.pt", "forget.indices=rows.csv", *more)
    assert code == 2
    assert len([line for line in err.splitlines() if "rows to delete" not in line]) == 1
    assert said in err
    assert not list(folder.rglob("deletion.json"))
    assert not (folder / "p").exists()


def test_the_normalisation_of_a_dataset_is_in_the_record_and_can_be_turned_off(folder, monkeypatch, capsys):
    off = "dataset.normalisation={_target_: dmm_exp.data.Normalisation, scale: 1, mean: [0], std: [1]}"
    docs = (Path(__file__).parents[2] / "docs" / "unlearn_your_model.md").read_text()
    assert off in docs
    asked = ["request.checkpoint=net.pt", "forget.indices=rows.csv", "unlearner=finetune"]
    assert start(monkeypatch, capsys, *asked)[0] == 0
    assert start(monkeypatch, capsys, *asked, off, "request.output=raw")[0] == 0
    constants = [json.loads((folder / name / "deletion.json").read_text())["network"]["normalisation"]
                 for name in ("unlearned", "raw")]  # fmt: skip
    assert constants == [{"scale": 16, "mean": [0.305], "std": [0.376]}, None]


def test_a_ledger_is_gone_on_with(folder, monkeypatch, capsys):
    asked = ["request.checkpoint=net.pt", "forget.indices=rows.csv", "unlearner=finetune", "request.ledger=book"]
    assert start(monkeypatch, capsys, *asked)[0] == 0
    (folder / "rows.csv").write_text("7\n")
    code, _, err = start(monkeypatch, capsys, *asked, "request.output=second")
    assert code == 0, err
    assert "[1, 3, 4, 7]" in json.dumps(json.loads((folder / "second/deletion.json").read_text()))
    assert len((folder / "book/ledger.jsonl").read_text().splitlines()) == 3


def test_the_same_request_to_a_ledger_again_gives_what_it_keeps(folder, monkeypatch, capsys):
    asked = [*ASKED, "request.ledger=book"]
    code, out, err = start(monkeypatch, capsys, *asked)
    assert code == 0, err
    receipt = (folder / "unlearned/receipt.txt").read_text().strip()
    assert receipt in err
    before = content(folder)
    assert start(monkeypatch, capsys, *asked)[:2] == (0, out)  # the record is there
    assert content(folder) == before
    assert start(monkeypatch, capsys, *asked, "request.output=again", f"request.receipt={receipt}")[0] == 0
    for name in ("deletion.json", "unlearned.safetensors", "report.html", "points.parquet", "receipt.txt"):
        assert (folder / "again" / name).read_bytes() == before[f"unlearned/{name}"]
    (folder / "again/deletion.json").write_text("{}")
    code, _, err = start(monkeypatch, capsys, *asked, "request.output=again")
    assert (code, "holds the record of a deletion" in err) == (2, True)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_record_that_could_not_be_saved_is_in_the_ledger_and_comes_with_the_same_request(folder, monkeypatch, capsys):
    asked = [*ASKED, "request.ledger=book"]
    with monkeypatch.context() as patch:
        patch.setattr("dmm_exp.records.record._replace", full)
        code, _, err = start(monkeypatch, capsys, *asked)
    assert code == 2
    assert "the disk is full" in err
    code, _, err = start(monkeypatch, capsys, *asked)
    assert code == 0, err
    assert (folder / "unlearned/deletion.json").read_bytes() == (
        folder / "book/request-00001/deletion.json"
    ).read_bytes()
    assert len((folder / "book/ledger.jsonl").read_text().splitlines()) == 2


def full(*arguments):
    raise OSError(errno.ENOSPC, "full", "unlearned")


def key_in(folder):
    """Write a private key into a folder and return the name of its file."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    return "key.pem"


def test_a_signed_ledger_is_purged_with_its_key(folder, monkeypatch, capsys):
    key_in(folder)
    asked = [*ASKED, "request.ledger=book", "request.key=key.pem"]
    assert start(monkeypatch, capsys, *asked)[0] == 0
    (folder / "rows.csv").write_text("7\n")
    assert start(monkeypatch, capsys, *asked, "request.output=second")[0] == 0
    assert json.loads((folder / "second/deletion.json").read_text())["signature"]
    monkeypatch.setattr(sys, "argv", ["dmm-exp", "unlearn", "request.purge=book"])
    assert end(capsys)[0] == 2
    monkeypatch.setattr(sys, "argv", ["dmm-exp", "unlearn", "request.purge=book", "request.key=key.pem"])
    code, out, err = end(capsys)
    assert code == 0, err
    assert "removed: book/request-00001/unlearned.safetensors" in out
    assert "remains: book/request-00002/unlearned.safetensors" in out
    assert out.splitlines()[-1] == "book"
    assert not (folder / "book/request-00001/unlearned.safetensors").exists()


def test_a_pool_is_purged_of_the_rows_of_a_file(folder, monkeypatch, capsys):
    network = torch.nn.Linear(3, 2)
    inputs = torch.randn(40, 3)
    prepare(network, (inputs, torch.arange(40) % 2), {"epochs": 1}, "p", size=40, progress=False)
    (copy,) = folder.glob("p/artifacts/dataset/*/examples.safetensors")
    for arguments, there in (([], True), (["forget.indices=rows.csv"], False)):
        monkeypatch.setattr(sys, "argv", ["dmm-exp", "unlearn", "request.purge=p", *arguments])
        code, out, err = end(capsys)
        assert code == 0, err
        assert (inputs[3].numpy().tobytes() in copy.read_bytes()) == there
        assert inputs[2].numpy().tobytes() in copy.read_bytes()
    assert "erased: p/artifacts/dataset: inputs of 3 rows" in out
    monkeypatch.setattr(sys, "argv", ["dmm-exp", "unlearn", "request.purge=p", "forget=rum_high_mem"])
    code, _, err = end(capsys)
    assert (code, "needs scores" in err) == (2, True)


def test_sigterm_leaves_no_temporary_folder_and_the_next_start_removes_those_of_killed_processes(
    folder, monkeypatch, capsys
):
    temporary = folder / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    ended = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    seen = []

    def terminated(*arguments, **more):
        seen.extend(temporary.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("dmm_exp.deletion.deletion.Work.carry_out", terminated)
        code, _, err = start(monkeypatch, capsys, *ASKED)
    signal.signal(signal.SIGTERM, ended)
    assert code == 143
    assert err.strip().splitlines()[-1] == "interrupted; the same command goes on where this one stopped"
    assert len(seen) == 1
    assert list(temporary.iterdir()) == []
    assert not (folder / "unlearned").exists()


FILES = ("unlearned.safetensors", "points.parquet", "report.html", "deletion.json")


def interrupted(*arguments, **more):
    raise KeyboardInterrupt


def interrupted_after(function, times, of=lambda *arguments: True):
    """Return a function that does the same, and is interrupted after it was called so often with such arguments."""
    calls = []

    def call(*arguments, **more):
        found = function(*arguments, **more)
        calls.extend([arguments] if of(*arguments) else [])
        if len(calls) == times:
            raise KeyboardInterrupt
        return found

    return call


def into_place(source, target):
    return target.parent.name == "unlearned"


STEPS = {
    "put into place": ("dmm_exp.records.record.os.replace", os.replace, into_place, len(FILES)),
    "on the disk": ("dmm_exp.records.record.settle", settle, lambda path: True, len(FILES) + 1),
    "written": ("dmm_exp.records.result.write", write, lambda *arguments: True, 1),
}


@pytest.mark.parametrize(("step", "times"), [(step, n + 1) for step, made in STEPS.items() for n in range(made[3])])
@pytest.mark.parametrize("more", [[], ["request.ledger=book"]])
def test_an_interrupted_deletion_is_finished_by_the_same_command(folder, monkeypatch, capsys, step, times, more):
    name, function, of, _ = STEPS[step]
    with monkeypatch.context() as patch:
        patch.setattr(name, interrupted_after(function, times, of))
        code, _, err = start(monkeypatch, capsys, *ASKED, *more)
    assert (code, "the same command goes on" in err) == (130, True)
    code, out, err = start(monkeypatch, capsys, *ASKED, *more)
    assert code == 0, err
    assert out.splitlines()[-1] == "unlearned"
    assert {path.name for path in (folder / "unlearned").iterdir()} == {*FILES, *(["receipt.txt"] if more else [])}
    assert read_record("unlearned")["removed"]["indices"] == [1, 3, 4]
    assert start(monkeypatch, capsys, *ASKED, *more, "request.output=whole")[0] == 0
    one, whole = (load_file(f"{name}/unlearned.safetensors") for name in ("unlearned", "whole"))
    assert all(torch.equal(one[name], whole[name]) for name in whole)


def test_the_same_command_again_makes_nothing_again_but_what_is_missing(folder, monkeypatch, capsys):
    code, out, err = start(monkeypatch, capsys, *ASKED, "seed=1")
    assert code == 0, err
    before = content(folder)
    with monkeypatch.context() as patch:
        patch.setattr("dmm_exp.deletion.deletion.Work.carry_out", interrupted)
        code, again, err = start(monkeypatch, capsys, *ASKED, "seed=1")
    assert (code, again, content(folder)) == (0, out, before)
    assert "holds this deletion already" in err
    assert "not verified" in err  # what to beware of is said again
    for name in FILES[:-1]:
        (folder / "unlearned" / name).unlink()
        assert start(monkeypatch, capsys, *ASKED, "seed=1")[0] == 0
        assert (folder / "unlearned" / name).exists()


@pytest.mark.parametrize(
    "other", ["seed=2", "unlearner.epochs=2", "unlearner=scrub", "request.budget=1000", "rows", "network", "key"]
)
def test_the_record_of_another_deletion_is_not_replaced(folder, monkeypatch, capsys, other):
    assert start(monkeypatch, capsys, *ASKED)[0] == 0
    if other == "rows":
        (folder / "rows.csv").write_text("row\n3\n1\n5\n")
    if other == "network":
        torch.save({name: value + 0.001 for name, value in torch.load("net.pt").items()}, "net.pt")
    if other == "key":
        other = f"request.key={key_in(folder)}"
    code, _, err = start(monkeypatch, capsys, *ASKED, *([other] if "=" in other else []))
    assert (code, "holds the record of a deletion" in err) == (2, True), err
    assert read_record("unlearned")["removed"]["indices"] == [1, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["forget.indices=rows.csv"], "request.checkpoint: has no value"),
        (["request.checkpoint=no.pt", "forget.indices=rows.csv"], "there is no such file"),
        (["request.checkpoint=net.pt"], "forget.indices has no value"),
        (["request.checkpoint=net.pt", "forget.indices=rows.csv", "request.outptu=x"], "did you mean 'output'"),
        (["request.checkpoint=net.pt", "forget.indices=rows.csv", "request.verify=x"], "request.verify=x"),
        (["request.checkpoint=net.pt", "forget.indices=rows.csv", "request.verify=5"], "give recipe="),
        (["request.checkpoint=net.pt", "forget.indices=rows.csv", "request.pool=p"], "request.recipe=true"),
        (["request.checkpoint=net.pt", "forget.indices=rows.csv", "model.network.hidden=[9]"], "checkpoint of this"),
        ([*POOL, "forget.indices=rows.csv", "request.verify=2"], "expected 0 for none"),
        ([*POOL, "forget.indices=rows.csv", "unlearner=oracle_matching"], "is a reference"),
        ([*POOL, "forget.indices=rows.csv", "request.ledger=book", "request.verify=5"], "single requests"),
        (["request.checkpoint=net.pt", "forget=rum_high_mem"], "needs scores"),
        (["request.checkpoint=net.pt", "forget.indices=rows.csv", "unlearner=oracle_matching"], "is a reference"),
        (["forget.indices=rows.csv", "-m"], "one request"),
        ([*ASKED, "request.output=rows.csv"], "request.output=rows.csv: cannot be written"),
        ([*ASKED, "request.output=rows.csv/out"], "request.output=rows.csv/out: cannot be written"),
        ([*ASKED, f"request.output={'x' * 300}"], "cannot be written"),
        ([*ASKED, "request.output=/proc/out"], "request.output=/proc/out: cannot be written"),
        ([*ASKED, "request.ledger=book", "request.output=net.pt/a/b"], "request.output=net.pt/a/b: cannot be written"),
        ([*ASKED, "request.key=nowhere.pem"], "request.key=nowhere.pem: cannot be read"),
        ([*ASKED, "request.ledger=book", "request.key=rows.csv"], "request.key=rows.csv: holds no private key"),
        ([*ASKED, "request.ledger=book", "request.receipt=x3"], "request.receipt=x3: expected a receipt"),
        ([*ASKED, "request.receipt=x3"], "expected request.ledger=FOLDER beside it"),
        (["request.purge=nowhere"], "request.purge=nowhere: holds neither ledger.jsonl nor pool.json"),
        (["request.purge=x", "request.checkpoint=net.pt"], "request.checkpoint: is no part of a purge"),
        (["request.purge=x", "unlearner=scrub"], "unlearner=scrub: is no part of a purge"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(folder, monkeypatch, capsys, arguments, said):
    before = sorted(path.name for path in folder.iterdir())
    code, _, err = start(monkeypatch, capsys, *arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert said in err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_module_is_the_function_when_it_is_imported():
    import dmm_exp.unlearn

    assert dmm_exp.unlearn is dmm_exp.deletion.unlearn


def test_help_says_every_key(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "dmm_exp.unlearn", raising=False)  # so that it is the module that is started
    monkeypatch.setattr(sys, "argv", ["unlearn", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("dmm_exp.unlearn", run_name="__main__")
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(f"request.{key}=" in out for key in Keys.__dataclass_fields__)
