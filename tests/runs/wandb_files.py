"""Reads runs that wandb wrote offline: a log of protocol buffers in LevelDB's format, and files beside it."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE_HEADER = struct.Struct("<4sHB")  # ":W&B", a magic number, the format's version
CHUNK_HEADER = struct.Struct("<IHB")  # checksum, length, kind
BLOCK = 32 * 1024  # no chunk crosses a block's end; a record may be several chunks
WHOLE, LAST = 1, 4  # kinds of chunks that end a record
PATIENCE = 60  # seconds


@dataclass
class Written:
    """What one offline run holds."""

    folder: Path
    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    project: str = ""
    entity: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None

    def table(self, name: str) -> dict[str, Any]:
        """Return the columns and the data of a logged table."""
        whole = json.loads((self.folder / "files" / self.summary[name]["path"]).read_text(encoding="utf-8"))
        return {key: whole[key] for key in ("columns", "data")}


def written_runs(folder: Path, job_type: str | None = "evaluate") -> list[Written]:
    """Return the offline runs of a run's folder, oldest first; those of one job type, or of all (None)."""
    found = [_finished(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]
    return [written for written in found if job_type in (None, written.job_type)]


def _finished(path: Path) -> Written:
    """Read a run once it is whole: wandb's own process may write the end of the file after ``finish`` has returned."""
    deadline = time.monotonic() + PATIENCE
    while (found := _read(path)).exit_code is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _read(path: Path) -> Written:
    found = Written(path.parent)
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.id, found.name, found.group = run.run_id, run.display_name, run.run_group
            found.job_type = run.job_type
            found.project, found.entity, found.tags = run.project, run.entity, list(run.tags)
            found.config |= _items(run.config.update)
        elif kind == "summary":
            _merge(found.summary, record.summary.update)
        elif kind == "history":
            found.history.append(_items(record.history.item))
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _records(data: bytes) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    if len(data) < FILE_HEADER.size:
        return
    assert FILE_HEADER.unpack_from(data)[0] == b":W&B"
    at, parts = FILE_HEADER.size, b""
    while at + CHUNK_HEADER.size <= len(data):
        if (room := BLOCK - at % BLOCK) < CHUNK_HEADER.size:
            at += room
            continue
        _, length, kind = CHUNK_HEADER.unpack_from(data, at)
        if at + CHUNK_HEADER.size + length > len(data):
            return
        at += CHUNK_HEADER.size
        parts, at = parts + data[at : at + length], at + length
        if kind in (WHOLE, LAST):
            yield Record.FromString(parts)
            parts = b""


def _items(updates: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    _merge(found, updates)
    return found


def _merge(into: dict[str, Any], updates: Any) -> None:
    """Put values where their keys say; a nested key is a path."""
    for item in updates:
        *path, name = list(item.nested_key) or [item.key]
        place = into
        for key in path:
            place = place.setdefault(key, {})
        place[name] = json.loads(item.value_json)
