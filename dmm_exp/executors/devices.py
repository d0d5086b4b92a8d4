"""What a worker computes on: CUDA devices, cores and threads."""

from __future__ import annotations

import os

from dmm_exp.errors import UserError


def accelerators(accelerator: str = "auto") -> list[str]:
    """Return the CUDA devices that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Args:
        accelerator: what the trainer computes on; there are none when it is not ``auto``, ``gpu`` or ``cuda``.
    """
    if accelerator not in ("auto", "gpu", "cuda"):
        return []
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def cores() -> int:
    """Return the number of cores that this process may use; all of them where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def begin_computing(threads: int, device: str | None = None) -> None:
    """Give this process, which has computed nothing yet, some threads and one CUDA device (all that it has if None)."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import torch

    torch.set_num_threads(threads)


def check_counts(**counts: int | None) -> None:
    """Raise ``UserError`` when one of an executor's numbers is below 1; None stands for a number found later."""
    if any(count is not None and count < 1 for count in counts.values()):
        given = ", ".join(f"executor.{name}={count}" for name, count in counts.items())
        raise UserError(f"{given}: expected numbers of at least 1")
