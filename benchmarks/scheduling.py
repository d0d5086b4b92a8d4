"""What handing out chunks costs: a pool of 10,000 models of logistic regression by two workers; two identical jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.plain import Work
from benchmarks.processes import proportional_size
from dmm_exp.console.progress import Console
from dmm_exp.executors import Processes
from dmm_exp.pipeline import Context, Models
from dmm_exp.pipeline.chunks import Chunks
from dmm_exp.store import Store

MEMBERS, WORKERS = 10_000, 2
TWINS = 3_000  # members of the pool that two jobs want at once


class Memory:
    """Looks at the memory of this process, its workers and their server, once a second, while the body runs.

    Attributes:
        bytes: sum of proportional set sizes at each look.
    """

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(1):
            self.bytes.append(sum(map(proportional_size, family(os.getpid()))))


def family(process: int) -> list[int]:
    """Return a process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue  # it has ended
        parents.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [process]
    while waiting:
        found.append(waiting.pop())
        waiting += parents.get(found[-1], [])
    return found


def main() -> str:
    """Return the section of ``results.md``."""
    with tempfile.TemporaryDirectory() as folder:
        large, (one, two) = _large_pool(Path(folder)), _twins(Path(folder))
    return "\n".join(
        [
            large,
            "",
            f"A pool of {TWINS:,} such models, asked for by one job, took {one:.1f} s with its start; asked for by two "
            f"at once, {two:.1f} s until both had it: {two / one:.2f} times (wanted: at most 1.1).",
        ]
    )


def _large_pool(folder: Path) -> str:
    executor, console = Processes(workers=WORKERS), Console(quiet=True)
    config = Work.of("logistic", f"pool.size={MEMBERS}").config
    context = Context(config, Store(folder / "large", console), executor, console)
    assert context.dataset  # made before the clock starts
    list(executor.run(abs, list(range(WORKERS))))  # as are the workers
    start = time.perf_counter()
    with Memory() as memory:
        pool = Models(Chunks(context)).pool
        wall = time.perf_counter() - start
    executor.close()
    work = sum(facts["seconds"] for facts in pool.shard_facts()) / WORKERS
    third = len(memory.bytes) // 3
    early, late = max(memory.bytes[third // 2 : third]), max(memory.bytes[-third:])
    return (
        f"{pool.members:,} models of logistic regression in {len(pool.layout)} chunks by {WORKERS} workers: "
        f"{wall:.1f} s; the chunks' own seconds, divided by the workers, are {work:.1f}. Handing out and all else take "
        f"{100 * (wall / work - 1):.1f} % (wanted: at most 5 %). All processes together held at most "
        f"{early / 2**20:.0f} MiB in the second sixth and {late / 2**20:.0f} MiB in the last third."
    )


def _twins(folder: Path) -> tuple[float, float]:
    """Return the wall seconds of one job, and of two identical ones that are started together, each in a cold store."""
    alone = _seconds([folder / "alone"])
    return alone, _seconds([folder / "together", folder / "together"])


def _seconds(folders: list[Path]) -> float:
    start = time.perf_counter()
    jobs = [subprocess.Popen([sys.executable, "-m", "benchmarks.scheduling", folder]) for folder in folders]
    codes = [job.wait() for job in jobs]
    if any(codes):
        raise ChildProcessError("a job failed")
    return time.perf_counter() - start


def one_job(folder: Path) -> None:
    """Be one of two identical jobs."""
    console = Console()
    config = Work.of("logistic", f"pool.size={TWINS}").config
    context = Context(config, Store(folder, console), Processes(workers=WORKERS), console)
    pool = Models(Chunks(context)).pool
    print(json.dumps({"cached": pool.cached, "members": pool.members}), file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one_job(Path(sys.argv[1]))
    else:
        print(main())
