"""What a person sees after a run: tables, figures, one HTML page, tracked runs, and the console.

Importing this package is cheap: matplotlib, pandas, jinja2, rich and the trackers are loaded when something needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmm_exp.console.progress import Console
    from dmm_exp.report.html import write_report
    from dmm_exp.report.result import RunResult
    from dmm_exp.report.tables import headline, print_table, sweep_table
    from dmm_exp.report.trackers import CsvTracker, NoTracker, Tracker, TrackioTracker, WandbTracker
    from dmm_exp.report.words import narrative

__all__ = [
    "Console",
    "CsvTracker",
    "NoTracker",
    "RunResult",
    "Tracker",
    "TrackioTracker",
    "WandbTracker",
    "headline",
    "narrative",
    "print_table",
    "sweep_table",
    "write_report",
]

_HOME = {
    "Console": "progress",
    "CsvTracker": "trackers",
    "NoTracker": "trackers",
    "RunResult": "result",
    "Tracker": "trackers",
    "TrackioTracker": "trackers",
    "WandbTracker": "trackers",
    "headline": "tables",
    "narrative": "words",
    "print_table": "tables",
    "sweep_table": "tables",
    "write_report": "html",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module the first time it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
