"""Memory limits: chunks that do not fit are computed in halves, and other work that cannot fit is refused."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch

from dmm_exp.errors import UserError
from dmm_exp.files.reading import machine_memory

Result = TypeVar("Result")


def in_fitting_parts(make: Callable[[range], Result], members: range) -> list[Result]:
    """Return the results of ``make`` for all members together, or for halves of them while memory is too small.

    Raises:
        UserError: a single member does not fit.
    """
    try:
        return [make(members)]
    except (RuntimeError, MemoryError) as error:
        if not does_not_fit(error):
            raise
        if len(members) == 1:
            raise UserError(
                "training.batch_size: not even one model of this size fits into the memory of the device; use smaller "
                "batches or a smaller network"
            ) from error
    # outside the handler, which would keep the tensors of the failed attempt alive
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(members) // 2
    print(
        f"  {len(members)} models together do not fit into memory: trying {len(members) - half} "
        f"(model.chunk_size={len(members) - half} does so from the start)",
        file=sys.stderr,
    )
    return in_fitting_parts(make, members[:-half]) + in_fitting_parts(make, members[-half:])


def does_not_fit(error: BaseException) -> bool:
    """Return whether an error says that memory has run out, on a GPU or on the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def return_free_memory() -> None:
    """Return free memory to the system where the C library can (glibc): it keeps what tensors below 32 MiB had."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def require_memory(needed: float, what: str, instead: str) -> None:
    """Check that a large computation fits into the memory of this machine, before it starts.

    Args:
        needed: bytes.
        what: the computation, beginning with the key that it depends on.
        instead: what to choose if memory is too small.

    Raises:
        UserError: the machine has less memory, as far as the operating system tells.
    """
    if needed > machine_memory():
        raise UserError(
            f"{what} would take about {needed / 1e9:,.0f} GB of memory, and this machine has "
            f"{machine_memory() / 1e9:,.0f} GB; expected {instead}"
        )
