"""The files of a ledger: a chain of lines, its head, and a folder for each request. Needs neither torch nor the data.

* ``ledger.jsonl``, the chain: a header, then a line for each request and each purge. A line holds the checksum of the
  one before, and those of its request's files. All lines are written in one way, so every changed byte is noticed.
* ``head.json``: how many lines there are, and the checksum of the last one.
* ``request-00001``, ...: what came of a request: the network, its record, the page, and the points behind it.

Files of a request are on the disk before its line is, and the line before the head. So a process that is killed leaves
files without a line, which count for nothing, or a head that is one line behind, which the next one completes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from dmm_exp.deletion.record_files import (
    CHECKPOINT,
    FILES,
    PAGE,
    POINTS,
    RECORD,
    Unfit,
    check_signature,
    is_whole,
    signed,
)
from dmm_exp.deletion.signature import SIGNER, Key
from dmm_exp.errors import UserError, shown
from dmm_exp.files.reading import Json, machine_memory, read_bytes, read_json
from dmm_exp.files.writing import checksum, checksum_once, settle, write_durably
from dmm_exp.store.store import SEAL

CHAIN, HEAD = "ledger.jsonl", "head.json"
FORMAT = 2
HEADER, REQUEST, PURGE = "header", "request", "purge"  # kinds of lines
RESTORE = "restore the ledger's folder from a backup"
REMOVABLE = (CHECKPOINT, POINTS, PAGE)  # files of a request that a purge removes; the record stays
HEX = re.compile("[0-9a-f]{64}")
OURS = re.compile(f"request-[0-9]{{5,9}}/({'|'.join(map(re.escape, REMOVABLE))})")  # what a purge may name
PATIENCE = 100  # times that files are read again while another process is writing them


@dataclass(frozen=True)
class Receipt:
    """What shows later that a ledger had a line: a ledger that was rolled back to before it does not fit.

    Attributes:
        number: of the line; 1 for the first request.
        checksum: of the line, and so of all before it.
    """

    number: int
    checksum: str

    def __str__(self) -> str:
        """Return it as one word, to be kept outside the ledger."""
        return f"{self.number}-{self.checksum}"

    @classmethod
    def read(cls, text: str | Receipt, name: str = "receipt") -> Receipt:
        """Return the receipt that a text is.

        Raises:
            UserError: it is none.
        """
        found = re.fullmatch(r"(\d{1,9})-([0-9a-f]{64})", str(text).strip())
        if found is None:
            raise UserError(f"{name}={shown(text)}: expected a receipt as a ledger gives it, such as 3-9f86d081...")
        return cls(int(found[1]), found[2])


@dataclass(frozen=True)
class Chain:
    """The checked lines of a ledger.

    Attributes:
        folder: of the ledger.
        lines: the header, requests and purges.
        is_headed: whether the head knows the last line; if not, its writer was killed.
    """

    folder: Path
    lines: tuple[Json, ...]
    is_headed: bool = True

    @property
    def header(self) -> Json:
        """The first line."""
        return self.lines[0]

    @cached_property
    def requests(self) -> list[Json]:
        """The lines of requests."""
        return [line for line in self.lines if line["kind"] == REQUEST]

    @cached_property
    def purged(self) -> set[str]:
        """Files that were removed on purpose, by their names within the ledger's folder."""
        return {name for line in self.lines if line["kind"] == PURGE for name in line["files"]}

    @cached_property
    def digests(self) -> dict[int, str]:
        """The salted digests of rows that are gone, by training index."""
        return {row: text for line in self.requests for row, text in zip(line["rows"], line["digests"], strict=True)}

    @property
    def gone(self) -> list[int]:
        """Training indices that are gone, sorted."""
        return sorted(self.digests)

    @property
    def unremoved(self) -> list[Path]:
        """Files that a purge was to remove, and that are there."""
        return [self.folder / name for name in sorted(self.purged) if (self.folder / name).exists()]

    @property
    def receipt(self) -> Receipt:
        """The receipt of the last line."""
        return Receipt(len(self.lines) - 1, self.lines[-1][SEAL])

    def path(self, number: int) -> Path:
        """Return the folder of a request, counted from 1."""
        return self.folder / request_name(number)


def request_name(number: int) -> str:
    """Return the name of a request's folder."""
    return f"request-{number:05d}"


# ---------------------------------------------------------------------- reading


def read(folder: Path, public: str | None = None, receipt: Receipt | None = None) -> Chain | None:
    """Return the checked chain of a ledger, None where there is no ledger yet. Nothing is changed.

    Args:
        folder: of the ledger.
        public: the public key, in hexadecimal, that it must be signed with.
        receipt: of a line that it must have.

    Raises:
        Unfit: something is not as it was written.
    """
    text, head = _both(folder)
    named = sorted(path.name for path in folder.glob("request-*")) if folder.is_dir() else []
    if text is None and head is None and not named:
        if receipt is None:
            return None
        raise Unfit(f"{folder}: holds no ledger, but the receipt is of one that had {receipt.number} lines; {RESTORE}")
    if not text:
        beside = HEAD if head is not None else (named or [CHAIN])[0]
        said = f"is {'missing' if text is None else 'empty'}, and {beside} shows that there was a ledger"
        raise Unfit(f"{folder / CHAIN}: {said}; {RESTORE}")
    lines = _lines(folder / CHAIN, text)
    chain = Chain(folder, tuple(lines), _is_headed(folder, lines, head, named))
    _check_signatures(chain, public)
    _check_lines(chain)
    for number, line in enumerate(chain.requests, 1):
        _check_files(chain, number, line)
    if receipt is not None:
        _check_receipt(chain, receipt)
    return chain


def _both(folder: Path) -> tuple[bytes | None, Json | None]:
    """Return the chain's bytes, and the head as it was both before and after they were read."""
    head, text, again = (_bytes(folder / name) for name in (HEAD, CHAIN, HEAD))
    for _ in range(PATIENCE):
        if head == again:
            break
        head, text, again = (_bytes(folder / name) for name in (HEAD, CHAIN, HEAD))
    if head is None:
        return text, None
    found = _parsed(head.removesuffix(b"\n"), folder / HEAD)
    if not is_whole(found) or not isinstance(found.get("lines"), int):
        raise Unfit(f"{folder / HEAD}: was changed after it was written; {RESTORE}")
    return text, found


def _bytes(path: Path) -> bytes | None:
    if path.is_symlink():
        raise Unfit(f"{path}: is a symbolic link; expected the file itself: {RESTORE}")
    try:
        return read_bytes(path, machine_memory() / 10)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Unfit(f"{path}: cannot be read ({reason}); {RESTORE}") from error


def _parsed(raw: bytes, where: Path | str) -> Json:
    """Return the JSON object that some bytes are, if they are what :func:`_text` makes of it."""
    try:
        text = raw.decode()
        value = json.loads(text, parse_constant=_refuse)
        if not isinstance(value, dict) or _text(value) != text:
            raise ValueError(text)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"{where} was changed after it was written; {RESTORE}") from error
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def _text(value: Json) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _lines(path: Path, text: bytes) -> list[Json]:
    """Return the lines of a chain, each of which has its checksum and that of the one before."""
    *whole, rest = text.split(b"\n")
    if rest:
        raise Unfit(f"{path}: does not end with a whole line; {RESTORE}")
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
            raise Unfit(f"{path}: line {number} was changed, or another one was added or removed; {RESTORE}")
        lines.append(line)
    return lines


def _is_headed(folder: Path, lines: list[Json], head: Json | None, named: list[str]) -> bool:
    """Return whether the head knows the last line; False where a writer was killed before it wrote that.

    Raises:
        Unfit: neither is so.
    """
    if head is None:
        if len(lines) == 1 and not named:
            return False
        raise Unfit(f"{folder / HEAD}: is missing, and without it nobody sees whether last lines are; {RESTORE}")
    known = head["lines"]
    if known > len(lines):
        missing = f"{known - len(lines)} of {known} lines are missing"
        raise Unfit(f"{folder / CHAIN}: {missing} ({HEAD} knows them); {RESTORE}")
    if known < len(lines) - 1 or known < 1:
        raise Unfit(f"{folder / HEAD}: knows {known} of {len(lines)} lines, it is from an earlier time; {RESTORE}")
    if head.get("last") != lines[known - 1][SEAL]:
        raise Unfit(f"{folder / CHAIN}: line {known} is not the one that {HEAD} knows; {RESTORE}")
    if head.get(SIGNER) != lines[0].get(SIGNER):
        raise Unfit(f"{folder / HEAD}: is not signed like the ledger; {RESTORE}")
    check_signature(dict(head), "head of a ledger", str(folder / HEAD), None)
    return known == len(lines)


def _check_signatures(chain: Chain, public: str | None) -> None:
    signer = chain.header.get(SIGNER)
    for number, line in enumerate(chain.lines, 1):
        where = f"{chain.folder / CHAIN}: line {number}"
        if line.get(SIGNER) != signer:
            raise Unfit(f"{where}: is not signed like the first line; {RESTORE}")
        check_signature(line, "line of a ledger", where, public)


def _check_lines(chain: Chain) -> None:
    """Raise :class:`Unfit` where the content of lines does not fit together."""
    gone: set[int] = set()
    for number, line in enumerate(chain.lines, 1):
        kind = HEADER if number == 1 else line.get("kind")
        fits = line.get("kind") == kind and line.get("number") == number - 1
        if kind == REQUEST:
            fits = fits and _fits(line) and not gone & set(line["rows"])
            gone |= set(line["rows"]) if fits else set()
        elif kind == PURGE:
            files = line.get("files")
            fits = fits and isinstance(files, list) and all(OURS.fullmatch(str(name)) for name in files)
        else:
            fits = fits and kind == HEADER and all(isinstance(line.get(key), str) for key in ("salt", "data"))
        if not fits:
            raise Unfit(f"{chain.folder / CHAIN}: line {number} is no line of a ledger here; {RESTORE}")


def _fits(line: Json) -> bool:
    """Return whether a request's line has what it needs."""
    rows, digests, files = line.get("rows"), line.get("digests"), line.get("files")
    if not (isinstance(rows, list) and isinstance(digests, list) and isinstance(files, dict)):
        return False
    ordered = all(type(row) is int and row >= 0 for row in rows) and all(one < other for one, other in pairwise(rows))
    hexadecimal = all(isinstance(text, str) and HEX.fullmatch(text) for text in [*digests, *files.values()])
    known = isinstance(line.get("due"), list) and isinstance(line.get("asked"), dict)
    return bool(rows) and ordered and hexadecimal and known and len(rows) == len(digests) and files.keys() == set(FILES)


def _check_files(chain: Chain, number: int, line: Json) -> None:
    """Raise :class:`Unfit` unless a request's files are those of its line, or were removed on purpose."""
    folder = chain.path(number)
    if folder.is_symlink():
        raise Unfit(f"{folder}: is a symbolic link; expected the folder itself: {RESTORE}")
    for name, expected in line["files"].items():
        path = folder / name
        if path.is_symlink():
            raise Unfit(f"{path}: is a symbolic link; expected the file itself: {RESTORE}")
        if f"{folder.name}/{name}" in chain.purged:
            continue
        if not path.is_file():
            raise Unfit(f"{path}: is missing; {RESTORE}")
        if checksum_once(path) != expected:
            raise Unfit(f"{path}: is not the file that the ledger's line {line['number'] + 1} speaks of; {RESTORE}")
    gone = sorted(row for earlier in chain.requests[:number] for row in earlier["rows"])
    try:
        record = read_json(folder / RECORD)
        fits = is_whole(record) and record["removed"]["indices"] == gone
    except (ValueError, LookupError, TypeError):
        fits = False
    if not fits:
        raise Unfit(f"{folder / RECORD}: names other rows than the ledger; {RESTORE}")


def _check_receipt(chain: Chain, receipt: Receipt) -> None:
    if receipt.number >= len(chain.lines):
        had, has = receipt.number, len(chain.lines) - 1
        raise Unfit(f"{chain.folder}: was rolled back: the receipt is of line {had}, there are {has}; {RESTORE}")
    if chain.lines[receipt.number][SEAL] != receipt.checksum:
        said = f"line {receipt.number} is not the one that the receipt is of"
        raise Unfit(f"{chain.folder}: {said}: the ledger was written again, or is another one; {RESTORE}")


# ---------------------------------------------------------------------- writing; the ledger's lock must be held


def begin(folder: Path, facts: Json, key: Key | None) -> Chain:
    """Write the header and the head of a new ledger."""
    line = signed({"kind": HEADER, "format": FORMAT, "number": 0, "before": None, **facts}, "line of a ledger", key)
    chain = Chain(folder, (line,))
    _write_chain(chain)
    write_head(chain, key)
    return chain


def append(chain: Chain, kind: str, facts: Json, key: Key | None) -> Chain:
    """Write a further line, then the head; what it speaks of must be on the disk already."""
    line = {"kind": kind, "number": len(chain.lines), "before": chain.lines[-1][SEAL], **facts}
    longer = Chain(chain.folder, (*chain.lines, signed(line, "line of a ledger", key)))
    _write_chain(longer)
    write_head(longer, key)
    return longer


def write_head(chain: Chain, key: Key | None) -> None:
    """Write how many lines there are, and the checksum of the last."""
    head = signed({"lines": len(chain.lines), "last": chain.lines[-1][SEAL]}, "head of a ledger", key)
    write_durably(chain.folder / HEAD, _text(head) + "\n")


def _write_chain(chain: Chain) -> None:
    write_durably(chain.folder / CHAIN, "".join(f"{_text(line)}\n" for line in chain.lines))


def keep(chain: Chain, number: int, write: Callable[[Path], None]) -> dict[str, str]:
    """Let ``write`` fill the folder of a request, and return its files' checksums when all of it is on the disk."""
    final = chain.path(number)
    draft = chain.folder / f".{final.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        write(draft)
        files = {name: checksum(draft / name) for name in FILES}
        for name in FILES:
            settle(draft / name)
        settle(draft)
        os.rename(draft, final)
        settle(chain.folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return files


def tidy(chain: Chain) -> None:
    """Remove what killed processes left: files without a line, half-written ones, and those of an unfinished purge."""
    known = {request_name(number) for number in range(1, len(chain.requests) + 1)}
    for path in [*chain.folder.glob("request-*"), *chain.folder.glob(".request-*.draft")]:
        if path.name not in known and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    for name in (CHAIN, HEAD):
        for path in chain.folder.glob(f".{name}.*.tmp"):
            path.unlink(missing_ok=True)
    remove_purged(chain)


def remove_purged(chain: Chain) -> None:
    """Remove the files that a purge's line names."""
    for name in sorted(chain.purged):
        (chain.folder / name).unlink(missing_ok=True)
