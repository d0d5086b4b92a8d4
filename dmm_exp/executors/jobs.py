"""Running one job in a worker, and the errors of jobs that fail."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

Job = TypeVar("Job")

RETRIES = 2  # how often a job is started again after its worker died


def attempt(function: Callable[[Any], None], job: Any) -> Exception | None:
    """Run a job, and return the exception that it raised, ready to be sent to another process; None if it succeeded."""
    try:
        function(job)
    except Exception as error:
        return _portable(error)
    return None


def _portable(error: Exception) -> Exception:
    """Return an exception that can be sent to another process, with the place where it was raised as a note."""
    text = "".join(traceback.format_exception(error))
    error.add_note(f"in a worker:\n{text}")
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:
        return ChildProcessError(f"a job raised {type(error).__name__}: {error}\n{text}")
    return error


def died(workers: int | None) -> ChildProcessError:
    """Return the error for a job whose worker died at every attempt."""
    fewer = f"fewer executor.workers than {workers}" if workers else "fewer executor.workers"
    return ChildProcessError(
        f"a worker process died {RETRIES + 1} times (often because memory is full: try {fewer}, or a smaller "
        "model.chunk_size)"
    )
