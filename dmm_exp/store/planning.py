"""A store for plans: what is missing is promised, so that what would be made from it has an address, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dmm_exp.files.digests import canonical
from dmm_exp.store.artifact import Artifact
from dmm_exp.store.manifest import MANIFEST, read_manifest
from dmm_exp.store.spec import Spec
from dmm_exp.store.store import Draft, Messages, Missing, Store


@dataclass(frozen=True)
class Promised(Artifact):
    """An artifact that does not exist yet: it has an address and no content.

    Attributes:
        missing: what is raised when its content is asked for.
    """

    missing: Missing

    @property
    def spec(self) -> Spec:
        """What determines it."""
        return self.missing.spec

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        raise self.missing
        yield


class PlanningStore(Store):
    """A store that makes nothing, and remembers what it was asked for and does not have.

    Artifacts are taken as whole where all their files are there: a plan reads no gigabytes. A run, which verifies every
    checksum, says what is damaged.

    Args:
        root: the folder.
        messages: where to say what a person should know.

    Attributes:
        missing: digest → what was asked for and does not exist, in the order of asking, until it is forgotten.
    """

    def __init__(self, root: Path, messages: Messages) -> None:
        super().__init__(root, messages, read_only=True)
        self.missing: dict[str, Missing] = {}
        self._sizes: dict[str, dict[str, list[Spec]]] = {}  # by kind and family

    def obtain(self, spec: Spec, make: Callable[[Draft], None]) -> Artifact:
        """Return an artifact, or a promise of it."""
        try:
            return super().obtain(spec, make)
        except Missing as missing:
            known = self.missing.setdefault(spec.digest, missing)
            return Promised(self.path(spec), spec.digest, False, known)

    def damaged_files(self, spec: Spec) -> list[str]:
        """Return the files of a finished artifact that are not there; their content is not read."""
        path = self.path(spec)
        if path in self._verified:
            return []
        try:
            manifest = read_manifest(path)
            if canonical({name: manifest[name] for name in spec.as_dict()}) != canonical(spec.as_dict()):
                return [MANIFEST]
            return [name for name in manifest["files"] if not (path / name).is_file()]
        except (OSError, ValueError):
            return [MANIFEST]

    def _relatives(self, spec: Spec) -> Iterator[Spec]:
        """Yield what other artifacts say they are, if that differs from ``spec`` in size alone; each is read once."""
        if spec.kind not in self._sizes:
            self._sizes[spec.kind] = {}
            for manifest in (self.root / spec.kind).glob(f"*/{MANIFEST}"):
                try:
                    other = Spec.read(read_manifest(manifest.parent))
                    self._sizes[spec.kind].setdefault(other.family, []).append(other)
                except (OSError, ValueError):
                    continue  # it does not say what it is
        yield from (one for one in self._sizes[spec.kind].get(spec.family, ()) if one.digest != spec.digest)
