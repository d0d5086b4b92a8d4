"""What determines an artifact, and the address that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dmm_exp.config.schema import Plain
from dmm_exp.files.digests import digest_of
from dmm_exp.files.reading import Json

FORMAT_VERSION = 1
SHORT = 20  # characters of a digest that name an artifact's folder
MEMBERS = "members"  # the key of a configuration that says how many members an ensemble has


@dataclass(frozen=True)
class Spec:
    """Everything that determines an artifact.

    Attributes:
        kind: what it is, and the folder it lives in (``ensemble``, ``effect``, ...).
        config: the resolved configuration that matters for it, as plain containers.
        inputs: name → digest of the artifacts it is made from.
        families: name → family of those inputs of which member m alone determines member m. Not part of the address.
    """

    kind: str
    config: Plain = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, manifest: Json) -> Spec:
        """Return what a manifest says that its artifact is. Raises ``KeyError`` when it does not say."""
        return cls(manifest["kind"], manifest["config"], manifest["inputs"], manifest.get("families") or {})

    def as_dict(self) -> Json:
        """Return the content that is hashed, as plain containers."""
        return {
            "kind": self.kind,
            "format": FORMAT_VERSION,
            "config": dict(self.config),
            "inputs": dict(self.inputs),
        }

    @property
    def digest(self) -> str:
        """The hash that is the artifact's address."""
        return digest_of(self.as_dict())

    @property
    def family(self) -> str:
        """The hash of all that determines a member: of everything but how many members there are."""
        config = {key: value for key, value in self.config.items() if key != MEMBERS}
        return digest_of({**self.as_dict(), "config": config, "inputs": {**self.inputs, **self.families}})

    @property
    def short(self) -> str:
        """The start of the digest, long enough for a folder's name."""
        return self.digest[:SHORT]
