"""All processes that ``torchrun`` started run each job together: for networks that are too large for one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from dmm_exp.config.processes import ranks
from dmm_exp.errors import UserError
from dmm_exp.executors.jobs import Job
from dmm_exp.store.temporary import temporary_folder

PATIENCE = timedelta(days=7)  # how long other ranks wait while rank 0 does the work that is done only once


class Distributed:
    """Run one job after another, each on all ranks; rank 0 chooses the jobs, and only its results are kept.

    Raises:
        UserError: the command was not started by ``torchrun``, or by one process only.
    """

    def __init__(self) -> None:
        if ranks() < 2:
            raise UserError(
                "executor=distributed: needs several processes; start them with "
                "torchrun --nproc-per-node=2 -m dmm_exp trainer=ddp ..."
            )
        _join()
        self._waiting = True

    def run(self, function: Callable[[Job], None], jobs: list[Job]) -> Iterator[Job]:
        """Run ``function`` on every job in order, on all ranks, and yield each job when it is done."""
        for job in jobs:
            self._waiting = False  # the other ranks are busy and would not receive a message to end
            _broadcast((function, job))
            function(job)
            self._waiting = True
            yield job

    def warm_up(self) -> None:
        """Do nothing: all processes have been started by ``torchrun``."""

    def close(self) -> None:
        """Let the other ranks end. If a job failed and they are still running it, ``torchrun`` ends them."""
        if self._waiting:
            self._waiting = False
            _broadcast(None)
            _leave()


def serve() -> None:
    """Run the same jobs as rank 0 on another rank; the results are discarded."""
    _join()
    while (work := _broadcast(None)) is not None:
        function, job = work
        with temporary_folder() as folder:
            function(replace(job, output=folder))
    _leave()


def _join() -> None:
    """Start the group of all ranks.

    ``torch.distributed.nn`` is imported before the group exists: its functions take the group that exists at import as
    their default. Imported later, it would keep the group and its threads alive after ``_leave``, and a thread that
    runs while Python exits aborts the process.
    """
    import torch
    import torch.distributed.nn
    from torch import distributed

    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)


def _leave() -> None:
    import torch

    torch.distributed.destroy_process_group()


def _broadcast(work: Any) -> Any:
    """Send an object from rank 0 to all other ranks, and return it there, too."""
    import torch

    message = [work]
    torch.distributed.broadcast_object_list(message, src=0, device=torch.device("cpu"))
    return message[0]
