"""Where a run is tracked: nowhere, in CSV files beside it, or with Weights & Biases."""

from __future__ import annotations

import csv
import importlib
import io
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmm_exp.config.schema import Plain
from dmm_exp.errors import UserError
from dmm_exp.files.writing import write_text
from dmm_exp.report.figures import FIGURES, kept
from dmm_exp.runs.page import write_report

if TYPE_CHECKING:
    import pandas as pd

    from dmm_exp.runs.result import RunResult

RUN_ID_FILE = "wandb_run_id.txt"
JOB_TYPE = "main job"
TABLE_ROWS = 5_000  # wandb checks the type of every cell (half a millisecond a row) and shows 10,000 rows at most


class Tracker:
    """What is called for a run: ``start`` once, then ``finish`` or ``fail`` once."""

    def start(self, run_name: str, config: Plain, folder: Path) -> None:
        """Begin tracking a run that writes into ``folder``."""

    def finish(self, result: RunResult) -> None:
        """Record what a run produced; call it after the report has been written."""

    def fail(self, error: str) -> None:
        """Record that a run ended without a result."""


class NoTracker(Tracker):
    """Track nothing."""


class CsvTracker(Tracker):
    """Write ``metrics.csv`` (name, value) and ``history.csv`` (stage, epoch, loss) into the run's folder."""

    def __init__(self) -> None:
        """Wait for the folder that ``start`` names."""
        self._folder: Path | None = None

    def start(self, run_name: str, config: Plain, folder: Path) -> None:
        """Remember the run's folder."""
        self._folder = Path(folder)

    def finish(self, result: RunResult) -> None:
        """Write both files; values keep every digit that a float has."""
        if self._folder is None:
            raise RuntimeError("CsvTracker.finish was called before start")
        write_text(self._folder / "metrics.csv", _csv(("name", "value"), result.metrics.items()))
        columns = ("stage", "epoch", "loss")
        rows = result.history[list(columns)].itertuples(index=False) if len(result.history) else ()
        write_text(self._folder / "history.csv", _csv(columns, rows))


def _csv(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV text."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


class WandbTracker(Tracker):
    """Track a run with Weights & Biases; ``WANDB_MODE=offline`` needs no account and no network.

    Args:
        project: the project's name.
        entity: the user or team that owns it; the account's default when ``None``.
        group: what the runs of one sweep share: its name.
        tags: labels to filter by.
        mode: ``online``, ``offline`` or ``disabled``; ``None`` leaves it to ``WANDB_MODE``.
        figures: whether the figures of the page are drawn and sent as pictures, too.

    Raises:
        UserError: from ``start``, when wandb is not installed or refuses to start.
    """

    def __init__(
        self,
        project: str,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: str | None = None,
        figures: bool = False,
    ) -> None:
        """Keep the settings; nothing is imported before a run starts."""
        self._figures = figures
        self._settings = {"project": project, "entity": entity, "group": group, "tags": list(tags), "mode": mode}
        self._folder: Path | None = None
        self._run: Any = None

    def start(self, run_name: str, config: Plain, folder: Path) -> None:
        """Open the run, under the id it had before if this folder was tracked already."""
        wandb = _import_wandb()
        self._folder = Path(folder)
        identity = _run_id(self._folder)
        # The console is left alone: wandb would otherwise record every redraw of a progress bar.
        settings = wandb.Settings(console="off", quiet=True)
        try:
            self._run = wandb.init(
                **self._settings, id=identity, resume=self._resume(), name=run_name, config=config, job_type=JOB_TYPE,
                dir=str(self._folder), reinit="create_new", settings=settings,
            )  # fmt: skip
        except wandb.errors.Error as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"wandb could not start this run ({reason}); mode=offline needs no account") from error

    def _resume(self) -> str | None:
        """Continue a known run; offline there is no server that could know it, and wandb would warn."""
        offline = (self._settings["mode"] or _environment_mode()) in ("offline", "disabled")
        return None if offline else "allow"

    def finish(self, result: RunResult) -> None:
        """Log the training curves, the metrics, the tables and the report, and close the run."""
        if self._run is None or self._folder is None:
            raise RuntimeError("WandbTracker.finish was called before start")
        self._log_history(result)
        self._run.summary.update(result.metrics)
        self._run.log(self._media(result))
        self._run.finish()
        self._run = None

    def fail(self, error: str) -> None:
        """Mark the run as failed, with its error in the summary."""
        if self._run is None:
            return
        self._run.summary["error"] = error
        self._run.finish(exit_code=1)
        self._run = None

    def _log_history(self, result: RunResult) -> None:
        """Log one curve a stage, each against its own epochs."""
        rows = result.history.to_dict("records")
        for stage in dict.fromkeys(row["stage"] for row in rows):
            self._run.define_metric(f"epoch/{stage}", hidden=True)
            self._run.define_metric(f"loss/{stage}", step_metric=f"epoch/{stage}")
        for row in rows:
            self._run.log({f"epoch/{row['stage']}": int(row["epoch"]), f"loss/{row['stage']}": float(row["loss"])})

    def _media(self, result: RunResult) -> dict[str, Any]:
        """Collect pictures, tables and the page."""
        wandb = _import_wandb()
        assert self._folder is not None
        report = _report(result, self._folder)
        pictures = _pictures(self._folder, self._figures).items()
        media: dict[str, Any] = {name: wandb.Image(str(path)) for name, path in pictures}
        media |= {name: wandb.Table(dataframe=table) for name, table in _tables(result).items()}
        media["report"] = wandb.Html(report.read_text(encoding="utf-8"), inject=False, data_is_not_path=True)
        return media


def _report(result: RunResult, folder: Path) -> Path:
    """Return the run's page; it is written here if nobody did before."""
    report = folder / "report.html"
    if not (report.exists() and (folder / FIGURES).exists()):
        write_report(result, folder)
    return report


def _pictures(folder: Path, wanted: bool) -> dict[str, Path]:
    """Draw the figures of a run's report, if they are wanted, and return them by name."""
    if not wanted:
        return {}
    from dmm_exp.report.canvas import save

    paths = [path for chart in kept(folder) for path in save(chart, folder / "figures", ["png"])]
    return {f"figures/{path.stem}": path for path in sorted(paths)}


def _tables(result: RunResult) -> dict[str, pd.DataFrame]:
    """Return a run's tables, by name: points, and members and checkpoints where there are any."""
    import pandas as pd

    tables = {"points": _table_points(result)}
    if result.members is not None:
        tables["members"] = result.members
    if result.checkpoints:
        rows = [{"epoch": epoch, **metrics} for epoch, metrics in result.checkpoints.items()]
        tables["checkpoints"] = pd.DataFrame(rows)
    return tables


def _table_points(result: RunResult) -> pd.DataFrame:
    """Return the points for a table: all forget points, then as many others, evenly spaced, as wandb takes quickly."""
    forget = result.rows("forget")
    others = np.setdiff1d(np.arange(len(result.points)), forget)
    room = max(1, TABLE_ROWS - len(forget))
    return result.points.iloc[np.concatenate([forget, others[:: max(1, -(-len(others) // room))]])]


def _import_wandb() -> Any:
    """Import wandb, or say how to get it."""
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise UserError("logger=wandb needs the package wandb, which cannot be imported; pip install wandb") from error


def _environment_mode() -> str:
    """Return the mode that the environment asks for."""
    return os.environ.get("WANDB_MODE", "online")


def _run_id(folder: Path) -> str:
    """Return the folder's run id, made and saved on the first call: a crash before the first log must not lose it."""
    path = folder / RUN_ID_FILE
    if path.exists() and (known := path.read_text(encoding="utf-8").strip()):
        return known
    identity = secrets.token_hex(4)
    write_text(path, identity + "\n")
    return identity
