"""What a configuration asks for: an ordinary run, or a leaderboard, a study or a convex experiment."""

from __future__ import annotations

import gc
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.config.parts import composed_parts
from dmm_exp.config.ranges import check_ranges
from dmm_exp.config.schema import RUN, Config, plain
from dmm_exp.config.trust import named
from dmm_exp.errors import UserError
from dmm_exp.executors import shared_executor
from dmm_exp.runs.folder import folder_of, is_finished

if TYPE_CHECKING:
    from dmm_exp.pipeline.shared import Shared
    from dmm_exp.runs.run import Plans

OBJECTS = 50_000  # that are made between two searches for garbage, where most of them stay


@dataclass(frozen=True)
class FinishedRun:
    """Where a run's results are, and its headline numbers.

    Attributes:
        folder: the run's.
        metrics: ``metrics.json``.
        checkpoints: metrics by number of epochs, of an unlearner with several; the last are those of ``metrics``.
    """

    folder: Path
    metrics: dict[str, float]
    checkpoints: dict[int, dict[str, float]]


@dataclass(frozen=True)
class JobRequest:
    """What a job is asked to do.

    Attributes:
        config: the resolved configuration.
        choices: group → choice that it was composed of.
        overrides: of the command line, or of a cell of a sweep.
        table: whether to print the headline table of an ordinary run.
        shared: with other jobs of this process.
        plans: of the sweep that this job is a cell of, where it is only planned.
    """

    config: Config
    choices: Mapping[str, str]
    overrides: Sequence[str]
    table: bool = True
    shared: Shared | None = None
    plans: Plans | None = None


class Job(ABC):
    """A kind of work that a configuration asks for (``job=``)."""

    key: ClassVar[str | None] = None
    """The part of the configuration that is this job's own, None for none."""

    @abstractmethod
    def do(self, request: JobRequest) -> FinishedRun | Path | None:
        """Do what a configuration asks for, and return a finished run, or the folder of what consists of many.

        Returns:
            None for a plan (``dry_run``) of something that has no folder.

        Raises:
            UserError: the configuration asks for what cannot be.
        """


def do(request: JobRequest) -> FinishedRun | Path | None:
    """Do the job of a configuration; what is returned is that of :meth:`Job.do`.

    Raises:
        UserError: the configuration asks for what cannot be, or has settings of another job.
    """
    config = request.config
    if config.job == {"_target_": RUN}:
        config = composed_parts(config)
        check_ranges(config)
        _start_workers(config, request.choices)
    first = "torch" not in sys.modules
    with fewer_collections(0):
        check_targets(config.job, "job")
    if first:
        gc.freeze()  # modules stay: no later search for garbage looks at them
    job: Job = instantiate(config.job, "job")
    settings = {"leaderboard.methods": config.leaderboard.methods, "study.tables": config.study.tables}
    for key, value in (settings | {"convex.loss": config.convex.loss}).items():
        name = key.split(".")[0]
        if value and name != job.key:
            raise UserError(f"{key}: is a setting of job={name}; expected job={name} beside it, or none")
    return job.do(replace(request, config=config))


def _start_workers(config: Config, choices: Mapping[str, str]) -> None:
    """Start the workers of a run that has work to do: they import torch while this process does."""
    check_targets(config.executor, "executor")
    if not config.dry_run and not is_finished(folder_of(config, choices)):
        shared_executor(config.executor).warm_up()


def failure(error: Exception) -> str:
    """Print why one of many runs failed, with a traceback unless it is bad input, and return the sentence."""
    if not isinstance(error, UserError):
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)
    return str(error) or type(error).__name__


@contextmanager
def fewer_collections(objects: int = OBJECTS) -> Iterator[None]:
    """Let Python look for garbage seldom while many objects are made that stay, of configurations or modules.

    Args:
        objects: that are made between two searches; 0 for none.
    """
    before = gc.get_threshold()
    gc.set_threshold(objects, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def print_accepted(config: Config, choices: Mapping[str, str]) -> None:
    """Say what a folder that is run again would do, without making anything that it names.

    Raises:
        UserError: a number is out of range.
    """
    check_ranges(config)
    folder = folder_of(config, choices)
    print(f"it would run as {folder} ({'finished before' if is_finished(folder) else 'not finished before'})")
    print(f"classes that it names: {', '.join(sorted(named(plain(config))))}")
    print("nothing of it was made: a folder that is run again shows no costs before it is run", file=sys.stderr)
