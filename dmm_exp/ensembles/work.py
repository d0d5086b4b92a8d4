"""Jobs on chunks of members: any process can run a job, which writes one shard.

A job is small and plain (paths, configuration, numbers); tensors are passed through the store.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import chain
from math import isfinite
from operator import mul
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from dmm_exp.config.instantiate import instantiate, takes
from dmm_exp.config.registered import REGISTERED, registered
from dmm_exp.config.schema import Plain
from dmm_exp.data import Augmentation, Examples
from dmm_exp.ensembles.by_function import by_function, train_by_function
from dmm_exp.ensembles.engine import Engine, TrainerFactory
from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.memory import in_fitting_parts
from dmm_exp.ensembles.seeds import Role, member_seed
from dmm_exp.ensembles.skeletons import skeleton_of
from dmm_exp.ensembles.subsets import Designed, RandomSubsets, Subsets
from dmm_exp.ensembles.taking_over import beginning_as, take_over
from dmm_exp.ensembles.trajectory import Trajectory
from dmm_exp.ensembles.when_made import EnsembleTraining
from dmm_exp.errors import UserError
from dmm_exp.files.reading import Json
from dmm_exp.models import Normalised, margin
from dmm_exp.store import Artifact, Draft

TRAJECTORY = "trajectory/"  # prefix of the trajectory's proxies among a shard's tensors


Progress = Callable[[int], AbstractContextManager[Callable[..., None]]]


class Executor(Protocol):
    """Where jobs run."""

    def run(self, function: Callable[[Any], None], jobs: list[Any]) -> Iterable[Any]:
        """Run ``function`` on every job, in any order, yielding each when it is done."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Compute members ``start … stop-1`` of an artifact and write them as one shard.

    Attributes:
        output: folder of the unfinished artifact.
        shard: number of the shard.
    """

    output: Path = Path()
    shard: int = 0
    start: int = 0
    stop: int = 0

    def part(self, start: int, stop: int) -> Self:
        """Return the same job for other members."""
        return replace(self, start=start, stop=stop)


@dataclass(frozen=True, kw_only=True)
class NetworkJob(ShardJob):
    """A job on members that are networks.

    Attributes:
        examples: folder of the dataset's artifact.
        model: configuration of the network.
        trainer: configuration of the Lightning trainer.
    """

    examples: Path
    model: Plain
    trainer: Plain


@dataclass(frozen=True, kw_only=True)
class TrainJob(NetworkJob):
    """Train members of a role.

    Attributes:
        training: configuration of the recipe.
        seed: the run's seed.
        role: with the member's number, determines all randomness.
        subsets: the points that members are trained on; with random subsets the shard also holds the masks.
        keep: what the shard holds besides logits: the ``parameters``, the proxies of the ``trajectory``.
        logits_dtype: of stored logits; with rounded logits (float16) their ``margins`` are stored, too, in float32.
        initial: folder of the ensemble whose members are trained further; None trains new members.
    """

    training: Plain
    seed: int
    role: Role
    subsets: Subsets
    keep: tuple[Literal["parameters", "trajectory"], ...] = ("parameters",)
    logits_dtype: Literal["float32", "float16"] = "float32"
    initial: Path | None = None


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


@dataclass(frozen=True)
class ChunkResult:
    """The result of computing some members.

    Attributes:
        tensors: for their shard; the first dimension is the members.
        history: mean loss of every epoch.
        sample_gradients: gradient evaluations of single examples for one member.
        facts: further facts to store.
    """

    tensors: dict[str, Tensor]
    history: list[float]
    sample_gradients: int
    facts: Json = field(default_factory=dict)


def train_chunk(job: TrainJob) -> None:
    """Run a :class:`TrainJob`."""
    make_chunk(job, partial(_train, job, read_examples(job.examples)))


def _train(job: TrainJob, examples: Examples, members: Sequence[int]) -> ChunkResult:
    """Return some members of a job; those whose subsets have one size are trained together."""
    if not isinstance(job.subsets, Designed):
        return _train_together(job, examples, members)
    groups = job.subsets.of_one_size(members)
    results = [_train_together(job, examples, group) for group in groups]
    places = {member: place for place, member in enumerate(chain.from_iterable(groups))}
    order = [places[member] for member in members]
    shares = [len(group) / len(members) for group in groups]
    return ChunkResult(
        {name: torch.cat([result.tensors[name] for result in results])[order] for name in results[0].tensors},
        [sum(map(mul, shares, epoch)) for epoch in zip(*(result.history for result in results), strict=True)],
        round(sum(map(mul, shares, (result.sample_gradients for result in results)))),
    )


def _train_together(job: TrainJob, examples: Examples, members: Sequence[int]) -> ChunkResult:
    """Return some members of a job, whose subsets have one size."""
    ensemble = _initial(job, examples, members)
    trajectory = Trajectory(len(members), examples.n_train) if "trajectory" in job.keep else None
    subsets = job.subsets.indices(members)
    if by_function(job.training):
        seeds = [member_seed(job.seed, job.role, member, "order") for member in members]
        ensemble, history, gradients = (
            train_by_function(registered(job.training["function"]), ensemble, subsets, seeds),
            [],
            0,
        )
    else:
        module = EnsembleTraining(subsets=subsets, trajectory=trajectory, **recipe(job.training))
        module.attach(ensemble, examples, seed=job.seed, role=job.role, members=members)
        module.fit(trainer_factory(job.trainer))
        history, gradients = module.history(), module.sample_gradients
    tensors = {"logits": evaluation_copy(ensemble, job.trainer).logits(examples.inputs)}
    if job.logits_dtype == "float16":
        tensors = rounded(tensors["logits"], examples.labels)
    if isinstance(job.subsets, RandomSubsets | Designed):
        tensors["masks"] = job.subsets.masks(members)
    if trajectory is not None:
        tensors |= {f"{TRAJECTORY}{name}": values for name, values in trajectory.mean().items()}
    if "parameters" in job.keep:
        tensors |= ensemble.tensors()
    return ChunkResult(tensors, history, gradients)


def rounded(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return ``logits`` as float16, and their ``margins [members, points]`` before rounding.

    Raises:
        UserError: a finite logit is too large for float16.
    """
    half = logits.half()
    if (lost := half.isinf() & logits.isfinite()).any():
        largest = float(logits[lost].abs().max())
        raise UserError(
            f"pool.logits_dtype=float16: a logit of size {largest:,.0f} is beyond 65,504, the largest number of that "
            "type; expected float32"
        )
    return {"logits": half, "margins": torch.stack([margin(member, labels) for member in logits])}


def _initial(job: TrainJob, examples: Examples, members: Sequence[int]) -> Ensemble:
    """Return the members that training starts from."""
    build = model_factory(job.model, examples)
    if job.initial is not None:
        return stored_ensemble(job.initial, build, members).copy()
    return Ensemble.initialise(build, (member_seed(job.seed, job.role, i, "initialisation") for i in members))


def stored_ensemble(path: Path, build: Callable[[], nn.Module], members: Sequence[int]) -> Ensemble:
    """Return some members of a sharded artifact with parameters, in the given order; members may be repeated."""
    chosen, tensors = list(members), stacked(path)
    parameters = {name: value[chosen] for name, value in tensors.items() if name.startswith(("params/", "stats/"))}
    return Ensemble.from_tensors(skeleton_of(build()), parameters)


@lru_cache(maxsize=4)
def stacked(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a sharded artifact; a process reads each once."""
    artifact = Artifact(path, path.name, cached=True)
    return {name: artifact.stacked(name) for name in artifact.stacked_names()}


def make_chunk(job: ShardJob, make: Callable[[range], ChunkResult]) -> None:
    """Compute the members of a job, together or in parts that fit into memory, and write them as one shard.

    The shard also records seconds, losses by epoch and the cost of one member.

    Raises:
        UserError: a logit or an epoch's loss is not finite, or not even one member fits into memory.
    """
    clock = Clock()
    parts = in_fitting_parts(make, range(job.start, job.stop))
    tensors = parts[0].tensors
    if len(parts) > 1:
        tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in tensors}
    if not torch.isfinite(tensors["logits"]).all():
        raise UserError("training diverged (a member's logits are not finite): lower the learning rate (optimizer.lr)")
    if not all(isfinite(loss) for part in parts for loss in part.history):
        raise UserError("training diverged (a loss is not finite): lower the learning rate (optimizer.lr)")
    shares = [len(part.tensors["logits"]) / len(tensors["logits"]) for part in parts]
    losses = zip(*(part.history for part in parts), strict=True)
    facts = {
        "seconds": clock.wall,
        "members": len(tensors["logits"]),
        "history": [sum(share * loss for share, loss in zip(shares, epoch, strict=True)) for epoch in losses],
        "sample_gradients": parts[0].sample_gradients,
        **parts[0].facts,
    }
    Draft(job.output).write_shard(job.shard, tensors, facts, cpu=clock.cpu, members=(job.start, job.stop))


@lru_cache(maxsize=2)
def read_examples(path: Path) -> Examples:
    """Return the examples of a dataset's artifact; a process reads each once."""
    return Examples.read(Artifact(path, path.name, cached=True))


def model_factory(config: Plain, examples: Examples) -> Callable[[], Normalised]:
    """Return a function that makes a newly initialised network behind the dataset's normalisation.

    Raises:
        UserError: a network for words gets numbers, or one for numbers gets words.
    """
    shape = examples.input_shape
    supplied = {"input_shape": list(shape), "n_classes": examples.n_classes, **_words(config, examples)}
    make = instantiate({**config, "_partial_": True}, "model.network", **supplied)
    return lambda: Normalised(make(), **vars(examples.normalisation), input_shape=shape)


def _words(config: Plain, examples: Examples) -> dict[str, int]:
    """Return the number of words, for networks that take words; one that a program hands over takes what it takes."""
    if config.get("_target_") == REGISTERED:
        return {}
    takes_words, name = takes(config.get("_target_"), "words"), f"model.network._target_={config.get('_target_')}"
    if takes_words and examples.words is None:
        raise UserError(
            f"{name} takes words, and inputs of this dataset are numbers {list(examples.input_shape)}; expected texts "
            "(dataset=wordnet, or a table with dataset.formats.table.text), or another model"
        )
    if examples.words is not None and not takes_words:
        raise UserError(
            f"{name} takes numbers, and inputs of this dataset are words; expected model=embedding_bag, "
            "model=transformer, or a network with an argument 'words'"
        )
    return {} if examples.words is None else {"words": examples.words.count}


def recipe(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training configuration with its optimizer, schedule and augmentation as objects.

    It is empty where members are trained by a function.
    """
    if by_function(training):
        return {}
    parts = {key: instantiate(training[key], f"training.{key}") for key in ("optimizer", "schedule")}
    parts["augmentation"] = Augmentation(**training.get("augmentation", {}))
    parts["label_smoothing"] = training.get("label_smoothing", 0.0)
    return {"epochs": training["epochs"], "batch_size": training["batch_size"], **parts}


def trainer_factory(trainer: Plain) -> TrainerFactory:
    """Return a factory of Lightning trainers that print nothing and write no files."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    options = {key: value for key, value in trainer.items() if key != "engine"}
    return TrainerFactory(partial(instantiate, options), Engine.of(trainer))


def evaluation_copy(ensemble: Ensemble, trainer: Plain) -> Ensemble:
    """Return the ensemble on the device that the trainer uses, run by its engine."""
    return ensemble.to("cuda" if uses_gpu(trainer) else "cpu").use(Engine.of(trainer))


def uses_gpu(trainer: Plain) -> bool:
    """Return whether a trainer of this configuration uses a CUDA device of this machine."""
    return trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def run_shards(
    draft: Draft,
    function: Callable[[Any], None],
    job: ShardJob,
    *,
    members: int,
    chunk_size: int,
    executor: Executor,
    progress: Progress,
) -> None:
    """Write all missing shards of an artifact.

    Members that a finished artifact of the same family has are copied from it; only the others are computed.

    Args:
        draft: the unfinished artifact; valid shards of an interrupted attempt are kept.
        function: runs one job.
        job: what to do, for any members.
        members: size of the whole ensemble.
        chunk_size: members that are trained together.
        executor: where jobs run.
        progress: from the number of members to a context with a function that is called with the number of members
            that were finished, and their mean loss in the last epoch where there is one.
    """
    wanted = [[start, min(start + chunk_size, members)] for start in range(0, members, chunk_size)]
    layout = draft.layout(beginning_as(draft.relative, wanted))
    missing = [shard for shard in range(len(layout)) if draft.shard_facts(shard) is None]
    missing = [shard for shard in missing if not take_over(draft, shard, *layout[shard])]
    jobs = [replace(job.part(*layout[shard]), output=draft.path, shard=shard) for shard in missing]
    with progress(members) as advance:
        advance(members - sum(one.stop - one.start for one in jobs))
        for done in executor.run(function, jobs):
            advance(done.stop - done.start, draft.last_loss(done.shard))
