"""The files of a record, and whether they fit together. Needs neither torch nor the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmm_exp.errors import UserError, shown
from dmm_exp.files.reading import Json, plain_name, read_json
from dmm_exp.files.writing import checksum
from dmm_exp.records.signature import SIGNATURE, SIGNER, Key, is_signed
from dmm_exp.store.store import SEAL, is_intact, sealed

FORMAT = 2  # since 2: verdict, kept, surfaces
RECORD = "deletion.json"
CHECKPOINT, POINTS, PAGE = "unlearned.safetensors", "points.parquet", "report.html"
FILES = (CHECKPOINT, POINTS, PAGE, RECORD)
RECEIPT = "receipt.txt"  # of the ledger that a record is from


class Unfit(UserError):
    """What is on the disk is not what was written."""


def signed(value: Json, about: str, key: Key | None) -> Json:
    """Return a JSON object with its checksum and, if there is a key, the signature of that."""
    whole = sealed({**value, SIGNER: None if key is None else key.public})
    return whole if key is None else {**whole, SIGNATURE: key.sign(about, whole[SEAL])}


def is_whole(value: Any) -> bool:
    """Return whether a JSON object has the checksum that it was written with; its signature is not looked at."""
    return isinstance(value, dict) and is_intact({k: v for k, v in value.items() if k != SIGNATURE})


def read_whole(path: Path) -> Json:
    """Return a JSON object from a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON object, or does not have the checksum that it was written with.
    """
    value = read_json(path)
    if not is_whole(value):
        raise ValueError("it was changed after it was written")
    return value


def _is_complete(record: Json) -> bool:
    """Return whether a record has the values that are read from it; anything can have a fitting checksum."""
    removed, network = record.get("removed"), record.get("network")
    if not isinstance(removed, dict) or not isinstance(network, dict):
        return False
    texts = isinstance(record.get("when"), str) and isinstance(network.get("sha256"), str)
    return texts and type(removed.get("rows")) is int and plain_name(network.get("file"))


def check_signature(value: Json, about: str, where: str, public: str | None) -> None:
    """Raise :class:`Unfit` unless an object is signed by its signer, who must hold the public key if one is given."""
    signer = value.get(SIGNER)
    if public is not None and signer != public:
        said = "is not signed" if signer is None else "is signed with another key"
        raise Unfit(f"{where}: {said}; expected the signature of the given key: ask who wrote it for the original")
    if signer is None and SIGNATURE not in value:
        return
    if signer is None or not is_signed(signer, about, value[SEAL], value.get(SIGNATURE)):
        raise Unfit(f"{where}: its signature does not fit; it was changed after it was signed: restore it from a copy")


def read(path: str | Path, public: str | None = None) -> Json:
    """Return a record, after checking that neither it nor the checkpoint beside it was changed.

    Args:
        path: of ``deletion.json``, or of its folder.
        public: the public key, in hexadecimal, that it must be signed with.

    Raises:
        UserError: it is no record, was changed, or its checkpoint is missing or another one.
    """
    file = Path(path).expanduser()
    file = file / RECORD if file.is_dir() else file
    try:
        record = read_json(file)
    except (OSError, ValueError) as error:
        raise Unfit(f"{file}: cannot be read as the record of a deletion ({type(error).__name__})") from error
    if not is_whole(record):
        raise Unfit(f"{file}: was changed after it was written; its checksum does not fit its content")
    if record.get("format") != FORMAT:
        raise Unfit(f"{file}: is of format {shown(record.get('format'))}; expected {FORMAT}, which this version writes")
    check_signature(record, "record", str(file), public)
    if not _is_complete(record):
        raise Unfit(f"{file}: lacks what a record holds, or has something else in its place")
    network = file.with_name(record["network"]["file"])
    if network.is_symlink() or not network.is_file():
        raise Unfit(f"{network}: is missing; expected the network that {file.name} speaks of beside it")
    if checksum(network) != record["network"]["sha256"]:
        raise Unfit(f"{network}: was changed after it was written; it is not the network of {file.name}")
    return record
