"""Jobs that consist of many runs: one loop, which skips finished runs and goes on when a run fails."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from dmm_exp import __version__
from dmm_exp.config.identity import many_runs_digest, run_name
from dmm_exp.config.ranges import check_config
from dmm_exp.config.schema import Config
from dmm_exp.console.progress import Console
from dmm_exp.errors import UserError
from dmm_exp.files.reading import read_json
from dmm_exp.files.writing import write_json
from dmm_exp.pipeline.shared import Shared
from dmm_exp.runs.batch import begin
from dmm_exp.runs.job import Job, JobRequest, failure, fewer_collections
from dmm_exp.runs.plan import command
from dmm_exp.runs.run import Plans, run


@dataclass(frozen=True)
class PlannedRun:
    """One of many runs.

    Attributes:
        title: what it is called while it runs.
        overrides: the command line that does the same run alone.
        config: what these overrides compose to.
        choices: group → choice.
    """

    title: str
    overrides: list[str]
    config: Config
    choices: dict[str, str]


@dataclass(frozen=True)
class RunOutcome:
    """What came of a cell.

    Attributes:
        metrics: the content of ``metrics.json``.
        epochs: metrics by number of epochs, where the run measured them on its way; the last are ``metrics``.
        error: what was said of a run that failed; None for one that ended well.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    error: str | None = None


C = TypeVar("C", bound=PlannedRun)


class ManyRuns(Job, Generic[C]):
    """A job whose every cell is an ordinary run."""

    @abstractmethod
    def cells(self, config: Config, overrides: Sequence[str]) -> Iterator[C]:
        """Yield every cell, composed.

        Args:
            config: the resolved configuration of the job.
            overrides: of the command line; those that are not about the job hold for every run.

        Raises:
            UserError: a method, forget set or value does not exist.
        """

    @abstractmethod
    def folder_of(self, config: Config, cells: Sequence[C]) -> Path:
        """Return where the job's results are: the same job always has the same folder."""

    @abstractmethod
    def show(self, config: Config, outcomes: Sequence[tuple[C, RunOutcome]], folder: Path, command: str) -> Path:
        """Print the table, write the page and return its path."""

    def finished(self, config: Config, cell: C, outcome: RunOutcome) -> None:
        """Do what is to be done as soon as a run has ended; nothing by default."""

    def do(self, request: JobRequest) -> Path:
        """Do every run that is not there yet, print the table, and return the folder; with ``dry_run`` print a plan.

        Raises:
            UserError: one of the runs could not start, or all of them failed.
        """
        config, overrides, shared = request.config, request.overrides, request.shared or Shared()
        begin(overrides)
        with fewer_collections(), Console().progress("configurations", None) as advance:
            cells = []
            for cell in self.cells(config, overrides):
                check_config(cell.config)
                cells.append(cell)
                advance(1)
        if not cells:
            raise UserError(f"job={self.key}: {self.key} names no runs; choose an experiment that does")
        folder = self.folder_of(config, cells)
        if config.dry_run:
            plans = Plans(shared)
            with fewer_collections(), Console().progress("plans", len(cells)) as advance:
                for cell in cells:
                    plans.add(cell.overrides, cell.config, cell.choices)
                    advance(1)
            plans.finish()
            return folder
        results = []
        for number, cell in enumerate(cells, 1):
            print(f"\n[{number}/{len(cells)}] {cell.title}", file=sys.stderr)
            results.append(_result(cell, folder / "runs", shared))
            self.finished(config, cell, results[-1])
        if all(result.error is not None for result in results):
            raise UserError(f"{self.key}: all {len(results)} runs failed; the first said: {results[0].error}")
        again = command(overrides)
        page = self.show(config, list(zip(cells, results, strict=True)), folder, again)
        print(f"  {self.key}: {page}", file=sys.stderr)
        return folder


def named_folder(config: Config, kind: str, title: str, cells: Sequence[PlannedRun]) -> Path:
    """Return the folder of a job by its kind, its title and its cells."""
    name = "".join(letter if letter.isalnum() else "_" for letter in title.lower())
    identity = many_runs_digest([(cell.overrides, cell.config) for cell in cells])
    return config.outputs / kind / f"{name}__{identity[:10]}"


def _result(cell: PlannedRun, folder: Path, shared: Shared) -> RunOutcome:
    """Do a run, or read what it found before, and return what came of it."""
    path = folder / f"{run_name(cell.config, cell.choices)}.json"
    if (before := _found_before(path)) is not None:
        return before
    try:
        finished = run(cell.config, cell.choices, table=False, shared=shared)
    except Exception as error:
        return RunOutcome(error=failure(error))
    assert finished is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    found = RunOutcome(finished.metrics, finished.checkpoints)
    write_json(path, {"package": __version__, "metrics": found.metrics, "epochs": list(found.epochs.items())})
    return found


def _found_before(path: Path) -> RunOutcome | None:
    """Return what an earlier, interrupted job found in a run; None when there is nothing to trust."""
    try:
        found = read_json(path)
        if found["package"] != __version__:
            return None
        return RunOutcome(dict(found["metrics"]), {int(epoch): dict(metrics) for epoch, metrics in found["epochs"]})
    except (OSError, ValueError, KeyError, TypeError):
        return None
