"""All processes that ``torchrun`` started do each job together: for networks too large to train several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from dmm_exp.console.ranks import ranks
from dmm_exp.errors import UserError
from dmm_exp.store.temporary import temporary_folder

Job = TypeVar("Job")

PATIENCE = timedelta(days=7)  # others wait while rank 0 does what only it does


class Distributed:
    """Do one job after another, each by all ranks; rank 0 decides what is done, and what it writes is what counts.

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
        """Run ``function`` on every job in order, on all ranks, yielding each job when it is done."""
        for job in jobs:
            self._waiting = False  # the others are at work, and cannot be told to end
            _tell((function, job))
            function(job)
            self._waiting = True
            yield job

    def warm_up(self) -> None:
        """All processes run already."""

    def close(self) -> None:
        """Let the other ranks end, unless a job failed that they are still at: then ``torchrun`` ends them."""
        if self._waiting:
            self._waiting = False
            _tell(None)
            _leave()


def serve() -> None:
    """Do what rank 0 does, as another rank: what comes out is thrown away."""
    _join()
    while (work := _tell(None)) is not None:
        function, job = work
        with temporary_folder() as folder:
            function(replace(job, output=folder))
    _leave()


def _join() -> None:
    """Start the group of all ranks.

    ``torch.distributed.nn`` takes the group that exists when it is imported as default of its functions. Imported
    later, it would keep the group and its threads after ``_leave``, and a thread that still works while Python ends
    aborts the process.
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


def _tell(work: Any) -> Any:
    """Return what rank 0 tells all."""
    import torch

    told = [work]
    torch.distributed.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    return told[0]
