"""What executors say when work fails."""

from __future__ import annotations

import traceback
from multiprocessing.reduction import ForkingPickler

RETRIES = 2  # times that a job is done again whose worker died of it


def portable(error: Exception) -> Exception:
    """Return what a job raised, able to travel to another process; where it was raised is added as a note."""
    text = "".join(traceback.format_exception(error))
    error.add_note(f"in a worker:\n{text}")
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:
        return ChildProcessError(f"a job raised {type(error).__name__}: {error}\n{text}")
    return error


def died(workers: int | None) -> ChildProcessError:
    """Return the error of a job whose workers died each time."""
    fewer = f"fewer executor.workers than {workers}" if workers else "fewer executor.workers"
    return ChildProcessError(
        f"a worker process died {RETRIES + 1} times (often for want of memory: try {fewer}, or a smaller "
        "model.chunk_size)"
    )
