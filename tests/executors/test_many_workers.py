"""What a worker does for one job costs the same however many there are, and every job is done once."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
import torch

from dmm_exp.console.progress import Console
from dmm_exp.ensembles.work import ShardJob
from dmm_exp.executors import Submitit
from dmm_exp.executors.queue import Queue, Worker
from dmm_exp.files.reading import Json
from dmm_exp.store import Draft, Spec, Store
from dmm_exp.store import store as stores

file_operations = pytest.importorskip("benchmarks.file_operations", reason="benchmarks/ is not part of the package")
scale = pytest.importorskip("benchmarks.scale", reason="benchmarks/ is not part of the installed package")


def queue_of(folder: Path, jobs: int) -> Queue:
    made = Queue(folder)
    made.begin(print, list(range(jobs)))
    return made


@pytest.mark.parametrize("jobs", [10, 1000])
def test_a_claim_costs_the_same_however_many_jobs_there_are(jobs: int, tmp_path: Path):
    queue = queue_of(tmp_path / "queue", jobs)
    taking = Worker(queue, 0).taken()
    queue.finish(next(taking))
    with file_operations.counted() as operations:
        assert queue.job(next(taking)) == (print, 1)
    assert dict(operations) == {"stat": 1, "open": 3}  # is main alive; what is tried, the claim, the job


@pytest.mark.parametrize("workers", [10, 100, 400])
def test_a_chunk_costs_the_same_however_many_workers_there_are(workers: int, tmp_path: Path):
    course = scale.simulated(tmp_path / "queue", workers)
    assert course.each(course.operations.total()) < 15
    assert course.each(course.late) < 2
    assert course.each(course.looks) < 0.1 + 2 / course.chunks
    assert course.rounds < 5  # of the two that it takes if all chunks take equally long


def test_jobs_that_cost_nothing_are_taken_once_by_many_threads(tmp_path: Path):
    queue, taken = queue_of(tmp_path / "queue", 500), []

    def work(number: int) -> None:
        for index in Worker(queue, number, number).taken():
            taken.append(index)
            queue.finish(index)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(500))


def test_what_a_dead_worker_took_is_done_although_all_was_said_to_be_taken(tmp_path: Path):
    queue = queue_of(tmp_path / "queue", 2)
    dead = Worker(queue, 1, first=1)
    assert next(dead.taken()) == 1
    assert list(Worker(queue, 0).taken()) == [0]
    assert queue.all_taken()
    assert queue.release(1) == [1]  # as the main process does when it hears of the death
    queue.say_all_taken()  # by another worker, which looked a moment before that
    assert list(Worker(queue, 2).taken()) == []
    assert list(dead.taken()) == [1]


def test_a_worker_that_is_started_again_goes_on_with_what_it_had_taken(tmp_path: Path):
    queue = queue_of(tmp_path / "queue", 3)
    worker = Worker(queue, 0, first=1)
    assert next(worker.taken()) == 1
    assert next(worker.taken()) == 1


def test_a_claim_of_a_worker_that_was_killed_before_it_wrote_its_number_is_free_again(tmp_path: Path):
    queue = queue_of(tmp_path / "queue", 2)
    assert queue.claim(1, worker=7)
    (queue.folder / "claims" / "1").write_text("")
    assert queue.release(7) == [1]


# ---------------------------------------------------------------------- submission


def test_more_workers_than_an_array_holds_are_several_arrays_which_all_run_and_are_cancelled_at_once(tmp_path: Path):
    with scale.pretended_slurm(tmp_path) as asked:
        array = Submitit(str(tmp_path / "workers"), workers=2001).array(print, list(range(3000)))
        array.submit(2001, threads=1)
        array.end()
    assert asked() == ["array=0-999%1000", "array=0-999%1000", "single", "cancel 1 2 3"]


def test_what_is_submitted_for_a_worker_does_not_grow_with_the_number_of_jobs(tmp_path: Path):
    sizes = []
    for jobs in (10, 1000):
        with scale.pretended_slurm(tmp_path / str(jobs)):
            array = Submitit(str(tmp_path / str(jobs) / "workers"), workers=4).array(print, list(range(jobs)))
            array.submit(4, threads=1)
            pickles = list((tmp_path / str(jobs) / "workers" / "logs").glob("**/*.pkl"))
            sizes.append([file.stat().st_size for file in pickles])
            array.end()
    few, many = sizes
    assert len(few) == len(many) == 4
    assert max(many) < min(few) + 50


# ---------------------------------------------------------------------- the store


def operations_of_one_shard(folder: Path, shards: int) -> dict[str, int]:
    """Return what writing the last shard of an artifact asks of the file system, and check that no list is read."""
    folder.mkdir()
    Draft(folder).layout([[member, member + 1] for member in range(shards)])
    with file_operations.counted() as operations, pytest.MonkeyPatch.context() as patch:
        patch.setattr("dmm_exp.store.store.read_layout", None)  # it lists all shards
        scale.write(ShardJob(output=folder, shard=shards - 1, start=shards - 1, stop=shards))
    return dict(operations)


def test_writing_a_shard_costs_the_same_however_many_there_are(tmp_path: Path):
    _, few, many = (operations_of_one_shard(tmp_path / str(shards), shards) for shards in (1, 2, 500))
    assert few == many  # the first one imports what it needs


def test_receipts_are_read_once_when_an_artifact_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read, real, shards = Counter[Path](), stores.read_receipt, 20

    def noted(path: Path) -> Json:
        found = real(path)
        read[path] += 1
        return found

    monkeypatch.setattr(stores, "read_receipt", noted)
    assert scale.gathered(tmp_path, shards).shards == shards
    assert list(read.values()) == [2] * shards  # and once when each shard is done, for the loss that is shown


def test_shards_are_in_order_when_their_numbers_get_another_digit(tmp_path: Path):
    spec = Spec("ensemble", {}, {})

    def make(draft: Draft) -> None:
        for place, shard in enumerate((99_999, 100_000)):
            draft.write_shard(shard, {"logits": torch.tensor([float(place)])}, {}, members=(place, place + 1))

    found = Store(tmp_path, Console(quiet=True)).obtain(spec, make)
    assert found.stacked("logits").tolist() == [0, 1]
