"""What a person says of a request to delete stands in the record and on the page, and nowhere does it any harm."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from networks import blobs, trained
from torch import nn

from dmm_exp import Ledger, unlearn
from dmm_exp.commands.cli import main
from dmm_exp.errors import UserError, plain_text
from dmm_exp.files.writing import write_json
from dmm_exp.records.about import About
from dmm_exp.records.files import Unfit, read, signed
from dmm_exp.records.pool import Pool
from dmm_exp.records.result import Unlearned
from dmm_exp.store.store import SEAL

DATA = blobs(60, 3, 2)
GONE = [21, 3, 8]  # in no order
SAID: dict[str, Any] = {
    "reference": "DSR-2026-17",
    "requested_by": "Kundtjänst, Malmö",
    "operator": "privacy team",
    "reason": "consent withdrawn",
    "record_ids": ["C-21", 3, "C-8"],
}
TEXTS = ("reference", "requested_by", "operator", "reason")
NASTY = '<script>alert(1)</script>\x1b[31m"&\u202e\n\tend{{ 7*7 }}'
PLAIN = '<script>alert(1)</script>"& end{{ 7*7 }}'


@cache
def network() -> nn.Module:
    torch.manual_seed(0)
    return trained(nn.Linear(3, 2), *DATA, steps=10)


def deleted(**said: Any) -> Unlearned:
    return unlearn(network(), DATA, GONE, method="finetune epochs=1", progress=False, **said)


@pytest.fixture(scope="module")
def result() -> Unlearned:
    return deleted(**SAID)


def refused(call: Any) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_the_record_holds_what_was_said_and_the_id_of_each_row(result, tmp_path):
    found = read(result.save(tmp_path))["request"]
    assert {name: found[name] for name in TEXTS} == {name: SAID[name] for name in TEXTS}
    assert found["record_ids"] == [{"row": 3, "id": "3"}, {"row": 8, "id": "C-8"}, {"row": 21, "id": "C-21"}]


def test_what_is_said_changes_nothing_else(result):
    other = deleted()
    assert other.about == About()
    assert other.rows == result.rows
    assert other.weights == result.weights
    assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in result.model.state_dict().items())


def test_the_page_and_the_print_say_it_too(result, tmp_path):
    page = (result.save(tmp_path) / "report.html").read_text(encoding="utf-8")
    for text in (*(SAID[name] for name in TEXTS), "C-21", "C-8"):
        assert text in page
    assert "Reference: DSR-2026-17; requested by: Kundtjänst, Malmö; operator: privacy team" in str(result)
    assert "Reference" not in str(replace(result, about=About()))


def test_a_record_without_anything_said_says_nothing(tmp_path):
    found = read(deleted().save(tmp_path))["request"]
    assert set(found.values()) == {None}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "requested by" not in page
    assert "Record ids" not in page


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_escaped_on_the_page_and_hold_nothing_that_a_terminal_obeys(name, tmp_path):
    made = deleted(**{name: NASTY, "record_ids": [NASTY, "b", "c"]})
    found = read(made.save(tmp_path))["request"]
    assert found[name] == found["record_ids"][2]["id"] == PLAIN
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
    assert "{{ 7*7 }}" in page
    assert str(made).isprintable() or all(part.isprintable() for part in str(made).splitlines())


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b[2Jb", "ab"),
        ("\x9b31mred", "31mred"),
        ("a\r\nb\u2028c", "a b c"),
        ("\ud800x", "x"),
        ("عربي שלום 日本", "عربي שלום 日本"),
    ],
)
def test_what_a_terminal_obeys_is_taken_out_and_letters_stay(text, plain):
    assert plain_text(text) == plain


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"reference": "x" * 201}, "has 201 characters; expected at most 200"),
        ({"reason": "x" * 2001}, "has 2,001 characters; expected at most 2,000"),
        ({"operator": " \x1b[0m "}, r"operator=\\x1b\[0m: is empty"),
        ({"reference": 17}, "reference=17: is of type int; expected a text"),
        ({"record_ids": ["a", "b"]}, "record_ids: holds 2 ids; expected 3, one for each row .*, or 60"),
        ({"record_ids": "abc"}, "record_ids is a str; expected a list"),
        ({"record_ids": {"a": 1}}, "record_ids is a dict; expected a list"),
        ({"record_ids": ["a", None, "c"]}, r"record_ids: entry 2 is 'None' \(NoneType\)"),
        ({"record_ids": ["a", 1.5, "c"]}, r"record_ids: entry 2 is '1.5' \(float\)"),
        ({"record_ids": [True, False, True]}, r"record_ids: entry 1 is 'True' \(bool\)"),
        ({"record_ids": ["a", "y" * 201, "c"]}, "record_ids, entry 2=y+... has|record_ids, entry 2=y+.*: has 201"),
    ],
)
def test_what_cannot_stand_in_a_record_is_refused_in_a_sentence(said, sentence):
    assert re.search(sentence, refused(lambda: deleted(**said)))


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, torch.tensor])
def test_ids_may_be_those_of_all_training_rows(kind):
    found = deleted(record_ids=kind([1000 + row for row in range(60)])).about.record_ids
    assert found == {3: "1003", 8: "1008", 21: "1021"}


def test_ids_of_a_mask_are_in_the_order_of_the_training_set():
    mask = torch.zeros(60, dtype=torch.bool)
    mask[GONE] = True
    method = "finetune epochs=1"
    found = unlearn(network(), DATA, mask, method=method, record_ids=["a", "b", "c"], progress=False)
    assert found.about.record_ids == {3: "a", 8: "b", 21: "c"}


@pytest.mark.parametrize("name", [*TEXTS, "record_ids"])
def test_a_field_that_was_changed_by_hand_is_noticed(result, tmp_path, capsys, monkeypatch, name):
    path = result.save(tmp_path / "out") / "deletion.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert verified(path, monkeypatch, capsys)[0] == 0
    found["request"][name] = [{"row": 3, "id": "other"}] if name == "record_ids" else "somebody else"
    path.write_text(json.dumps(found), encoding="utf-8")
    code, out, err = verified(path, monkeypatch, capsys)
    assert (code, out) == (1, "")
    assert "its checksum does not fit its content" in err


def verified(path: Path, monkeypatch: Any, capsys: Any) -> tuple[Any, str, str]:
    monkeypatch.setattr("sys.argv", ["dmm-exp", "verify", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, *capsys.readouterr()


def test_verify_says_what_the_record_says_of_the_request(result, tmp_path, monkeypatch, capsys):
    code, out, _ = verified(result.save(tmp_path), monkeypatch, capsys)
    assert code == 0
    assert "the record says of the request: reference: DSR-2026-17; requested by: Kundtjänst, Malmö" in out
    assert "record ids: '3', 'C-8', 'C-21'" in out


def written_again(folder: Path, change: Any) -> None:
    """Change a record, and give it a fitting checksum again."""
    path = folder / "deletion.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    change(found)
    write_json(path, signed({name: value for name, value in found.items() if name != SEAL}, "record", None))


def test_a_record_of_an_earlier_version_is_read(result, tmp_path, monkeypatch, capsys):
    result.save(tmp_path)
    written_again(tmp_path, lambda found: (found.pop("request"), found["method"].pop("in_words")))
    assert "request" not in read(tmp_path)
    code, out, _ = verified(tmp_path, monkeypatch, capsys)
    assert code == 0
    assert "says of the request" not in out


@pytest.mark.parametrize("wrong", ["text", {"record_ids": [1]}, {"reference": 17}, {"record_ids": [{"id": "a"}, {}]}])
def test_a_request_that_is_none_is_said_to_be_none(result, tmp_path, monkeypatch, capsys, wrong):
    result.save(tmp_path)
    written_again(tmp_path, lambda found: found.update(request=wrong))
    code, _, err = verified(tmp_path, monkeypatch, capsys)
    assert code == 2
    assert "Traceback" not in err


def test_a_hostile_record_does_not_reach_the_terminal(result, tmp_path, monkeypatch, capsys):
    result.save(tmp_path)
    written_again(tmp_path, lambda found: found["request"].update(reference="\x1b[2Jgone"))
    assert "\x1b" not in verified(tmp_path, monkeypatch, capsys)[1]


def test_a_ledger_keeps_what_was_said_of_each_request(tmp_path):
    ledger = Ledger(tmp_path / "book", network(), DATA, method="finetune epochs=1", progress=False)
    ledger.delete([8, 3], reference="T-1", record_ids=["eight", "three"])
    second = ledger.delete([21], reference="T-2", record_ids=["twenty-one"])
    assert second.about == About(reference="T-2", record_ids={21: "twenty-one"})
    again = Ledger(tmp_path / "book", network(), DATA, method="finetune epochs=1", progress=False)
    assert again.delete([3, 8]).about == About(reference="T-1", record_ids={3: "three", 8: "eight"})
    assert again.delete([3, 8], reference="T-1").about.reference == "T-1"
    said = refused(lambda: again.delete([3, 8], reference="T-9"))
    assert "reference=T-9: these rows were deleted before" in said
    assert "has T-1 there" in said
    assert len(again.entries) == 2


def test_a_ledger_notices_a_record_with_something_else_in_it(tmp_path):
    ledger = Ledger(tmp_path, network(), DATA, method="finetune epochs=1", progress=False)
    ledger.delete([3], reference="T-1")
    written_again(tmp_path / "request-00001", lambda found: found["request"].update(reference="T-2"))
    with pytest.raises(Unfit):
        ledger.delete([8])


def test_what_a_record_says_of_rows_is_among_its_surfaces(result, tmp_path):
    (own,) = [entry["what"] for entry in read(result.save(tmp_path))["surfaces"] if entry["where"] == "deletion.json"]
    assert "your ids of them" in own
    assert "the facts about the request" in own


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("finetune epochs=1", "Finetune: continue training on the retain set alone"),
        ("dmm epochs=1", "DMM (datamodel matching) trains the network further until it answers as a network that was"),
    ],
)
def test_the_record_says_in_a_sentence_what_the_method_does(method, sentence, tmp_path):
    made = unlearn(network(), DATA, GONE, method=method, progress=False)
    found = read(made.save(tmp_path))["method"]["in_words"]
    assert found.startswith(sentence)
    assert sentence[:40] in (tmp_path / "report.html").read_text(encoding="utf-8")


def pool(lds: float | None) -> Pool:
    return Pool(Path("pool"), 400, {"epochs": 1}, {"_target_": "x"}, "0" * 64, [[0.5] * 500], 0, 900.0, 100.0, 540, lds)


@pytest.mark.parametrize(("lds", "poor"), [(None, True), (-0.1, True), (0.05, True), (0.19, True), (0.2, False)])
def test_a_poor_pool_is_said_to_be_poor_in_words(lds, poor):
    assert pool(lds).is_poor == poor
    assert ("or retrain" in pool(lds).quality) == (poor and lds is not None)


def test_a_printed_pool_is_short():
    lines = repr(pool(0.41)).splitlines()
    assert str(pool(0.41)) == repr(pool(0.41))
    assert len(lines) <= 4
    assert max(map(len, lines)) <= 120
    for text in ("540 models", "LDS 0.41", "15 min", "pool"):
        assert text in repr(pool(0.41))


def test_the_longest_texts_do_not_widen_the_page_of_a_phone(browser, tmp_path):
    longest = {name: "x" * (2000 if name == "reason" else 200) for name in TEXTS}
    deleted(**longest, record_ids=["y" * 200] * 3).save(tmp_path)
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    browser.open(tmp_path / "report.html")
    assert browser.value("document.documentElement.scrollWidth") == 390
    assert (browser.complaints, browser.requests) == ([], [])
