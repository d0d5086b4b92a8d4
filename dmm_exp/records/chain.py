"""The files of a ledger: a chain of lines, its head, and a folder for each request. Needs neither torch nor the data.

* ``ledger.jsonl``, the chain: a header, then a line for each request and each purge. A line holds the checksum of the
  one before, and those of its request's files. All lines are written in one way, so that every changed byte shows.
* ``head.json``: how many lines there are, and the checksum of the last one.
* ``request-00001``, ...: the results of a request: the network, its record, the page, and the points behind it.

The files of a request are on the disk before its line is, and the line before the head. So a process that is killed
leaves files without a line, which count for nothing, or a head that is one line behind, which the next one completes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dmm_exp.errors import UserError, shown
from dmm_exp.files.reading import Json
from dmm_exp.files.writing import checksum, settle, write_durably
from dmm_exp.records.files import CHECKPOINT, FILES, PAGE, POINTS, signed
from dmm_exp.records.signature import SIGNER, Key
from dmm_exp.store.store import SEAL

CHAIN, HEAD = "ledger.jsonl", "head.json"
LINE_OF, HEAD_OF = "line of a ledger", "head of a ledger"  # what a signature is about
FORMAT = 2
HEADER, REQUEST, PURGE = "header", "request", "purge"  # kinds of lines
REMOVABLE = (CHECKPOINT, POINTS, PAGE)  # files of a request that a purge removes; the record stays


@dataclass(frozen=True)
class Receipt:
    """Shows later that a ledger had a line: a ledger that was rolled back to before it does not fit.

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
        """Return the receipt that a text stands for.

        Raises:
            UserError: it is no receipt.
        """
        found = re.fullmatch(r"(\d{1,9})-([0-9a-f]{64})", str(text).strip())
        if found is None:
            raise UserError(f"{name}={shown(text)}: expected a receipt as a ledger gives it, such as 3-9f86d081...")
        return cls(int(found[1]), found[2])


@dataclass(frozen=True)
class Chain:
    """The lines of a ledger; :func:`dmm_exp.records.chain_reading.read` checks them.

    What writes needs the ledger's lock.

    Attributes:
        folder: of the ledger.
        lines: the header, requests and purges.
        is_headed: whether the head knows the last line; if not, its writer was killed.
    """

    folder: Path
    lines: tuple[Json, ...] = ()
    is_headed: bool = True

    @property
    def header(self) -> Json:
        """The first line."""
        return self.lines[0]

    @property
    def is_signed(self) -> bool:
        """Whether its lines are signed."""
        return self.header[SIGNER] is not None

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
        """Files that a purge should have removed, and that are still there."""
        return [self.folder / name for name in sorted(self.purged) if (self.folder / name).exists()]

    @property
    def receipt(self) -> Receipt:
        """The receipt of the last line."""
        return self.receipt_of(len(self.lines) - 1)

    def receipt_of(self, number: int) -> Receipt:
        """Return the receipt of a line; the header is number 0."""
        return Receipt(number, self.lines[number][SEAL])

    def path(self, number: int) -> Path:
        """Return the folder of a request, counted from 1."""
        return self.folder / request_name(number)

    # ------------------------------------------------------------------ writing

    def append(self, kind: str, facts: Json, key: Key | None) -> Chain:
        """Write a further line, then the head, and return the longer chain.

        The files that the line speaks of must be on the disk already.
        """
        before = self.lines[-1][SEAL] if self.lines else None
        line = signed({"kind": kind, "number": len(self.lines), "before": before, **facts}, LINE_OF, key)
        longer = Chain(self.folder, (*self.lines, line))
        longer._write_lines()
        longer.write_head(key)
        return longer

    def _write_lines(self) -> None:
        write_durably(self.folder / CHAIN, "".join(f"{text_of(line)}\n" for line in self.lines))

    def write_head(self, key: Key | None) -> None:
        """Write how many lines there are, and the checksum of the last."""
        head = signed({"lines": len(self.lines), "last": self.lines[-1][SEAL]}, HEAD_OF, key)
        write_durably(self.folder / HEAD, text_of(head) + "\n")

    def keep(self, number: int, write: Callable[[Path], None]) -> dict[str, str]:
        """Let ``write`` fill the folder of a request; return its files' checksums when all of it is on the disk."""
        final = self.path(number)
        draft = self.folder / f".{final.name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            write(draft)
            files = {name: checksum(draft / name) for name in FILES}
            for name in FILES:
                settle(draft / name)
            settle(draft)
            os.rename(draft, final)
            settle(self.folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return files

    def complete(self, key: Key | None) -> None:
        """Complete or remove what killed processes left: the head, files without a line, drafts, and purged files."""
        if not self.is_headed and (key is not None or not self.is_signed):
            self.write_head(key)
        known = {request_name(number) for number in range(1, len(self.requests) + 1)}
        for path in [*self.folder.glob("request-*"), *self.folder.glob(".request-*.draft")]:
            if path.name not in known and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
        for name in (CHAIN, HEAD):
            for path in self.folder.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)
        self.remove_purged()

    def remove_purged(self) -> None:
        """Remove the files that a purge's line names."""
        for name in sorted(self.purged):
            (self.folder / name).unlink(missing_ok=True)


def request_name(number: int) -> str:
    """Return the name of a request's folder."""
    return f"request-{number:05d}"


def text_of(value: Json) -> str:
    """Return a line or a head as the text that is written."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
