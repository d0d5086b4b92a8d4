"""``python -m dmm_exp.verify``: whether a ledger, or a record, is as it was written. Needs neither torch nor data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dmm_exp.console.command import Parser
from dmm_exp.errors import UserError, explained
from dmm_exp.files.reading import Json
from dmm_exp.records.about import in_words
from dmm_exp.records.chain import CHAIN, HEAD, Receipt
from dmm_exp.records.chain_reading import read as read_chain
from dmm_exp.records.files import RECORD, Unfit, read
from dmm_exp.records.signature import SIGNER, public_key

DESCRIPTION = """\
Check that a ledger of deletions, or the record of one, is as it was written. Neither the data nor a GPU is needed."""

EPILOG = """\
Exit codes: 0 where everything fits, 1 where something does not, 2 where there is nothing to check.

A checksum shows that a file was changed by accident, or by somebody who did not compute it again. With --receipt, a
ledger that was rolled back, or written again, is noticed. With --key, so is one written by somebody without the private
key; openssl pkey -in key.pem -pubout -out public.pem writes the public one."""

NEVER_SHOWN = "never shown: that the rows' influence is gone from the network, or that no other copies of them exist"


def parser() -> Parser:
    """Return the parser of the command line."""
    found = Parser.of("python -m dmm_exp.verify", DESCRIPTION, EPILOG)
    found.add_argument("folder", metavar="FOLDER", help="of a ledger, or of a record (deletion.json)")
    found.add_argument("--key", metavar="FILE", help="public Ed25519 key (PEM) of whoever wrote it")
    found.add_argument("--receipt", metavar="TEXT", help="that a ledger gave for a request")
    return found


def verify(arguments: Sequence[str]) -> int:
    """Check what a command line names, and return the exit code: 0 where everything fits, 1 where something does not.

    Raises:
        UserError: an argument is wrong, or there is neither a ledger nor a record.
    """
    options = parser().parse_args(arguments)
    folder = Path(options.folder).expanduser()
    public = None if options.key is None else public_key(options.key, "--key")
    receipt = None if options.receipt is None else Receipt.read(options.receipt, "--receipt")
    is_record = (folder / RECORD).exists() or (folder.name == RECORD and folder.is_file())
    if is_record and receipt is not None:
        raise UserError(f"--receipt: is of a ledger, and {folder} holds a record; expected the ledger's folder")
    try:
        print("\n".join(_record(folder, public) if is_record else _ledger(folder, public, receipt)))
    except Unfit as error:
        print(f"does not fit: {error}", file=sys.stderr)
        return 1
    return 0


def _record(folder: Path, public: str | None) -> list[str]:
    record = read(folder, public)
    removed, network = record["removed"], record["network"]
    return [
        f"fits: {RECORD}, of {removed['rows']:,} rows deleted at {record['when']}, and {network['file']}",
        *([f"the record says of the request: {said}"] if (said := _said(record)) else []),
        *_signer(record.get(SIGNER), public),
        "not checked: report.html and points.parquet, which no checksum covers; the rows' digest, which needs the data",
        NEVER_SHOWN,
    ]


def _said(record: Json) -> str:
    """Return what a record holds of a request; anything can have a fitting checksum."""
    with explained(
        "the record: the facts about the request do not have the form that a record has",
        TypeError,
        LookupError,
        AttributeError,
    ):
        return in_words(record.get("request"))


def _ledger(folder: Path, public: str | None, receipt: Receipt | None) -> list[str]:
    traces = [CHAIN, HEAD, *(path.name for path in folder.glob("request-*"))] if folder.is_dir() else []
    if not any((folder / name).is_symlink() or (folder / name).exists() for name in traces):
        raise UserError(f"{folder}: holds neither {CHAIN} nor {RECORD}; expected the folder of a ledger or of a record")
    chain = read_chain(folder, public, receipt)
    assert chain is not None
    if chain.unremoved:
        raise Unfit(f"{chain.unremoved[0]}: should have been removed by a purge that was interrupted; "
                    "purge the ledger again")  # fmt: skip
    found = [
        f"fits: {len(chain.requests):,} requests that deleted {len(chain.gone):,} rows, with all their lines and files",
        f"receipt of the last line: {chain.receipt}",
    ]
    if chain.purged:
        found.append(f"removed by purges: {len(chain.purged):,} files, as the ledger says")
    if not chain.is_headed:
        found.append(f"{HEAD} is one line behind: a process was killed; the next request completes it")
    found += _signer(chain.header[SIGNER], public)
    if receipt is None:
        found.append("not shown: that no last lines were removed together with their traces (--receipt shows it)")
    else:
        line = receipt.number
        found.append(f"fits: the receipt of line {line}; whether later lines are missing, only a later receipt shows")
    return [*found, "not checked: the rows' digests, which need the data (Ledger checks them)", NEVER_SHOWN]


def _signer(signer: str | None, public: str | None) -> list[str]:
    if signer is None:
        return ["not shown: who wrote it; it is not signed, and anyone can compute checksums again"]
    if public is None:
        return [f"signed by {signer}; not shown: whose key that is (--key compares it with a public key)"]
    return ["fits: the signature of the given key"]
