"""``request.reference=…`` and its kin: what is said of a request, by command."""

from __future__ import annotations

import json
from typing import Any

import pytest
from networks import checkpoint

from dmm_exp.commands.cli import main

SMALL = ["model.network.hidden=[8]", "executor=local", "unlearner.epochs=1"]
ASKED = ["request.checkpoint=net.pt", "forget.indices=rows.csv", "forget.column=row", "unlearner=finetune"]
SAID = [
    "request.reference=4711",
    "request.requested_by=customer service, Lund",
    "request.operator='K, L'",
    "request.reason=a=b",
]
IDS = ["request.record_ids=rows.csv", "request.id_column=customer"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint(SMALL, 20)
    (tmp_path / "rows.csv").write_text("row,customer\n9,C-9\n1,007\n4,C 4\n")
    return tmp_path


@pytest.fixture
def start(folder, monkeypatch, capsys):
    def run(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr("sys.argv", ["dmm-exp", "unlearn", *SMALL, *ASKED, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


def record(folder, name="unlearned"):
    return json.loads((folder / name / "deletion.json").read_text(encoding="utf-8"))


def test_the_record_holds_what_was_said_by_command(folder, start):
    code, _, err = start(*SAID, *IDS)
    assert code == 0, err
    assert record(folder)["request"] == {
        "reference": "4711",
        "requested_by": "customer service, Lund",
        "operator": "K, L",
        "reason": "a=b",
        "record_ids": [{"row": 1, "id": "007"}, {"row": 4, "id": "C 4"}, {"row": 9, "id": "C-9"}],
    }


def test_the_same_command_finds_its_record_and_another_reference_is_another_command(folder, start):
    assert start(*SAID)[0] == 0
    when = record(folder)["when"]
    assert "holds this deletion already" in start(*SAID)[2]
    assert record(folder)["when"] == when
    assert "holds the record of a deletion; expected a new folder" in start("request.reference=4712")[2]
    assert start("request.output=plain")[0] == 0
    assert "holds this deletion already" in start("request.output=plain")[2]


@pytest.mark.parametrize("content", ["C-9\n007\nC 4\n", "".join(f"{'x' * (row == 7)}{row}\n" for row in range(1500))])
def test_a_file_of_one_column_has_an_id_on_each_line(folder, start, content):
    (folder / "ids.txt").write_text(content)
    count = len(content.splitlines())
    code, _, err = start("request.record_ids=ids.txt")
    if count == 3:
        assert record(folder)["request"]["record_ids"][0] == {"row": 1, "id": "007"}
    else:  # neither the rows nor the training set
        assert code == 2
        assert "request.record_ids: holds 1,500 ids; expected 3, one for each row" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["request.id_column=customer"], "request.id_column: is a column of request.record_ids; expected that"),
        (["request.record_ids=no.csv"], "request.record_ids=no.csv: there is no such file"),
        (["request.record_ids=net.pt"], "request.record_ids=net.pt: expected a file ending in .txt"),
        (["request.record_ids=rows.csv"], "choose one, as in request.id_column=0"),
        (["request.record_ids=rows.csv", "request.id_column=custmer"], "did you mean 'customer'?"),
        (["request.refrence=T"], "did you mean 'reference'?"),
        (["reference=T"], "there is no key 'reference'; did you mean 'request.reference=T'?"),
        (["request.reason=" + 2001 * "x"], "request.reason=xxx"),
        (["request.operator=' '"], "request.operator=: is empty"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence_and_nothing_is_written(folder, start, words, said):
    code, _, err = start(*words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert not list(folder.rglob("deletion.json"))


def test_a_ledger_has_it_too_and_refuses_to_say_otherwise(folder, start):
    book = "request.ledger=book"
    assert start(book, *SAID, *IDS)[0] == 0
    assert record(folder) == record(folder, "book/request-00001")
    assert record(folder)["request"]["reference"] == "4711"
    assert start(book, "request.output=again")[0] == 0
    code, _, err = start(book, "request.reference=5", "request.output=other")
    assert code == 2
    assert "request.reference=5: these rows were deleted before, and the ledger's record has 4711 there" in err


def test_the_help_names_every_key(start):
    _, out, _ = start("--help")
    for name in ("reference", "requested_by", "operator", "reason", "record_ids", "id_column"):
        assert f"request.{name}=" in out
