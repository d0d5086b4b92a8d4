"""Which unlearner each part of a refined forget set gets: as configured, or chosen on other forget sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmm_exp.config.parts import auto_parts, composed_part
from dmm_exp.config.schema import Config, Node
from dmm_exp.console.progress import Console
from dmm_exp.errors import UserError
from dmm_exp.evaluation import Evaluation
from dmm_exp.metrics import better
from dmm_exp.pipeline import Pipeline
from dmm_exp.scores import hardness

MakePipeline = Callable[[Config], Pipeline]


@dataclass(frozen=True)
class Trial:
    """A candidate on a forget set that resembles a part."""

    part: str
    candidate: str
    value: float


def assign(config: Config, make_pipeline: MakePipeline, console: Console) -> tuple[Config, list[Trial]]:
    """Choose the unlearner of every part that says ``auto``, and return the configuration with these, and all trials.

    For each such part another forget set is made: as many examples outside the reported forget set, with scores nearest
    to the part's. Every candidate unlearns it alone, and the best by ``refinement.criterion`` is chosen.

    Raises:
        UserError: there are no candidates, or none worked for a part.
    """
    refinement = config.refinement
    candidates, names = refinement.get("candidates") or [], auto_parts(config)
    if not candidates:
        raise UserError("refinement.candidates=[]: unlearner=auto needs candidates to choose from")
    settled = {**refinement, **{name: {"unlearner": None} for name in names}}
    pipeline = make_pipeline(replace(config, refinement=settled))
    values = torch.from_numpy(hardness(pipeline.needed_scores, refinement.get("score", "memorization")))
    trials: list[Trial] = []
    with console.progress("candidates", len(names) * len(candidates)) as advance:
        for part in pipeline.parts:
            if part.name not in names:
                continue
            points = resembling(values, part.rows.indices, pipeline.forget.indices).tolist()
            forget = {"_target_": "dmm_exp.forget.Points", "points": points}
            for candidate in candidates:
                trials.append(Trial(part.name, candidate, _value(config, forget, candidate, make_pipeline)))
                advance(1)
    for name in names:
        best = _best([trial for trial in trials if trial.part == name], refinement.get("criterion", "tow"))
        settled[name] = {"unlearner": composed_part(best.candidate, config)}
        console.note(f"refinement.{name}.unlearner: {best.candidate} ({best.value:.3f}; {_others(trials, best)})")
    return replace(config, refinement=settled), trials


def resembling(values: Tensor, part: Tensor, forget: Tensor) -> Tensor:
    """Return as many examples as a part has, outside the forget set, whose scores are nearest to the part's.

    Each of the part's scores, from the highest, takes the nearest example that is still free: the two sets then have
    nearly the same distribution of scores.

    Args:
        values: ``[n_train]`` scores.
        part: training indices.
        forget: training indices that must not be taken.

    Raises:
        UserError: too few examples are left.
    """
    free = torch.ones(len(values), dtype=torch.bool)
    free[forget] = False
    if int(free.sum()) < len(part):
        raise UserError(f"refinement: {len(part)} examples like a part are wanted, {int(free.sum())} are left")
    chosen = []
    for value in values[part].sort(descending=True).values:
        distance = torch.where(free, (values - value).abs(), torch.inf)
        nearest = int(distance.argmin())
        free[nearest] = False
        chosen.append(nearest)
    return torch.tensor(sorted(chosen))


def _value(config: Config, forget: Node, candidate: str, make_pipeline: MakePipeline) -> float:
    """Return the criterion of a candidate that unlearns a set alone; NaN if it fails."""
    whole = {"_target_": "dmm_exp.refinement.Whole"}
    criterion = config.refinement.get("criterion", "tow")
    try:
        unlearner = composed_part(candidate, config)
        pipeline = make_pipeline(replace(config, forget=forget, refinement=whole, unlearner=unlearner))
        pipeline.make()
    except UserError:
        return float("nan")
    metrics = Evaluation(pipeline).quick_metrics()
    if not pipeline.unlearned.cached:
        pipeline.context.store.discard(pipeline.unlearned)
    if criterion not in metrics:
        raise UserError(f"refinement.criterion={criterion}: expected one of {', '.join(sorted(metrics))}")
    if better(criterion) is None:
        raise UserError(
            f"refinement.criterion={criterion}: neither end of it is the better one; expected a metric such as tow"
        )
    return metrics[criterion]


def _best(trials: list[Trial], criterion: str) -> Trial:
    worked = [trial for trial in trials if trial.value == trial.value]  # NaN: it failed
    if not worked:
        raise UserError(f"refinement.candidates: none worked for part {trials[0].part}")
    smaller = better(criterion) == "lower"
    return min(worked, key=lambda trial: trial.value if smaller else -trial.value)


def _others(trials: list[Trial], best: Trial) -> str:
    others = [trial for trial in trials if trial.part == best.part and trial is not best]
    return ", ".join(f"{trial.candidate} {trial.value:.3f}" for trial in others)
