"""Where something of the deleted rows is after a deletion, surface by surface, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from dmm_exp.deletion.purged import Purged, purged_of
from dmm_exp.deletion.words import Record

ERASED, REMAINS, ELSEWHERE = "erased", "remains", "not ours to reach"
PROBED = 8  # first rows that pool.json holds answers on
PROOF = "keep it: it is the proof"
PURGE = "python -m dmm_exp.unlearn request.purge={} removes it"

Surface = dict[str, str]


def surface(where: str, what: str, state: str, how: str) -> Surface:
    """Return one entry of the list."""
    return {"where": where, "what": what, "state": state, "how": how}


def surfaces(record: Record, earlier: int) -> list[Surface]:
    """Return what is known of the deleted rows, and where, when a deletion is done.

    Args:
        record: content of ``deletion.json`` so far.
        earlier: number of networks of earlier requests that a ledger holds.
    """
    found = [*_own(record), _temporary(record), *_ledger(record, earlier)]
    pool = record["pool"]
    if pool is not None and pool["kept"]:
        folder, gone = Path(pool["folder"]), set(record["removed"]["indices"])
        verified = record["quality"]["verified"]
        found += pool_surfaces(folder, purged_of(folder), gone, requests=True, verified=verified)
    return [*found, *elsewhere()]


def _own(record: Record) -> list[Surface]:
    """Return what the files of the record hold."""
    exact = record["method"]["exact"]
    names = ", and the names of their files" if record["removed"]["names"] else ""
    influence = "nothing: it was trained on the kept rows alone" if exact else "what is left of the rows' influence"
    return [
        surface(
            record["network"]["file"],
            influence,
            ERASED if exact else REMAINS,
            "nothing is to be done" if exact else "see quality; method=retrain leaves nothing",
        ),
        surface("deletion.json", f"the rows' indices and a digest of them{names}", REMAINS, PROOF),
        surface(
            "points.parquet",
            "the rows' labels, and networks' answers on them (margins)",
            REMAINS,
            "delete the file when nobody needs it; the record does not depend on it",
        ),
        surface(
            "report.html",
            f"indices of the rows{names}, class and margins of up to 100; no inputs, no pictures",
            REMAINS,
            "delete the file when nobody needs it; the record does not depend on it",
        ),
    ]


def _temporary(record: Record) -> Surface:
    made = record["pool"] is not None and not record["pool"]["kept"]
    what = "a copy of all data, with networks and answers" + (
        " of the pool that was made for this call" if made else ""
    )
    how = "it was removed when the request ended; that of a killed process is removed at the next start"
    return surface("temporary folder (dmm_exp_...)", what, ERASED, how)


def _ledger(record: Record, earlier: int) -> list[Surface]:
    """Return what a ledger holds."""
    ledger = record["ledger"]
    if ledger is None:
        return []
    folder, purge = ledger["folder"], f"ledger.purge(), or {PURGE.format(ledger['folder'])}"
    found = [
        surface(f"{folder}/ledger.jsonl", "the rows' indices, and a salted digest of each", REMAINS, PROOF),
        surface(
            f"{folder}/request-{ledger['request']:05d}",
            "a copy of this record and its files, with the rows' labels and answers on them",
            REMAINS,
            f"{purge}, except the network as it is now and deletion.json",
        ),
    ]
    if earlier:
        what = f"{earlier} networks as earlier requests left them, which know rows that were deleted later"
        found.append(surface(f"{folder}/request-...", what, REMAINS, purge))
    return found


def pool_surfaces(
    folder: Path, purged: Purged | None, gone: set[int], *, requests: bool, verified: bool
) -> list[Surface]:
    """Return what a pool's folder holds.

    Args:
        folder: of the pool.
        purged: what was removed from it, None if nothing was.
        gone: training indices that were deleted.
        requests: whether it holds what requests make.
        verified: whether it holds what a verification makes.
    """
    artifacts, purge = f"{folder}/artifacts", PURGE.format(folder)
    stays = "the pool needs it for further requests; delete the pool's folder when there will be none"
    networks = surface(
        f"{artifacts}/ensemble",
        "networks trained on all rows, and how training went on each row",
        REMAINS if purged is None else ERASED,
        purge if purged is None else "removed by a purge",
    )
    found = [
        *_inputs(folder, set() if purged is None else set(purged.rows), gone),
        surface(f"{artifacts}/dataset", "the rows' labels", REMAINS, stays),
        networks,
        surface(
            f"{artifacts}/ensemble",
            "answers (logits) of the pool's networks on the rows, and which networks were trained on them",
            REMAINS,
            stays,
        ),
        surface(f"{artifacts}/estimator", "numbers for each row that predictions are made from", REMAINS, stays),
    ]
    if requests:
        what = "the network as it was handed over, and its answers on the rows"
        found += [
            surface(f"{artifacts}/given", what, REMAINS, purge),
            surface(f"{artifacts}/effect", "the predicted effect of the rows", REMAINS, purge),
            surface(f"{artifacts}/answers", "margins of the pool's networks on the rows", REMAINS, purge),
        ]
    if verified:
        what = "the rows' indices, and retrained and unlearned networks with their answers on the rows"
        found.append(surface(f"{artifacts}/ensemble, unlearned, attack, evaluation", what, REMAINS, purge))
    return found


def _inputs(folder: Path, purged: set[int], gone: set[int]) -> list[Surface]:
    """Return what a pool holds of rows' inputs."""
    found, where = [], f"{folder}/artifacts/dataset"
    how = f"{PURGE.format(folder)}, with forget.indices=FILE for the rows"
    if done := gone & purged:
        found.append(surface(where, f"inputs of {len(done):,} rows", ERASED, "overwritten with zeros by a purge"))
    if left := gone - purged:
        found.append(surface(where, f"inputs of {len(left):,} rows", REMAINS, how))
    if any(row < PROBED for row in gone - purged):
        what = "answers of an untrained network on those of the rows that are among the first 8"
        found.append(surface(f"{folder}/pool.json", what, REMAINS, how))
    return found


def elsewhere() -> list[Surface]:
    """Return what this package cannot reach."""
    return [
        surface(
            "the network that was handed over, its copies, and models made from it",
            "what it learned from the rows",
            ELSEWHERE,
            "delete them",
        ),
        surface(
            "the training data, and pixels decoded from it (dataset.decoding.keep_in)",
            "the rows themselves",
            ELSEWHERE,
            "overwrite their inputs with zeros where they are, so that other rows keep their index",
        ),
        surface(
            "runs of experiments on this data (paths.outputs)",
            "copies of the data, networks, and reports with pictures of rows to forget",
            ELSEWHERE,
            "delete the runs' folders, then what they made: python -m dmm_exp.artifacts prune",
        ),
        surface(
            "whatever a tracker uploaded (wandb, trackio, ...)",
            "reports, tables and pictures of experiments; a deletion uploads nothing",
            ELSEWHERE,
            "delete the runs at the tracker",
        ),
        surface(
            "backups, snapshots, and blocks of the disk that removed files had",
            "copies of any of these",
            ELSEWHERE,
            "let them expire, or erase them with the means of the file system",
        ),
    ]
