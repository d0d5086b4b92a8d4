"""Unlearning pairs of a base model and a forget set, as a piece of work that any process can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.schema import Plain
from dmm_exp.data import Examples
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
from dmm_exp.store import Artifact
from dmm_exp.unlearners.unlearner import Unlearner, UnlearningTask, own_rows


@dataclass(frozen=True)
class Pair:
    """A base model and what it has to forget.

    Attributes:
        number: determines, with the seed, all randomness.
        base: the base model's number.
        chosen: sorted training indices, those among them that the base model was trained on have to go.
    """

    number: int
    base: int
    chosen: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PairsJob(NetworkJob):
    """Unlearn some pairs, and write their logits on the chosen examples; a pair is a member of the artifact.

    Attributes:
        pairs: pairs ``start … stop-1``; each has something to forget, and all have the same number of chosen examples.
        unlearner: configuration of the method.
        bases: folder of the base models' artifact.
        effects: folder of the effects' artifact, one row for each pair, when the method matches predictions.
        training: configuration of the recipe of base models.
        seed: determines, with a pair's number, all randomness.
    """

    pairs: tuple[Pair, ...]
    unlearner: Plain
    bases: Path
    effects: Path | None
    training: Plain
    seed: int

    def part(self, start: int, stop: int) -> PairsJob:
        """Return the job for some of these pairs."""
        return replace(self, start=start, stop=stop, pairs=self.pairs[start - self.start : stop - self.start])


def unlearn_pairs(job: PairsJob) -> None:
    """Do a :class:`PairsJob`; pairs with the same number of examples to forget are unlearned together."""
    examples = read_examples(job.examples)
    make_chunk(job, lambda places: _unlearn(job.part(places.start, places.stop), examples))


def _unlearn(job: PairsJob, examples: Examples) -> ChunkResult:
    """Return what the pairs of a job answer, unlearned together."""
    chosen = torch.tensor([pair.chosen for pair in job.pairs])
    answers = torch.empty(*chosen.shape, examples.n_classes)
    unlearner: Unlearner = instantiate(job.unlearner)
    gradients = 0
    for rows, task in _stacks(job, examples, chosen):
        for own, part in _at_one_go(unlearner, rows, task):
            result = unlearner.unlearn(part)
            answers[own] = own_rows(result.logits, chosen[own])
            gradients += result.sample_gradients * len(own)
    return ChunkResult({"logits": answers}, [], round(gradients / len(job.pairs)))


def _at_one_go(unlearner: Unlearner, rows: Tensor, task: UnlearningTask) -> list[tuple[Tensor, UnlearningTask]]:
    """Return (rows, task) of what the method takes together: everything, or single members."""
    if unlearner.own_sets:
        return [(rows, task)]
    return [(rows[place : place + 1], task.alone(place)) for place in range(len(rows))]


def _stacks(job: PairsJob, examples: Examples, chosen: Tensor) -> Iterator[tuple[Tensor, UnlearningTask]]:
    """Yield (rows of the job, task) for each number of examples to forget."""
    bases = torch.tensor([pair.base for pair in job.pairs])
    masks = stacked(job.bases)["masks"][bases]
    picked = torch.zeros_like(masks).scatter_(1, chosen, True)
    sizes = (masks & picked).sum(1)
    for size in sizes.unique().tolist():
        rows = (sizes == size).nonzero().squeeze(1)
        forget, retain = ((masks & side)[rows].nonzero()[:, 1].view(len(rows), -1) for side in (picked, ~picked))
        yield rows, _task(job, examples, rows, forget, retain)


def _task(job: PairsJob, examples: Examples, rows: Tensor, forget: Tensor, retain: Tensor) -> UnlearningTask:
    pairs, build = [job.pairs[row] for row in rows.tolist()], model_factory(job.model, examples)
    ensemble = stored_ensemble(job.bases, build, [pair.base for pair in pairs])
    return UnlearningTask(
        originals=evaluation_copy(ensemble, job.trainer),
        examples=examples,
        forget=forget,
        retain=retain,
        seed=job.seed,
        members=[pair.number for pair in pairs],
        targets=_targets(job, rows, pairs),
        build=build,
        recipe=recipe(job.training),
        make_trainer=trainer_factory(job.trainer),
    )


def _targets(job: PairsJob, rows: Tensor, pairs: list[Pair]) -> Tensor | None:
    """Return the logits to match, ``[members, points, classes]``: of base models without what they have to forget."""
    if job.effects is None:
        return None
    effects = Artifact(job.effects, job.effects.name, cached=True)
    logits = stacked(job.bases)["logits"][[pair.base for pair in pairs]]
    return logits - effects.rows("effect", job.start, job.stop)[rows]
