"""What a plan says (``dry_run``): what is there and what would be made, models, time and disk, and the commands."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from dmm_exp.config.folders import further_folders
from dmm_exp.config.schema import Config, Plain
from dmm_exp.console.tables import print_table, text_table
from dmm_exp.ensembles.pace import Pace
from dmm_exp.ensembles.work import uses_gpu
from dmm_exp.executors import Local, Processes
from dmm_exp.executors.devices import accelerators
from dmm_exp.files.digests import digest_of
from dmm_exp.pipeline.plan import PlannedStage

BUDGET = 1.0  # seconds of training in which the pace of the first network is measured; each further one gets half
RECIPE = ("dataset", "model", "training", "trainer")  # what the pace of training depends on
COUNTED = "an epoch of unlearning counts as one of training; attribution, scores and evaluation do not count"
HERE = (Processes, Local)  # executors that compute on this machine


@dataclass(frozen=True)
class RunPlan:
    """The plan of one run.

    Attributes:
        config: the run's.
        identity: what identifies its result.
        folder: its folder.
        finished: whether it was finished before.
        stages: what it needs.
        pace: trains for about so many seconds and returns the pace; None where it cannot be measured.
        workers: how many of its processor threads or GPUs compute at the same time here; None on other machines.
    """

    config: Config
    identity: Plain
    folder: Path
    finished: bool
    stages: Sequence[PlannedStage]
    pace: Callable[[float], Pace | None]
    workers: int | None

    @cached_property
    def recipe(self) -> str:
        """What tells runs apart whose members do not train equally fast."""
        return digest_of({key: self.identity[key] for key in RECIPE})


@dataclass
class Totals:
    """What several runs need together: a stage that they share counts once.

    Attributes:
        runs: number of runs.
        finished: number of those that were finished before.
        stages: name → what is to be made of it, in the order of the first run that needs it.
        seconds: processor seconds (GPU seconds where there is one) of training; None where some pace is not known.
        measured: seconds of training in which the paces were measured.
    """

    runs: int = 0
    finished: int = 0
    stages: dict[str, PlannedStage] = field(default_factory=dict)
    seconds: float | None = 0.0
    measured: float = 0.0
    _known: set[str] = field(default_factory=set)
    _paces: dict[str, Pace | None] = field(default_factory=dict)

    def add(self, plan: RunPlan) -> None:
        """Add what a run needs that no run before it needed."""
        self.runs += 1
        self.finished += plan.finished
        for stage in plan.stages:
            if stage.identity in self._known:
                continue
            self._known |= {stage.identity} - {""}
            self._count(stage)
            if not stage.exists and stage.sample_gradients:
                self._time(stage, plan)

    def _count(self, stage: PlannedStage) -> None:
        before = self.stages.get(stage.name)
        if before is None or before.exists:
            self.stages[stage.name] = stage
        elif not stage.exists:
            self.stages[stage.name] = replace(
                before,
                models=before.models + stage.models,
                sample_gradients=before.sample_gradients + stage.sample_gradients,
                taken_over=before.taken_over + stage.taken_over,
                bytes=before.bytes + stage.bytes,
            )

    def _time(self, stage: PlannedStage, plan: RunPlan) -> None:
        if plan.recipe not in self._paces:
            self._paces[plan.recipe] = pace = plan.pace(BUDGET / 2 ** len(self._paces))
            self.measured += pace.measured if pace else 0.0
        pace = self._paces[plan.recipe]
        if self.seconds is not None:
            self.seconds = self.seconds + stage.sample_gradients * pace.seconds if pace else None

    @property
    def missing(self) -> list[PlannedStage]:
        """What is to be made."""
        return [stage for stage in self.stages.values() if not stage.exists]

    @property
    def models(self) -> int:
        """Number of models to make."""
        return sum(stage.models for stage in self.missing)

    @property
    def bytes(self) -> int:
        """Bytes on disk of what is to be made."""
        return sum(stage.bytes for stage in self.missing)


def print_stages(totals: Totals) -> None:
    """Print what is there and what would be made, a row a stage."""
    rows = [["stage", "state", "models", "sample gradients"]]
    for stage in totals.stages.values():
        state = "exists, would be reused" if stage.exists else "would be made"
        state += f", {stage.taken_over:,} models taken over" if stage.taken_over else ""
        todo = ("", "") if stage.exists else (f"{stage.models:,}", f"{stage.sample_gradients:.2g}")
        rows.append([stage.name.replace("_", " "), state, *todo])
    print_table(text_table("plan (nothing was made)", rows, words=2))


def print_totals(totals: Totals, plan: RunPlan) -> None:
    """Print what all of it takes: models, hours on this machine, and disk.

    Args:
        totals: of all runs.
        plan: one of them, which says where it computes.
    """
    if totals.runs > 1 or totals.finished:
        print(f"runs: {totals.runs:,}, of which {totals.finished:,} were finished before")
    print(f"models to make: {totals.models:,}")
    print(f"time: {_time(totals, plan)}")
    free = shutil.disk_usage(_existing(plan.config.outputs)).free
    print(f"disk: about {size_in_words(totals.bytes)}; {size_in_words(free)} are free in {plan.config.outputs}")
    if totals.seconds:
        print(f"  the time is an estimate from {totals.measured:.1f} s of training here; {COUNTED}")


def _time(totals: Totals, plan: RunPlan) -> str:
    if totals.seconds is None:
        return "not known; members are trained by a function of yours"
    if not totals.seconds:
        return "no training"
    gpu = uses_gpu(plan.config.trainer)
    whole = f"about {hours(totals.seconds)} of one {'GPU' if gpu else 'processor core'}"
    if plan.workers is None:
        return f"{whole} like this machine's"
    if plan.workers == 1:
        return whole
    units = f"{plan.workers} {'GPUs' if gpu else 'cores'}"
    return f"{whole}, {hours(totals.seconds / plan.workers)} on {units} of this machine"


def workers_of(config: Config, executor: object) -> int | None:
    """Return how many threads or GPUs of this machine an executor uses at the same time; None for other machines."""
    if not isinstance(executor, HERE):
        return None
    devices = len(accelerators(str(config.trainer.get("accelerator", "auto"))))
    if devices and uses_gpu(config.trainer):
        return min(devices, getattr(executor, "workers", 1))
    import torch

    return getattr(executor, "workers", 1) * (getattr(executor, "threads", None) or torch.get_num_threads())


def command(overrides: Iterable[str]) -> str:
    """Return the command line of a run, quoted as a shell needs it, without ``dry_run``.

    Args:
        overrides: of the run.
    """
    kept = [text for text in overrides if text.lstrip("+~").partition("=")[0] != "dry_run"]
    folders = [word for folder in further_folders() for word in ("--config-dir", folder)]
    return shlex.join(["python", "-m", "dmm_exp", *folders, *kept])


def hours(seconds: float) -> str:
    """Return a time in words with two digits: ``40 s``, ``12 min``, ``3.4 h``.

    >>> hours(12000)
    '3.3 h'
    """
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.{1 if seconds < 10 * length else 0}f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"


def size_in_words(count: float) -> str:
    """Return a number of bytes in words.

    >>> size_in_words(3_200_000)
    '3.2 MB'
    """
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:,.{1 if count < 10 * length else 0}f} {unit}"
    return f"{count / 1e3:,.0f} kB"


def _existing(path: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    return next(one for one in (path, *path.parents) if one.exists())
