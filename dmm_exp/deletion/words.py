"""What a deletion amounts to in plain words; each function takes the record (:mod:`dmm_exp.deletion.record`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmm_exp.report.progress import duration
from dmm_exp.report.tables import number
from dmm_exp.report.words import percent

Record = Mapping[str, Any]
NAMES = {"forget": "deleted rows", "retain": "kept rows", "val": "unseen points"}


def headline(record: Record) -> str:
    """Return what was done, in one sentence."""
    removed, method = record["removed"], record["method"]
    rows = f"{removed['rows']:,} of {removed['of']['train']:,} training rows"
    taken = duration(record["cost"]["seconds"])
    if method["exact"]:
        return f"The network was trained anew without {rows}, in {taken}."
    return f"{method['name']} made the network unlearn {rows}, in {taken}."


def in_words(record: Record) -> list[str]:
    """Return how well it went, as far as it was measured, in sentences; the first is the most important."""
    if record["quality"]["verified"]:
        return [_deleted(record["quality"]), _elsewhere(record["quality"]), _itself(record["quality"])]
    return ["Not verified: no network was retrained without the rows to compare with.", *_matched(record["quality"])]


def _deleted(quality: Record) -> str:
    klom = quality["klom_p95"]["forget"]
    return (
        f"On the deleted rows, networks unlearned in this way differ from {quality['retrained_networks']} retrained "
        f"ones by {number(klom['value'])} nats (P95 of KLoM, 95 % interval {number(klom['low'])} to "
        f"{number(klom['high'])}), other retrained ones by {number(klom['floor'])}, and networks left alone by "
        f"{number(klom['doing_nothing'])}."
    )


def _elsewhere(quality: Record) -> str:
    parts = []
    for group in ("retain", "val"):
        klom = quality["klom_p95"][group]
        ends = f"other retrained ones {number(klom['floor'])}, left alone {number(klom['doing_nothing'])}"
        parts.append(f"{number(klom['value'])} on {NAMES[group]} ({ends})")
    return f"Elsewhere they differ by {' and '.join(parts)}."


def _itself(quality: Record) -> str:
    away = {name: quality["verification"][f"distance/{name}/forget"] for name in ("unlearned", "retrained", "given")}
    return (
        "The margins of this network itself on the deleted rows lie within "
        f"{number(away['unlearned'])} standard deviations of the retrained ones' mean (P95 over rows); those of "
        f"another retrained network within {number(away['retrained'])}, those of the network as given within "
        f"{number(away['given'])}."
    )


def _matched(quality: Record) -> list[str]:
    share = quality["metrics"].get("matched/forget")
    if share is None:
        return []
    return [
        f"On the deleted rows its answers went {percent(max(share, 0.0))} of the way to those that a retrained network "
        "is predicted to give; how good the prediction is was not measured here."
    ]


def guaranteed(record: Record) -> list[str]:
    """Return what is certain, in sentences."""
    removed, network = record["removed"], record["network"]
    found = [
        f"The network in {network['file']} is the one that this record speaks of: its file has SHA-256 "
        f"{network['sha256']}.",
        f"The {removed['rows']:,} rows are named by their indices, and by SHA-256 {removed['sha256']} of their content "
        "as it was when they were deleted.",
        "The network that was handed over was not changed.",
    ]
    if record["method"]["exact"]:
        found.append("The new network was initialised anew and trained on the kept rows alone: its numbers owe nothing "
                     "to the deleted ones.")  # fmt: skip
    if record["quality"]["verified"]:
        found.append(
            f"The comparison with {record['quality']['retrained_networks']} retrained networks was carried out, with "
            "the results given here."
        )
    return found


def not_guaranteed(record: Record) -> list[str]:
    """Return what nobody should conclude, and what is left to do, in sentences."""
    quality, found = record["quality"], []
    if not record["method"]["exact"]:
        found.append(
            "This is approximate unlearning. It imitates retraining without the rows; it is no proof, mathematical or "
            "legal, that their influence on the network is gone."
        )
    if quality["verified"]:
        found.append(
            "The comparison is about answers on the points at hand (margins, accuracy). It says nothing of the "
            "network's inner numbers, of other inputs, or of attacks that were not tried. KLoM is measured on networks "
            "trained by the same recipe that unlearned the same rows, not on this network alone."
        )
    elif not record["method"]["exact"]:
        found.append(
            "Nothing was retrained, so nobody knows how near this network came to one that never saw the rows. "
            "Predictions that a method follows may be wrong."
        )
    found += [
        "The original network still holds what it learned from the rows, and so do its copies, backups, and models "
        "made from it. Deleting those is up to whoever keeps them.",
        "The rows themselves were not deleted: they are where the training data is.",
        *_left_in_pool(record),
        "deletion.json names the rows, and points.parquet and report.html hold the network's answers on them. That is "
        "information about the rows, too.",
        "What people chose with the rows in sight (architecture, recipe, preprocessing) stays as it was chosen.",
        "The checksum of this record shows that it was changed, but anyone can compute a new one: it is no signature.",
    ]
    return found


def _left_in_pool(record: Record) -> list[str]:
    pool = record["pool"]
    if pool is None or not pool["kept"]:
        return []
    return [
        f"The pool in {pool['folder']} still holds a copy of the data with the rows in it, the network as it was "
        "handed over, and answers of networks that were trained on the rows. It needs these to answer further "
        "requests; delete the folder when there will be none."
    ]


def cost(record: Record) -> list[str]:
    """Return what it took, in sentences, and when a pool pays off."""
    spent, pool = record["cost"], record["pool"]
    share = "" if spent["ratio"] is None else f", {percent(spent['ratio'])} of those of one retraining"
    found = [
        f"Unlearning took {duration(spent['seconds'])} and {spent['sample_gradients']:,} gradient evaluations of "
        f"single examples{share}."
    ]
    if spent["verification"]:
        found.append(f"Verification took {duration(spent['verification'])}, with what was there from earlier ones.")
    return found if pool is None else [*found, f"{pool['in_words'][:1].upper()}{pool['in_words'][1:]}."]
