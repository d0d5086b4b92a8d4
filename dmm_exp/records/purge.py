"""Removing what is known of deleted rows, from a ledger and from a pool.

A purge that was interrupted is finished by the next one. Files are removed as the file system does it; the inputs of
rows are overwritten with zeros where they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from safetensors.torch import load_file

from dmm_exp.console.progress import Console
from dmm_exp.data import Examples
from dmm_exp.ensembles.work import read_examples, stacked
from dmm_exp.errors import REASON, UserError, explained
from dmm_exp.files.reading import Json, read_json
from dmm_exp.files.writing import checksum, rows_at, settle, write_json, write_tensors
from dmm_exp.pipeline.context import content_of
from dmm_exp.records.chain import CHECKPOINT, PURGE, REMOVABLE, Chain, request_name
from dmm_exp.records.chain_reading import read
from dmm_exp.records.pool import EMPIRICAL_BAYES, Pool, is_finished, larger_of, originals_of
from dmm_exp.records.purged import Purged, purged_of, write_purged
from dmm_exp.records.signature import Key
from dmm_exp.records.surfaces import Surface, elsewhere, listed, pool_surfaces
from dmm_exp.store import Artifact, Spec
from dmm_exp.store.artifact import MANIFEST
from dmm_exp.store.lock import Lock, holder_of
from dmm_exp.store.manifest import read_manifest
from dmm_exp.store.provenance import provenance
from dmm_exp.store.store import LOCKS, SEAL, sealed

DATA = "examples.safetensors"
NEEDED = ("logits", "margins", "masks")  # tensors of a pool's networks that further requests need
ASIDE = ".purging"  # end of the name of a folder that takes another one's place


@dataclass(frozen=True)
class Purge:
    """What was purged.

    Attributes:
        removed: files and folders that are not there any more.
        surfaces: what remains, and what was erased (:mod:`dmm_exp.records.surfaces`).
    """

    removed: list[str]
    surfaces: list[Surface]


# ---------------------------------------------------------------------- a ledger


def purge_ledger(folder: Path, key: Key | None, pools: Sequence[Path], console: Console) -> Purge:
    """Remove what a ledger, and the pools that its requests used, hold of deleted rows and do not need.

    Args:
        folder: of the ledger.
        key: that it is signed with, if it is.
        pools: further pools, beside those that its lines name.
        console: says who is waited for.

    Raises:
        UserError: there is no ledger, it was changed, it is signed and there is no key, or a pool is in use.
    """
    with Lock(folder / ".lock", lambda holder: console.note(f"waiting for {holder}")):
        chain = _chain(folder, key)
        chain.complete(key)
        named = {Path(line["pool"]) for line in chain.requests if line["pool"] is not None}
        folders = sorted({*named, *(pool.absolute() for pool in pools)})
        done = [_purged_if_there(pool, chain.gone, console) for pool in folders]
        files = _removable(chain)
        if files:
            facts = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "files": files, "versions": provenance()}
            chain = chain.append(PURGE, facts, key)
            chain.remove_purged()
    removed = [*(str(folder / name) for name in files), *(name for purge in done for name in purge.removed)]
    names = ["purged ledger", "purged ledger's network", "purged ledger's records", "saved results"]
    found = listed(names, folder, network=chain.path(len(chain.requests)) / CHECKPOINT)
    return Purge(removed, [*found, *(entry for purge in done for entry in purge.surfaces), *elsewhere()])


def _chain(folder: Path, key: Key | None) -> Chain:
    chain = read(folder, None if key is None else key.public)
    if chain is None:
        raise UserError(f"{folder}: holds no ledger; expected the folder of one")
    if chain.is_signed and key is None:
        raise UserError(
            f"{folder}: this ledger is signed; give the key that it was begun with (key=, request.key=FILE)"
        )
    return chain


def _removable(chain: Chain) -> list[str]:
    """Return the files of requests that nothing needs: all but records and the network as it is now."""
    last = len(chain.requests)
    found = [f"{request_name(number)}/{name}" for number in range(1, last + 1) for name in REMOVABLE]
    return [name for name in found if name not in chain.purged | {f"{request_name(last)}/{CHECKPOINT}"}]


def _purged_if_there(folder: Path, rows: Sequence[int], console: Console) -> Purge:
    return purge_pool(folder, rows, console) if is_finished(folder) else Purge([], listed(["missing pool"], folder))


# ---------------------------------------------------------------------- a pool


def purge_pool(folder: Path, rows: Iterable[int], console: Console) -> Purge:
    """Remove what a pool holds of rows and does not need for further requests; it trains no more networks then.

    Args:
        folder: of the pool.
        rows: training indices whose inputs are overwritten, beside those that were before.
        console: says who is waited for.

    Raises:
        UserError: there is no finished pool, an index is out of range, its data is damaged, or it is in use.
    """
    pool, wanted = Pool.open(folder), sorted(set(rows))
    with Lock(folder / ".lock", lambda holder: console.note(f"waiting for {holder}")):
        for lock in (pool.artifacts / LOCKS).glob("*.lock"):
            if holder := holder_of(lock):
                raise UserError(f"pool={folder}: is in use by {holder}; expected to be alone: try again later")
        _check_no_links(pool)
        purged = _to_purge(pool, wanted)
        write_purged(folder, purged)  # first: from now on nothing writes the rows again
        _overwrite(pool.data, purged.rows)
        _forget_probe(pool, purged.rows)
        removed = _remove(pool)
        read_examples.cache_clear()
        stacked.cache_clear()
    return Purge(removed, pool_surfaces(folder, purged, set(wanted), requests=False, verified=False))


def _check_no_links(pool: Pool) -> None:
    """Refuse a pool with links in it: what they lead to is not the pool's, and is neither changed nor removed."""
    for path in (pool.artifacts, *pool.artifacts.rglob("*")):
        if path.is_symlink():
            raise UserError(
                f"pool={pool.folder}: {path} is a link, and a purge follows none; remove it, or put the files there"
            )


def _to_purge(pool: Pool, rows: list[int]) -> Purged:
    """Return what will have been removed from a pool.

    Raises:
        UserError: an index is out of range, or the pool's copy of the data is damaged.
    """
    before, damaged = purged_of(pool.folder), f"pool={pool.folder}: its copy of the data is damaged; delete the pool"
    with explained(damaged, OSError, ValueError, LookupError, TypeError):
        artifact = Artifact(pool.data, pool.dataset, cached=True)
        content, examples = artifact.spec.inputs["content"], Examples.read(artifact)
    for row in rows:
        if not 0 <= row < examples.n_train:
            raise UserError(f"forget: {row} is out of range; expected indices from 0 to {examples.n_train - 1}")
    earlier = () if before is None else before.rows
    examples.inputs[list(earlier)] = 0
    if content_of(examples) != (content if before is None else before.blank):
        raise UserError(damaged)
    fresh = [row for row in rows if examples.inputs[row].any()]  # zeros need no purge, and may be read as they are
    examples.inputs[fresh] = 0
    return Purged(tuple(sorted({*fresh, *earlier})), content, content_of(examples))


def _overwrite(data: Path, rows: Sequence[int]) -> None:
    """Overwrite the inputs of rows with zeros where they are on the disk, and adapt the manifest."""
    path = data / DATA
    with explained(f"{path}: is damaged ({REASON}); delete the pool", ValueError):
        start, size = rows_at(path, "inputs")
    with path.open("r+b") as file:
        for row in rows:
            file.seek(start + row * size)
            file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())
    manifest = read_manifest(data)
    manifest["files"][DATA] = checksum(path)
    _write_resealed(data / MANIFEST, manifest)


def _forget_probe(pool: Pool, rows: Sequence[int]) -> None:
    """Remove an untrained network's answers on rows from ``pool.json``."""
    for answers in pool.probe:
        for row in rows:
            if row < len(answers):
                answers[row] = [0.0] * len(answers[row])
    pool.write()


def _write_resealed(path: Path, facts: Json) -> None:
    write_json(path, sealed({name: value for name, value in facts.items() if name != SEAL}))


def _remove(pool: Pool) -> list[str]:
    """Remove all artifacts of a pool that further requests do not need, and of others what they do not need."""
    root, removed, kept = pool.artifacts, [], {pool.dataset}
    for aside in root.glob(f"*/*{ASIDE}"):
        _take_place(aside)
    for path in sorted(root.glob("*/*"), key=_turn):
        if path.parent.name in (LOCKS, "chunk_size") or not path.is_dir():
            continue
        spec = _spec(path)
        if spec is not None and _is_needed(spec, pool, kept):
            kept.add(spec.digest)
            removed += _strip(path) if spec.kind == "ensemble" else []
            continue
        (path / MANIFEST).unlink(missing_ok=True)  # first: without it, what is left does not count
        shutil.rmtree(path)
        removed.append(str(path))
    return removed


def _turn(path: Path) -> int:
    """Return when it is an artifact's turn: after those that it was made from."""
    spec = _spec(path)
    by_design = spec is not None and "masks" in spec.inputs
    return 2 if by_design else {"design": 1, "estimator": 3}.get(path.parent.name, 0)


def _spec(path: Path) -> Spec | None:
    """Return what an artifact says it is, None where it is unfinished or does not say."""
    try:
        return Spec.read(read_manifest(path))
    except (OSError, ValueError):
        return None


def _is_needed(spec: Spec, pool: Pool, kept: set[str]) -> bool:
    """Return whether further requests need an artifact; ``kept`` are the digests of those that they do."""
    inputs = set(spec.inputs.values())
    if spec.kind == "dataset":
        return spec.digest == pool.dataset
    if spec.kind in ("estimator", "design") or "masks" in spec.inputs:
        return inputs <= kept
    members = {"subset": pool.size, "original": originals_of(pool.size)}
    members |= {"larger": larger_of(pool.size)} if pool.attribution == EMPIRICAL_BAYES else {}
    return (
        spec.kind == "ensemble"
        and inputs == {pool.dataset}
        and spec.config.get("members") == members.get(spec.config["role"])
        and (spec.config["role"] != "original" or spec.config["subsets"] == {"all_but": []})
    )


def _strip(path: Path) -> list[str]:
    """Remove an ensemble's networks, and all but their answers; returns files that lost something."""
    artifact = Artifact(path, path.name, cached=True)
    if set(artifact.stacked_names()) <= set(NEEDED):
        return []
    manifest = artifact.manifest
    shards = [name for name in manifest["files"] if name.endswith(".safetensors")]
    aside = path.with_name(path.name + ASIDE)
    shutil.copytree(path, aside, ignore=lambda folder, names: shards)
    for name in shards:
        write_tensors(aside / name, {key: value for key, value in load_file(path / name).items() if key in NEEDED})
        receipt = (aside / name).with_suffix(".json")
        _write_resealed(receipt, {**read_json(receipt), "sha256": checksum(aside / name)})
    files = {name: checksum(aside / name) for name in manifest["files"]}
    _write_resealed(aside / MANIFEST, {**manifest, "files": files})
    for file in aside.iterdir():
        settle(file)
    _take_place(aside)
    return [str(path / name) for name in shards]


def _take_place(aside: Path) -> None:
    """Let a folder take the place of the one that it was made from; one that was not finished is removed."""
    path = aside.with_name(aside.name.removesuffix(ASIDE))
    if (aside / MANIFEST).exists() and _is_stripped(aside):
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        os.rename(aside, path)
        settle(path.parent)
    else:
        shutil.rmtree(aside)


def _is_stripped(folder: Path) -> bool:
    """Return whether all files of an artifact are there as its manifest says."""
    try:
        files = read_manifest(folder)["files"]
    except (OSError, ValueError):
        return False
    return all((folder / name).exists() and checksum(folder / name) == known for name, known in files.items())
