"""What the numbers of a run mean, in plain words built from the numbers themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmm_exp.console.words import percent, trainings
from dmm_exp.metrics.effects import UNKNOWN
from dmm_exp.metrics.klom import FEWEST_MODELS
from dmm_exp.metrics.tow import GROUPS
from dmm_exp.runs.result import RunResult


@dataclass(frozen=True)
class Narrative:
    """Sentences for the top of the report (``meaning``), its warning box, and its limits."""

    meaning: list[str]
    warnings: list[str]
    limits: list[str]


def narrative(result: RunResult) -> Narrative:
    """Say in plain words what a run's metrics mean, what to beware of, and what they cannot say."""
    meaning = [sentence for say in _SENTENCES if (sentence := say(result))]
    few = _few_models(result)
    return Narrative(meaning, [few] if few else [], _limits(result))


def share_within_floor(result: RunResult, ensemble: str = "", group: str = "forget") -> float | None:
    """Return the share of a group's points that cannot be told from retraining, as far as KLoM can tell.

    The sum of KLoM in both directions is at most the 95th percentile of the floor's in that group: so neither a shift
    nor too small a spread passes. Independent retraining scores 0.95 by construction.

    Args:
        result: of a run.
        ensemble: ``""`` for the unlearned models, ``"_original"`` for doing nothing.
        group: of points.

    Returns:
        The share; None when a column is missing or the group is empty.
    """
    values, floor = (_sums(result, end) for end in (ensemble, "_floor"))
    rows = result.known(f"klom{ensemble}", "klom_floor", group=group)
    if values is None or floor is None or not len(rows):
        return None
    return float(np.mean(values[rows] <= np.percentile(floor[rows], 95)))


def _sums(result: RunResult, ensemble: str) -> NDArray[np.float64] | None:
    """Return the sum of KLoM in both directions, ``[points]``; of an older run, which has one, that one."""
    one, other = (result.column(f"{name}{ensemble}") for name in ("klom", "klom_reverse"))
    return one if one is None or other is None else one + other


def _share(result: RunResult) -> str | None:
    """How many forget points look retrained."""
    share = share_within_floor(result)
    if share is None:
        return None
    models = f", as far as {result.n_models} models can tell" if result.n_models else ""
    count = len(result.known("klom", "klom_floor"))
    return f"Indistinguishable from retraining on {percent(share)} of the {count:,} forget points{models}."


def _share_rule(result: RunResult) -> str | None:
    """What that share means, and what it is for the two ends of the scale."""
    if share_within_floor(result) is None:
        return None
    nothing = share_within_floor(result, "_original")
    against = "" if nothing is None else f"; for doing nothing it is {percent(nothing)}"
    return (
        "There the sum of their KLoM in both directions lies within the 95th percentile of the noise floor, that of "
        f"independently retrained models, which themselves reach about 95 % by construction{against}."
    )


def _forget(result: RunResult) -> str | None:
    """The headline number, next to its floor and to doing nothing."""
    metrics = result.metrics
    value, floor = metrics.get("klom/forget/p95"), metrics.get("klom_floor/forget/p95")
    if value is None:
        return None
    low, high = metrics.get("klom/forget/p95_low"), metrics.get("klom/forget/p95_high")
    interval = f" (95 % interval {low:.2f} to {high:.2f})" if low is not None and high is not None else ""
    nothing = metrics.get("klom_original/forget/p95")
    others = [f"a floor of {floor:.2f}"] if floor is not None else []
    others += [f"{nothing:.2f} for doing nothing"] if nothing is not None else []
    against = f", against {' and '.join(others)}" if others else ""
    forward = f"The 95th percentile of KLoM on the forget points is {value:.2f}{interval}{against}.{_closed(result)}"
    return forward + _reverse(result)


def _reverse(result: RunResult) -> str:
    """The same in the other direction; silent for older runs. KL(unlearned ‖ oracle) forgives too small a spread."""
    value, floor = (result.metrics.get(f"klom_reverse{end}/forget/p95") for end in ("", "_floor"))
    if value is None or floor is None:
        return ""
    options = result.config.get("evaluation", {}).get("klom", {})
    does = "forgives" if options.get("direction") == "oracle_unlearned" else "does not forgive"
    return f" In the other direction, which {does} too small a spread, it is {value:.2f} (floor {floor:.2f})."


def _closed(result: RunResult) -> str:
    """How much of the way from doing nothing to the floor the method went; silent when there was no way to go."""
    keys = ("klom/forget/p95", "klom_original/forget/p95", "klom_floor/forget/p95")
    value, nothing, floor = (result.metrics.get(key) for key in keys)
    if value is None or nothing is None or floor is None or nothing < 1.2 * floor:
        return ""
    closed = (nothing - value) / (nothing - floor)
    if closed < 0:
        return " That is further from retraining than leaving the models alone."
    if closed >= 1:
        return " That is no further from retraining than the floor itself."
    return f" {percent(closed)} of the distance from doing nothing to the floor is closed."


def _others(result: RunResult) -> str | None:
    """Whether points that should not change stayed where retraining leaves them."""
    parts = []
    for group, name in (("retain", "retain"), ("val", "validation")):
        value, floor = (result.metrics.get(f"{prefix}/{group}/p95") for prefix in ("klom", "klom_floor"))
        if value is not None:
            parts.append(f"{value:.2f} on {name} points" + (f" (floor {floor:.2f})" if floor is not None else ""))
    return f"Elsewhere it is {' and '.join(parts)}." if parts else None


def _attack(result: RunResult) -> str | None:
    """How well the unlearned models hide, for readers who know attacks better than divergences."""
    accuracy, floor = (result.metrics.get(f"ulira{name}/accuracy") for name in ("", "_floor"))
    if accuracy is None:
        return None
    against = f", and on independently retrained models {percent(floor)}" if floor is not None else ""
    return (
        f"An attack that knows the margins of both kinds of models (U-LiRA) is right about {percent(accuracy)}"
        f"{_ends(result.metrics, 'ulira/accuracy')} of unlearned models and oracles, where guessing is right about "
        f"50 %{against}.{_alarms(result.metrics)}"
    )


def _alarms(metrics: Mapping[str, float]) -> str:
    """How often the attack is wrong about retrained models, and what it finds when it hardly may be."""
    wrong, found = (metrics.get(f"ulira/{name}") for name in ("false_positive_rate", "tpr_at_1fpr"))
    said = (
        [f"takes {percent(wrong)} of retrained models that are new to it for unlearned ones"]
        if wrong is not None
        else []
    )
    said += [f"finds {percent(found)} of the unlearned models at 1 % false alarms"] if found is not None else []
    return f" It {' and '.join(said)}." if said else ""


def _ends(metrics: Mapping[str, float], name: str) -> str:
    """Return the 95 % interval of a share in brackets, after a space; nothing where there is none."""
    low, high = (metrics.get(f"{name}_{end}") for end in ("low", "high"))
    return f" (95 % interval {percent(low)} to {percent(high)})" if low is not None and high is not None else ""


def certificate(metrics: Mapping[str, float]) -> str:
    """Return the certified (ε, δ), and the ε that an attack shows against retrained models beside it."""
    said = f"certified (ε, δ) = ({metrics['certified/epsilon']:.3g}, {metrics['certified/delta']:.1g})"
    measured = metrics.get("competition/epsilon")
    return said if measured is None else f"{said}, measured ε {measured:.3g}"


def _certified(result: RunResult) -> str | None:
    """What a certificate says, and of what; silent for methods without one."""
    if "certified/epsilon" not in result.metrics:
        return None
    floor = result.metrics.get("competition/epsilon_floor")
    against = f" ({floor:.3g} between retrained models and others)" if floor is not None else ""
    return (
        f"The method has {certificate(result.metrics)}{against}. The certificate is of the method alone: it would give "
        "the same distribution of models, up to (ε, δ), from models that never saw the forget set. What is measured "
        "compares with retrained models that did not go through the method, so either may be the larger one."
    )


def _accuracy(result: RunResult) -> str | None:
    """Tug-of-war, for readers who know accuracies better than margins."""
    tug, floor = (result.metrics.get(name) for name in ("tow", "tow_floor"))
    if tug is None:
        return None
    low, high = (result.metrics.get(f"tow_{end}") for end in ("low", "high"))
    around = f" (95 % interval {low:.3f} to {high:.3f})" if low is not None and high is not None else ""
    against = f"; independently retrained models have {floor:.3f}" if floor is not None else ""
    return f"Tug-of-war, which compares accuracies only, is {tug:.3f}{around}, where 1 is equal accuracies{against}."


def _cost(result: RunResult) -> str | None:
    """What unlearning costs, with what its method shares between requests beside it."""
    ratio = result.metrics.get("cost/ratio")
    if ratio is None:
        return None
    return (
        f"Unlearning one model takes {percent(ratio)} of the gradient evaluations of retraining it."
        f"{_shared(result.metrics)}"
    )


def _shared(metrics: Mapping[str, float]) -> str:
    """What is trained beside that; silent for methods that need nothing, and for older runs."""
    common, request = (metrics.get(f"cost/{name}") for name in ("shared", "shared_per_request"))
    if not request:
        return ""
    if not common:
        return f" Models that are retrained for this request cost {trainings(request)} retrainings more."
    part = f"; {trainings(request)} fall to this request" if request != common else ""
    return f" Models that requests can share cost {trainings(common)} retrainings more{part}."


def _effect(result: RunResult) -> str | None:
    """How good the prediction was, where the method rests on one."""
    share = result.metrics.get("effect/r2/forget")
    if share is None:
        return None
    if share <= 0:
        return "On the forget points the predicted effect is no better than predicting the average (R² at or below 0)."
    return (
        f"On the forget points the predicted effect explains {percent(share)} of the variance of the true one (R²); "
        "what it misses, a method that follows the prediction cannot recover."
    )


def _doubt(result: RunResult) -> str | None:
    """Where the predictor itself expects to do harm; silent when it says nothing, or nothing of the sort."""
    groups = mostly_noise(result.metrics)
    if not groups:
        return None
    return (
        f"By its own standard errors the predicted effect on {' and '.join(groups)} points is mostly noise: following "
        "it is expected to do more harm there than doing nothing. A larger pool helps, or an estimator that shrinks."
    )


def _unknown(result: RunResult) -> str | None:
    """Whether the forget set is unlike anything that the predictor has seen; silent when it is not, or not known."""
    if not is_unknown(result.metrics):
        return None
    doubt = result.metrics["effect/doubt/forget"]
    return (
        f"The forget set is unlike anything the pool knows: the predicted logits of forget points are uncertain by "
        f"{doubt:.1f} standard deviations of the originals. attribution.oracles=4 corrects the prediction by four "
        "retrained models, and pool.designs can leave out groups like this one."
    )


_SENTENCES: tuple[Callable[[RunResult], str | None], ...] = (
    _share, _share_rule, _forget, _others, _attack, _certified, _accuracy, _cost, _effect, _doubt, _unknown,
)  # fmt: skip


def mostly_noise(metrics: Mapping[str, float]) -> list[str]:
    """Return the groups of points on which the predicted effect is expected to be further from the truth than none."""
    return [group for group in GROUPS if metrics.get(f"effect/expected_error/{group}", 0) > 1]


def is_unknown(metrics: Mapping[str, float]) -> bool:
    """Return whether predictions on the forget points are almost as uncertain as models of one kind differ."""
    return metrics.get("effect/doubt/forget", 0) > UNKNOWN


def _few_models(result: RunResult) -> str | None:
    """The warning that ensembles are too small for KLoM."""
    count = result.n_models
    if count is None or count >= FEWEST_MODELS:
        return None
    floor = result.metrics.get("klom_floor/forget/p95")
    measured = f"; here the floor alone is {floor:.2f} on forget points" if floor is not None else ""
    return (
        f"Only {count} models per ensemble. With fewer than {FEWEST_MODELS}, KLoM is mostly sampling noise{measured}, "
        "so small differences mean nothing. Read every KLoM against its floor."
    )


def _limits(result: RunResult) -> list[str]:
    """What the numbers of any run cannot say."""
    count = result.n_models
    size = f" of {count} models" if count else ""
    limits = [
        f"KLoM is not zero for identical distributions: it is estimated from ensembles{size}, and its floor falls as "
        "they grow. Values from ensembles of different sizes are not comparable.",
        "Intervals describe the variation over models. They do not cover the choice of forget set, dataset, model or "
        "hyperparameters.",
        "A small KLoM says that the margins of the true class look like those of retrained models, point by point. It "
        "is evidence about these outputs, not a guarantee about the parameters.",
    ]
    if "klom_floor/forget/p95" not in result.metrics:
        limits.insert(0, "No noise floor was measured, so KLoM has no scale here.")
    return [*result.notes, *limits]
