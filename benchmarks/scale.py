"""What breaks first with 1,000 and 10,000 workers: the queue, the submission and the store, simulated on one machine.

Workers here are the real ones of :mod:`dmm_exp.executors.queue` on a real folder; only their training is a simulated
minute, and they take turns by a simulated clock. So operations are counted as they are, and seconds are those of this
machine's disk.
"""

from __future__ import annotations

import heapq
import json
import math
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.file_operations import counted
from dmm_exp.console.progress import Console
from dmm_exp.ensembles.work import ShardJob, run_shards
from dmm_exp.executors import Submitit
from dmm_exp.executors.on_submitit import LARGEST_ARRAY
from dmm_exp.executors.queue import Queue, Worker
from dmm_exp.store import Draft, Spec, Store

WORKERS = (10, 100, 1_000, 10_000)
CHUNKS_EACH = 2  # chunks for each worker
CHUNK, SPREAD = 60.0, 0.2  # simulated seconds of training a chunk: their mean, and the deviation of their logarithms
NETWORK = 1e-3  # seconds that an operation may take on a file system that a cluster shares
LOOK = 2.0  # simulated seconds between two looks of the main process
PLAIN = 1_000  # most workers with which the plain way is carried out
SHARDS = (100, 1_000, 10_000)  # of an artifact
RUSH, RUSHED = 50, 4_000  # threads of each of two processes that take jobs without training, and the jobs


class Watched(Queue):
    """A queue that counts claims that came too late, and looks at all claims."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.late = self.looks = 0

    def claim(self, index: int, worker: int) -> bool:
        """Take a job, and count if another worker has it."""
        found = super().claim(index, worker)
        self.late += not found
        return found

    def free(self) -> list[int]:
        """Return the free jobs, and count."""
        self.looks += 1
        return super().free()


@dataclass
class Course:
    """What became of a simulated stage.

    Attributes:
        chunks: how many there were.
        operations: of the file system, by kind, of all workers.
        seconds: real ones that workers spent on taking and finishing jobs.
        late: claims of jobs that others had.
        looks: listings of all claims.
        main: real seconds of each look of the main process.
        rounds: simulated seconds of the stage, divided by those of a chunk.
    """

    chunks: int
    operations: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    late: int = 0
    looks: int = 0
    main: list[float] = field(default_factory=list)
    rounds: float = 0.0

    def each(self, count: float) -> float:
        """Return a number for one chunk."""
        return count / self.chunks


def main() -> str:
    """Return the section of ``results.md``."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        courses = {count: simulated(place / f"queue-{count}", count) for count in WORKERS}
        plain = {count: simulated(place / f"plain-{count}", count, in_turn) for count in WORKERS if count <= PLAIN}
        submissions = {count: submission(place / f"submit-{count}", count) for count in WORKERS}
        rushed = rush(place / "rush")
    gathered = {shards: _in_fresh_process(shards) for shards in SHARDS}
    return "\n".join(
        [
            f"{CHUNKS_EACH} chunks for each worker, which all start at once; a chunk trains for a simulated "
            f"{CHUNK:.0f} s, more or less. Everything else is real: operations of the file system, and seconds of this "
            "machine.",
            "",
            *_queue_table(courses, plain),
            "",
            rushed,
            "",
            *_submission_table(submissions),
            "",
            *_store_table(gathered),
            "",
            _starting(),
        ]
    )


# ---------------------------------------------------------------------- the queue


def in_turn(queue: Queue, number: int, _: int) -> Iterator[int]:
    """Take jobs the plain way: try each of them in turn, and look before that whether the main process lives."""
    for index in range(queue.count()):
        assert queue.last_beat() is not None
        try:
            claim = os.open(queue.folder / "claims" / str(index), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            continue
        os.write(claim, str(number).encode())
        os.close(claim)
        yield index


def own_way(queue: Queue, number: int, first: int) -> Iterator[int]:
    """Take jobs as workers do."""
    return Worker(queue, number, first).taken()


def simulated(
    folder: Path,
    workers: int,
    way: Callable[[Queue, int, int], Iterator[int]] = own_way,
    chunks_each: int = CHUNKS_EACH,
) -> Course:
    """Let workers take all jobs of a queue, each after the simulated time that its last one took."""
    chunks, queue = workers * chunks_each, Watched(folder)
    queue.begin(print, [ShardJob(output=folder, shard=shard) for shard in range(chunks)])
    course, draw = Course(chunks), random.Random(0)
    taking = [way(queue, number, number * chunks // workers) for number in range(workers)]
    waiting: list[tuple[float, int, int]] = [(0.0, number, -1) for number in range(workers)]
    now, looked = 0.0, 0.0
    while waiting:
        now, number, done = heapq.heappop(waiting)
        if now >= looked + LOOK:
            looked = now
            course.main.append(_seconds(lambda: (queue.beat(), queue.done())))
        with counted() as operations:
            begun = time.perf_counter()
            index = _next(queue, taking[number], done)
            course.seconds += time.perf_counter() - begun
        course.operations += operations
        if index is not None:
            heapq.heappush(waiting, (now + CHUNK * draw.lognormvariate(-(SPREAD**2) / 2, SPREAD), number, index))
    if len(queue.done()) != chunks:
        raise ArithmeticError(f"{len(queue.done())} of {chunks} jobs were done")
    course.late, course.looks, course.rounds = queue.late, queue.looks, now / CHUNK
    return course


def _next(queue: Queue, taking: Iterator[int], done: int) -> int | None:
    """Finish a worker's last job (-1: it had none) and return its next one, None where none is left."""
    if done >= 0:
        queue.finish(done)
    index = next(taking, None)
    if index is not None:
        queue.job(index)
    return index


def _queue_table(courses: dict[int, Course], plain: dict[int, Course]) -> list[str]:
    """Return a table of what taking and finishing a chunk costs; the plain way beside it, extrapolated if need be."""
    rows = [
        "| workers | chunks | operations a chunk | late claims a chunk | looks at all claims | ms a chunk, here "
        f"| share of a minute's chunk, here | at {1e3 * NETWORK:g} ms an operation | longest look of the main process "
        "| each chunk tried in turn: operations a chunk | share |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    largest = max(plain)
    for workers, course in courses.items():
        reference, factor = plain.get(workers, plain[largest]), max(1.0, workers / largest)
        sign, tries = "" if workers in plain else "about ", factor * reference.each(reference.operations.total())
        own, seconds = course.each(course.operations.total()), course.each(course.seconds)
        rows.append(
            f"| {workers:,} | {course.chunks:,} | {own:.1f} | {course.each(course.late):.2f} | {course.looks:,} "
            f"| {1e3 * seconds:.2f} | {_share(seconds)} | {_share(NETWORK * own)} | {1e3 * max(course.main):.0f} ms "
            f"| {sign}{tries:,.0f} | {sign}{_share(NETWORK * tries)} |"
        )
    return rows


def _share(seconds: float) -> str:
    """Return the share of a worker's time that so many seconds for each chunk are, in words."""
    return f"{100 * seconds / (seconds + CHUNK):.2g} %"


def rush(folder: Path, threads: int = RUSH, jobs: int = RUSHED) -> str:
    """Let threads of two processes take jobs that cost nothing, all at once, and say how that went."""
    queue = Queue(folder)
    queue.begin(print, list(range(jobs)))
    context = multiprocessing.get_context("spawn")
    start = time.perf_counter()
    with context.Pool(2) as pool:
        parts = pool.starmap(rushing, [(folder, part * threads, threads, jobs) for part in range(2)])
        wall = time.perf_counter() - start
    taken = [index for part, _ in parts for index in part]
    if sorted(taken) != list(range(jobs)):
        raise ArithmeticError(f"{len(taken)} jobs were taken, {len(set(taken))} different ones of {jobs}")
    late = sum(count for _, count in parts) / jobs
    return (
        f"{2 * threads} threads of two processes took {jobs:,} jobs that cost nothing, all at once, in {wall:.1f} s "
        f"with the start of the processes: every job once, with {late:.2f} late claims a job."
    )


def rushing(folder: Path, first: int, threads: int, jobs: int) -> tuple[list[int], int]:
    """Be one of these processes: return the jobs that its threads took, and the number of late claims."""
    queue, taken = Watched(folder), []

    def work(number: int) -> None:
        for index in Worker(queue, number, number * jobs // (2 * threads)).taken():
            taken.append(index)
            queue.finish(index)

    running = [threading.Thread(target=work, args=(first + number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return taken, queue.late


# ---------------------------------------------------------------------- the submission


@dataclass(frozen=True)
class Submission:
    """What submitting workers took.

    Attributes:
        seconds: until all were submitted.
        bytes: of the files that it left.
        arrays: what SLURM was asked for.
        look: seconds of one look at all workers.
    """

    seconds: float
    bytes: int
    arrays: list[str]
    look: float


def submission(folder: Path, workers: int) -> Submission:
    """Submit workers to a SLURM that takes everything and starts nothing, and look after them once."""
    jobs = [ShardJob(output=folder, shard=shard, start=shard, stop=shard + 1) for shard in range(CHUNKS_EACH * workers)]
    with pretended_slurm(folder) as asked:
        executor = Submitit(str(folder / "workers"), workers=workers)
        executor.warm_up()
        array = executor.array(print, jobs)
        seconds = _seconds(lambda: array.submit(workers, 1))
        look = _seconds(lambda: (array.newly_done(), array.look_after_workers()))
        written = sum(file.stat().st_size for file in (folder / "workers").rglob("*") if file.is_file())
        array.end()
    return Submission(seconds, written, asked(), look)


@contextmanager
def pretended_slurm(folder: Path) -> Iterator[Callable[[], list[str]]]:
    """Put commands of a SLURM first on the path that only note what they are asked for.

    Gives a function that returns the arrays and the jobs to cancel that it was asked for.
    """
    commands, notes, before = folder / "slurm", folder / "asked", os.environ["PATH"]
    commands.mkdir(parents=True)
    notes.touch()
    sbatch = f'(grep -o "array=.*" "$1" || echo single) >> {notes}; echo "Submitted batch job $(wc -l < {notes})"'
    scripts = {"sbatch": sbatch, "scancel": f'echo "cancel $@" >> {notes}', "sacct": "", "srun": ""}
    for name, text in scripts.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (commands / name).chmod(0o755)
    os.environ["PATH"] = f"{commands}{os.pathsep}{before}"
    try:
        yield lambda: notes.read_text(encoding="utf-8").splitlines()
    finally:
        os.environ["PATH"] = before


def _submission_table(submissions: dict[int, Submission]) -> list[str]:
    """Return a table of what submitting costs."""
    rows = [
        "| workers | arrays | submitting | files of it | a look of the main process at all of them |",
        "|---|---|---|---|---|",
    ]
    for workers, found in submissions.items():
        arrays, size = math.ceil(workers / LARGEST_ARRAY), found.bytes / 1e6
        rows.append(f"| {workers:,} | {arrays} | {found.seconds:.1f} s | {size:.1f} MB | {found.look:.2f} s |")
    return rows


# ---------------------------------------------------------------------- the store


@dataclass(frozen=True)
class Gathered:
    """What an artifact of many shards took.

    Attributes:
        shards: how many.
        writing: seconds of writing one shard, which workers do.
        handing: seconds that the main process took, apart from that.
        verifying: seconds in which another process verifies all of it.
        reading: seconds in which that process reads a tensor of all shards.
        operations: of the file system for one shard, in writing it.
        memory: bytes by which the main process grew.
    """

    shards: int
    writing: float
    handing: float
    verifying: float
    reading: float
    operations: float
    memory: int


@dataclass(frozen=True)
class Here:
    """An executor that runs jobs here, and adds up what they take.

    Attributes:
        seconds: of each job.
        operations: of the file system, of all of them.
    """

    seconds: list[float] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)

    def run(self, function: Callable[[Any], None], jobs: list[Any]) -> Iterable[Any]:
        """Run a function on every job."""
        for job in jobs:
            with counted() as operations:
                self.seconds.append(_seconds(lambda job=job: function(job)))
            self.operations.update(operations)
            yield job


def write(job: ShardJob) -> None:
    """Write a shard of members that nobody trained."""
    logits = torch.full((job.stop - job.start, 1, 2), float(job.start))
    facts = {"seconds": CHUNK, "members": len(logits), "history": [1.0], "sample_gradients": 1}
    Draft(job.output).write_shard(job.shard, {"logits": logits}, facts, members=(job.start, job.stop))


def gathered(root: Path, shards: int) -> Gathered:
    """Make an artifact of shards of one member each, verify it and read it."""
    here, spec, console = Here(), Spec("ensemble", {"shards": shards}, {}), Console(quiet=True)

    def make(draft: Draft) -> None:
        one = {"members": shards, "chunk_size": 1, "executor": here, "progress": lambda _: nullcontext(_silent)}
        run_shards(draft, write, ShardJob(), **one)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole = _seconds(lambda: Store(root, console).obtain(spec, make))
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    verifying = _seconds(lambda: Store(root, console).find(spec))
    found = Store(root, console).find(spec)
    assert found is not None
    reading = _seconds(lambda: found.stacked("logits"))
    if found.stacked("logits")[:, 0, 0].tolist() != list(range(shards)):
        raise ArithmeticError("shards are not in order")
    own = sum(here.seconds)
    each = here.operations.total() / shards
    return Gathered(shards, own / shards, whole - own, verifying, reading, each, grown)


def _silent(*_: object) -> None:
    """Show no progress."""


def _in_fresh_process(shards: int) -> Gathered:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", str(shards)], check=True, capture_output=True, text=True
    )
    return Gathered(**json.loads(done.stdout.splitlines()[-1]))


def _starting() -> str:
    """Say what a worker's start asks of the file system."""
    program = (
        "import json; from benchmarks.file_operations import counted\n"
        "with counted() as found: import dmm_exp.executors.preload, submitit\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    found = Counter(json.loads(done.stdout.splitlines()[-1]))
    return (
        f"A worker that starts imports what it needs: it opens {found['open']:,} files, and looks for one "
        f"{found['stat']:,} times."
    )


def _store_table(found: dict[int, Gathered]) -> list[str]:
    """Return a table of what an artifact of many shards costs."""
    rows = [
        "| shards of an artifact | writing one | operations for it | main process, a shard | verifying, a shard "
        "| reading, a shard | memory of the main process |",
        "|---|---|---|---|---|---|---|",
    ]
    for shards, one in found.items():
        handing, verifying, reading = (1e3 * part / shards for part in (one.handing, one.verifying, one.reading))
        rows.append(
            f"| {shards:,} | {1e3 * one.writing:.2f} ms | {one.operations:.0f} | {handing:.2f} ms | {verifying:.2f} ms "
            f"| {reading:.2f} ms | {one.memory / 2**20:.0f} MiB |"
        )
    return rows


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(vars(gathered(Path(place), int(sys.argv[1])))))
    else:
        print(main())
