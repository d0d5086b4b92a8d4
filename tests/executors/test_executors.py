"""Executors run every job, survive the death of a worker and leave no worker behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import executor_jobs as work
import pytest

from dmm_exp.errors import UserError
from dmm_exp.executors import Local, Processes


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """Two workers of two threads, started once for all tests that do not kill them."""
    executor = Processes(workers=2, threads=2)
    yield executor
    executor.close()


@pytest.fixture(params=["local", "processes"])
def executor(request: pytest.FixtureRequest) -> Local | Processes:
    return Local() if request.param == "local" else request.getfixturevalue("processes")


def jobs_in(folder: Path, count: int) -> list[work.Job]:
    return [work.Job(folder, number) for number in range(count)]


def written(folder: Path, field: str = "number") -> list[int]:
    return sorted(json.loads(path.read_text())[field] for path in folder.glob("*.json"))


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_job_is_run_once_and_yielded_once(executor: Local | Processes, tmp_path: Path):
    jobs = jobs_in(tmp_path, 7)
    assert sorted(executor.run(work.write_down, jobs)) == jobs
    assert written(tmp_path) == list(range(7))


def test_no_jobs_are_no_work(executor: Local | Processes):
    assert list(executor.run(work.write_down, [])) == []


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (work.fail_on_two, work.Unhappy, "job 2 is unhappy"),
        (work.bad_input_on_two, UserError, "training.optimizer.lr=99: expected less"),
    ],
)
def test_what_a_job_raises_reaches_the_caller(executor, function, kind, message, tmp_path: Path):
    with pytest.raises(kind) as caught:
        list(executor.run(function, jobs_in(tmp_path, 4)))
    assert type(caught.value) is kind
    assert str(caught.value) == message


def test_workers_go_on_after_a_job_has_failed(processes: Processes, tmp_path: Path):
    with pytest.raises(work.Unhappy):
        list(processes.run(work.fail_on_two, jobs_in(tmp_path, 4)))
    list(processes.run(work.write_down, jobs_in(tmp_path, 3)))
    assert written(tmp_path) == [0, 1, 2]


def test_workers_are_other_processes_and_persist(processes: Processes, tmp_path: Path):
    pids = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        list(processes.run(work.write_down_slowly, jobs_in(tmp_path / name, 4)))
        pids.append(set(written(tmp_path / name, "pid")))
    assert pids[0] == pids[1]
    assert len(pids[0]) == 2
    assert os.getpid() not in pids[0]


def test_workers_have_the_threads_asked_for(processes: Processes, tmp_path: Path):
    list(processes.run(work.write_down, jobs_in(tmp_path, 4)))
    assert set(written(tmp_path, "threads")) == {2}


def test_workers_collect_garbage_but_leave_alone_what_they_share(processes: Processes, tmp_path: Path):
    list(processes.run(work.write_down, jobs_in(tmp_path, 4)))
    assert set(written(tmp_path, "collects")) == {True}
    assert min(written(tmp_path, "frozen")) > 100_000  # all objects of what jobs import


def test_local_works_in_this_process_and_in_order(tmp_path: Path):
    seen: list[int] = []
    for done, _ in enumerate(Local().run(lambda job: seen.append(job.number), jobs_in(tmp_path, 4)), start=1):
        assert seen == list(range(done))


def test_a_killed_worker_is_survived(tmp_path: Path):
    executor = Processes(workers=1)
    assert sum(1 for _ in executor.run(work.killed_once, jobs_in(tmp_path, 5))) == 5
    executor.close()
    assert (tmp_path / "killed").exists()
    assert set(written(tmp_path)) == set(range(5))
    assert len(set(written(tmp_path, "pid"))) == 2


def test_only_the_job_of_a_killed_worker_is_done_again(tmp_path: Path):
    executor, jobs = Processes(workers=2), jobs_in(tmp_path, 4)
    assert sorted(executor.run(work.killed_once_while_others_work, jobs)) == jobs
    executor.close()
    assert written(tmp_path) == [0, 1, 2, 3]  # each was finished once: the other worker lost nothing
    assert len(set(written(tmp_path, "pid"))) == 2


def test_workers_that_are_idle_when_killed_are_replaced(processes: Processes, tmp_path: Path):
    list(processes.run(work.write_down_slowly, jobs_in(tmp_path, 2)))
    for pid in set(written(tmp_path, "pid")):
        os.kill(pid, signal.SIGKILL)
    assert len(list(processes.run(work.write_down, jobs_in(tmp_path, 2)))) == 2


def test_idle_workers_end_and_others_take_their_place(tmp_path: Path):
    executor = Processes(workers=2)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        assert len(list(executor.run(work.write_down_slowly, jobs_in(tmp_path / name, 4)))) == 4
        pids, until = set(written(tmp_path / name, "pid")), time.monotonic() + 30
        assert len(pids) == 2
        while any(map(is_running, pids)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(is_running, pids))
    executor.close()


def test_workers_that_wait_for_others_may_end_too(tmp_path: Path):
    executor, jobs = Processes(workers=2), jobs_in(tmp_path, 2)
    assert sorted(executor.run(work.killed_twice_after_a_while, jobs)) == jobs
    executor.close()
    assert written(tmp_path) == [0, 1]


def test_workers_whose_results_nobody_awaits_are_stopped(tmp_path: Path):
    executor = Processes(workers=2)
    running = executor.run(work.wait_for_ever, jobs_in(tmp_path, 1))
    with pytest.raises(KeyboardInterrupt):
        executor_interrupted(running)
    assert sorted(executor.run(work.fail_on_two, jobs_in(tmp_path, 2))) == jobs_in(tmp_path, 2)
    executor.close()


def executor_interrupted(running: Iterator[work.Job]) -> None:
    """Press Ctrl-C while a job that never ends is awaited; a shell's background jobs would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGINT]).start()
    try:
        for _ in running:
            raise AssertionError("a job that waits for ever has ended")
    finally:
        signal.signal(signal.SIGINT, before)


def test_each_worker_sees_one_cuda_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert (Processes().workers, Processes(workers_per_device=3).workers) == (2, 6)
    assert Processes(accelerator="cpu").workers == len(os.sched_getaffinity(0))
    executor = Processes()
    list(executor.run(work.see_devices, jobs_in(tmp_path, 4)))
    executor.close()
    assert {json.loads(path.read_text())["devices"] for path in tmp_path.glob("*.json")} == {"4", "GPU-7"}


def test_a_number_of_workers_in_all_and_for_each_device_contradict_each_other():
    with pytest.raises(UserError, match=r"executor\.workers=4, executor\.workers_per_device=2: expected one of them"):
        Processes(workers=4, workers_per_device=2)


def test_workers_that_die_every_time_are_said_in_one_sentence(tmp_path: Path):
    executor = Processes(workers=1)
    with pytest.raises(ChildProcessError, match=r"a worker process died 3 times .*executor\.workers than 1") as caught:
        list(executor.run(work.always_exit, jobs_in(tmp_path, 1)))
    executor.close()
    assert "\n" not in str(caught.value)
    assert written(tmp_path) == [0, 0, 0]


def test_closed_workers_end(tmp_path: Path):
    executor = Processes(workers=1)
    list(executor.run(work.write_down, jobs_in(tmp_path, 1)))
    (pid,) = written(tmp_path, "pid")
    assert is_running(pid)
    executor.close()
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(work.__file__).parent), *sys.path])}
    command = f"import executor_jobs; executor_jobs.hold_workers({str(tmp_path)!r})"
    parent = subprocess.Popen([sys.executable, "-c", command], env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*.json"))) < 2:
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.1)  # the last file may not be filled yet
        pids = written(tmp_path, "pid")
        assert all(is_running(pid) for pid in pids)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 3
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("numbers", [{"workers": 0}, {"workers": -1}, {"threads": 0}, {"workers_per_device": 0}])
def test_fewer_than_one_worker_or_thread_is_refused(numbers: dict[str, int]):
    ((name, value),) = numbers.items()
    with pytest.raises(UserError, match=rf"executor\.{name}={value}.*at least 1"):
        Processes(**numbers)


def test_workers_default_to_the_cores_this_process_may_use():
    cores = len(os.sched_getaffinity(0))
    assert Processes().workers == cores
    assert Processes(threads=10 * cores).workers == 1
