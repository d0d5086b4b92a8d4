"""Reading a ledger: its lines and files are accepted only as they were written. Needs neither torch nor the data."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from dmm_exp.errors import shown
from dmm_exp.files.reading import Json, machine_memory, read_bytes
from dmm_exp.files.writing import checksum_once
from dmm_exp.records.chain import (
    CHAIN,
    FORMAT,
    HEAD,
    HEAD_OF,
    HEADER,
    LINE_OF,
    PURGE,
    REMOVABLE,
    REQUEST,
    Chain,
    Receipt,
    text_of,
)
from dmm_exp.records.files import FILES, RECORD, Unfit, check_signature, is_whole, read_whole
from dmm_exp.records.signature import SIGNER
from dmm_exp.store.store import SEAL

HEX = re.compile("[0-9a-f]{64}")
PURGED = re.compile(f"request-[0-9]{{5,9}}/({'|'.join(map(re.escape, REMOVABLE))})")  # what a purge may name
ATTEMPTS = 100  # at most, at reading both files while another process writes them


def read(folder: Path, public: str | None = None, receipt: Receipt | None = None) -> Chain | None:
    """Return the checked chain of a ledger, None where there is no ledger yet. Nothing is changed.

    Args:
        folder: of the ledger.
        public: the public key, in hexadecimal, that it must be signed with.
        receipt: of a line that it must have.

    Raises:
        Unfit: something is not as it was written.
    """
    text, head = _read_files(folder)
    requests = sorted(path.name for path in folder.glob("request-*")) if folder.is_dir() else []
    if not text:
        if text is None and head is None and not requests:
            if receipt is not None:
                _refuse(f"{folder}: holds no ledger, but the receipt is of one that had {receipt.number} lines")
            return None
        trace = HEAD if head is not None else (requests or [CHAIN])[0]
        state = "missing" if text is None else "empty"
        _refuse(f"{folder / CHAIN}: is {state}, and {trace} shows that there was a ledger")
    lines = _lines(folder / CHAIN, text)
    chain = Chain(folder, tuple(lines), _is_headed(folder, lines, head, requests))
    _check_signatures(chain, public)
    _check_lines(chain)
    gone: list[int] = []
    for number, line in enumerate(chain.requests, 1):
        gone = sorted([*gone, *line["rows"]])
        _check_files(chain, number, line)
        _check_record(chain.path(number) / RECORD, gone)
    if receipt is not None:
        _check_receipt(chain, receipt)
    return chain


def _refuse(sentence: str) -> NoReturn:
    raise Unfit(f"{sentence}; restore the ledger's folder from a backup")


def _read_files(folder: Path) -> tuple[bytes | None, Json | None]:
    """Return the chain's bytes, and the head, which was the same before and after the chain was read."""
    text = head = None
    for _ in range(ATTEMPTS):
        head, text, head_after = (_bytes(folder / name) for name in (HEAD, CHAIN, HEAD))
        if head == head_after:
            break
    if head is None:
        return text, None
    found = _parsed(head.removesuffix(b"\n"), folder / HEAD)
    if not is_whole(found) or not isinstance(found.get("lines"), int):
        _refuse(f"{folder / HEAD}: was changed after it was written")
    return text, found


def _bytes(path: Path) -> bytes | None:
    _check_no_link(path)
    try:
        return read_bytes(path, machine_memory() / 10)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _refuse(f"{path}: cannot be read ({error.strerror if isinstance(error, OSError) else error})")


def _check_no_link(path: Path) -> None:
    if path.is_symlink():
        _refuse(f"{path}: is a symbolic link; expected the file or folder itself")


def _parsed(raw: bytes, where: Path | str) -> Json:
    """Return the JSON object that some bytes stand for, if they are what :func:`text_of` writes of it."""
    try:
        text = raw.decode()
        value = json.loads(text)
        if isinstance(value, dict) and text_of(value) == text:
            return value
    except (ValueError, RecursionError):
        pass
    _refuse(f"{where} was changed after it was written")


def _lines(path: Path, text: bytes) -> list[Json]:
    """Return the lines of a chain, each of which has its checksum and that of the one before."""
    *whole, rest = text.split(b"\n")
    if rest:
        _refuse(f"{path}: does not end with a whole line")
    lines: list[Json] = []
    for number, raw in enumerate(whole, 1):
        line = _parsed(raw, f"{path}: line {number}")
        if number == 1 and line.get("format") != FORMAT:
            raise Unfit(
                f"{path}: is a ledger of format {shown(line.get('format'))}; this version goes on with format {FORMAT} "
                "only: begin a new ledger in another folder, and delete all rows that are gone from the network as it "
                "was first given"
            )
        if not is_whole(line) or line.get("before") != (lines[-1][SEAL] if lines else None):
            _refuse(f"{path}: line {number} was changed, or another one was added or removed")
        lines.append(line)
    return lines


def _is_headed(folder: Path, lines: list[Json], head: Json | None, requests: list[str]) -> bool:
    """Return whether the head knows the last line; False where a writer was killed before it wrote that.

    Raises:
        Unfit: the head belongs to other lines.
    """
    if head is None:
        if len(lines) == 1 and not requests:
            return False
        _refuse(f"{folder / HEAD}: is missing, and without it nobody sees whether the last lines are")
    known = head["lines"]
    if known > len(lines):
        _refuse(f"{folder / CHAIN}: {known - len(lines)} of {known} lines are missing ({HEAD} knows them)")
    if known < len(lines) - 1 or known < 1:
        _refuse(f"{folder / HEAD}: knows {known} of {len(lines)} lines, it is from an earlier time")
    if head.get("last") != lines[known - 1][SEAL]:
        _refuse(f"{folder / CHAIN}: line {known} is not the one that {HEAD} knows")
    if head.get(SIGNER) != lines[0].get(SIGNER):
        _refuse(f"{folder / HEAD}: is not signed like the ledger")
    check_signature(dict(head), HEAD_OF, str(folder / HEAD), None)
    return known == len(lines)


def _check_signatures(chain: Chain, public: str | None) -> None:
    for number, line in enumerate(chain.lines, 1):
        where = f"{chain.folder / CHAIN}: line {number}"
        if line.get(SIGNER) != chain.header.get(SIGNER):
            _refuse(f"{where}: is not signed like the first line")
        check_signature(line, LINE_OF, where, public)


def _check_lines(chain: Chain) -> None:
    """Raise :class:`Unfit` where the contents of lines do not fit together."""
    gone: set[int] = set()
    for number, line in enumerate(chain.lines):
        kind = str(line.get("kind"))
        fits = kind in _CONTENTS and _CONTENTS[kind](line)
        fits = fits and line.get("number") == number and (kind == HEADER) == (number == 0)
        rows = set(line["rows"]) if fits and kind == REQUEST else set()
        if not fits or gone & rows:
            _refuse(f"{chain.folder / CHAIN}: line {number + 1} is no line of a ledger here")
        gone |= rows


def _is_header(line: Json) -> bool:
    return all(isinstance(line.get(key), str) for key in ("salt", "data"))


def _is_purge(line: Json) -> bool:
    files = line.get("files")
    return isinstance(files, list) and all(PURGED.fullmatch(str(name)) for name in files)


def _is_request(line: Json) -> bool:
    rows, digests, files = line.get("rows"), line.get("digests"), line.get("files")
    if not (isinstance(rows, list) and isinstance(digests, list) and isinstance(files, dict)):
        return False
    ordered = all(type(row) is int and row >= 0 for row in rows) and all(one < other for one, other in pairwise(rows))
    hexadecimal = all(isinstance(text, str) and HEX.fullmatch(text) for text in [*digests, *files.values()])
    known = isinstance(line.get("due"), list) and isinstance(line.get("asked"), dict)
    return bool(rows) and ordered and hexadecimal and known and len(rows) == len(digests) and files.keys() == set(FILES)


_CONTENTS = {HEADER: _is_header, REQUEST: _is_request, PURGE: _is_purge}


def _check_files(chain: Chain, number: int, line: Json) -> None:
    """Raise :class:`Unfit` unless a request's files are those of its line, or were removed on purpose."""
    folder = chain.path(number)
    _check_no_link(folder)
    for name, expected in line["files"].items():
        path = folder / name
        _check_no_link(path)
        if f"{folder.name}/{name}" in chain.purged:
            continue
        if not path.is_file():
            _refuse(f"{path}: is missing")
        if checksum_once(path) != expected:
            _refuse(f"{path}: is not the file that the ledger's line {line['number'] + 1} speaks of")


def _check_record(path: Path, gone: list[int]) -> None:
    try:
        fits = read_whole(path)["removed"]["indices"] == gone
    except (ValueError, LookupError, TypeError):
        fits = False
    if not fits:
        _refuse(f"{path}: names other rows than the ledger")


def _check_receipt(chain: Chain, receipt: Receipt) -> None:
    had, has = receipt.number, len(chain.lines) - 1
    if had > has:
        _refuse(f"{chain.folder}: was rolled back: the receipt is of line {had}, there are {has}")
    if chain.receipt_of(had) != receipt:
        _refuse(
            f"{chain.folder}: line {had} is not the one that the receipt is of: the ledger was written again, or is "
            "another one"
        )
