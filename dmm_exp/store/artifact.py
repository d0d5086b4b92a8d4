"""An artifact: an immutable result on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmm_exp.errors import UserError, reason_of
from dmm_exp.files.reading import Json, check_parquet, read_json
from dmm_exp.store import stacked
from dmm_exp.store.manifest import MANIFEST, read_layout, read_manifest, read_receipt
from dmm_exp.store.spec import Spec
from dmm_exp.store.stacked import Piece, Stacked

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["MANIFEST", "Artifact"]


@dataclass(frozen=True)
class Artifact:
    """A finished folder of the store, verified unless its address alone was asked for.

    Its checksums tell damage. Content that is whole and yet cannot be read was not written by this package: it is
    refused with a ``UserError``.

    Attributes:
        path: the folder.
        digest: the address, to be used as an input of whatever is made from it.
        cached: whether it existed before this process asked for it.
    """

    path: Path
    digest: str
    cached: bool

    @cached_property
    def manifest(self) -> Json:
        """What was recorded when it was made: configuration, inputs, versions, commit, seconds, device, checksums."""
        with self._reading(MANIFEST):
            return read_manifest(self.path)

    @property
    def spec(self) -> Spec:
        """What determined it."""
        return Spec.read(self.manifest)

    @property
    def seconds(self) -> float:
        """Wall seconds that making it took, without what was taken over from other artifacts."""
        return float(self.manifest["seconds"]["wall"])

    @property
    def taken_over(self) -> int:
        """Number of members that other artifacts had already when it was made."""
        return sum((self.manifest.get("taken_over") or {}).values())

    @cached_property
    def layout(self) -> list[list[int]]:
        """The members ``[start, stop]`` of every shard; empty when it is not an ensemble."""
        return read_layout(self.path)

    @property
    def members(self) -> int:
        """Number of members of an ensemble; 0 for anything else."""
        return self.layout[-1][1] if self.layout else 0

    def json(self, name: str) -> Any:
        """Return the content of ``name.json``."""
        with self._reading(f"{name}.json"):
            return read_json(self.path / f"{name}.json", links=False)

    def table(self, name: str) -> pd.DataFrame:
        """Return the content of ``name.parquet``."""
        import pandas as pd

        with self._reading(f"{name}.parquet"):
            check_parquet(self.path / f"{name}.parquet")
            return pd.read_parquet(self.path / f"{name}.parquet")

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the content of ``name.safetensors``."""
        from safetensors.torch import load_file

        with self._reading(f"{name}.safetensors"):
            return load_file(self.path / f"{name}.safetensors")

    def stacked(self, name: str) -> Tensor:
        """Return tensor ``name`` of all shards, joined along the first dimension (members) in the order of shards."""
        import torch
        from safetensors import safe_open

        parts = []
        for path in self._shards():
            with self._reading(path.name), safe_open(path, framework="pt") as shard:
                parts.append(shard.get_tensor(name))
        return torch.cat(parts)

    def lazy(self, name: str) -> Tensor | Stacked:
        """Return tensor ``name`` of all shards: read whole, or, if it is large, left on disk.

        Floating numbers are float32. Large is what would take more than :data:`dmm_exp.store.stacked.WHOLE_BYTES`.
        """
        tensor = self._on_disk(name)
        small = prod(tensor.shape) * tensor.dtype.itemsize <= stacked.WHOLE_BYTES
        return tensor[:, :] if small else tensor

    def at(self, name: str, points: Tensor) -> Tensor:
        """Return some points of tensor ``name`` of all shards, ``[members, points, ...]``; no others are read."""
        return self._on_disk(name)[:, points]

    def _on_disk(self, name: str) -> Stacked:
        with self._reading("layout.json"):
            shards = zip(self._shards(), self.layout, strict=True)
            return Stacked(name, [Piece(path, 0, stop - start) for path, (start, stop) in shards])

    def stacked_names(self) -> list[str]:
        """Return the names of the tensors that every shard holds."""
        from safetensors import safe_open

        with self._reading("the first shard"), safe_open(self._shards()[0], framework="pt") as shard:
            return list(shard.keys())

    def shard_facts(self) -> list[Json]:
        """Return what was recorded with each shard (seconds, training history, ...), in the order of shards.

        Members that were taken over from another artifact are recorded as they were made there.
        """
        receipts = (path.with_suffix(".json") for path in self._shards())
        with self._reading("a shard's receipt"):
            return [read_receipt(path)["facts"] for path in receipts]

    def some_members(self, shard: int, start: int, stop: int) -> dict[str, Tensor]:
        """Return all tensors of members ``start … stop-1`` of a shard, counted within it."""
        from safetensors import safe_open

        with self._reading(f"shard {shard}"), safe_open(self._shards()[shard], framework="pt") as file:
            return {name: file.get_slice(name)[start:stop] for name in file.keys()}  # noqa: SIM118

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return members ``start … stop-1`` of tensor ``name``, whichever shards they are in; no others are read."""
        import torch
        from safetensors import safe_open

        parts = []
        for path, (first, end) in zip(self._shards(), self.layout, strict=True):
            if first < stop and end > start:
                with self._reading(path.name), safe_open(path, framework="pt") as shard:
                    parts.append(shard.get_slice(name)[max(start - first, 0) : min(stop, end) - first])
        return torch.cat(parts)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn what cannot be read into a ``UserError``."""
        from safetensors import SafetensorError

        try:
            yield
        except UserError:
            raise
        except (SafetensorError, ValueError, LookupError, TypeError, NotImplementedError) as error:
            raise UserError(
                f"{self.path}: {name} cannot be read, although it has its checksum ({reason_of(error)}); remove this "
                "folder, and what it held is computed again"
            ) from error

    def _shards(self) -> list[Path]:
        names = (name for name in self.manifest["files"] if name.startswith("shard-"))
        in_order = sorted(names, key=lambda name: (len(name), name))  # numbers from 100,000 on have more digits
        return [self.path / name for name in in_order if name.endswith(".safetensors")]
