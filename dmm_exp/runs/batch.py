"""Many runs: the cells of a multirun, and the one table that they end in."""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmm_exp.config.identity import CHOICES
from dmm_exp.config.schema import Config
from dmm_exp.errors import UserError
from dmm_exp.files.digests import digest_of
from dmm_exp.files.reading import read_json
from dmm_exp.files.writing import write_json, write_text
from dmm_exp.runs.job import do
from dmm_exp.runs.run import FinishedRun, resolved

if TYPE_CHECKING:
    from dmm_exp.runs.tables import SweepCell

SWEEP = "DMM_EXP_SWEEP"  # in the environment, so that cells in other processes know which sweep they belong to


def from_hydra(config: Any) -> None:
    """Do what Hydra composed, as a single job, whose folder is printed, or as a cell of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra, own = HydraConfig.get(), resolved(config)
    choices, overrides = _choices(hydra), list(hydra.overrides.task)
    if hydra.mode == RunMode.MULTIRUN:
        # Hydra writes a cell's true and false with capitals; as they are typed, a job has one name alone and in a sweep
        overrides = [re.sub("=(True|False)$", lambda match: match[0].lower(), text) for text in overrides]
        run_cell(own, choices, overrides, int(hydra.job.num))
        return
    done = do(own, choices, overrides)
    if done is not None:
        print(done.folder if isinstance(done, FinishedRun) else done)


def begin(overrides: Sequence[str]) -> None:
    """Name the sweep after its command line, so that the same sweep lands in the same place."""
    os.environ[SWEEP] = digest_of(list(overrides))[:10]


def prepared(config: Config) -> Path:
    """Return the folder of the sweep that has begun, without records of an earlier attempt."""
    folder = _folder(config)
    for stale in folder.glob("cell-*.json"):
        stale.unlink()
    return folder


def run_cell(config: Config, choices: Mapping[str, str], overrides: list[str], number: int) -> None:
    """Do one cell; when it fails, record why and let the others go on."""
    folder = _folder(config)
    record: dict[str, Any] = {"number": number, "choices": dict(choices), "overrides": overrides}
    print(f"\n[{number}] {' '.join(overrides)}", file=sys.stderr)
    try:
        with _this_sweep():
            record |= _done(config, choices, overrides)
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        record |= {"status": "failed", "error": str(error) or type(error).__name__}
    if not config.dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"cell-{number:05d}.json", record)


def _done(config: Config, choices: Mapping[str, str], overrides: list[str]) -> dict[str, Any]:
    """Do a cell's work, and return what its record says of it."""
    done = do(config, choices, overrides, table=False)
    if isinstance(done, Path):  # many runs, or none: what it was composed of does not tell what it found
        kept = {group: choice for group, choice in choices.items() if group == "experiment"}
        return {"status": "done", "choices": kept, "folder": str(done)}
    if done is None:
        return {"status": "done"}
    epochs = [{"epoch": epoch, "metrics": metrics} for epoch, metrics in done.checkpoints.items()]
    return {"status": "done", "metrics": done.metrics, "folder": str(done.folder), "epochs": epochs}


@contextmanager
def _this_sweep() -> Iterator[None]:
    """Keep the name of this sweep from being changed by a cell that begins one of its own, such as a leaderboard."""
    name = os.environ.get(SWEEP)
    try:
        yield
    finally:
        if name is not None:
            os.environ[SWEEP] = name


def _folder(config: Config) -> Path:
    outputs = config.outputs
    return outputs / "sweeps" / os.environ.get(SWEEP, "unnamed")


def finish(folder: Path, expected: int) -> int:
    """Print one table over all cells, write it as CSV, and return the exit code: 1 when a cell failed.

    Args:
        folder: of the sweep.
        expected: number of cells; those without a record were ended from outside, or have not begun.
    """
    from dmm_exp.console.tables import print_table
    from dmm_exp.runs.tables import sweep_table

    found = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("cell-*.json")}
    cells = [found.get(f"cell-{number:05d}.json") or _ended(number) for number in range(expected)]
    shown = [cell | {"overrides": _telling(cell, cells)} for cell in cells]
    print_table(sweep_table([row for cell in shown for row in _rows(cell)]))
    for cell, telling in zip(cells, shown, strict=True):
        if cell["status"] == "done" and not cell.get("metrics"):
            name = " ".join([*cell["choices"].values(), *telling["overrides"]]) or f"cell {cell['number']}"
            print(f"  {name}: {cell.get('folder')}", file=sys.stderr)
    write_text(folder / "cells.csv", _csv(cells))
    print(folder)
    return int(any(cell["status"] == "failed" for cell in cells))


def _ended(number: int) -> dict[str, Any]:
    """Return the record of a cell that left none."""
    error = "its process ended without a word (killed, or out of memory); the same command does what is missing"
    return {"number": number, "choices": {}, "overrides": [f"cell {number}"], "status": "failed", "error": error}


def _telling(cell: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the overrides that set a cell apart and that its choices do not show."""
    known = [set(other["overrides"]) for other in cells if other["choices"]]
    shared = set.intersection(*known) if known else set()
    return [text for text in cell["overrides"] if text not in shared and text.split("=")[0] not in cell["choices"]]


def _rows(cell: Mapping[str, Any]) -> list[SweepCell]:
    """Return a row for each number of epochs that a cell was evaluated at; one, if it was evaluated at its end only."""
    from dmm_exp.runs.tables import SweepCell

    whole = SweepCell(cell["choices"], cell.get("metrics", {}), cell["overrides"], cell.get("error"))
    at = [
        replace(whole, metrics=found["metrics"], overrides=[*whole.overrides, f"epoch {found['epoch']}"])
        for found in cell.get("epochs") or ()
    ]
    return at or [whole]


def _csv(cells: Sequence[Mapping[str, Any]]) -> str:
    import pandas as pd

    rows = [
        {"status": cell.status, **cell.choices, "overrides": " ".join(cell.overrides), **cell.metrics}
        for whole in cells
        for cell in _rows(whole)
    ]
    return pd.DataFrame(rows).to_csv(index=False)


def _choices(hydra: Any) -> dict[str, str]:
    """Return group → choice as composed; for a run that is run again, as they were the first time."""
    from dmm_exp.config.preflight import choices_of

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
