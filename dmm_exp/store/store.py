"""The store: artifacts made once, whole or not at all, verified before they are trusted.

An artifact in the making is the folder ``<digest>.partial``; finishing it is one rename. Shards (chunks of members)
carry a checksum file of their own, so that interrupted work is taken up at the first missing shard, and a damaged
artifact loses only its damaged files. Ensembles that differ in nothing but their size share the members that both have.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dmm_exp.files.digests import canonical
from dmm_exp.files.reading import Json, is_real_file, is_real_folder, plain_name
from dmm_exp.files.writing import checksum, checksum_once, link, remove, write_json, write_table, write_tensors
from dmm_exp.store.artifact import Artifact
from dmm_exp.store.lock import Lock
from dmm_exp.store.manifest import (
    LAYOUT,
    MANIFEST,
    SEAL,
    is_intact,
    read_layout,
    read_manifest,
    read_receipt,
    sealed,
)
from dmm_exp.store.provenance import provenance
from dmm_exp.store.spec import Spec

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["LOCKS", "SEAL", "Draft", "Messages", "Missing", "Store", "is_intact", "sealed", "shard_name"]

LARGE = 1 << 24  # bytes of an artifact whose files are verified by several threads
LOCKS = ".locks"  # folder of a store's locks


class Missing(Exception):
    """An artifact does not exist, and the store was asked not to make anything.

    Attributes:
        spec: what it would be.
        relative: the largest finished ensemble that differs from it in size alone, None when there is none.
    """

    def __init__(self, spec: Spec, relative: Artifact | None = None) -> None:
        super().__init__(f"{spec.kind} {spec.short} has not been made yet")
        self.spec = spec
        self.relative = relative


class Messages(Protocol):
    """Where the store says what a person should know."""

    def warn(self, text: str) -> None:
        """Say something that is wrong but was mended."""
        ...

    def note(self, text: str) -> None:
        """Say something that may be of interest."""
        ...


class Draft:
    """The folder of an artifact in the making.

    It may hold valid files of an interrupted attempt: ``shards`` lists them, and whoever makes the artifact goes on
    from there.

    Args:
        path: the folder.
        find_relative: finds the largest finished ensemble that differs from this one in size alone.
    """

    def __init__(self, path: Path, find_relative: Callable[[], Artifact | None] = lambda: None) -> None:
        self.path = path
        self._find_relative = find_relative

    @cached_property
    def relative(self) -> Artifact | None:
        """The largest finished ensemble that differs from this one in size alone, None when there is none."""
        return self._find_relative()

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write ``name.safetensors``."""
        write_tensors(self.path / f"{name}.safetensors", tensors)

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write ``name.parquet``."""
        write_table(self.path / f"{name}.parquet", table)

    def write_json(self, name: str, value: Any) -> None:
        """Write ``name.json``."""
        write_json(self.path / f"{name}.json", value)

    def write_shard(
        self,
        index: int,
        tensors: Mapping[str, Tensor],
        facts: Json,
        *,
        cpu: float = 0.0,
        members: Sequence[int] | None = None,
        taken_over: Mapping[str, int] | None = None,
    ) -> None:
        """Write one shard and then its checksum file: without the second, the first does not count.

        Args:
            index: number of the shard.
            tensors: its content; the first dimension is members.
            facts: what is to be remembered of its making.
            cpu: CPU seconds that it took this process.
            members: ``[start, stop]`` of them; looked up in the layout, which takes the longer the more shards there
                are, where they are not said.
            taken_over: digest of another artifact → number of members of the shard that were made for that one.
        """
        path = self.path / shard_name(index)
        write_tensors(path, tensors)
        self._write_receipt(index, checksum(path), facts, cpu, members, taken_over or {})

    def take_shard(self, index: int, source: Artifact, shard: int) -> None:
        """Take over a whole shard of another artifact: the same file, where the file system can.

        Raises:
            OSError: the other artifact is gone.
        """
        path, theirs = self.path / shard_name(index), source.path / shard_name(shard)
        receipt, (start, stop) = read_receipt(_receipt(theirs)), source.layout[shard]
        link(path, theirs)
        self._write_receipt(index, receipt["sha256"], receipt["facts"], 0.0, None, {source.digest: stop - start})

    def _write_receipt(
        self,
        index: int,
        sha256: str,
        facts: Json,
        cpu: float,
        members: Sequence[int] | None,
        taken_over: Mapping[str, int],
    ) -> None:
        receipt = {"sha256": sha256, "facts": dict(facts), "cpu": cpu, "process": os.getpid()}
        place = [list(members)] if members is not None else read_layout(self.path)[index : index + 1]
        receipt |= {"members": place[0]} if place else {}
        receipt |= {"taken_over": dict(taken_over)} if taken_over else {}
        write_json(_receipt(self.path / shard_name(index)), sealed(receipt))

    def shard_facts(self, index: int) -> Json | None:
        """Return what was recorded with a finished shard; None when it is missing or damaged (then it is removed)."""
        path = self.path / shard_name(index)
        try:
            receipt = read_receipt(_receipt(path))
            if is_real_file(path) and receipt["sha256"] == checksum(path):
                return receipt["facts"]
        except (OSError, ValueError):
            pass
        remove(path)
        remove(_receipt(path))
        return None

    def last_loss(self, index: int) -> float | None:
        """Return the loss of the last epoch of a shard that was just written; None where none was recorded."""
        try:
            history = read_receipt(_receipt(self.path / shard_name(index)))["facts"].get("history")
        except (OSError, ValueError):
            return None
        return float(history[-1]) if history else None

    def cpu_seconds_elsewhere(self) -> float:
        """Return the CPU seconds that other processes, of this attempt or an earlier one, spent on shards."""
        return sum(receipt["cpu"] for receipt in self._receipts.values() if receipt["process"] != os.getpid())

    def shard_checksums(self) -> dict[str, str]:
        """Return file name → checksum of the shards, as it was taken when each was written."""
        return {path.with_suffix(".safetensors").name: receipt["sha256"] for path, receipt in self._receipts.items()}

    def taken_over(self) -> dict[str, int]:
        """Return how many members were made for other artifacts, by the digests of these."""
        members: Counter[str] = Counter()
        for receipt in self._receipts.values():
            members.update(receipt.get("taken_over") or {})
        return dict(members)

    def remove_temporaries(self) -> None:
        """Remove files that were never finished."""
        for temporary in self.path.glob(".*.tmp"):
            temporary.unlink(missing_ok=True)

    @cached_property
    def _receipts(self) -> dict[Path, Json]:
        """What was recorded with each shard; read once, when all of them are written."""
        return {path: read_receipt(path) for path in self.path.glob("shard-*.json")}

    def layout(self, wanted: list[list[int]]) -> list[list[int]]:
        """Return how members are cut into shards: as an interrupted attempt began, else as ``wanted`` (and record it).

        When the record is damaged, it is put together from what every shard's checksum file says of its members; if
        that is not all of them, shards that are not where ``wanted`` has them are removed.

        Args:
            wanted: ``[start, stop]`` of every shard.
        """
        for found in (read_layout(self.path), self._layout_of_shards()):
            if found and found[-1][1] == wanted[-1][1]:
                break
        else:
            found = wanted
            self._keep_shards(wanted)
        write_json(self.path / LAYOUT, found)
        return found

    def _layout_of_shards(self) -> list[list[int]]:
        """Return the layout that the shards' checksum files amount to; empty when they leave members out."""
        places = [self._place(index) for index in range(len(list(self.path.glob("shard-*.json"))))]
        known = [place for place in places if place]
        stops = [0, *(stop for _, stop in known)]
        return known if len(known) == len(places) and [start for start, _ in known] == stops[:-1] else []

    def _place(self, index: int) -> list[int] | None:
        """Return the members that a shard's checksum file says it holds, None when it does not say."""
        try:
            return read_receipt(_receipt(self.path / shard_name(index))).get("members")
        except (OSError, ValueError):
            return None

    def _keep_shards(self, wanted: list[list[int]]) -> None:
        """Remove every shard that does not hold the members that it should."""
        kept = {shard_name(index) for index, place in enumerate(wanted) if self._place(index) == place}
        for path in self.path.glob("shard-*"):
            if path.with_suffix(".safetensors").name not in kept:
                path.unlink()


class Store:
    """All artifacts of a folder.

    Args:
        root: the folder; made when the first artifact is.
        messages: where to say that something was damaged, or is being made elsewhere.
        read_only: raise :class:`Missing` instead of making anything (for plans).
    """

    def __init__(self, root: Path, messages: Messages, *, read_only: bool = False) -> None:
        self.root = root
        self.messages = messages
        self.read_only = read_only
        self._verified: dict[Path, bool] = {}
        self._used: list[str] = []
        self._record: Path | None = None

    def record_to(self, path: Path) -> None:
        """Keep a list of the digests of all artifacts that were asked for, until now and from now on, in a file."""
        self._record = path
        self._write_record()

    def _use(self, artifact: Artifact) -> Artifact:
        if artifact.digest not in self._used:
            self._used.append(artifact.digest)
            self._write_record()
        return artifact

    def _write_record(self) -> None:
        if self._record is not None:
            write_json(self._record, self._used)

    def path(self, spec: Spec) -> Path:
        """Return where the artifact of ``spec`` lives, or would live."""
        return self.root / spec.kind / spec.short

    def find(self, spec: Spec) -> Artifact | None:
        """Return the finished artifact, or None when there is none that can be trusted. Changes nothing on disk."""
        path = self.path(spec)
        if not (path / MANIFEST).exists() or self.damaged_files(spec):
            return None
        return Artifact(path, spec.digest, cached=self._verified.setdefault(path, True))

    def _named(self, spec: Spec) -> Artifact | None:
        """Return an artifact whose manifest is whole, of this address, and names files that are there, unread."""
        path, files = self.path(spec), self._files(spec)
        if files is None or not all(map(is_real_file, files)):
            return None
        return Artifact(path, spec.digest, cached=self._verified.get(path, True))

    def obtain(self, spec: Spec, make: Callable[[Draft], None], *, to_read: bool = True) -> Artifact:
        """Return the artifact, after making it when it does not exist.

        Two processes that ask for the same artifact make it once: the second waits, and reads what the first made.

        Args:
            spec: what it is.
            make: writes it.
            to_read: whether its files will be read, and have to be verified. Otherwise its address is all that counts.

        Raises:
            Missing: the store is read-only and the artifact does not exist.
        """
        if found := self.find(spec) if to_read else self._named(spec):
            return self._use(found)
        if self.read_only:
            raise Missing(spec, self.relative(spec))
        with self._locked(spec):
            found = self.find(spec)
            if found is None:
                self._make_unless_made(spec, make)
                found = self.find(spec)
        if found is None:
            raise OSError(f"{self.path(spec)} was written but cannot be read back; is the disk full?")
        return self._use(found)

    def relative(self, spec: Spec) -> Artifact | None:
        """Return the largest finished ensemble that differs from what ``spec`` describes in nothing but its size.

        One that is damaged is said, and passed over; it is not changed.
        """
        for other in sorted(self._relatives(spec), key=lambda other: -_size(self.path(other))):
            if found := self.find(other):
                return found if found.members else None
            damaged = ", ".join(self.damaged_files(other))
            self.messages.warn(f"{self.path(other)} is damaged ({damaged}): taking no members over from it")
        return None

    def _relatives(self, spec: Spec) -> Iterator[Spec]:
        """Yield what other artifacts say they are, if that differs from ``spec`` in size alone."""
        for other in self._described(spec.kind):
            if other.family == spec.family and other.digest != spec.digest:
                yield other

    def _described(self, kind: str) -> Iterator[Spec]:
        """Yield what the artifacts of a kind say they are, if it fits their address."""
        for manifest in (self.root / kind).glob(f"*/{MANIFEST}"):
            try:
                found = Spec.read(read_manifest(manifest.parent))
            except (OSError, ValueError):
                continue  # it does not say what it is
            if self.path(found) == manifest.parent:
                yield found

    def discard(self, artifact: Artifact) -> None:
        """Remove an artifact that nobody will ask for again; what was made from it stays."""
        if artifact.digest in self._used:
            self._used.remove(artifact.digest)
            self._write_record()
        self._verified.pop(artifact.path, None)
        if is_real_folder(artifact.path):
            (artifact.path / MANIFEST).unlink(missing_ok=True)  # first: without it, what is left does not count
            shutil.rmtree(artifact.path, ignore_errors=True)

    def damaged_files(self, spec: Spec) -> list[str]:
        """Return the files of a finished artifact whose content is not what its manifest or its address says."""
        path = self.path(spec)
        if path in self._verified:
            return []
        files = self._files(spec)
        if files is None:
            return [MANIFEST]
        if sum(map(_bytes, files)) < LARGE:
            are_whole = list(map(self._is_whole, files, files.values()))
        else:  # hashing leaves Python's own lock to other threads
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                are_whole = list(threads.map(self._is_whole, files, files.values()))
        return [file.name for file, is_whole in zip(files, are_whole, strict=True) if not is_whole]

    def _files(self, spec: Spec) -> dict[Path, str] | None:
        """Return file → checksum as a manifest has them; None where that is missing, damaged or of another address."""
        try:
            manifest = read_manifest(self.path(spec))
            described = canonical({name: manifest[name] for name in spec.as_dict()})
        except (OSError, ValueError):
            return None
        known = {self.path(spec) / name: expected for name, expected in manifest["files"].items()}
        return known if described == canonical(spec.as_dict()) else None

    def _is_whole(self, path: Path, expected: str) -> bool:
        """Return whether a file's content has a checksum."""
        return _matches(path, expected)

    def _make_unless_made(self, spec: Spec, make: Callable[[Draft], None]) -> None:
        """Make an artifact; when that fails because another machine, which had been given up, ended first, use its."""
        try:
            self._make(spec, make)
        except OSError:
            if self.find(spec) is None:
                raise
        self._verified[self.path(spec)] = False

    def _make(self, spec: Spec, make: Callable[[Draft], None]) -> None:
        path = self.path(spec)
        draft = Draft(path.with_name(path.name + ".partial"), lambda: self.relative(spec))
        self._remove_unless_folder(path)
        self._remove_unless_folder(draft.path)
        if path.exists():
            self._salvage(spec, draft.path)
        draft.path.mkdir(parents=True, exist_ok=True)
        _remove_foreign(draft.path)  # temporary files of a process that was killed, too
        started, cpu = time.perf_counter(), time.process_time()
        make(draft)
        own = time.process_time() - cpu
        seconds = {"wall": time.perf_counter() - started, "cpu": own + draft.cpu_seconds_elsewhere()}
        draft.remove_temporaries()
        known = draft.shard_checksums()
        names = sorted(file.name for file in draft.path.iterdir() if file.name != MANIFEST)
        files = {name: known.get(name) or checksum(draft.path / name) for name in names}
        more = {"families": dict(spec.families), "taken_over": draft.taken_over(), "seconds": seconds, "files": files}
        write_json(draft.path / MANIFEST, sealed({**spec.as_dict(), **provenance(), **more}))
        os.replace(draft.path, path)

    def _salvage(self, spec: Spec, partial: Path) -> None:
        """Turn a damaged artifact back into work in progress, without what is damaged."""
        path, damaged = self.path(spec), self.damaged_files(spec)
        self.messages.warn(f"{path} is damaged ({', '.join(damaged)}): the damaged part is computed again")
        shutil.rmtree(partial, ignore_errors=True)
        os.replace(path, partial)
        for name in {*damaged, MANIFEST}:
            remove(partial / name)

    def _remove_unless_folder(self, path: Path) -> None:
        """Remove a link or a file from where a folder has to be; where the link leads to, nothing happens."""
        if not is_real_folder(path) and (path.is_symlink() or path.exists()):
            self.messages.warn(f"{path} is a link or a file, and no folder: it is removed and computed again")
            path.unlink()

    def _locked(self, spec: Spec) -> Lock:
        def waiting(holder: str) -> None:
            self.messages.note(f"waiting for {holder}, which is making {spec.kind} {spec.short}")

        return Lock(self.root / LOCKS / f"{spec.kind}-{spec.short}.lock", waiting)


def shard_name(index: int) -> str:
    """Return the file name of shard ``index``."""
    return f"shard-{index:05d}.safetensors"


def _size(path: Path) -> int:
    """Return how many members an artifact claims to have; 0 when it does not say."""
    return Artifact(path, "", cached=True).members


def _remove_foreign(folder: Path) -> None:
    """Remove from unfinished work what this package does not write there: links, folders, and damaged files."""
    for path in list(folder.iterdir()):
        if not is_real_file(path) or not plain_name(path.name) or _is_damaged_receipt(path):
            remove(path)


def _is_damaged_receipt(path: Path) -> bool:
    if not path.match("shard-*.json"):
        return False
    try:
        read_receipt(path)
    except (OSError, ValueError):
        return True
    return False


def _receipt(shard: Path) -> Path:
    return shard.with_suffix(".json")


def _bytes(path: Path) -> int:
    """Return the size of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _matches(path: Path, expected: str) -> bool:
    try:
        return is_real_file(path) and checksum_once(path) == expected
    except OSError:
        return False
