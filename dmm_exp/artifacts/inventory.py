"""The artifacts of a folder, what they are made from, and which runs need them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dmm_exp.config.identity import ARTIFACTS
from dmm_exp.errors import UserError
from dmm_exp.files import writing
from dmm_exp.files.reading import is_real_folder, read_json
from dmm_exp.store import Artifact, Spec
from dmm_exp.store.lock import holder_of
from dmm_exp.store.manifest import MANIFEST, read_manifest
from dmm_exp.store.store import LOCKS

PARTIAL = ".partial"


@dataclass(frozen=True)
class Entry:
    """A folder of the store.

    Attributes:
        path: the folder.
        spec: what its manifest says that it is; None when it has none that can be read (unfinished work, or damage).
    """

    path: Path
    spec: Spec | None

    @classmethod
    def at(cls, path: Path) -> Entry:
        """Look at a folder."""
        try:
            return cls(path, Spec.read(read_manifest(path)))
        except (OSError, ValueError):
            return cls(path, None)

    @property
    def key(self) -> str:
        """The start of the digest, which names the folder."""
        return self.path.name

    @property
    def kind(self) -> str:
        """The kind of artifact, such as ``ensemble``."""
        return self.path.parent.name

    @property
    def role(self) -> str:
        """What an ensemble is for; empty for anything else."""
        return str(self.spec.config.get("role", "")) if self.spec else ""

    @property
    def state(self) -> str:
        """``finished``, ``unfinished``, ``damaged`` (its manifest cannot be read), or ``link``."""
        if not is_real_folder(self.path):
            return "link"
        if self.path.name.endswith(PARTIAL):
            return "unfinished"
        return "finished" if self.spec else "damaged"

    @property
    def is_beyond_a_link(self) -> bool:
        """Whether the folder, or that of its kind, is a link."""
        return not is_real_folder(self.path) or not is_real_folder(self.path.parent)

    @cached_property
    def artifact(self) -> Artifact:
        """The finished artifact."""
        return Artifact(self.path, self.spec.digest if self.spec else "", cached=True)

    @cached_property
    def bytes(self) -> int:
        """Size on disk of all its files, of which other artifacts may share some."""
        return sum(file.lstat().st_size for file in self.path.iterdir()) if self.state != "link" else 0

    @property
    def freed(self) -> int:
        """Bytes that removing it frees: of the files that no other artifact shares."""
        return sum(stat.st_size for file in self.path.iterdir() if (stat := file.lstat()).st_nlink == 1)


class Inventory:
    """All artifacts, scores and runs of an output folder.

    Args:
        outputs: the folder (``paths.outputs``).

    Raises:
        UserError: it holds no artifacts.
    """

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs
        self.root = outputs / "artifacts"
        if not self.root.is_dir():
            raise UserError(
                f"--outputs {outputs}: there are no artifacts; expected the folder that paths.outputs names"
            )
        folders = sorted(path for path in self.root.glob("[!.]*/*") if path.is_dir())
        self.entries = [Entry.at(path) for path in folders]

    @property
    def finished(self) -> list[Entry]:
        """Those whose manifest can be read."""
        return [entry for entry in self.entries if entry.state == "finished"]

    def named(self, key: str) -> Entry:
        """Return the artifact whose key, or ``kind/key``, begins so.

        Raises:
            UserError: there is none, or there are several.
        """
        found = [entry for entry in self.entries if entry.key.startswith(key) or f"{entry.kind}/{entry.key}" == key]
        if len(found) != 1:
            several = ", ".join(f"{entry.kind}/{entry.key}" for entry in found[:4])
            what = f"{len(found)} artifacts begin so ({several}, …)" if found else "no artifact begins so"
            raise UserError(f"KEY '{key}': {what}; `python -m dmm_exp.artifacts list` shows all")
        return found[0]

    def of_digest(self, digest: str) -> Entry | None:
        """Return the finished artifact of a digest."""
        return self._by_digest.get(digest)

    @cached_property
    def _by_digest(self) -> dict[str, Entry]:
        return {entry.spec.digest: entry for entry in self.entries if entry.spec and entry.state == "finished"}

    def made_from(self, entry: Entry) -> list[Entry]:
        """Return the artifacts that this one is an input of."""
        digest = entry.artifact.digest
        return [other for other in self.finished if other.spec and digest in other.spec.inputs.values()]

    @cached_property
    def uses(self) -> dict[Path, list[str] | None]:
        """Folder of every run, and of scores → digests of what it asked for; None when that was not recorded."""
        found: dict[Path, list[str] | None] = {}
        for folder in sorted([*self.outputs.glob("runs/*"), *self.outputs.glob("scores/*")]):
            if folder.is_dir():
                try:
                    found[folder] = _digests(read_json(folder / ARTIFACTS))
                except (OSError, ValueError):
                    found[folder] = None
        return found

    def users(self, entry: Entry) -> list[Path]:
        """Return the folders of the runs that asked for an artifact."""
        return [folder for folder, digests in self.uses.items() if entry.artifact.digest in (digests or ())]

    def unneeded(self) -> list[Entry]:
        """Return finished artifacts that no recorded run asked for, and that nothing a run asked for was made from."""
        needed = self._with_inputs(digest for digests in self.uses.values() for digest in digests or ())
        return [entry for entry in self.finished if entry.artifact.digest not in needed]

    def _with_inputs(self, digests: Iterable[str]) -> set[str]:
        """Return digests, and those of everything that these were made from."""
        found: set[str] = set()
        waiting = list(digests)
        while waiting:
            digest = waiting.pop()
            entry = self.of_digest(digest)
            if digest not in found and entry and entry.spec:
                waiting += entry.spec.inputs.values()
            found.add(digest)
        return found

    def at_work(self) -> list[str]:
        """Return who is making an artifact, or doing a run, in words."""
        locks = [*(self.root / LOCKS).glob("*.lock"), *self.outputs.glob("runs/*/.lock")]
        return [holder for lock in locks if (holder := holder_of(lock))]


def remove(entry: Entry) -> None:
    """Remove an artifact's folder, its manifest first: without it, what is left does not count. Links are not followed.

    Raises:
        UserError: the folder is a link, or lies in one.
    """
    if entry.is_beyond_a_link:
        raise UserError(f"{entry.path} is a link, or lies in one; prune follows none")
    writing.remove(entry.path / MANIFEST)
    writing.remove(entry.path)


def _digests(recorded: object) -> list[str]:
    if not isinstance(recorded, list) or not all(isinstance(digest, str) for digest in recorded):
        raise ValueError("it is no list of digests")
    return recorded
