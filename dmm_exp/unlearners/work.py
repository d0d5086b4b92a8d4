"""Jobs that unlearn a chunk of members; any process can run them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.schema import Plain
from dmm_exp.data import Examples
from dmm_exp.ensembles import AllBut, Ensemble, member_seed
from dmm_exp.ensembles.work import (
    ChunkResult,
    NetworkJob,
    evaluation_copy,
    make_chunk,
    model_factory,
    read_examples,
    recipe,
    stacked,
    stored_ensemble,
    trainer_factory,
)
from dmm_exp.models import margin
from dmm_exp.unlearners.unlearner import UnlearningResult, UnlearningTask

if TYPE_CHECKING:
    from dmm_exp.unlearners.pairs import PairsJob


@dataclass(frozen=True)
class PartJob:
    """A part of the forget set that is unlearned in one step.

    Attributes:
        unlearner: configuration of the method.
        points: training indices to forget.
        oracles: folder of the target oracles' artifact, when the method matches real oracles.
        effect: folder of the effect's artifact, when the method matches predicted oracles.
        early: folder of the artifact of originals at an earlier epoch, when the method goes back to it.
    """

    unlearner: Plain
    points: tuple[int, ...]
    oracles: Path | None
    effect: Path | None
    early: Path | None = None


@dataclass(frozen=True, kw_only=True)
class UnlearnJob(NetworkJob):
    """Unlearn the parts of a forget set, one after another.

    Attributes:
        parts: of the forget set, in the order in which they are unlearned; later parts are retained until then.
        originals: folder of the originals' artifact.
        training: configuration of the recipe of originals.
        seed: the run's seed.
    """

    parts: tuple[PartJob, ...]
    originals: Path
    training: Plain
    seed: int


def unlearn_chunk(job: UnlearnJob) -> None:
    """Run an :class:`UnlearnJob`."""
    make_chunk(job, partial(_unlearn, job, read_examples(job.examples)))


def _unlearn(job: UnlearnJob, examples: Examples, members: range) -> ChunkResult:
    """Return some members of a job, unlearned together."""
    ensemble = stored_ensemble(job.originals, model_factory(job.model, examples), members)
    results: list[UnlearningResult] = []
    for place, part in enumerate(job.parts):
        if results:
            ensemble = results[-1].ensemble
        assert ensemble is not None  # Pipeline.check
        results.append(instantiate(part.unlearner).unlearn(_task(job, place, examples, ensemble, members)))
    tensors = _tensors(results[-1])
    for epoch, earlier in results[-1].checkpoints.items():
        tensors |= {f"epoch={epoch}/{name}": value for name, value in _tensors(earlier).items()}
    before = sum(result.sample_gradients for result in results[:-1])
    costs = {str(epoch): before + earlier.sample_gradients for epoch, earlier in results[-1].checkpoints.items()}
    history = [loss for result in results for loss in result.history]
    return ChunkResult(tensors, history, before + results[-1].sample_gradients, {"gradients_by_epoch": costs})


def _tensors(result: UnlearningResult) -> dict[str, Tensor]:
    return {"logits": result.logits} | (result.ensemble.tensors() if result.ensemble is not None else {})


def _task(job: UnlearnJob, place: int, examples: Examples, ensemble: Ensemble, members: range) -> UnlearningTask:
    """Return the task of one part: earlier parts have been forgotten, and later ones are still retained."""
    part, gone = job.parts[place], [index for part in job.parts[: place + 1] for index in part.points]
    return task_of(
        job,
        examples,
        ensemble,
        forget=torch.tensor(part.points, dtype=torch.long),
        retain=AllBut(examples.n_train, gone).indices(range(1))[0],
        seed=job.seed if place == 0 else member_seed(job.seed, "unlearned", place, "subset"),
        members=members,
        targets=_targets(job, part, members),
        early=part.early and stored_ensemble(part.early, model_factory(job.model, examples), members),
    )


def task_of(job: UnlearnJob | PairsJob, examples: Examples, ensemble: Ensemble, **sets: Any) -> UnlearningTask:
    """Return the task of unlearning an ensemble, with the networks, the recipe and the trainer of a job.

    Args:
        job: that unlearns.
        examples: the dataset.
        ensemble: to unlearn; it is moved to the device of the trainer.
        **sets: all other attributes of :class:`UnlearningTask`.
    """
    return UnlearningTask(
        originals=evaluation_copy(ensemble, job.trainer),
        examples=examples,
        build=model_factory(job.model, examples),
        recipe=recipe(job.training),
        make_trainer=trainer_factory(job.trainer),
        **sets,
    )


def _targets(job: UnlearnJob, part: PartJob, members: range) -> Tensor | None:
    """Return the logits to match, ``[members, points, classes]``: of models without this part and earlier ones."""
    chunk = slice(members.start, members.stop)
    if part.oracles is not None:
        return stacked(part.oracles)["logits"][chunk]
    if part.effect is not None:
        with safe_open(part.effect / "effect.safetensors", framework="pt") as file:
            known = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no dictionary)
        return predicted(stacked(job.originals)["logits"][chunk], known, read_examples(job.examples).labels)
    return None


def predicted(logits: Tensor, effect: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Return the logits that models are predicted to have after retraining, ``[members, points, classes]``.

    Where the spread of retrained models is predicted, the label's logits are moved so that each margin deviates from
    the mean of all as much as the original's does, times the predicted ratio.

    Args:
        logits: of originals, ``[members, points, classes]``.
        effect: ``effect [points, classes]``, and ``spread [points]`` with means of ``margins [2, points]``, those of
            all originals and of these less the effect, where it is predicted.
        labels: ``[points]``.
    """
    found = logits - effect["effect"]
    if "spread" in effect:
        before, after = effect["margins"]
        wanted = after + effect["spread"] * (margin(logits, labels) - before)
        place = labels[None, :, None].expand(len(found), -1, 1)
        found.scatter_add_(2, place, (wanted - margin(found, labels))[..., None])
    return found
