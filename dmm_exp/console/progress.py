"""The console of a run: one line a stage, bars on a terminal, everything also in ``run.log``.

All of it goes to standard error; standard output is kept for the final table and the run's folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text

from dmm_exp.console.terminal import PLAIN
from dmm_exp.console.terminal import console as safe_console
from dmm_exp.errors import printable

_NAME_WIDTH, _DETAIL_WIDTH = 15, 44
_NOTED: set[tuple[str, str]] = set()  # what :meth:`Console.note_once` has printed
_SAID_EVERY = 60.0  # seconds between two lines on progress, where there is no terminal
_WATCHED_EVERY = 5.0  # seconds between two reports of progress to a watcher


@dataclass(frozen=True)
class StageRecord:
    """One stage of the pipeline: what it made, how long it took, and whether it was already there.

    Attributes:
        name: of the stage.
        detail: what it made.
        seconds: wall seconds that making it took.
        cached: whether it was there before.
        taken_over: number of its models that another artifact had already.
        made: number of its models that were made now.
    """

    name: str
    detail: str
    seconds: float
    cached: bool
    taken_over: int = 0
    made: int = 0


@dataclass
class Stage:
    """A stage in progress; its body fills in what it only learns on the way."""

    name: str
    detail: str = ""
    cached: bool = False


class Watcher(Protocol):
    """Receives stages and progress, such as a tracker does."""

    def stage(self, record: StageRecord) -> None:
        """Receive a finished stage."""
        ...

    def progress(self, name: str, done: int, total: int, loss: float | None) -> None:
        """Receive how far a stage is, and the last loss of the members that were finished last."""
        ...


class Console:
    """What a person sees while a run goes on.

    Args:
        stream: where lines go; standard error by default.
        quiet: leave out stages, bars and notes; warnings are always said.

    Attributes:
        stages: a record of every stage that ended well, in order.
    """

    def __init__(self, stream: IO[str] | None = None, *, quiet: bool = False) -> None:
        """Look at the stream once: bars and colours are for terminals, whatever the environment says."""
        probe = safe_console(file=stream, stderr=stream is None)
        terminal = probe.file.isatty()
        self._rich = safe_console(file=stream, stderr=stream is None, force_terminal=terminal, highlight=False)
        self._terminal = terminal
        self._quiet = quiet
        self._unicode = (self._rich.encoding or "").lower().startswith("utf")
        self._log: Path | None = None
        self._bars: Progress | None = None
        self._watcher: Watcher | None = None
        self.stages: list[StageRecord] = []

    def log_to(self, path: Path) -> None:
        """Append every later line, with its time, to ``path`` (a run's ``run.log``)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._log = path

    def report_to(self, watcher: Watcher) -> None:
        """Report every later stage to a watcher, and from time to time how far a stage is."""
        self._watcher = watcher

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[Stage]:
        """Time a stage and print its line when it ends; the body may set ``detail`` and ``cached``."""
        stage, start = Stage(name, detail), time.perf_counter()
        try:
            with self.progress(name, None):
                yield stage
        except BaseException:
            seconds = time.perf_counter() - start
            self._stage_line("✗", "red", stage.name, stage.detail, f"failed after {duration(seconds)}")
            raise
        self.stage_done(StageRecord(stage.name, stage.detail, time.perf_counter() - start, stage.cached))

    def stage_done(self, record: StageRecord) -> None:
        """Print and keep the line of a finished stage."""
        self.stages.append(record)
        if self._watcher is not None:
            self._watcher.stage(record)
        self._stage_line("✓", "cyan" if record.cached else "green", record.name, record.detail, _ending(record))

    @contextmanager
    def progress(self, description: str, total: int | None) -> Iterator[Callable[..., None]]:
        """Show a bar with elapsed and remaining time, and the rate, while the body runs.

        Only a terminal shows bars; elsewhere a line a minute says how far it is. ``total=None`` shows that something
        goes on without saying how far it is.

        Yields:
            ``advance(n=1, loss=None)``: says that n more are done, and the last loss of these where there is one.
        """
        with self._shown(description, total) as advance:
            if self._watcher is None or total is None:
                yield lambda n=1, loss=None: advance(n)
            else:
                yield _Watched(description, total, self._watcher, advance).advance

    @contextmanager
    def _shown(self, description: str, total: int | None) -> Iterator[Callable[..., None]]:
        """Show progress to the person; yields ``advance(n=1)``."""
        if self._quiet or (total is None and not self._terminal):
            yield lambda n=1: None
            return
        if total is not None and not self._terminal:
            yield _Lines(description, total, self.note).advance
            return
        bars, task = self._add_bar(description, total)
        try:
            yield lambda n=1: bars.advance(task, n)
        finally:
            self._remove_bar(task)

    def note(self, text: str) -> None:
        """Print a line of information."""
        if not self._quiet:
            self._line(Text(f"  {text}", "dim"))

    def note_once(self, text: str, about: str) -> None:
        """Print a line of information about something, unless this process has printed it before."""
        if not self._quiet and (text, about) not in _NOTED:
            _NOTED.add((text, about))
            self.note(text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._line(Text.assemble(("! ", "bold yellow"), (text, "yellow")))

    def _add_bar(self, description: str, total: int | None) -> tuple[Progress, TaskID]:
        """Add a bar; all bars share one display, because a terminal holds only one."""
        if self._bars is None:
            columns = (TextColumn("  {task.description}", markup=False), BarColumn(bar_width=30), MofNCompleteColumn(),
                       _Rate(), TimeElapsedColumn(), TextColumn("left"), Remaining())  # fmt: skip
            self._bars = Progress(*columns, console=self._rich, transient=True)
            self._bars.start()
        return self._bars, self._bars.add_task(description, total=total)

    def _remove_bar(self, task: TaskID) -> None:
        """Take a bar away, and the display with the last one."""
        if self._bars is None:
            return
        self._bars.remove_task(task)
        if not self._bars.tasks:
            self._bars.stop()
            self._bars = None

    def _stage_line(self, mark: str, style: str, name: str, detail: str, ending: str) -> None:
        """Print one stage's line in columns; of the name of a part ("pool: class") the second half is a detail."""
        if self._quiet:
            return
        name, _, part = name.partition(": ")
        detail = f"{part}: {detail}" if part else detail
        sign = mark if self._unicode else {"✓": "ok", "✗": "!!"}[mark]
        middle = f" {name:<{_NAME_WIDTH}} {detail:<{_DETAIL_WIDTH}} "
        self._line(Text.assemble((sign, style), middle, (ending, "dim" if style == "cyan" else "")))

    def _line(self, text: Text) -> None:
        """Print a line without wrapping it, and log it."""
        if not self._unicode:
            plain = text.plain.encode(self._rich.encoding or "ascii", PLAIN).decode(self._rich.encoding or "ascii")
            text = Text(plain)
        self._rich.print(text, soft_wrap=True)
        if self._log is not None:
            stamp = datetime.now().astimezone().isoformat(timespec="seconds")
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"{stamp} {printable(text.plain.rstrip())}\n")


class _Rate(ProgressColumn):
    """How much is done in a second, by all workers together."""

    def render(self, task: Task) -> Text:
        """Return the rate of late; nothing before there is one."""
        speed = task.finished_speed or task.speed
        return Text(_rate(speed) if speed else "", style="progress.data.speed")


class _Lines:
    """Says now and then how far something is.

    Args:
        description: of what goes on.
        total: how much there is to do.
        say: prints a line.
    """

    def __init__(self, description: str, total: int, say: Callable[[str], None]) -> None:
        self._description, self._total, self._say = description, total, say
        self._done, self._began_with = 0, 0
        self._start = self._said = time.monotonic()

    def advance(self, n: int = 1) -> None:
        """Note that some more is done; what is there at once, before any time has passed, does not count as speed."""
        now = time.monotonic()
        self._done += n
        if now - self._start < 0.01:
            self._began_with += n
        if now - self._said >= _SAID_EVERY and self._done < self._total:
            self._said = now
            speed = (self._done - self._began_with) / (now - self._start)
            left = f", {duration((self._total - self._done) / speed)} left" if speed else ""
            self._say(f"{self._description}: {self._done:,} of {self._total:,}, {_rate(speed)}{left}")


class _Watched:
    """Reports to a watcher how far something is: at once, from time to time, and at its end.

    Args:
        description: of what goes on.
        total: how much there is to do.
        watcher: receives the reports.
        shown: shows the same to the person.
    """

    def __init__(self, description: str, total: int, watcher: Watcher, shown: Callable[..., None]) -> None:
        self._description, self._total, self._watcher, self._shown = description, total, watcher, shown
        self._done, self._reported = 0, -_WATCHED_EVERY

    def advance(self, n: int = 1, loss: float | None = None) -> None:
        """Note that some more is done."""
        self._shown(n)
        self._done += n
        now = time.monotonic()
        if now - self._reported >= _WATCHED_EVERY or self._done >= self._total:
            self._reported = now
            self._watcher.progress(self._description, self._done, self._total, loss)


def _rate(speed: float) -> str:
    """Format a rate: ``35.2/s``, ``4.1/min``."""
    return f"{speed:,.1f}/s" if speed >= 1 else f"{60 * speed:,.1f}/min"


def _ending(record: StageRecord) -> str:
    """Say how a stage came by what it has."""
    if record.cached:
        return "reused"
    computed, seconds = "computed", f" in {duration(record.seconds)}"
    if record.taken_over:
        others = f", {record.made:,} computed" if record.made else ""
        computed = f"{record.taken_over:,} taken over{others}"
    return computed + seconds


def duration(seconds: float) -> str:
    """Format a time the way a person would say it: ``0.3 s``, ``48.2 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
