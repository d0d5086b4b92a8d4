"""Runs jobs on the members of ensembles, with the chunk size and the engine that are configured or fastest."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from dmm_exp.config.schema import Node, TrainingByFunction, plain
from dmm_exp.ensembles.chunk_size import MeasureJob, device_name, in_words, measure_chunk_size
from dmm_exp.ensembles.engine import AUTO, Engine
from dmm_exp.ensembles.pace import Pace, measured_pace
from dmm_exp.ensembles.stacking import Stacking, stacking_of
from dmm_exp.ensembles.work import ShardJob, run_shards, uses_gpu
from dmm_exp.pipeline.context import Context
from dmm_exp.store import Draft, Spec

TOGETHER = 10  # members that train together where a plan measures their pace and the chunk size is not measured yet
SMALL_NETWORK = 1_000_000  # parameters; of larger networks a plan trains one


class Chunks:
    """Runs work on members of ensembles, chunk by chunk.

    Args:
        context: of the experiment.
        untrained: a function that makes a network before training, and an identifier of its architecture within this
            process; by default the network that the configuration names.
    """

    def __init__(self, context: Context, untrained: tuple[Callable[[], nn.Module], Hashable] | None = None) -> None:
        self.context = context
        self._untrained = untrained

    @cached_property
    def stacking(self) -> Stacking:
        """How these networks can be trained: stacked, one at a time, or not at all."""
        if self._untrained is not None:
            return self.stacking_of(*self._untrained)
        return self.stacking_of(self.context.network)

    def stacking_of(self, build: Callable[[], nn.Module], known_as: Hashable = None) -> Stacking:
        """Return how the networks of a function can be trained."""
        device = torch.device("cuda" if uses_gpu(self.context.config.trainer) else "cpu")
        return stacking_of(build, self.context.examples, device, known_as)

    @property
    def size(self) -> int:
        """Number of members that are trained together: ``model.chunk_size``, or the fastest where that is ``auto``."""
        return self._fastest[0]

    @property
    def trainer(self) -> Node:
        """The trainer's configuration with the engine: the fastest where that is ``auto``."""
        return {**self.context.config.trainer, "engine": asdict(self._fastest[1])}

    def run(
        self,
        name: str,
        draft: Draft,
        function: Callable[[Any], None],
        job: ShardJob,
        members: int,
        size: int | None = None,
    ) -> None:
        """Write all missing shards of an artifact.

        Args:
            name: of the progress bar.
            draft: the artifact.
            function: runs one job.
            job: what to do, for any members.
            members: of the whole ensemble.
            size: of a chunk; :attr:`size` by default.
        """
        run_shards(
            draft,
            function,
            job,
            members=members,
            chunk_size=size or self.size,
            executor=self.context.executor,
            progress=partial(self.context.console.progress, name),
        )

    def pace(self, budget: float) -> Pace | None:
        """Return how fast members train here, after a short piece of training; nothing is stored.

        Args:
            budget: seconds that it may take, about.

        Returns:
            The pace; None where members are trained by a function of the user's.
        """
        config, examples = self.context.config, self.context.examples
        if isinstance(config.training, TrainingByFunction):
            return None
        size, engine = self._settled()
        build = self.context.network
        small = sum(one.numel() for one in build().parameters()) <= SMALL_NETWORK
        members = (TOGETHER if small else 1) if size == AUTO else int(size)
        trainer = {**config.trainer, "engine": asdict(engine.settled())}
        return measured_pace(build, examples, plain(config.training), trainer, members, budget)

    def _settled(self) -> tuple[int | str, Engine]:
        """Return the configured chunk size and engine, changed where these networks cannot be trained with them.

        A notice is printed where that may surprise a user.
        """
        config = self.context.config
        configured, engine = config.model.chunk_size, Engine(**plain(config.engine))
        if not isinstance(config.training, TrainingByFunction):
            self.stacking.check()
        size, engine = self.stacking.settled(configured, engine)
        notice = self.stacking.notice(one_at_a_time=size != configured)
        if notice is not None:
            self.context.console.note_once(notice, about=str(config.model.network))
        return size, engine

    @cached_property
    def _fastest(self) -> tuple[int, Engine]:
        """The chunk size and the engine, measured where they are ``auto``; engines are measured on a GPU only."""
        context, config = self.context, self.context.config
        size, engine = self._settled()
        if size != AUTO and not (engine.open and uses_gpu(config.trainer)):
            return int(size), engine.settled()
        job = MeasureJob(
            examples=context.dataset.path,
            model=config.model.network,
            training=plain(config.training),
            trainer={**config.trainer, "engine": asdict(engine)},
            size=None if size == AUTO else int(size),
        )
        facts = {
            "network": job.model,
            "batch_size": job.training["batch_size"],
            "optimizer": job.training["optimizer"],
            "precision": job.trainer["precision"],
            "input": list(context.examples.input_shape),
            "classes": context.examples.n_classes,
            "device": device_name(job.trainer),
            "size": job.size,
            "engine": asdict(engine),
        }

        def make(draft: Draft) -> None:
            for _ in context.executor.run(measure_chunk_size, [replace(job, output=draft.path)]):
                pass

        measured = context.obtain("chunk size", "members trained together", Spec("chunk_size", facts, {}), make)
        found = measured.json("chunk_size")
        context.console.note(f"{'model.chunk_size' if size == AUTO else 'engine'}=auto: {in_words(found)}")
        return found["chosen"], Engine(**found["engine"])
