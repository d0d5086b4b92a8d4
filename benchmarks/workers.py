"""Speed of training a pool over two worker processes, of one thread each, against one such worker."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

import torch

from benchmarks.plain import Work
from benchmarks.timing import TABLE_HEAD, Speed, compare
from dmm_exp.console.progress import Console
from dmm_exp.executors import Processes
from dmm_exp.pipeline import Context, Models
from dmm_exp.pipeline.chunks import Chunks
from dmm_exp.store import Artifact, Store

POOLS = {"mlp": 200, "cnn": 40}  # members
PAIRS = 5


def main() -> str:
    """Return the section of ``results.md``."""
    torch.set_num_threads(1)
    one, two = Processes(workers=1), Processes(workers=2)
    measured = [_measured(name, members, one, two) for name, members in POOLS.items()]
    one.close()
    two.close()
    return "\n".join(
        [
            "Wall seconds; the workers run already, and have imported what they need. Every pool is written to a store "
            "of its own; both ways write the same numbers.",
            "",
            TABLE_HEAD,
            *(speed.row for speed, _ in measured),
            "",
            *(words for _, words in measured),
        ]
    )


def _measured(name: str, members: int, one: Processes, two: Processes) -> tuple[Speed, str]:
    """Return how much faster two workers make a pool, and what processor time the machine gave them."""
    config = Work.of(name, f"pool.size={members}").config
    made: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        folders = (Path(folder) / str(number) for number in count())

        def pool(executor: Processes) -> Artifact:
            console = Console(quiet=True)
            context = Context(config, Store(next(folders), console), executor, console)
            artifact = Models(Chunks(context)).pool
            made[executor.workers].append(artifact.manifest["seconds"])
            return artifact

        work = f"pool of {members} digits {name.upper()}s, two workers against one"
        speed = compare(
            work, partial(pool, one), partial(pool, two), _same, pairs=PAIRS, limit=1.75, clock=time.perf_counter
        )
    cpu = [median(seconds["cpu"] for seconds in runs[1:]) for runs in made.values()]
    shares = [median(run["cpu"] / run["wall"] for run in runs[1:]) for runs in made.values()]
    return speed, (
        f"* {name.upper()}s: one worker got {shares[0]:.2f} of a core and took {cpu[0]:.1f} processor seconds for a "
        f"pool; two got {shares[1]:.2f} together, {shares[1] / shares[0]:.2f} times as much, and took {cpu[1]:.1f}."
    )


def _same(one: Artifact, other: Artifact) -> bool:
    return all(torch.equal(one.stacked(name), other.stacked(name)) for name in one.stacked_names())


if __name__ == "__main__":
    print(main())
