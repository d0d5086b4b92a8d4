"""Where a run is tracked: nowhere, in CSV files beside it, or with Weights & Biases."""

from __future__ import annotations

import csv
import importlib
import io
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmm_exp.config.schema import Plain
from dmm_exp.console.progress import StageRecord
from dmm_exp.errors import UserError
from dmm_exp.files.writing import write_text
from dmm_exp.report.figures import FIGURES, kept
from dmm_exp.runs.page import write_report

if TYPE_CHECKING:
    import pandas as pd

    from dmm_exp.runs.result import RunResult

RUN_ID_FILE = "wandb_run_id.txt"
EVALUATE = "evaluate"  # the job type of the run that holds all results; others hold the progress of long work
JOB_TYPES = {  # stage → job type of the run that holds its progress; all others are the evaluation's
    **dict.fromkeys(("pool", "larger pool", "LDS models"), "pool"),
    **dict.fromkeys(("originals", "early originals", "oracles", "floor oracles", "target oracles"), "train"),
    **dict.fromkeys(("few oracles", "base models", "retraining"), "train"),
    **dict.fromkeys(("unlearning", "attribution", "gradients", "effects", "attacked"), "unlearn"),
}
TABLE_ROWS = 5_000  # wandb checks the type of every cell (half a millisecond a row) and shows 10,000 rows at most


class Tracker:
    """What is called for a run: ``start`` once, ``stage`` and ``progress`` while it goes on, ``finish`` or ``fail``.

    These calls come from a thread of their own, one after another: what a tracker waits for, no work waits for.
    """

    def start(self, run_name: str, config: Plain, folder: Path) -> None:
        """Begin tracking a run that writes into ``folder``."""

    def stage(self, record: StageRecord) -> None:
        """Record that a stage has ended well."""

    def progress(self, name: str, done: int, total: int, loss: float | None) -> None:
        """Record how many members of a stage are done, and the loss of the last of these, where there is one."""

    def finish(self, result: RunResult) -> None:
        """Record what a run produced; call it after the report has been written."""

    def fail(self, error: str) -> None:
        """Record that a run ended without a result."""


class NoTracker(Tracker):
    """Track nothing."""


class CsvTracker(Tracker):
    """Write ``metrics.csv`` (name, value) and ``history.csv`` (stage, epoch, loss) into the run's folder.

    While the run goes on, ``progress.csv`` grows: seconds since its start, stage, members done, of how many, and the
    loss of the last of them. A stage without members ends as 1 of 1.
    """

    def __init__(self) -> None:
        """Wait for the folder that ``start`` names."""
        self._folder: Path | None = None
        self._began = 0.0

    def start(self, run_name: str, config: Plain, folder: Path) -> None:
        """Remember the run's folder, and begin ``progress.csv``."""
        self._folder, self._began = Path(folder), time.monotonic()
        write_text(self._folder / "progress.csv", _csv(("seconds", "stage", "done", "total", "loss"), ()))

    def stage(self, record: StageRecord) -> None:
        """Add a line for a stage that made no members, or had them."""
        if not record.made:
            self.progress(record.name, 1, 1, None)

    def progress(self, name: str, done: int, total: int, loss: float | None) -> None:
        """Add a line."""
        if self._folder is not None:
            row = (
                f"{time.monotonic() - self._began:.1f}",
                name,
                str(done),
                str(total),
                "" if loss is None else str(loss),
            )
            with (self._folder / "progress.csv").open("a", encoding="utf-8") as file:
                file.write(_csv(row, ()))

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

    The run of job type ``evaluate`` has the results. What is computed on the way (nothing that is reused) has runs of
    its own, of job types ``pool``, ``train`` and ``unlearn``, in which members and losses can be seen as they come.

    Args:
        project: the project's name.
        entity: the user or team that owns it; the account's default when ``None``.
        group: what the runs of one sweep share: its name.
        tags: labels to filter by.
        mode: ``online``, ``offline`` or ``disabled``; ``None`` leaves it to ``WANDB_MODE``.
        figures: whether the figures of the page are drawn and sent as pictures, too; they show examples of the data.
        report: whether the page is sent; it shows examples of the data.

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
        report: bool = False,
    ) -> None:
        """Keep the settings; nothing is imported before a run starts."""
        self._figures, self._report = figures, report
        self._settings = {"project": project, "entity": entity, "group": group, "tags": list(tags), "mode": mode}
        self._folder: Path | None = None
        self._run: Any = None
        self._opened: Callable[[str], Any] | None = None
        self._others: dict[str, Any] = {}  # by job type

    def start(self, run_name: str, config: Plain, folder: Path) -> None:
        """Open the run, under the id it had before if this folder was tracked already."""
        wandb = _import_wandb()
        self._folder = Path(folder)
        identity = _run_id(self._folder)
        # The console is left alone: wandb would otherwise record every redraw of a progress bar.
        settings = wandb.Settings(console="off", quiet=True)

        def opened(job_type: str) -> Any:
            own = {"id": identity, "name": run_name}
            other = {"id": f"{identity}-{job_type}", "name": f"{run_name} ({job_type})"}
            return wandb.init(
                **self._settings, **(own if job_type == EVALUATE else other), resume=self._resume(), config=config,
                job_type=job_type, dir=str(self._folder), reinit="create_new", settings=settings,
            )  # fmt: skip

        self._opened = opened
        try:
            self._run = opened(EVALUATE)
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"wandb could not start this run ({reason}); mode=offline needs no account") from error

    def _resume(self) -> str | None:
        """Continue a known run; offline there is no server that could know it, and wandb would warn."""
        offline = (self._settings["mode"] or _environment_mode()) in ("offline", "disabled")
        return None if offline else "allow"

    def stage(self, record: StageRecord) -> None:
        """Note a stage's seconds in the summary."""
        if self._run is not None:
            name = record.name.replace(" ", "_")
            cached = float(record.cached)
            self._run.summary.update({f"seconds/{name}": record.seconds, f"seconds/{name}/cached": cached})

    def progress(self, name: str, done: int, total: int, loss: float | None) -> None:
        """Log members that are done, and their loss, in the run of the stage's job type, and how far it is in ours."""
        if self._run is None or self._opened is None:
            return
        job_type = "pool" if name.startswith("pool: ") else JOB_TYPES.get(name, EVALUATE)
        self._run.summary.update({"now/stage": name, "now/done": done / max(1, total)})
        if job_type == EVALUATE:
            return
        if job_type not in self._others:
            self._others[job_type] = self._opened(job_type)
        values: dict[str, float] = {f"members/{name}": done, f"members/{name}/of": total}
        self._others[job_type].log(values | ({} if loss is None else {f"loss/{name}": loss}))

    def _close(self, exit_code: int) -> None:
        for run in (*self._others.values(), self._run):
            run.finish(exit_code=exit_code)
        self._run, self._others = None, {}

    def finish(self, result: RunResult) -> None:
        """Log the training curves, the metrics, the tables and what else is asked for, and close the runs."""
        if self._run is None or self._folder is None:
            raise RuntimeError("WandbTracker.finish was called before start")
        self._log_history(result)
        self._run.summary.update(result.metrics)
        self._run.log(self._media(result))
        self._close(0)

    def fail(self, error: str) -> None:
        """Mark the run as failed, with its error in the summary."""
        if self._run is None:
            return
        self._run.summary["error"] = error
        self._close(1)

    def _log_history(self, result: RunResult) -> None:
        """Log one curve a stage, each against its own epochs."""
        rows = result.history.to_dict("records")
        for stage in dict.fromkeys(row["stage"] for row in rows):
            self._run.define_metric(f"epoch/{stage}", hidden=True)
            self._run.define_metric(f"loss/{stage}", step_metric=f"epoch/{stage}")
        for row in rows:
            self._run.log({f"epoch/{row['stage']}": int(row["epoch"]), f"loss/{row['stage']}": float(row["loss"])})

    def _media(self, result: RunResult) -> dict[str, Any]:
        """Collect tables and, where they are asked for, pictures and the page."""
        wandb = _import_wandb()
        assert self._folder is not None
        report = _report(result, self._folder) if self._figures or self._report else None
        pictures = _pictures(self._folder, self._figures).items()
        media: dict[str, Any] = {name: wandb.Image(str(path)) for name, path in pictures}
        media |= {name: wandb.Table(dataframe=table) for name, table in _tables(result).items()}
        if report is not None and self._report:
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
