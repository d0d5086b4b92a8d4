"""Jobs that unlearn pairs of a base model and a forget set; any process can run them."""

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
    make_chunk,
    model_factory,
    read_examples,
    stacked,
    stored_ensemble,
)
from dmm_exp.store import Artifact
from dmm_exp.unlearners.unlearner import Unlearner, UnlearningTask, own_rows
from dmm_exp.unlearners.work import task_of


@dataclass(frozen=True)
class Pair:
    """A base model and the examples that it has to forget.

    Attributes:
        number: determines, with the seed, all randomness.
        base: the base model's number.
        chosen: sorted training indices; the base model forgets those that it was trained on.
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
    """Run a :class:`PairsJob`; pairs with the same number of examples to forget are unlearned together."""
    examples = read_examples(job.examples)
    make_chunk(job, lambda places: _unlearn(job.part(places.start, places.stop), examples))


def _unlearn(job: PairsJob, examples: Examples) -> ChunkResult:
    """Return the logits of the unlearned pairs of a job."""
    chosen = torch.tensor([pair.chosen for pair in job.pairs])
    answers = torch.empty(*chosen.shape, examples.n_classes)
    unlearner: Unlearner = instantiate(job.unlearner)
    gradients = 0
    for rows, task in _stacks(job, examples, chosen):
        for own, part in _together(unlearner, rows, task):
            result = unlearner.unlearn(part)
            answers[own] = own_rows(result.logits, chosen[own])
            gradients += result.sample_gradients * len(own)
    return ChunkResult({"logits": answers}, [], round(gradients / len(job.pairs)))


def _together(unlearner: Unlearner, rows: Tensor, task: UnlearningTask) -> list[tuple[Tensor, UnlearningTask]]:
    """Return (rows, task) for members that the method unlearns together: all of them, or one at a time."""
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
    pairs = [job.pairs[row] for row in rows.tolist()]
    ensemble = stored_ensemble(job.bases, model_factory(job.model, examples), [pair.base for pair in pairs])
    members, targets = [pair.number for pair in pairs], _targets(job, rows, pairs)
    return task_of(
        job, examples, ensemble, forget=forget, retain=retain, seed=job.seed, members=members, targets=targets
    )


def _targets(job: PairsJob, rows: Tensor, pairs: list[Pair]) -> Tensor | None:
    """Return the logits to match, ``[members, points, classes]``: those of base models less the predicted effects."""
    if job.effects is None:
        return None
    effects = Artifact(job.effects, job.effects.name, cached=True)
    logits = stacked(job.bases)["logits"][[pair.base for pair in pairs]]
    return logits - effects.rows("effect", job.start, job.stop)[rows]
