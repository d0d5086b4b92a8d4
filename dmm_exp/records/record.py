"""The record of a deletion: the unlearned network, ``deletion.json``, a page to read, and the points behind it.

``deletion.json`` has these keys, all always there; it is the same for the same deletion, but for ``when`` and seconds.

* ``format``: 2.
* ``when``: the moment of the deletion, UTC, ISO 8601.
* ``asked``: digest of the whole command, by which the same command finds its record again
  (:func:`dmm_exp.deletion.output.digest_of_command`); null from Python and in a ledger.
* ``request``: what was said of it: ``reference``, ``requested_by``, ``operator``, ``reason`` (texts in one line, or
  null) and ``record_ids``, null or the person's own ids of the rows, each with ``row`` (training index) and ``id``.
  Records of earlier versions do not have it.
* ``taken``: how the files of the data were read where they leave it open, in sentences.
* ``removed``: ``rows`` (their number), ``indices`` in the training set, ``sha256`` of their inputs and labels;
  ``read``, the list as it was read, in words; ``names`` of their files, in the order of ``indices``, or null;
  ``of``: numbers of ``train`` and ``unseen`` points and of ``classes``. From a ledger, ``sha256`` is that of the rows'
  salted digests, one after the other (:func:`dmm_exp.deletion.identity.row_digests`).
* ``method``: ``name``, ``in_words`` (what it does, in a sentence; null where its class does not say), ``settings`` (of
  the unlearner), ``attribution`` (of the estimator of effects, or null), ``epochs``, ``seed``, ``exact`` (whether it
  retrains, and every number was made from the kept rows), ``kept`` (names of tensors that a retrained network took over
  from the given one).
* ``network``: ``type``; ``before`` and ``after``, digests of the tensors (:func:`dmm_exp.records.checkpoints.
  weights_digest`); ``file`` and ``sha256``, name and digest of the checkpoint; ``normalisation``, null or the
  ``scale``, ``mean`` and ``std`` that inputs go through before they reach the network.
* ``quality``: ``verified``, whether networks were retrained, and how many (``retrained_networks``); ``klom_p95``, by
  group ``value``, ``low``, ``high`` (95 % interval over models), ``floor`` and ``doing_nothing``, in nats, or null;
  ``verdict``, for ``network`` and ``method`` each whether it can be told ``from_retraining`` and
  ``from_doing_nothing`` on the deleted rows (:class:`dmm_exp.records.comparison.Verdict`), or null;
  ``metrics``, what was measured on this network (:func:`dmm_exp.deletion.quality.Change.metrics`);
  ``verification``, the comparison with retrained networks (:func:`dmm_exp.deletion.quality.verify`), empty without;
  ``in_words``, sentences.
* ``cost``: the fields of :class:`dmm_exp.records.result.Cost`.
* ``pool``: null, or ``folder``, whether it was ``kept``, ``models``, ``lds`` (how well it predicts, or null),
  ``quality`` (that in words), ``seconds``, ``break_even_requests`` (null where a retraining takes less than twice as
  long as the request) and ``in_words``, which says so.
* ``warnings``, ``guaranteed``, ``not_guaranteed``: sentences.
* ``surfaces``: what is known of the deleted rows, and where: ``where``, ``what``, ``state`` (``erased``, ``remains`` or
  ``not ours to reach``), ``how`` (what to do).
* ``ledger``: null, or the ``folder`` and the ``request``'s number there, and the ``salt`` of digests.
* ``versions``: of this package and what it computes with, commit, device.
* ``signed_by``: null, or the public key (Ed25519, hexadecimal) that belongs to the ``signature``.
* ``checksum``: of all the rest but the signature. It shows that a record was changed; it is no signature.
* ``signature``: of the checksum, where there is a key (:mod:`dmm_exp.records.signature`).

Numbers that are not finite are null.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_class

from dmm_exp.data import GROUPS
from dmm_exp.errors import UserError, storage_errors
from dmm_exp.files.reading import Json
from dmm_exp.files.writing import checksum, settle, write_json, write_table, write_text
from dmm_exp.records.checkpoints import write_network
from dmm_exp.records.comparison import distances_of, verdict_on_method, verdict_on_network
from dmm_exp.records.files import CHECKPOINT, FILES, FORMAT, PAGE, POINTS, RECEIPT, RECORD, signed
from dmm_exp.records.page import render
from dmm_exp.records.surfaces import surfaces
from dmm_exp.records.words import guaranteed, in_words, not_guaranteed, of_method
from dmm_exp.store.provenance import provenance
from dmm_exp.store.temporary import temporary_folder
from dmm_exp.unlearners import Retrain

if TYPE_CHECKING:
    from dmm_exp.records.result import Place, Unlearned
    from dmm_exp.records.signature import Key

DRAFT = ".deletion."  # start of the name of a folder in the making
RECORDED = {  # attributes of a result that are written as they are: the section and the key
    "when": ("when",),
    "asked": ("asked",),
    "taken": ("taken",),
    "warnings": ("warnings",),
    "forgotten": ("removed", "indices"),
    "rows": ("removed", "sha256"),
    "read": ("removed", "read"),
    "names": ("removed", "names"),
    "examples": ("removed", "of"),
    "method": ("method", "settings"),
    "attribution": ("method", "attribution"),
    "seed": ("method", "seed"),
    "kept": ("method", "kept"),
    "normalisation": ("network", "normalisation"),
    "metrics": ("quality", "metrics"),
    "verification": ("quality", "verification"),
}
KLOM = {  # names of KLoM in the record, and its metrics by group
    "value": "klom/{}/p95",
    "low": "klom/{}/p95_low",
    "high": "klom/{}/p95_high",
    "floor": "klom_floor/{}/p95",
    "doing_nothing": "klom_original/{}/p95",
}


@storage_errors()
def write(result: Unlearned, folder: Path, key: Key | None = None) -> Path:
    """Write a deletion into a folder, the record last; returns the folder.

    The files of an earlier deletion there are replaced. Nothing in the folder changes before everything is written. The
    files of a ledger's request are copied as they are.

    Raises:
        UserError: the folder cannot be written, the network's state cannot be kept as safetensors, or the ledger's
            files are gone.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder for the results of a deletion")
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder, DRAFT) as draft:
        write_files(result, draft, key) if result.place is None else _copy(result.place, draft)
        _replace(draft, folder)
    return folder


def _replace(draft: Path, folder: Path) -> None:
    """Put the files of a draft in the place of those of an earlier deletion; a record never stands beside another's."""
    names = [name for name in (CHECKPOINT, POINTS, PAGE, RECEIPT, RECORD) if (draft / name).exists()]
    for name in names:
        settle(draft / name)
    for name in {RECEIPT, *FILES}.difference(names) | {RECORD}:
        (folder / name).unlink(missing_ok=True)
    for name in names:
        os.replace(draft / name, folder / name)
    settle(folder)


def write_files(result: Unlearned, folder: Path, key: Key | None) -> None:
    """Write the files of a deletion into a new folder."""
    write_network(folder / CHECKPOINT, result.model)
    write_table(folder / POINTS, result.points)
    record = content(result, checksum(folder / CHECKPOINT))
    write_text(folder / PAGE, render(record, result.points))
    write_json(folder / RECORD, signed(record, "record", key))


def _copy(place: Place, folder: Path) -> None:
    """Copy the files that a ledger keeps of a request, and write its receipt."""
    missing = [name for name in (CHECKPOINT, RECORD) if not (place.folder / name).is_file()]
    if missing:
        raise UserError(f"{place.folder / missing[0]}: is not there any more, perhaps after a purge; expected the file")
    for name in FILES:
        if (place.folder / name).is_file():
            shutil.copyfile(place.folder / name, folder / name)
    write_text(folder / RECEIPT, f"{place.receipt}\n")


# ---------------------------------------------------------------------- the content


def content(result: Unlearned, checkpoint: str) -> Json:
    """Return what ``deletion.json`` holds, without its checksum.

    Args:
        result: the deletion.
        checkpoint: SHA-256 of the checkpoint.
    """
    place, target = result.place, result.method["_target_"]
    record = _finite(_recorded(result))
    record |= {
        "format": FORMAT,
        "request": result.about.content,
        "cost": _finite(vars(result.cost)),
        "pool": _pool(result),
        "versions": provenance(),
    }
    record["removed"] |= {"rows": len(result.forgotten)}
    kind = get_class(target)
    record["method"] |= {"name": kind.__name__, "in_words": of_method(kind), "epochs": result.cost.epochs}
    record["method"] |= {"exact": kind is Retrain and not result.kept}
    kind = f"{type(result.model).__module__}.{type(result.model).__qualname__}"
    record["network"] |= {**result.weights, "type": kind, "file": CHECKPOINT, "sha256": checkpoint}
    record["ledger"] = place and {"folder": str(place.ledger), "request": place.number, "salt": place.salt}
    record["quality"] |= _finite(_compared(result.verification))
    record["quality"]["in_words"] = in_words(record)
    record["surfaces"] = surfaces(record, place.earlier if place else 0)
    return record | {"guaranteed": guaranteed(record), "not_guaranteed": not_guaranteed(record)}


def _recorded(result: Unlearned) -> Json:
    record: Json = {}
    for attribute, (*section, key) in RECORDED.items():
        target = record.setdefault(section[0], {}) if section else record
        target[key] = getattr(result, attribute)
    return record


def read_attributes(record: Json) -> Json:
    """Return the attributes of a result that its record holds as they are."""
    found = {}
    for attribute, (*section, key) in RECORDED.items():
        source = record[section[0]] if section else record
        found[attribute] = source[key]
    return found


def _compared(found: Mapping[str, float]) -> Json:
    """Return what the comparison with retrained networks amounts to, if there was one."""
    quality: Json = {"verified": bool(found), "retrained_networks": int(found.get("oracles", 0))}
    if not found:
        return {**quality, "klom_p95": None, "verdict": None}
    klom = {group: {name: found.get(metric.format(group)) for name, metric in KLOM.items()} for group in GROUPS}
    distances = distances_of(found, "forget")
    verdicts = {"network": verdict_on_network(distances), "method": verdict_on_method(distances)}
    return {**quality, "klom_p95": klom, "verdict": {name: vars(verdict) for name, verdict in verdicts.items()}}


def _pool(result: Unlearned) -> Json | None:
    pool, seconds = result.pool, result.cost.seconds
    return pool and {
        "folder": str(pool.folder),
        "kept": pool.folder.is_dir(),
        "models": pool.models,
        "lds": pool.lds,
        "quality": pool.quality,
        "seconds": pool.seconds,
        "break_even_requests": pool.break_even(seconds),
        "in_words": pool.in_words(seconds),
    }


def _finite(value: Any) -> Any:
    """Return plain containers with None for numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
