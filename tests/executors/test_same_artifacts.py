"""The same pool by every executor: the same bytes; and clusters, in their local modes, survive their workers."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import executor_jobs as work
import pytest
from test_executors import jobs_in, written

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.schema import register
from dmm_exp.console.progress import Console
from dmm_exp.errors import UserError
from dmm_exp.executors import Local, Processes, Ray, Submitit
from dmm_exp.executors import queue as queues
from dmm_exp.executors.queue import Queue, Worker
from dmm_exp.pipeline import Context, Models
from dmm_exp.pipeline.chunks import Chunks
from dmm_exp.store import Store


@pytest.fixture(scope="module")
def importable() -> Iterator[None]:
    """Let the workers of a cluster import the jobs of these tests, as they would import a user's own classes."""
    places = [str(Path(work.__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(places))
        yield


@pytest.fixture
def submitit(tmp_path: Path, importable: None) -> Submitit:
    return Submitit(str(tmp_path / "workers"), workers=2, cluster="local")


@pytest.fixture(scope="module")
def ray(importable: None) -> Iterator[Ray]:
    """One cluster of two actors for all tests."""
    executor = Ray(workers=2)
    yield executor
    executor.close()


def pool(outputs: Path, executor: Any) -> dict[str, bytes]:
    """Return the files of a pool that depend on no clock, made by some executor."""
    register()
    overrides = ["experiment=quick", "pool.size=10", "model.chunk_size=3", "training.epochs=1"]
    (config,) = check_overrides(config_directory(), overrides)
    context = Context(config, Store(outputs, Console(quiet=True)), executor, Console(quiet=True))
    artifact = Models(Chunks(context)).pool
    assert artifact.members == 10
    return {path.name: path.read_bytes() for path in artifact.path.iterdir() if path.name[-5:] != ".json"} | {
        "layout": (artifact.path / "layout.json").read_bytes()
    }


@pytest.fixture(scope="module")
def made_here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of the pool that this process makes."""
    return pool(tmp_path_factory.mktemp("local"), Local())


def test_processes_make_the_bytes_that_this_process_makes(made_here: dict[str, bytes], tmp_path: Path):
    executor = Processes(workers=2)
    assert pool(tmp_path, executor) == made_here
    executor.close()


@pytest.mark.slow
def test_submitit_makes_the_bytes_that_this_process_makes(
    made_here: dict[str, bytes], submitit: Submitit, tmp_path: Path
):
    assert pool(tmp_path / "submitit", submitit) == made_here
    assert list((tmp_path / "workers").glob("queue-*")) == []


@pytest.mark.slow
def test_ray_makes_the_bytes_that_this_process_makes(made_here: dict[str, bytes], ray: Ray, tmp_path: Path):
    assert pool(tmp_path, ray) == made_here


@pytest.mark.slow
def test_a_ray_actor_killed_in_mid_chunk_is_started_again_and_the_chunk_done(ray: Ray, tmp_path: Path):
    jobs = jobs_in(tmp_path, 4)
    assert sorted(ray.run(work.killed_once, jobs)) == jobs
    assert (tmp_path / "killed").exists()
    assert written(tmp_path) == [0, 1, 2, 3]
    with pytest.raises(UserError, match="expected less") as caught:
        list(ray.run(work.bad_input_on_two, jobs))
    assert type(caught.value) is UserError
    with pytest.raises(ChildProcessError, match="died 3 times"):
        list(ray.run(work.always_exit, jobs[:1]))


@pytest.mark.slow
def test_submitits_worker_that_is_killed_is_submitted_again(submitit: Submitit, monkeypatch, tmp_path: Path):
    from submitit.local.local import LocalJob

    monkeypatch.setattr(LocalJob, "_results_timeout_s", 1)
    jobs = jobs_in(tmp_path, 4)
    assert sorted(submitit.run(work.killed_once, jobs)) == jobs
    assert written(tmp_path) == [0, 1, 2, 3]
    with pytest.raises(UserError, match="expected less"):
        list(submitit.run(work.bad_input_on_two, jobs))


@pytest.mark.slow
def test_submitits_worker_that_is_preempted_goes_on_with_what_it_had_taken(importable: None, tmp_path: Path):
    executor, jobs = Submitit(str(tmp_path / "workers"), workers=1, cluster="local"), jobs_in(tmp_path, 2)
    threading.Thread(target=preempt, args=(tmp_path,), daemon=True).start()
    assert sorted(executor.run(work.wait_the_first_time, jobs)) == jobs
    assert written(tmp_path) == [0, 1]


def preempt(folder: Path) -> None:
    """Send the worker that waits what SLURM sends before it takes a machine away."""
    while not (waiting := list(folder.glob("waiting-*"))):
        time.sleep(0.05)
    os.kill(int(waiting[0].name.partition("-")[2]), signal.SIGUSR2)


# ---------------------------------------------------------------------- the queue of a cluster's workers


def queue_of(folder: Path, jobs: int, function: Any = work.write_down) -> Queue:
    """Return a queue of some jobs that write down what is done with them in a folder."""
    made = Queue(folder / "queue")
    made.begin(function, jobs_in(folder, jobs))
    return made


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return queue_of(tmp_path, 5)


def test_a_job_is_taken_once_and_what_a_dead_worker_took_is_free_again(queue: Queue):
    assert [queue.claim(0, worker=1), queue.claim(0, worker=2), queue.claim(1, worker=2)] == [True, False, True]
    queue.finish(1)
    assert queue.release(2) == []
    assert queue.release(1) == [0]
    assert queue.claim(0, worker=2)
    assert queue.done() == {1}


def test_workers_share_the_jobs(queue: Queue, tmp_path: Path):
    assert queue.claim(3, worker=7)  # someone else is at it
    assert Worker(queue, 1)() is None
    assert queue.done() == {0, 1, 2, 4}
    assert written(tmp_path) == [0, 1, 2, 4]


def test_a_worker_takes_no_more_when_the_main_process_is_not_heard_of(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(queues, "PATIENCE", 0.4)
    assert Worker(queue_of(tmp_path, 9, work.write_down_slowly), 1)() is None
    assert 1 <= len(written(tmp_path)) <= 3


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Ray(workers=0), r"executor\.workers=0.*at least 1"),
        (lambda: Ray(gpus=-1), r"executor\.gpus=-1: expected 0 or more"),
        (lambda: Submitit("x", workers=0), r"executor\.workers=0.*at least 1"),
        (lambda: Submitit("x", gpus=-1), r"executor\.gpus=-1: expected 0 or more"),
        (lambda: Submitit("x", timeout_min=0), r"executor\.timeout_min=0.*at least 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_a_machine_without_slurm_is_said(tmp_path: Path):
    with pytest.raises(UserError, match=r"executor\.cluster=slurm: .*'local'"):
        Submitit(str(tmp_path)).warm_up()


def test_a_parameter_that_submitit_does_not_know_is_said(tmp_path: Path):
    with pytest.raises(UserError, match=r"executor\.parameters: .*partitoin"):
        Submitit(str(tmp_path), cluster="local", parameters={"partitoin": "gpu"}).warm_up()


@pytest.mark.parametrize(
    ("make", "module", "extra"), [(lambda: Submitit("x"), "submitit", "slurm"), (lambda: Ray(), "ray", "ray")]
)
def test_a_missing_extra_is_named(make, module: str, extra: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{module} is not installed; expected: pip install 'dmm_exp\[{extra}\]'"):
        make().warm_up()
