"""Chunks of members as pieces of work that any process can do: a job goes in, a shard comes out.

A job is small and plain (paths, configuration, numbers); tensors travel through the store.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from dmm_exp.config.instantiate import instantiate
from dmm_exp.data import Examples
from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.seeds import Role, member_seed
from dmm_exp.ensembles.subsets import AllBut, RandomSubsets
from dmm_exp.ensembles.training import EnsembleTraining
from dmm_exp.errors import UserError
from dmm_exp.models import Normalised
from dmm_exp.store import Artifact, Draft

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Executor(Protocol):
    """Where jobs run."""

    def run(self, function: Callable[[Any], None], jobs: list[Any]) -> Iterable[None]:
        """Run ``function`` on every job, in any order, yielding once for each that is done."""
        ...


@dataclass(frozen=True)
class TrainJob:
    """Train members ``start … stop-1`` of a role and write them as one shard.

    Attributes:
        examples: folder of the dataset's artifact.
        model: configuration of the network.
        training: configuration of the recipe.
        trainer: configuration of the Lightning trainer.
        seed: the run's seed.
        role: with the member's number, determines all randomness.
        alpha: size of random subsets; None for the whole training set without ``excluded``.
        complementary: whether random subsets come in complementary pairs.
        excluded: training points that no member sees.
        keep_parameters: whether the shard holds the parameters beside the logits.
        output: folder of the artifact in the making.
        shard: number of the shard.
    """

    examples: Path
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    trainer: Mapping[str, Any]
    seed: int
    role: Role
    alpha: float | None
    complementary: bool
    excluded: tuple[int, ...]
    keep_parameters: bool
    output: Path
    shard: int = 0
    start: int = 0
    stop: int = 0


class Clock:
    """Wall and CPU seconds of this process since the clock was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    @property
    def wall(self) -> float:
        """Wall seconds."""
        return time.perf_counter() - self._started[0]

    @property
    def cpu(self) -> float:
        """CPU seconds."""
        return time.process_time() - self._started[1]


def train_chunk(job: TrainJob) -> None:
    """Do a :class:`TrainJob`."""
    clock = Clock()
    examples, members = read_examples(job.examples), range(job.start, job.stop)
    if job.alpha is None:
        subsets = AllBut(examples.n_train, torch.tensor(job.excluded, dtype=torch.long))
    else:
        subsets = RandomSubsets(examples.n_train, job.alpha, job.seed, job.complementary)
    ensemble = Ensemble.initialise(
        model_factory(job.model, examples), (member_seed(job.seed, job.role, i, "initialisation") for i in members)
    )
    module = EnsembleTraining(subsets=subsets.indices(members), **recipe(job.training))
    module.attach(ensemble, examples, seed=job.seed, role=job.role, members=members)
    module.fit(trainer_factory(job.trainer))
    tensors: dict[str, Tensor] = {"logits": evaluation_copy(ensemble, job.trainer).logits(examples.inputs)}
    if isinstance(subsets, RandomSubsets):
        tensors["masks"] = subsets.masks(members)
    if job.keep_parameters:
        tensors |= ensemble.tensors()
    write_chunk(job.output, job.shard, tensors, module.history(), module.sample_gradients, clock)


def write_chunk(
    output: Path,
    shard: int,
    tensors: Mapping[str, Tensor],
    history: list[float],
    sample_gradients: int,
    clock: Clock,
    **more: Any,
) -> None:
    """Write a shard with what is to be remembered of its making: seconds, losses by epoch, cost of one member.

    Raises:
        UserError: the logits are not finite.
    """
    if not torch.isfinite(tensors["logits"]).all():
        raise UserError("training diverged (a member's logits are not finite): lower the learning rate (optimizer.lr)")
    facts = {
        "seconds": clock.wall,
        "members": len(tensors["logits"]),
        "history": history,
        "sample_gradients": sample_gradients,
        **more,
    }
    Draft(output).write_shard(shard, tensors, facts, cpu=clock.cpu)


@lru_cache(maxsize=2)
def read_examples(path: Path) -> Examples:
    """Return the examples of a dataset's artifact; a process reads each once."""
    return Examples.read(Artifact(path, path.name, cached=True))


def model_factory(config: Mapping[str, Any], examples: Examples) -> Callable[[], nn.Module]:
    """Return a function that makes a freshly initialised network behind the dataset's normalisation."""
    shape = examples.input_shape
    make = instantiate({**config, "_partial_": True}, input_shape=list(shape), n_classes=examples.n_classes)
    return lambda: Normalised(make(), **vars(examples.normalisation), input_shape=shape)


def recipe(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training configuration with its optimizer and schedule made into objects."""
    parts = {key: instantiate(training[key]) for key in ("optimizer", "schedule")}
    return {"epochs": training["epochs"], "batch_size": training["batch_size"], **parts}


def trainer_factory(trainer: Mapping[str, Any]) -> Callable[..., Trainer]:
    """Return a function from ``max_epochs`` to a Lightning trainer that prints nothing and writes nothing."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    return partial(instantiate, trainer)


def evaluation_copy(ensemble: Ensemble, trainer: Mapping[str, Any]) -> Ensemble:
    """Return the ensemble on the device that the trainer uses."""
    wants_gpu = trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return ensemble.to("cuda") if wants_gpu else ensemble


def run_shards(
    draft: Draft,
    function: Callable[[Any], None],
    make_job: Callable[[int, int, int], Any],
    *,
    members: int,
    chunk_size: int,
    executor: Executor,
    progress: Callable[[int], None],
) -> None:
    """Write all shards of an artifact that are not there yet.

    Args:
        draft: the artifact in the making; valid shards of an interrupted attempt are kept.
        function: does one job.
        make_job: from (shard, start, stop) to a job.
        members: size of the whole ensemble.
        chunk_size: members that are trained together.
        executor: where jobs run.
        progress: told the number of finished chunks, whenever some are.
    """
    wanted = [[start, min(start + chunk_size, members)] for start in range(0, members, chunk_size)]
    layout = draft.layout(wanted)
    missing = [shard for shard in range(len(layout)) if draft.shard_facts(shard) is None]
    progress(len(layout) - len(missing))
    for _ in executor.run(function, [make_job(shard, *layout[shard]) for shard in missing]):
        progress(1)
