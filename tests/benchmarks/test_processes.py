"""What a benchmark says of a command holds for all its processes."""

import sys

import pytest

processes = pytest.importorskip("benchmarks.processes", reason="benchmarks/ is not part of the installed package")

SHARED = """
import mmap, os, time
pages = mmap.mmap(-1, 100 << 20)
pages.write(bytes(100 << 20))
child = os.fork()
if not child:
    pages[::4096]
while time.process_time() < 1:
    pass
if child:
    os.waitpid(child, 0)
"""


def test_a_child_counts_and_shared_pages_count_once():
    cost = processes.watch([sys.executable, "-c", SHARED])
    assert 1.2 < cost.cpu < 3.5
    assert 100 << 20 < cost.peak < 180 << 20


def test_a_command_that_fails_is_an_error_with_its_output():
    with pytest.raises(ChildProcessError, match="no such luck"):
        processes.watch([sys.executable, "-c", "raise SystemExit('no such luck')"])
