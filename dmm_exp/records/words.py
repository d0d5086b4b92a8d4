"""A deletion in plain words; each function takes the record (:mod:`dmm_exp.records.record`)."""

from __future__ import annotations

from dmm_exp.console.progress import duration
from dmm_exp.console.words import number, percent
from dmm_exp.errors import listed, plain_text
from dmm_exp.files.reading import Json
from dmm_exp.metrics.klom import FEWEST_MODELS
from dmm_exp.records.comparison import Verdict, distances_of, verdict_on_method, verdict_on_network
from dmm_exp.records.pool import FARTHEST
from dmm_exp.unlearners import DMM, Retrain

Record = Json
LONGEST = 300  # characters of a docstring that a record takes
OF_METHODS: dict[type, str] = {
    DMM: "DMM (datamodel matching) trains the network further until it answers as a network that was retrained without "
    "the rows is predicted to answer.",
    Retrain: "Retraining trains a fresh network by the same recipe on the kept rows alone.",
}
FEW = 4  # channels or columns whose constants are written out
NAMES = {"forget": "deleted rows", "retain": "kept rows", "val": "unseen points"}  # of groups of points


def headline(record: Record) -> str:
    """Return what was done, in one sentence."""
    removed, method = record["removed"], record["method"]
    rows = f"{removed['rows']:,} of {removed['of']['train']:,} training rows"
    taken = duration(record["cost"]["seconds"])
    if method["exact"]:
        return f"The network was retrained without {rows}, in {taken}."
    if method["kept"]:
        return f"The network was retrained without {rows}, but for {listed(method['kept'])}, in {taken}."
    return f"{method['name']} made the network unlearn {rows}, in {taken}."


def of_method(kind: type) -> str | None:
    """Return what a method does, in one sentence; of a class of one's own, what its docstring begins with."""
    if kind in OF_METHODS:
        return OF_METHODS[kind]
    said = plain_text((kind.__doc__ or "").strip().partition("\n\n")[0])
    return f"{kind.__name__}: {said[:1].lower()}{said[1:LONGEST]}" if said else None


def in_words(record: Record) -> list[str]:
    """Return how well it went, as far as it was measured, in sentences; the first is the most important."""
    quality = record["quality"]
    if quality["verified"]:
        verified = [*_of_network(quality), *_of_method(quality), _elsewhere(quality), *_klom(quality)]
        return [*verified, *_belongs(quality)]
    if record["method"]["exact"]:
        return ["Retraining is exact, so there is nothing to verify."]
    not_verified = "Not verified: no network was retrained without the rows to compare with."
    return [not_verified, *_matched(quality), *_belongs(quality)]


def _of_network(quality: Record) -> list[str]:
    """Say whether this network can be told from retraining and from doing nothing."""
    found, networks = distances_of(quality["verification"], "forget"), quality["retrained_networks"]
    sentences = [
        f"On the deleted rows this network {_of_verdict(verdict_on_network(found))}.",
        f"Its distance from {networks} retrained networks is {number(found['unlearned'])}. Of other retrained "
        f"networks 95 % are expected between {_ends(found, 'others')}, of networks left alone between "
        f"{_ends(found, 'alone')}.",
        "The distance is the root mean square, over the rows, of the difference between a network's margin and the "
        "mean of the retrained networks, in their standard deviations.",
    ]
    if not verdict_on_network(found).apart:
        sentences.append(
            f"Networks left alone and retrained networks overlap on these rows, as far as {networks} of each show. "
            "So there is little to unlearn here, and one network can show neither that it worked nor that it failed."
        )
    return sentences


def _of_method(quality: Record) -> list[str]:
    """Say the same of the group of networks that were unlearned in this way."""
    found = distances_of(quality["verification"], "forget")
    verdict = verdict_on_method(found)
    too_alike = verdict.from_retraining and found["method_from_others"] < 0
    nearer = " They vary less than retrained networks do." if too_alike else ""
    return [
        f"As a group, {quality['retrained_networks']} networks unlearned in this way {_of_verdict(verdict)}.{nearer}",
        f"Their mean distance is {number(found['method'])}: {_more_or_less(found, 'method_from_others')} than that of "
        f"other retrained networks, {_more_or_less(found, 'method_from_alone')} than that of networks left alone "
        "(95 % intervals over networks).",
    ]


def _of_verdict(verdict: Verdict) -> str:
    """Return a verdict in words."""
    if verdict.worse:
        return "can be told from retraining, and lies farther from it than doing nothing"
    can = {True: "can", False: "cannot"}
    nothing = f"{can[verdict.from_doing_nothing]} be told from doing nothing"
    return f"{nothing} and {can[verdict.from_retraining]} be told from retraining"


def _ends(found: Record, name: str) -> str:
    return f"{number(found[f'{name}_low'])} and {number(found[f'{name}_high'])}"


def _more_or_less(found: Record, name: str) -> str:
    """Return a difference with its interval, as in "0.12 [0.05, 0.19] more"."""
    low, high = found[f"{name}_low"], found[f"{name}_high"]
    if found[name] < 0:
        return f"{number(-found[name])} [{number(-high)}, {number(-low)}] less"
    return f"{number(found[name])} [{number(low)}, {number(high)}] more"


def _elsewhere(quality: Record) -> str:
    parts = []
    for group in ("retain", "val"):
        found = distances_of(quality["verification"], group)
        parts.append(f"{number(found['unlearned'])} on {NAMES[group]} (other retrained: {_ends(found, 'others')})")
    return f"Elsewhere its distance is {' and '.join(parts)}."


def _klom(quality: Record) -> list[str]:
    """Return KLoM beside both ends of its scale; with few networks it is mostly sampling noise, and left out."""
    if quality["retrained_networks"] < FEWEST_MODELS:
        return []
    klom = quality["klom_p95"]["forget"]
    return [
        f"KLoM (P95 over the deleted rows) is {number(klom['value'])} nats, 95 % interval {number(klom['low'])} to "
        f"{number(klom['high'])}; other retrained networks have {number(klom['floor'])}, networks left alone "
        f"{number(klom['doing_nothing'])}."
    ]


def _matched(quality: Record) -> list[str]:
    share = quality["metrics"].get("matched/forget")
    if share is None:
        return []
    return [
        f"On the deleted rows its answers went {percent(max(share, 0.0))} of the way to those that a retrained network "
        "is predicted to give; how good the prediction is was not measured here."
    ]


def _belongs(quality: Record) -> list[str]:
    far = {name: quality["metrics"].get(f"pool_distance/{name}") for name in ("retain", "val")}
    parts = [f"{number(value)} times ({NAMES[name]})" for name, value in far.items() if value is not None]
    if not parts:
        return []
    return [
        f"The network as given is {' and '.join(parts)} as far from the mean of the pool's full models as these are "
        f"themselves; about 1 is expected, and more than {FARTHEST:g} is refused."
    ]


def _normalised(network: Record) -> list[str]:
    constants = network.get("normalisation")
    if constants is None:
        return []
    few = len(constants["mean"]) <= FEW
    mean, std = (", ".join(f"{value:.4g}" for value in constants[name]) for name in ("mean", "std"))
    values = f"mean {mean} and std {std}" if few else "a mean and a std for each channel or column"
    return [
        f"The network gets its inputs as (input / {constants['scale']:g} - mean) / std, with {values}. These constants "
        "belong to the dataset and are not in the checkpoint; dataset.normalisation sets them or turns them off."
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
        *_normalised(network),
    ]
    if record["method"]["exact"]:
        found.append(
            "Every tensor of the new network was initialised again and trained on the kept rows alone. None was taken "
            "over from the network that was handed over, so its numbers owe nothing to the deleted rows."
        )
    if record["quality"]["verified"]:
        found.append(
            f"The comparison with {record['quality']['retrained_networks']} retrained networks was carried out, with "
            "the results given here."
        )
    return found


def not_guaranteed(record: Record) -> list[str]:
    """Return what nobody should conclude, and what is left to do, in sentences."""
    quality, found = record["quality"], []
    if record["method"]["kept"]:
        found.append(
            "The network was retrained on the kept rows alone, but for what was taken over from the network that was "
            f"handed over: {listed(record['method']['kept'], at_most=50)}. What these numbers know of the deleted rows "
            "is still there."
        )
    elif not record["method"]["exact"]:
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
        "Only the network was changed. The rows, and what is known of them, are in other places still; they are listed "
        "one by one, with what to do.",
        "What people chose with the rows in sight (architecture, recipe, preprocessing) stays as it was chosen.",
        "The checksum of this record shows that it was changed, but anyone can compute a new one: only a signature, or "
        "the receipt of a ledger, shows who wrote it, or that it was there.",
    ]
    return found


def cost(record: Record) -> list[str]:
    """Return the cost in sentences, and when a pool pays off."""
    spent, pool = record["cost"], record["pool"]
    share = "" if spent["ratio"] is None else f", {percent(spent['ratio'])} of those of one retraining"
    found = [
        f"Unlearning took {duration(spent['seconds'])} and {spent['sample_gradients']:,} gradient evaluations of "
        f"single examples{share}."
    ]
    if spent["verification"]:
        taken = duration(spent["verification"])
        found.append(f"Verification took {taken}, not counting what earlier requests had made already.")
    return found if pool is None else [*found, f"{pool['in_words'][:1].upper()}{pool['in_words'][1:]}."]
