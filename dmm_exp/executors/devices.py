"""The devices of a worker: CUDA devices, processor cores and threads."""

from __future__ import annotations

import os

from dmm_exp.errors import UserError


def accelerators(accelerator: str = "auto") -> list[str]:
    """Return the CUDA devices that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Args:
        accelerator: of the trainer; the list is empty unless it is ``auto``, ``gpu`` or ``cuda``.
    """
    if accelerator not in ("auto", "gpu", "cuda"):
        return []
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def cores() -> int:
    """Return the number of cores that this process may use; all cores where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def begin_computing(threads: int, device: str | None = None) -> None:
    """Set the threads and the CUDA device (all devices if None) of this process, before it computes anything."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import torch

    torch.set_num_threads(threads)


def check_counts(**counts: int | None) -> None:
    """Raise ``UserError`` when one of an executor's numbers is below 1; None is a number that is found later."""
    if any(count is not None and count < 1 for count in counts.values()):
        given = ", ".join(f"executor.{name}={count}" for name, count in counts.items())
        raise UserError(f"{given}: expected numbers of at least 1")


def check_gpus(gpus: float) -> None:
    """Raise ``UserError`` for a negative number of CUDA devices for each worker."""
    if gpus < 0:
        raise UserError(f"executor.gpus={gpus}: expected 0 or more")
