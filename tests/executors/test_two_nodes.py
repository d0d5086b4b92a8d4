"""A Ray cluster of two nodes, started on this machine as an administrator would: the same bytes, and work for both."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import executor_jobs as work
import pytest
import ray
from test_executors import jobs_in
from test_same_artifacts import importable, pool

from dmm_exp.executors import Local, Ray

processes = pytest.importorskip("benchmarks.processes", reason="benchmarks/ is not part of the installed package")

__all__ = ["importable"]  # a fixture

COMMAND = Path(sys.executable).with_name("ray")
PATIENCE = 90.0  # seconds until two nodes are up
LIMITS = ("--block", "--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats")

pytestmark = pytest.mark.slow


@contextmanager
def node(log: Path, *arguments: str) -> Iterator[None]:
    """Run a node of a cluster; afterwards end what was started for it."""
    with log.open("w") as said:
        started = subprocess.Popen(
            [COMMAND, "start", *arguments, *LIMITS], stdout=said, stderr=said, start_new_session=True
        )
        try:
            yield
        finally:
            for process in processes.session(started.pid):
                os.kill(process, signal.SIGKILL)  # asked to end, a node takes half a minute
            started.wait()


def wait_until(is_so: Callable[[], bool], log: Path) -> None:
    """Wait for something; where it does not come, fail with what a node said."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.3)


@pytest.fixture
def address(importable: None, tmp_path: Path) -> Iterator[str]:
    """Start the head of a cluster and another node, and return where the cluster answers."""
    with closing(socket.socket()) as free:
        free.bind(("", 0))
        port = free.getsockname()[1]

    def answers() -> bool:
        with closing(socket.socket()) as caller:
            return caller.connect_ex(("127.0.0.1", port)) == 0

    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as short,  # sockets lie in it
    ):
        patch.setenv("RAY_AUTH_MODE", "disabled")
        head = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={short}")
        with node(tmp_path / "head", *head):
            wait_until(answers, tmp_path / "head")
            with node(tmp_path / "other", f"--address=127.0.0.1:{port}"):
                yield f"127.0.0.1:{port}"


def test_two_nodes_make_the_bytes_that_this_process_makes_and_both_work(address: str, tmp_path: Path):
    """The cluster's program is a process of its own: Ray keeps what an earlier test in this one has set."""
    command = [sys.executable, __file__, address, str(tmp_path), str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["pool"] == digests(pool(tmp_path / "here", Local()))
    assert said["nodes"] == 2


def digests(files: dict[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of files, by name."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def program(address: str, folder: Path, log: Path) -> None:
    """Make a pool on the cluster, and print its digests and on how many nodes four jobs ran."""
    executor, places = Ray(address=address, workers=2), folder / "jobs"
    executor.warm_up()
    wait_until(lambda: sum(known["Alive"] for known in ray.nodes()) == 2, log)
    made = digests(pool(folder / "two", executor))
    places.mkdir()
    list(executor.run(work.see_node, jobs_in(places, 4)))
    executor.close()
    nodes = {json.loads(file.read_text())["node"] for file in places.glob("*.json")}
    print(json.dumps({"pool": made, "nodes": len(nodes)}))


if __name__ == "__main__":
    program(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
