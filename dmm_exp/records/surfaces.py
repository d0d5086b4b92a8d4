"""Where something of the deleted rows is after a deletion, surface by surface, and what to do about it.

The texts are in ``surfaces.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from dmm_exp.files.reading import Json, read_yaml
from dmm_exp.records.about import WORDS
from dmm_exp.records.chain import request_name
from dmm_exp.records.pool import PROBED
from dmm_exp.records.purged import Purged, purged_of

ERASED, REMAINS, ELSEWHERE = "erased", "remains", "not ours to reach"

Surface = dict[str, str]


def surfaces(record: Json, earlier: int) -> list[Surface]:
    """Return what is known of the deleted rows, and where, when a deletion is done.

    Args:
        record: content of ``deletion.json`` so far.
        earlier: number of networks of earlier requests that a ledger holds.
    """
    pool, is_exact = record["pool"], record["method"]["exact"]
    found = listed(
        ["exact network" if is_exact else "network", "record", "points", "page", "temporary folder"],
        file=record["network"]["file"],
        and_names=_and_names(record),
        of_a_pool=" of the pool that was made for this call" if pool and not pool["kept"] else "",
    )
    if ledger := record["ledger"]:
        names = ["ledger", "ledger's request"] + (["ledger's earlier networks"] if earlier else [])
        found += listed(names, ledger["folder"], request=request_name(ledger["request"]), earlier=earlier)
    if pool and pool["kept"]:
        purged, gone = purged_of(Path(pool["folder"])), set(record["removed"]["indices"])
        found += pool_surfaces(pool["folder"], purged, gone, requests=True, verified=record["quality"]["verified"])
    return [*found, *elsewhere()]


def _and_names(record: Json) -> str:
    """Return what a record says of the rows beside their indices, in words."""
    said = record.get("request") or {}
    found = ["the names of their files"] if record["removed"]["names"] else []
    found += ["your ids of them"] if said.get("record_ids") else []
    found += ["the facts about the request"] if any(said.get(name) for name in WORDS) else []
    return "".join(f", and {part}" for part in found)


def pool_surfaces(
    folder: str | Path, purged: Purged | None, gone: set[int], *, requests: bool, verified: bool
) -> list[Surface]:
    """Return what a pool's folder holds.

    Args:
        folder: of the pool.
        purged: what was removed from it, None if nothing was.
        gone: training indices that were deleted.
        requests: whether it holds what requests make.
        verified: whether it holds what a verification makes.
    """
    erased = gone & set(() if purged is None else purged.rows)
    left = gone - erased
    found = listed(["pool's erased inputs"], folder, rows=f"{len(erased):,}") if erased else []
    found += listed(["pool's inputs"], folder, rows=f"{len(left):,}") if left else []
    names = ["pool's probe"] if any(row < PROBED for row in left) else []
    names += ["pool's labels", "pool's networks" if purged is None else "pool's erased networks"]
    designs = ["pool's designs"] if (Path(folder) / "artifacts" / "design").is_dir() else []
    names += ["pool's answers", *designs, "pool's estimator"]
    names += ["pool's given networks", "pool's effects", "pool's margins"] if requests else []
    names += ["pool's verifications"] if verified else []
    return [*found, *listed(names, folder)]


def elsewhere() -> list[Surface]:
    """Return what this package cannot reach."""
    return listed(["given network", "training data", "runs", "trackers", "backups"])


def listed(names: Iterable[str], folder: str | Path = "", **facts: object) -> list[Surface]:
    """Return entries of ``surfaces.yaml``: each ``where``, ``what``, ``state`` and ``how`` (what to do).

    Args:
        names: of the entries.
        folder: of a ledger or a pool.
        facts: what stands in braces, by name.
    """
    purge = f"python -m dmm_exp.unlearn request.purge={folder} removes it"
    facts |= {"folder": folder, "artifacts": f"{folder}/artifacts", "purge": purge}
    return [{key: text.format(**facts) for key, text in _texts()[name].items()} for name in names]


@cache
def _texts() -> dict[str, Surface]:
    return read_yaml(Path(__file__).with_suffix(".yaml"))
