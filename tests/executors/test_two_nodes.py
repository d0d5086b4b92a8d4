"""A Ray cluster of two nodes, started on this machine as an administrator would: the same bytes, and work for both."""

from __future__ import annotations

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
from test_executors import jobs_in
from test_same_artifacts import importable, pool

from dmm_exp.executors import Local, Ray

__all__ = ["importable"]  # a fixture

ray = pytest.importorskip("ray")

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
            os.killpg(started.pid, signal.SIGTERM)
            try:
                started.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()


def wait_until(is_so: Callable[[], bool], log: Path) -> None:
    """Wait for something; where it does not come, fail with what a node said."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.3)


@pytest.fixture(scope="module")
def cluster(importable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    """Start the head of a cluster and another node, and join them."""
    logs = tmp_path_factory.mktemp("nodes")
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
        with node(logs / "head", *head):
            wait_until(answers, logs / "head")
            with node(logs / "other", f"--address=127.0.0.1:{port}"):
                executor = Ray(address=f"127.0.0.1:{port}", workers=2)
                executor.warm_up()
                wait_until(lambda: sum(known["Alive"] for known in ray.nodes()) == 2, logs / "other")
                yield executor
                executor.close()


def test_two_nodes_make_the_bytes_that_this_process_makes(cluster: Ray, tmp_path: Path):
    assert pool(tmp_path / "two", cluster) == pool(tmp_path / "here", Local())


def test_both_nodes_work(cluster: Ray, tmp_path: Path):
    jobs = jobs_in(tmp_path, 4)
    assert sorted(cluster.run(work.see_node, jobs)) == jobs
    nodes = {json.loads(file.read_text())["node"] for file in tmp_path.glob("*.json")}
    assert len(nodes) == 2
