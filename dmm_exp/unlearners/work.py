"""Unlearning a chunk of members, as a piece of work that any process can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dmm_exp.config.instantiate import instantiate
from dmm_exp.ensembles import AllBut, Ensemble
from dmm_exp.ensembles.work import (
    Clock,
    evaluation_copy,
    model_factory,
    read_examples,
    recipe,
    trainer_factory,
    write_chunk,
)
from dmm_exp.store import Artifact
from dmm_exp.unlearners.unlearner import Unlearned, UnlearningTask


@dataclass(frozen=True)
class UnlearnJob:
    """Unlearn members ``start … stop-1`` and write them as one shard.

    Attributes:
        unlearner: configuration of the method.
        examples: folder of the dataset's artifact.
        originals: folder of the originals' artifact.
        oracles: folder of the target oracles' artifact, when the method matches real oracles.
        effect: folder of the effect's artifact, when the method matches predicted oracles.
        model: configuration of the network.
        training: configuration of the recipe of originals.
        trainer: configuration of the Lightning trainer.
        forget: training indices that have to go.
        seed: the run's seed.
        output: folder of the artifact in the making.
        shard: number of the shard.
    """

    unlearner: Mapping[str, Any]
    examples: Path
    originals: Path
    oracles: Path | None
    effect: Path | None
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    trainer: Mapping[str, Any]
    forget: tuple[int, ...]
    seed: int
    output: Path
    shard: int = 0
    start: int = 0
    stop: int = 0


def unlearn_chunk(job: UnlearnJob) -> None:
    """Do an :class:`UnlearnJob`."""
    clock = Clock()
    task = _task(job)
    unlearner = instantiate(job.unlearner)
    result = unlearner.unlearn(task)
    tensors = _tensors(result)
    for epoch, earlier in result.checkpoints.items():
        tensors |= {f"epoch={epoch}/{name}": value for name, value in _tensors(earlier).items()}
    costs = {str(epoch): earlier.sample_gradients for epoch, earlier in result.checkpoints.items()}
    write_chunk(
        job.output, job.shard, tensors, result.history, result.sample_gradients, clock, gradients_by_epoch=costs
    )


def _tensors(result: Unlearned) -> dict[str, Tensor]:
    return {"logits": result.logits} | (result.ensemble.tensors() if result.ensemble is not None else {})


def _task(job: UnlearnJob) -> UnlearningTask:
    examples, members = read_examples(job.examples), range(job.start, job.stop)
    forget = torch.tensor(job.forget, dtype=torch.long)
    build = model_factory(job.model, examples)
    stored = _stacked(job.originals)
    originals = Ensemble.from_tensors(
        build().to("meta"), {name: value[job.start : job.stop] for name, value in stored.items()}
    )
    return UnlearningTask(
        originals=evaluation_copy(originals, job.trainer),
        examples=examples,
        forget=forget,
        retain=AllBut(examples.n_train, forget).indices(range(1))[0],
        seed=job.seed,
        members=members,
        targets=_targets(job),
        build=build,
        recipe=recipe(job.training),
        make_trainer=trainer_factory(job.trainer),
    )


def _targets(job: UnlearnJob) -> Tensor | None:
    """Return the logits to match, ``[members, points, classes]``."""
    chunk = slice(job.start, job.stop)
    if job.oracles is not None:
        return _stacked(job.oracles)["logits"][chunk]
    if job.effect is not None:
        with safe_open(job.effect / "effect.safetensors", framework="pt") as file:
            return _stacked(job.originals)["logits"][chunk] - file.get_tensor("effect")
    return None


@lru_cache(maxsize=2)
def _stacked(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a sharded artifact; a process reads each once."""
    artifact = Artifact(path, path.name, cached=True)
    return {name: artifact.stacked(name) for name in artifact.stacked_names()}
