"""The record of a deletion: the network that came out, ``deletion.json``, a page to read, and the points behind it.

``deletion.json`` has these keys, all always there; it is the same for the same deletion, but for ``when`` and seconds.

* ``format``: 2.
* ``when``: the moment of the deletion, UTC, ISO 8601.
* ``removed``: ``rows`` (their number), ``indices`` in the training set, ``sha256`` of their inputs and labels;
  ``read``, the list as it was read, in words; ``names`` of their files, in the order of ``indices``, or null;
  ``of``: numbers of ``train`` and ``unseen`` points and of ``classes``.
* ``method``: ``name``, ``settings`` (of the unlearner), ``attribution`` (of the estimator of effects, or null),
  ``epochs``, ``seed``, ``exact`` (whether it retrains, and every number was made from the kept rows), ``kept`` (names
  of tensors that a retrained network took over from the given one).
* ``network``: ``type``; ``before`` and ``after``, digests of the tensors (:func:`dmm_exp.deletion.checkpoints.
  weights_digest`); ``file`` and ``sha256``, name and digest of the checkpoint; ``normalisation``, null or the
  ``scale``, ``mean`` and ``std`` that inputs go through before they reach the network.
* ``quality``: ``verified``, whether networks were retrained, and how many (``retrained_networks``); ``klom_p95``, by
  group ``value``, ``low``, ``high`` (95 % interval over models), ``floor`` and ``doing_nothing``, in nats, or null;
  ``verdict``, for ``network`` and ``method`` each whether it can be told ``from_retraining`` and
  ``from_doing_nothing`` on the deleted rows (:class:`dmm_exp.deletion.comparison.Verdict`), or null;
  ``metrics``, what was measured on this network (:func:`dmm_exp.deletion.quality.quality`); ``verification``, what
  retrained networks tell (:class:`dmm_exp.deletion.quality.Verification`), empty without; ``in_words``, sentences.
* ``cost``: the fields of :class:`dmm_exp.deletion.Cost`.
* ``pool``: null, or ``folder``, whether it was ``kept``, ``models``, ``seconds``, ``break_even_requests`` (null where
  a retraining takes less than twice as long as the request) and ``in_words``, which says so.
* ``warnings``, ``guaranteed``, ``not_guaranteed``: sentences.
* ``versions``: of this package and what it computes with, commit, device.
* ``checksum``: of all the rest. It shows that a record was changed; it is no signature.

Numbers that are not finite are null.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_class

from dmm_exp.deletion.checkpoints import write_network
from dmm_exp.deletion.comparison import distances_of, verdict_on_method, verdict_on_network
from dmm_exp.deletion.page import render
from dmm_exp.deletion.words import guaranteed, in_words, not_guaranteed
from dmm_exp.errors import UserError, storage_errors
from dmm_exp.pipeline import GROUPS
from dmm_exp.store.files import checksum, write_json, write_table, write_text
from dmm_exp.store.provenance import provenance
from dmm_exp.store.store import SEAL, is_intact, sealed
from dmm_exp.unlearners import Retrain

if TYPE_CHECKING:
    from dmm_exp.deletion.result import Unlearned

FORMAT = 2  # since 2: verdict, kept
RECORD = "deletion.json"
CHECKPOINT, POINTS, PAGE = "unlearned.safetensors", "points.parquet", "report.html"


@storage_errors()
def write(result: Unlearned, folder: Path) -> Path:
    """Write a deletion into a folder, the record last; returns the folder.

    What an earlier deletion wrote there is replaced. Before everything is written, nothing in the folder changes.

    Raises:
        UserError: the folder cannot be written, or the network's state cannot be kept as safetensors.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder for what came of a deletion")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".deletion.") as name:
        draft = Path(name)
        write_network(draft / CHECKPOINT, result.model)
        write_table(draft / POINTS, result.points)
        record = content(result, checksum(draft / CHECKPOINT))
        write_text(draft / PAGE, render(record, result.points))
        write_json(draft / RECORD, sealed(record))
        (folder / RECORD).unlink(missing_ok=True)  # so that it never stands beside another network
        for part in (CHECKPOINT, POINTS, PAGE, RECORD):
            os.replace(draft / part, folder / part)
    return folder


def read(path: str | Path) -> dict[str, Any]:
    """Return a record, after checking that neither it nor the checkpoint beside it was changed.

    Args:
        path: of ``deletion.json``, or of its folder.

    Raises:
        UserError: it is no record, was changed, or its checkpoint is missing or another one.
    """
    file = Path(path).expanduser()
    file = file / RECORD if file.is_dir() else file
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as the record of a deletion ({type(error).__name__})") from error
    if not isinstance(record, dict) or SEAL not in record or not is_intact(record):
        raise UserError(f"{file}: was changed after it was written; its checksum does not fit its content")
    if record.get("format") != FORMAT:
        raise UserError(f"{file}: is of format {record.get('format')}; expected {FORMAT}, which this version writes")
    network = file.with_name(record["network"]["file"])
    if not network.is_file():
        raise UserError(f"{network}: is missing; expected the network that {file.name} speaks of beside it")
    if checksum(network) != record["network"]["sha256"]:
        raise UserError(f"{network}: was changed after it was written; it is not the network of {file.name}")
    return record


def content(result: Unlearned, checkpoint: str) -> dict[str, Any]:
    """Return what ``deletion.json`` holds, without its checksum.

    Args:
        result: the deletion.
        checkpoint: SHA-256 of the checkpoint.
    """
    target = result.method["_target_"]
    record: dict[str, Any] = {
        "format": FORMAT,
        "when": result.when,
        "removed": {
            "rows": len(result.forgotten),
            "indices": result.forgotten,
            "sha256": result.rows,
            "read": result.read,
            "names": result.names,
            "of": result.examples,
        },
        "method": {
            "name": target.rpartition(".")[2],
            "settings": result.method,
            "attribution": result.attribution,
            "epochs": result.cost.epochs,
            "seed": result.seed,
            "exact": get_class(target) is Retrain and not result.kept,
            "kept": result.kept,
        },
        "network": {
            "type": f"{type(result.model).__module__}.{type(result.model).__qualname__}",
            **result.weights,
            "file": CHECKPOINT,
            "sha256": checkpoint,
            "normalisation": result.normalisation,
        },
        "quality": _quality(result),
        "cost": vars(result.cost),
        "pool": _pool(result),
        "warnings": result.warnings,
        "versions": provenance(),
    }
    record = _finite(record)
    record["quality"]["in_words"] = in_words(record)
    return record | {"guaranteed": guaranteed(record), "not_guaranteed": not_guaranteed(record)}


def _quality(result: Unlearned) -> dict[str, Any]:
    found = result.verification
    klom = {
        group: {
            "value": found.get(f"klom/{group}/p95"),
            "low": found.get(f"klom/{group}/p95_low"),
            "high": found.get(f"klom/{group}/p95_high"),
            "floor": found.get(f"klom_floor/{group}/p95"),
            "doing_nothing": found.get(f"klom_original/{group}/p95"),
        }
        for group in GROUPS
    }
    return {
        "verified": bool(found),
        "retrained_networks": int(found.get("oracles", 0)),
        "klom_p95": klom if found else None,
        "verdict": _verdict(found) if found else None,
        "metrics": result.metrics,
        "verification": found,
    }


def _verdict(found: Mapping[str, float]) -> dict[str, Any]:
    """Return what the comparison with retrained networks can tell on the deleted rows."""
    numbers = distances_of(found, "forget")
    return {"network": vars(verdict_on_network(numbers)), "method": vars(verdict_on_method(numbers))}


def _pool(result: Unlearned) -> dict[str, Any] | None:
    pool = result.pool
    if pool is None:
        return None
    return {
        "folder": str(pool.folder),
        "kept": pool.folder.is_dir(),
        "models": pool.models,
        "seconds": pool.seconds,
        "break_even_requests": pool.break_even(result.cost.seconds),
        "in_words": pool.in_words(result.cost.seconds),
    }


def _finite(value: Any) -> Any:
    """Return plain containers with None for numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
