"""What a command costs with all its processes: wall and processor seconds, and the most memory held at once."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BETWEEN = 0.25  # seconds between two looks: what a process does after the last one is missed
MEMORY_EVERY = 2  # looks


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        wall: seconds.
        cpu: processor seconds, user and system, of all its processes.
        peak: most bytes that they held at once, shared pages counted once (the sum of their proportional set sizes).
    """

    wall: float
    cpu: float
    peak: int


def watch(command: Sequence[str], env: Mapping[str, str] | None = None) -> Cost:
    """Run a command in a session of its own and look at the session's processes until it ends (Linux only).

    Raises:
        ChildProcessError: it fails; its output is in the message.
    """
    start, looks, peak = time.perf_counter(), 0, 0
    cpu: dict[int, float] = {}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=env, start_new_session=True, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            processes = session(process.pid)
            cpu |= processes
            if looks % MEMORY_EVERY == 0:
                peak = max(peak, sum(map(proportional_size, processes)))
            looks += 1
            time.sleep(BETWEEN)
        wall = time.perf_counter() - start
        if process.returncode:
            said.seek(0)
            raise ChildProcessError(f"{' '.join(command)} ended with {process.returncode}:\n{said.read()}")
    return Cost(wall, sum(cpu.values()), peak)


def session(leader: int) -> dict[int, float]:
    """Return the processor seconds, until now, of every process of a session, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended
        if int(fields[3]) == leader:
            found[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def proportional_size(process: int) -> int:
    """Return the bytes that a process holds, those it shares divided by how many share them; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
