"""A store for plans: what is missing is promised, so that what would be made from it has an address, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dmm_exp.store.artifact import Artifact
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
        self._families: dict[str, dict[str, list[Spec]]] = {}  # by kind and family

    def obtain(self, spec: Spec, make: Callable[[Draft], None], *, to_read: bool = True) -> Artifact:
        """Return an artifact, or a promise of it."""
        try:
            return super().obtain(spec, make, to_read=to_read)
        except Missing as missing:
            known = self.missing.setdefault(spec.digest, missing)
            return Promised(self.path(spec), spec.digest, False, known)

    def _is_whole(self, path: Path, expected: str) -> bool:
        """Return whether a file is there; its content is not read."""
        return path.is_file()

    def _relatives(self, spec: Spec) -> Iterator[Spec]:
        """Yield what other artifacts say they are, if that differs from ``spec`` in size alone; each is read once."""
        if spec.kind not in self._families:
            self._families[spec.kind] = {}
            for found in self._described(spec.kind):
                self._families[spec.kind].setdefault(found.family, []).append(found)
        yield from (one for one in self._families[spec.kind].get(spec.family, ()) if one.digest != spec.digest)
