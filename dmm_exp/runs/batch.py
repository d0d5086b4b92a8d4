"""Many runs: the cells of a multirun, and the one table that they end in."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dmm_exp.config.identity import CHOICES, naming
from dmm_exp.config.preflight import choices_of, resolved
from dmm_exp.config.schema import Config
from dmm_exp.console.tables import print_table
from dmm_exp.errors import UserError
from dmm_exp.files.digests import digest_of
from dmm_exp.files.reading import Json, read_json
from dmm_exp.files.writing import write_json, write_text
from dmm_exp.runs.job import FinishedRun, JobRequest, do, failure
from dmm_exp.runs.tables import SweepCell, sweep_table
from dmm_exp.store.temporary import temporary_folder

if TYPE_CHECKING:
    from dmm_exp.pipeline.shared import Shared
    from dmm_exp.runs.run import Plans

SWEEP = "DMM_EXP_SWEEP"  # in the environment, so that cells in other processes know which sweep they belong to
PLACE = "DMM_EXP_SWEEP_FOLDER"  # the same, where Hydra writes of a sweep; in the sweep's own folder without it


@dataclass(frozen=True)
class CellRecord:
    """What is recorded of one cell of a sweep; what is None is not written.

    Attributes:
        number: its place in the sweep, from 0.
        choices: configuration group → choice; of what ends in many runs, its experiment alone.
        overrides: as they were typed, or what tells the cell from others.
        status: how it ended.
        error: what was said of a cell that failed.
        metrics: the content of ``metrics.json``, where it ended in one run.
        folder: where its results are.
        epochs: ``{"epoch": …, "metrics": …}`` for each number of epochs at which it was evaluated on its way.
    """

    number: int
    choices: Mapping[str, str]
    overrides: list[str]
    status: Literal["done", "failed"] = "done"
    error: str | None = None
    metrics: Mapping[str, float] | None = None
    folder: str | None = None
    epochs: Sequence[Json] | None = None


def from_hydra(config: Any, shared: Shared | None = None, plans: Plans | None = None) -> None:
    """Do what Hydra composed: a single job, whose folder is printed, or a cell of a sweep.

    Args:
        config: without Hydra's own part.
        shared: with other cells of a sweep.
        plans: of a sweep that is only planned.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra, own = HydraConfig.get(), resolved(config)
    choices, overrides = _choices(hydra), list(hydra.overrides.task)
    if hydra.mode == RunMode.MULTIRUN:
        # Hydra writes a cell's true and false with capitals; as they are typed, a job has one name alone and in a sweep
        overrides = [re.sub("=(True|False)$", lambda match: match[0].lower(), text) for text in overrides]
        run_cell(own, choices, overrides, int(hydra.job.num), shared, plans)
        return
    done = do(JobRequest(own, choices, overrides))
    if done is not None:
        print(done.folder if isinstance(done, FinishedRun) else done)


def begin(overrides: Sequence[str]) -> None:
    """Name the sweep after its command line, so that the same sweep lands in the same place.

    What changes no result does not name it.
    """
    os.environ[SWEEP] = digest_of(naming(overrides))[:10]


@contextmanager
def temporary_place() -> Iterator[None]:
    """Let Hydra write its own files of a sweep into a folder that is removed afterwards, as for a dry run."""
    with temporary_folder() as folder:
        os.environ[PLACE] = str(folder)
        try:
            yield
        finally:
            os.environ.pop(PLACE)


def prepared(config: Config) -> Path:
    """Return the folder of the sweep that has begun, without records of an earlier attempt."""
    folder = folder_of_sweep(config)
    for stale in folder.glob("cell-*.json"):
        stale.unlink()
    return folder


def run_cell(
    config: Config,
    choices: Mapping[str, str],
    overrides: list[str],
    number: int,
    shared: Shared | None = None,
    plans: Plans | None = None,
) -> None:
    """Do one cell; when it fails, record why and let the others go on."""
    folder = folder_of_sweep(config)
    cell = CellRecord(number, dict(choices), overrides)
    print(f"\n[{number}] {' '.join(overrides)}", file=sys.stderr)
    try:
        with _this_sweep():
            cell = _done(config, cell, shared, plans)
    except Exception as error:
        cell = replace(cell, status="failed", error=failure(error))
    if not config.dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        record = {name: value for name, value in vars(cell).items() if value is not None}
        write_json(folder / f"cell-{number:05d}.json", record)


def _done(config: Config, cell: CellRecord, shared: Shared | None, plans: Plans | None) -> CellRecord:
    """Do a cell's work, and return the cell with what it found."""
    done = do(JobRequest(config, cell.choices, cell.overrides, table=False, shared=shared, plans=plans))
    if isinstance(done, Path):  # many runs, or none: what it was composed of does not tell what it found
        kept = {group: choice for group, choice in cell.choices.items() if group == "experiment"}
        return replace(cell, choices=kept, folder=str(done))
    if done is None:
        return cell
    epochs = [{"epoch": epoch, "metrics": metrics} for epoch, metrics in done.checkpoints.items()]
    return replace(cell, metrics=done.metrics, folder=str(done.folder), epochs=epochs)


@contextmanager
def _this_sweep() -> Iterator[None]:
    """Keep the name of this sweep from being changed by a cell that begins one of its own, such as a leaderboard."""
    name = os.environ.get(SWEEP)
    try:
        yield
    finally:
        if name is not None:
            os.environ[SWEEP] = name


def folder_of_sweep(config: Config) -> Path:
    """Return the folder of the sweep that has begun."""
    outputs = config.outputs
    return outputs / "sweeps" / os.environ.get(SWEEP, "unnamed")


def finish(folder: Path, expected: int) -> int:
    """Print one table over all cells, write it as CSV, and return the exit code: 1 when a cell failed.

    Args:
        folder: of the sweep.
        expected: number of cells; those without a record were ended from outside, or have not begun.
    """
    found = {path.name: _record_in(path) for path in folder.glob("cell-*.json")}
    cells = [found.get(f"cell-{number:05d}.json") or _ended(number) for number in range(expected)]
    shown = [replace(cell, overrides=_telling(cell, cells)) for cell in cells]
    print_table(sweep_table([row for cell in shown for row in _rows(cell)]))
    for cell, telling in zip(cells, shown, strict=True):
        if cell.status == "done" and not cell.metrics:
            name = " ".join([*cell.choices.values(), *telling.overrides]) or f"cell {cell.number}"
            print(f"  {name}: {cell.folder}", file=sys.stderr)
    write_text(folder / "cells.csv", _csv(cells))
    print(folder)
    return int(any(cell.status == "failed" for cell in cells))


def _record_in(path: Path) -> CellRecord | None:
    """Return the record of a cell, None where its file is damaged."""
    try:
        return CellRecord(**read_json(path))
    except (OSError, ValueError, TypeError):
        return None


def _ended(number: int) -> CellRecord:
    """Return what stands for a cell that left no record."""
    error = "the process was killed (perhaps out of memory); run the same command again to resume"
    return CellRecord(number, {}, [f"cell {number}"], "failed", error)


def _telling(cell: CellRecord, cells: Sequence[CellRecord]) -> list[str]:
    """Return the overrides that set a cell apart and that its choices do not show."""
    known = [set(other.overrides) for other in cells if other.choices]
    shared = set.intersection(*known) if known else set()
    return [text for text in cell.overrides if text not in shared and text.split("=")[0] not in cell.choices]


def _rows(cell: CellRecord) -> list[SweepCell]:
    """Return a row for each number of epochs that a cell was evaluated at; one, if it was evaluated at its end only."""
    whole = SweepCell(cell.choices, cell.metrics or {}, cell.overrides, cell.error)
    at = [
        replace(whole, metrics=found["metrics"], overrides=[*whole.overrides, f"epoch {found['epoch']}"])
        for found in cell.epochs or ()
    ]
    return at or [whole]


def _csv(cells: Sequence[CellRecord]) -> str:
    import pandas as pd

    rows = [
        {"status": cell.status, **cell.choices, "overrides": " ".join(cell.overrides), **cell.metrics}
        for whole in cells
        for cell in _rows(whole)
    ]
    return pd.DataFrame(rows).to_csv(index=False)


def _choices(hydra: Any) -> dict[str, str]:
    """Return group → choice as composed; for a run that is run again, as they were the first time."""
    choices = choices_of(hydra.runtime.choices)
    if "unlearner" in choices:
        return choices
    for source in hydra.runtime.config_sources:
        recorded = Path(source.path) / CHOICES
        if source.schema == "file" and recorded.is_file():
            return _recorded(recorded)
    return choices


def _recorded(path: Path) -> dict[str, str]:
    """Return the choices that a run recorded. Raises ``UserError`` where the file is damaged."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(choice, str) for choice in found.values()):
        raise UserError(f"{path}: is damaged; expected the choices of a run, by group")
    return found
