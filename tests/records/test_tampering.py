"""Whatever is changed in a ledger is noticed, and an error says what to do; what a receipt and a key add."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import trained
from torch import nn

from dmm_exp import Ledger, unlearn
from dmm_exp.commands.cli import main
from dmm_exp.errors import UserError
from dmm_exp.records.chain import CHAIN, HEAD, Receipt, text_of
from dmm_exp.records.chain_reading import read
from dmm_exp.records.files import Unfit, signed
from dmm_exp.records.signature import private_key, public_key
from dmm_exp.store.store import SEAL, is_intact

INPUTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()


@cache
def network() -> nn.Module:
    torch.manual_seed(0)
    return trained(nn.Linear(4, 2), INPUTS, LABELS)


def ledger(folder: Path, **options: Any) -> Ledger:
    return Ledger(folder, network(), (INPUTS, LABELS), method="finetune epochs=1", progress=False, **options)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of the author, and of somebody else."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    folder = tmp_path_factory.mktemp("keys")
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    form, public = serialization.PrivateFormat.PKCS8, serialization.PublicFormat.SubjectPublicKeyInfo
    for name in ("mine", "theirs"):
        key = ed25519.Ed25519PrivateKey.generate()
        (folder / f"{name}.pem").write_bytes(key.private_bytes(pem, form, plain))
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(pem, public))
        locked = key.private_bytes(pem, form, serialization.BestAvailableEncryption(b"secret"))
        (folder / "locked.pem").write_bytes(locked)
    other = rsa.generate_private_key(65537, 2048)
    (folder / "rsa.pem").write_bytes(other.private_bytes(pem, form, plain))
    (folder / "rsa.pub").write_bytes(other.public_key().public_bytes(pem, public))
    (folder / "text.pem").write_text("no key")
    return folder


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    """A ledger of three requests, a copy of it from when there were two, and one that is signed."""
    folder = tmp_path_factory.mktemp("books")
    for row in (3, 5, 7):
        if row == 7:
            shutil.copytree(folder / "plain", folder / "earlier")
        ledger(folder / "plain").delete([row])
        ledger(folder / "signed", key=keys / "mine.pem").delete([row])
    return folder


@pytest.fixture
def book(books: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(books / "plain", tmp_path / "book"))


@pytest.fixture
def signed_book(books: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(books / "signed", tmp_path / "book"))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / CHAIN).read_bytes().split(b"\n")[:-1]]


def write(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / CHAIN).write_text("".join(text_of(line) + "\n" for line in lines), encoding="utf-8")


def sealed_again(lines: list[dict[str, Any]], key: Any = None) -> list[dict[str, Any]]:
    """Return lines as somebody leaves them who computes all checksums again, and signs with a key of their own."""
    found: list[dict[str, Any]] = []
    for line in lines:
        plain = {name: value for name, value in line.items() if name not in (SEAL, "signature", "signed_by")}
        plain["before"] = found[-1][SEAL] if found else None
        found.append(signed(plain, "line of a ledger", key))
    return found


def write_again(folder: Path, lines: list[dict[str, Any]], key: Any = None) -> None:
    """Write lines and a head that fit together."""
    lines = sealed_again(lines, key)
    write(folder, lines)
    head = signed({"lines": len(lines), "last": lines[-1][SEAL]}, "head of a ledger", key)
    (folder / HEAD).write_text(text_of(head) + "\n")


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def edited(folder: Path, number: int, change: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    lines = lines_of(folder)
    change(lines[number])
    return lines


FIRST, LAST = "request-00001/unlearned.safetensors", "request-00003/unlearned.safetensors"
TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "the last line removed": (lambda at: write(at, lines_of(at)[:-1]), "1 of 4 lines are missing"),
    "two last lines removed": (lambda at: write(at, lines_of(at)[:-2]), "2 of 4 lines are missing"),
    "a header alone": (lambda at: write(at, lines_of(at)[:1]), "3 of 4 lines are missing"),
    "an empty file": (lambda at: (at / CHAIN).write_bytes(b""), "is empty, and head.json shows that there was"),
    "a missing file": (lambda at: (at / CHAIN).unlink(), "is missing, and head.json shows that there was"),
    "file and head missing": (
        lambda at: [(at / name).unlink() for name in (CHAIN, HEAD)],
        "is missing, and request-00001 shows",
    ),
    "file empty and head missing": (
        lambda at: [(at / CHAIN).write_bytes(b""), (at / HEAD).unlink()],
        "is empty, and request-00001 shows",
    ),
    "head removed": (lambda at: (at / HEAD).unlink(), "head.json: is missing"),
    "header alone and no head": (
        lambda at: [write(at, lines_of(at)[:1]), (at / HEAD).unlink()],
        "head.json",
    ),
    "head damaged": (lambda at: flip(at / HEAD, 20), "head.json"),
    "head of an earlier time": (
        lambda at: write_head(at, lines_of(at)[:2]),
        "knows 2 of 4 lines, it is from an earlier time",
    ),
    "head of no lines": (lambda at: write_head(at, lines_of(at)[:1], lines=0), "knows 0 of 4 lines"),
    "an edited line": (lambda at: write(at, edited(at, 2, lambda line: line.update(seed=9))), "line 3 was changed"),
    "an edited line, chain computed again": (
        lambda at: write(at, sealed_again(edited(at, 2, lambda line: line.update(seed=9)))),
        "line 4 is not the one that head.json knows",
    ),
    "edited rows, all computed again": (
        lambda at: write_again(at, edited(at, 2, lambda line: line.update(rows=[9]))),
        "names other rows than the ledger",
    ),
    "a row deleted twice": (
        lambda at: write_again(at, edited(at, 2, lambda line: line.update(rows=[3]))),
        "line 3 is no line of a ledger",
    ),
    "a duplicated line": (lambda at: write(at, [*lines_of(at), lines_of(at)[-1]]), "line 5 was changed, or another"),
    "a duplicated line, all computed again": (
        lambda at: write_again(at, [*lines_of(at), lines_of(at)[-1]]),
        "line 5 is no line of a ledger",
    ),
    "lines in another order": (
        lambda at: write(at, [lines_of(at)[n] for n in (0, 2, 1, 3)]),
        "line 2 was changed",
    ),
    "a line removed": (lambda at: write(at, [lines_of(at)[n] for n in (0, 2, 3)]), "line 2 was changed, or another"),
    "an earlier network overwritten": (lambda at: flip(at / FIRST), "is not the file that the ledger's line 2"),
    "the network overwritten": (lambda at: flip(at / LAST), "is not the file that the ledger's line 4"),
    "networks swapped": (lambda at: swap(at / FIRST, at / LAST), "is not the file that the ledger's line 2"),
    "a network missing": (lambda at: (at / FIRST).unlink(), "request-00001/unlearned.safetensors: is missing"),
    "a request's folder missing": (lambda at: shutil.rmtree(at / "request-00002"), "is missing; restore"),
    "a record changed": (lambda at: flip(at / "request-00002/deletion.json", 40), "is not the file that"),
    "a page changed": (lambda at: flip(at / "request-00002/report.html", 40), "is not the file that"),
    "points changed": (lambda at: flip(at / "request-00002/points.parquet", 40), "is not the file that"),
    "the chain is a link": (lambda at: linked(at / CHAIN), "is a symbolic link"),
    "the head is a link": (lambda at: linked(at / HEAD), "is a symbolic link"),
    "a network is a link": (lambda at: linked(at / FIRST), "is a symbolic link"),
    "a request is a link": (lambda at: linked(at / "request-00002"), "is a symbolic link"),
    "trailing garbage": (lambda at: append(at / CHAIN, b"x"), "does not end with a whole line"),
    "a trailing line": (lambda at: append(at / CHAIN, b"{}\n"), "line 5 was changed"),
    "an empty line": (lambda at: append(at / CHAIN, b"\n"), "line 5 was changed"),
    "no last line break": (lambda at: (at / CHAIN).write_bytes((at / CHAIN).read_bytes()[:-1]), "a whole line"),
    "garbage after the head": (lambda at: append(at / HEAD, b"\n\n"), "head.json was changed"),
    "spaces in a line": (lambda at: replace_in(at, b'"seed": 0', b'"seed":  0'), "was changed"),
    "a key twice": (lambda at: replace_in(at, b'"seed": 0', b'"seed": 1, "seed": 0'), "was changed"),
    "not a number": (lambda at: replace_in(at, b'"seed": 0', b'"seed": NaN'), "was changed"),
    "infinity": (lambda at: replace_in(at, b'"seed": 0', b'"seed": -Infinity'), "was changed"),
    "a number too large": (lambda at: replace_in(at, b'"seed": 0', b'"seed": 1e999'), "was changed"),
    "a number of many digits": (lambda at: replace_in(at, b'"seed": 0', b'"seed": ' + b"9" * 5000), "was changed"),
    "deep nesting": (lambda at: replace_in(at, b'"seed": 0', b'"seed": ' + b"[" * 10**5), "was changed"),
    "half a character": (lambda at: replace_in(at, b'"seed": 0', b'"seed": "\\ud800"'), "was changed"),
    "no text": (lambda at: replace_in(at, b'"seed": 0', b'"seed": "\xff"'), "was changed"),
    "the salt edited": (lambda at: write(at, edited(at, 0, lambda line: line.update(salt="00" * 16))), "line 1 was"),
    "a purge that names other files": (
        lambda at: write_again(at, [*lines_of(at), {"kind": "purge", "number": 4, "files": ["../../data"]}]),
        "line 5 is no line of a ledger",
    ),
    "a purge that names a record": (
        lambda at: write_again(
            at, [*lines_of(at), {"kind": "purge", "number": 4, "files": ["request-00001/deletion.json"]}]
        ),
        "line 5 is no line of a ledger",
    ),
}


def write_head(folder: Path, there: list[dict[str, Any]], **more: Any) -> None:
    head = signed({"lines": len(there), "last": there[-1][SEAL], **more}, "head of a ledger", None)
    (folder / HEAD).write_text(text_of(head) + "\n")


def append(path: Path, content: bytes) -> None:
    path.write_bytes(path.read_bytes() + content)


def replace_in(folder: Path, old: bytes, new: bytes) -> None:
    text = (folder / CHAIN).read_bytes()
    assert old in text
    (folder / CHAIN).write_bytes(text.replace(old, new, 1))


@pytest.mark.parametrize("what", TAMPERED)
def test_whatever_was_changed_is_noticed_and_the_error_says_what_to_do(book, capsys, monkeypatch, what):
    change, said = TAMPERED[what]
    change(book)
    before = {path: path.read_bytes() for path in book.rglob("*") if path.is_file()}
    with pytest.raises(Unfit) as error:
        read(book)
    assert said in str(error.value)
    assert "restore the ledger's folder from a backup" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(UserError):
        ledger(book)
    assert run(monkeypatch, book) == 1
    assert "does not fit" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in book.rglob("*") if path.is_file()} == before


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    monkeypatch.setattr(sys, "argv", ["dmm-exp", "verify", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_ledger_of_an_earlier_format_is_refused_in_one_sentence(tmp_path):
    line = {"format": 1, "data": "0", "network": "0", "before": None}
    (tmp_path / CHAIN).write_text(text_of(signed(line, "", None)) + "\n")
    with pytest.raises(UserError, match="format 1; this version goes on with format 2 only: begin a new ledger"):
        ledger(tmp_path)


def test_line_separators_in_texts_are_no_ends_of_lines(tmp_path):
    folder = tmp_path / "a\u2028b\x85c"
    ledger(folder).delete([3])
    assert ledger(folder).gone == [3]


def test_with_the_data_an_edited_salt_and_edited_digests_are_noticed_also_when_all_is_computed_again(book):
    for number, change in ((0, {"salt": "00" * 16}), (2, {"digests": ["0" * 64]})):
        write_again(book, edited(book, number, lambda line, change=change: line.update(change)))
        assert read(book) is not None
        with pytest.raises(Unfit, match="is neither zeros nor what was deleted"):
            ledger(book)


# ---------------------------------------------------------------------- receipts


def test_a_receipt_notices_what_was_rolled_back_or_written_again(book, books, monkeypatch, capsys):
    receipts = [Receipt(line["number"], line[SEAL]) for line in lines_of(book)[1:]]
    assert str(ledger(book).receipt) == str(receipts[-1])
    for receipt in receipts:
        assert run(monkeypatch, book, "--receipt", receipt) == 0
    rolled = books / "earlier"
    assert read(rolled) is not None  # nothing else tells
    with pytest.raises(Unfit, match="was rolled back: the receipt is of line 3, there are 2"):
        ledger(rolled, receipt=receipts[-1])
    assert run(monkeypatch, rolled, "--receipt", receipts[-1]) == 1
    assert run(monkeypatch, rolled, "--receipt", receipts[1]) == 0
    write_again(book, edited(book, 2, lambda line: line.update(seed=9)))
    assert read(book) is not None
    with pytest.raises(Unfit, match="line 3 is not the one that the receipt is of"):
        ledger(book, receipt=str(receipts[-1]))
    assert read(book, receipt=receipts[0]) is not None  # of what was before
    shutil.rmtree(book)
    with pytest.raises(Unfit, match="holds no ledger, but the receipt"):
        ledger(book, receipt=receipts[0])


@pytest.mark.parametrize("text", ["", "3", "3-abc", f"x-{'0' * 64}", f"-1-{'0' * 64}", f"{'9' * 20}-{'0' * 64}"])
def test_what_is_no_receipt_is_refused(book, monkeypatch, text):
    with pytest.raises(UserError, match="expected a receipt as a ledger gives it"):
        ledger(book, receipt=text)
    assert run(monkeypatch, book, f"--receipt={text}") == 2


def test_a_receipt_is_one_word_that_can_be_read_again(book):
    receipt = ledger(book).receipt
    assert receipt is not None
    assert Receipt.read(f" {receipt}\n") == receipt
    assert len(str(receipt).split()) == 1


# ---------------------------------------------------------------------- keys


def test_a_signed_ledger_is_gone_on_with_by_its_key_alone(signed_book, keys):
    assert ledger(signed_book).gone == [3, 5, 7]
    assert ledger(signed_book).delete([3]).forgotten == [3]
    for options, said in (({}, "this ledger is signed"), ({"key": keys / "theirs.pem"}, "is signed with another key")):
        with pytest.raises(UserError, match=said):
            ledger(signed_book, **options).delete([9])
    assert ledger(signed_book, key=keys / "mine.pem").delete([9]).forgotten == [3, 5, 7, 9]
    assert read(signed_book, public_key(keys / "mine.pub")) is not None


def test_a_ledger_without_signatures_does_not_get_some_later(book, keys):
    with pytest.raises(UserError, match="is not signed; expected the signature of the given key"):
        ledger(book, key=keys / "mine.pem")


@pytest.mark.parametrize("signer", [None, "theirs"])
def test_a_key_notices_what_was_written_again(signed_book, keys, monkeypatch, capsys, signer):
    key = None if signer is None else private_key(keys / f"{signer}.pem")
    write_again(signed_book, edited(signed_book, 2, lambda line: line.update(seed=9)), key)
    assert read(signed_book) is not None  # nothing else tells
    assert run(monkeypatch, signed_book, "--key", keys / "mine.pub") == 1
    assert "expected the signature of the given key" in capsys.readouterr().err


def test_parts_of_a_signature_that_are_changed_are_noticed(signed_book):
    lines, head = lines_of(signed_book), (signed_book / HEAD).read_text()
    changed = [
        [*lines[:2], {**lines[2], "signature": lines[1]["signature"]}, lines[3]],
        [*lines[:2], {name: value for name, value in lines[2].items() if name != "signature"}, lines[3]],
        [*lines[:2], {**lines[2], "signature": 3}, lines[3]],
    ]
    for these in changed:
        write(signed_book, these)
        with pytest.raises(Unfit, match="line 3: its signature does not fit"):
            read(signed_book)
    write(signed_book, lines)
    unsigned = {name: value for name, value in json.loads(head).items() if name != "signature"}
    (signed_book / HEAD).write_text(text_of(unsigned) + "\n")
    with pytest.raises(Unfit, match=r"head\.json: its signature does not fit"):
        read(signed_book)
    write_head(signed_book, lines)
    with pytest.raises(Unfit, match=r"head\.json: is not signed like the ledger"):
        read(signed_book)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.pem", "cannot be read"),
        ("rsa.pem", "is a RSAPrivateKey"),
        ("locked.pem", "is protected by a password"),
        ("text.pem", "holds no private key in PEM"),
        ("mine.pub", "holds no private key in PEM"),
    ],
)
def test_a_key_that_cannot_sign_is_refused_before_anything_is_written(tmp_path, keys, name, said):
    with pytest.raises(UserError, match=said) as error:
        ledger(tmp_path / "book", key=keys / name)
    assert "expected the private Ed25519 key" in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("mine.pem", "is a private key"), ("rsa.pub", "is a RSAPublicKey"), ("text.pem", "holds no public key")],
)
def test_a_key_that_cannot_be_compared_with_is_bad_usage(signed_book, keys, monkeypatch, capsys, name, said):
    assert run(monkeypatch, signed_book, "--key", keys / name) == 2
    assert said in capsys.readouterr().err


def test_without_the_package_a_key_is_refused_in_one_sentence(tmp_path, keys, signed_book, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(UserError, match=r"signatures need the package cryptography: pip install 'dmm_exp\[sign\]'"):
        ledger(tmp_path / "new", key=keys / "mine.pem")
    assert run(monkeypatch, signed_book) == 2
    assert "dmm_exp[sign]" in capsys.readouterr().err


def test_a_record_of_its_own_is_signed(tmp_path, keys, monkeypatch, capsys):
    result = unlearn(network(), (INPUTS, LABELS), [3], method="finetune epochs=1", progress=False)
    folder = result.save(tmp_path / "out", key=keys / "mine.pem")
    assert run(monkeypatch, folder, "--key", keys / "mine.pub") == 0
    assert "fits: the signature of the given key" in capsys.readouterr().out
    assert run(monkeypatch, folder / "deletion.json") == 0
    assert "signed by" in capsys.readouterr().out
    assert run(monkeypatch, folder, "--key", keys / "theirs.pub") == 1
    assert run(monkeypatch, result.save(tmp_path / "plain"), "--key", keys / "mine.pub") == 1
    found = json.loads((folder / "deletion.json").read_text())
    found["signature"] = found["signature"][::-1]
    (folder / "deletion.json").write_text(json.dumps(found))
    assert run(monkeypatch, folder) == 1


# ---------------------------------------------------------------------- the command


def test_verify_says_what_was_checked_and_what_that_does_not_show(signed_book, keys, monkeypatch, capsys):
    assert run(monkeypatch, signed_book, "--key", keys / "mine.pub") == 0
    said = capsys.readouterr().out
    assert "fits: 3 requests that deleted 3 rows" in said
    assert "not shown: that no last lines were removed" in said
    assert "never shown: that the rows' influence is gone" in said


@pytest.mark.parametrize("make", [lambda at: None, lambda at: at.mkdir(), lambda at: at.write_text("x")])
def test_what_is_neither_ledger_nor_record_is_bad_usage(tmp_path, monkeypatch, capsys, make):
    make(tmp_path / "x")
    assert run(monkeypatch, tmp_path / "x") == 2
    assert "holds neither ledger.jsonl nor deletion.json" in capsys.readouterr().err
    assert run(monkeypatch) == 2
    assert run(monkeypatch, tmp_path, "--what") == 2


def test_verify_starts_without_torch(book):
    code = (
        "import sys; sys.argv = ['dmm-exp', 'verify', sys.argv[1]]\n"
        "from dmm_exp.commands.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    assert not {'torch', 'lightning', 'pandas', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(book)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_process_that_was_killed_before_the_head_is_told(book, monkeypatch, capsys):
    write_head(book, lines_of(book)[:3])
    assert run(monkeypatch, book) == 0
    assert "head.json is one line behind" in capsys.readouterr().out
    ledger(book).delete([7])  # is there, and the head is completed
    assert run(monkeypatch, book) == 0
    assert "behind" not in capsys.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_cannot_be_sealed_is_not_intact(value):
    assert not is_intact({"value": value, SEAL: "0"})
