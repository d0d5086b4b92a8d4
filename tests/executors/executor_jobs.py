"""Jobs that worker processes can import."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

from dmm_exp.errors import UserError
from dmm_exp.executors import Processes


class Job(NamedTuple):
    """A number, and where what is done with it is written down."""

    folder: Path
    number: int


class Unhappy(Exception):
    """An exception that only the jobs know."""


def write_down(job: Job) -> None:
    """Note the job with its worker's process id, torch threads, and what its garbage collector leaves alone."""
    import torch

    facts = {"number": job.number, "pid": os.getpid(), "threads": torch.get_num_threads()}
    facts |= {"frozen": gc.get_freeze_count(), "collects": gc.isenabled()}
    (job.folder / f"{job.number}-{time.monotonic_ns()}-{os.getpid()}.json").write_text(json.dumps(facts))


def write_down_slowly(job: Job) -> None:
    """Leave the other workers time to take part."""
    time.sleep(0.3)
    write_down(job)


def fail_on_two(job: Job) -> None:
    """Raise an exception for one of the jobs."""
    if job.number == 2:
        raise Unhappy("job 2 is unhappy")


def bad_input_on_two(job: Job) -> None:
    """Raise a user's error for one of the jobs."""
    if job.number == 2:
        raise UserError("training.optimizer.lr=99: expected less")


def killed_twice_after_a_while(job: Job) -> None:
    """Be killed at job 1, twice, each time when a worker that has nothing to do has ended."""
    markers = [job.folder / f"killed {attempt}" for attempt in range(2)]
    for marker in markers if job.number == 1 else ():
        if not marker.exists():
            marker.touch()
            time.sleep(2)
            os.kill(os.getpid(), signal.SIGKILL)
    write_down(job)


def killed_once(job: Job) -> None:
    """Be killed at job 2, as by the kernel when memory runs out, but only the first time."""
    marker = job.folder / "killed"
    if job.number == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    write_down(job)


def killed_once_while_others_work(job: Job) -> None:
    """Be killed at job 0, the first time, while another worker is in the middle of a job."""
    if job.number == 0:
        time.sleep(0.3)
        killed = job.folder / "killed"
        if not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        time.sleep(0.6)
    write_down(job)


def see_devices(job: Job) -> None:
    """Note the CUDA devices that the worker is given."""
    facts = {"number": job.number, "devices": os.environ.get("CUDA_VISIBLE_DEVICES")}
    time.sleep(0.3)
    (job.folder / f"{job.number}.json").write_text(json.dumps(facts))


def wait_the_first_time(job: Job) -> None:
    """Wait to be interrupted at the first attempt of all."""
    if not any(job.folder.glob("waiting-*")):
        (job.folder / f"waiting-{os.getpid()}").touch()
        time.sleep(60)
    write_down(job)


def always_exit(job: Job) -> None:
    """End the worker without a word, every time."""
    write_down(job)
    os._exit(3)


def wait_for_ever(job: Job) -> None:
    """Note the worker and stay busy."""
    write_down(job)
    time.sleep(600)


def hold_workers(folder: str) -> None:
    """Keep two workers busy until this process is killed."""
    for _ in Processes(workers=2).run(wait_for_ever, [Job(Path(folder), number) for number in range(2)]):
        sys.exit("a job that waits for ever has ended")


def see_node(job: Job) -> None:
    """Note the node of a Ray cluster that the worker is on, and leave the other one time to take part."""
    import ray

    time.sleep(0.5)
    (job.folder / f"{job.number}.json").write_text(json.dumps({"node": ray.get_runtime_context().get_node_id()}))
