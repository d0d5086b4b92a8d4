"""An ensemble takes over the members that a larger or smaller one has, however either is cut, and makes the rest."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from said import Said

from dmm_exp.ensembles.taking_over import beginning_as
from dmm_exp.ensembles.work import ShardJob, run_shards
from dmm_exp.executors import Local
from dmm_exp.store import Artifact, Draft, Spec, Store


@dataclass(frozen=True, kw_only=True)
class Job(ShardJob):
    """Members to make, and where their making is noted."""

    log: Path


def values(start: int, stop: int) -> dict[str, torch.Tensor]:
    """Return what members are: each depends on its number alone."""
    numbers = torch.arange(start, stop)
    return {"logits": numbers[:, None].float().sin().repeat(1, 5), "masks": numbers[:, None] % torch.arange(2, 6) == 0}


def make_chunk(job: Job) -> None:
    with job.log.open("a") as log:
        log.write("".join(f"{member}\n" for member in range(job.start, job.stop)))
    count = job.stop - job.start
    facts = {"seconds": 2.0 * count, "members": count, "history": [float(job.start), 0.0], "sample_gradients": 7}
    Draft(job.output).write_shard(job.shard, values(job.start, job.stop), facts)


def ensemble(root: Path, members: int, chunk_size: int, executor: Any = None, said: Said | None = None) -> Artifact:
    """Return an ensemble of some size, from the store in ``root``."""

    def make(draft: Draft) -> None:
        run_shards(
            draft,
            make_chunk,
            Job(log=root / "log"),
            members=members,
            chunk_size=chunk_size,
            executor=executor or Local(),
            progress=lambda total: nullcontext(lambda done, loss=None: None),
        )

    root.mkdir(exist_ok=True)
    return Store(root / "artifacts", said or Said(notes=True)).obtain(Spec("ensemble", {"members": members}), make)


def numbers_made(root: Path) -> list[int]:
    return [int(line) for line in (root / "log").read_text().splitlines()]


def assert_whole(artifact: Artifact, members: int) -> None:
    for name, expected in values(0, members).items():
        assert torch.equal(artifact.stacked(name), expected)
    facts = artifact.shard_facts()
    assert [fact["members"] for fact in facts] == [stop - start for start, stop in artifact.layout]
    assert sum(fact["sample_gradients"] * fact["members"] for fact in facts) == 7 * members
    assert sum(fact["seconds"] for fact in facts) == pytest.approx(2.0 * members)


SIZES = [
    ((8, 4), (16, 4)),
    ((6, 4), (17, 4)),
    ((7, 3), (20, 8)),
    ((5, 5), (6, 1)),
    ((16, 4), (8, 4)),
    ((16, 4), (7, 2)),
    ((10, 10), (3, 2)),
]


@pytest.mark.parametrize(("first", "second"), SIZES, ids=str)
def test_members_that_exist_are_taken_over_and_the_others_are_made_once(first, second, tmp_path):
    ensemble(tmp_path, *first)
    assert_whole(other := ensemble(tmp_path, *second), second[0])
    assert numbers_made(tmp_path) == list(range(max(first[0], second[0])))
    assert other.taken_over == min(first[0], second[0])


def test_an_extended_ensemble_holds_the_very_bytes_of_one_made_in_one_go(tmp_path):
    ensemble(tmp_path / "twice", 8, 4)
    twice, once = ensemble(tmp_path / "twice", 16, 4), ensemble(tmp_path / "once", 16, 4)
    names = [path.name for path in sorted(once.path.glob("shard-*.safetensors"))]
    assert [(twice.path / name).read_bytes() for name in names] == [(once.path / name).read_bytes() for name in names]
    assert twice.digest == once.digest


def test_an_ensemble_can_be_extended_again_and_again(tmp_path):
    for members in (3, 7, 8, 20):
        assert_whole(ensemble(tmp_path, members, 4), members)
    assert numbers_made(tmp_path) == list(range(20))


@pytest.mark.parametrize(
    ("known", "wanted", "expected"),
    [
        ([[0, 4], [4, 8]], [[0, 4], [4, 8], [8, 12]], [[0, 4], [4, 8], [8, 12]]),
        ([[0, 4], [4, 6]], [[0, 4], [4, 8], [8, 9]], [[0, 4], [4, 6], [6, 8], [8, 9]]),
        ([[0, 4], [4, 8]], [[0, 3], [3, 6]], [[0, 4], [4, 6]]),
        ([[0, 9]], [[0, 4]], [[0, 4]]),
    ],
)
def test_shards_begin_as_the_relatives_and_go_on_as_they_would_have_been(known, wanted, expected, tmp_path):
    draft = Draft(tmp_path)
    draft.layout(known)
    assert beginning_as(Artifact(tmp_path, "", cached=True), wanted) == expected
    assert beginning_as(None, wanted) == wanted


def test_losses_of_a_joined_shard_are_the_mean_over_its_members(tmp_path):
    class OneAndStop(Local):
        def run(self, function, jobs):
            function(jobs[0])
            raise KeyboardInterrupt
            yield

    with pytest.raises(KeyboardInterrupt):  # an attempt in chunks of six, of which there is one
        ensemble(tmp_path, 18, 6, OneAndStop())
    ensemble(tmp_path, 12, 4)
    assert_whole(joined := ensemble(tmp_path, 18, 6), 18)
    assert joined.layout == [[0, 6], [6, 12], [12, 18]]
    assert joined.shard_facts()[1]["history"] == [pytest.approx((4.0 * 2 + 8.0 * 4) / 6), 0.0]
    assert joined.taken_over == 6


def test_an_interrupted_extension_goes_on_where_it_was(tmp_path):
    class Stopping(Local):
        def run(self, function, jobs):
            yield from super().run(function, jobs[:1])
            raise KeyboardInterrupt

    ensemble(tmp_path, 6, 4)
    with pytest.raises(KeyboardInterrupt):
        ensemble(tmp_path, 16, 4, Stopping())
    assert_whole(ensemble(tmp_path, 16, 4), 16)
    assert numbers_made(tmp_path) == list(range(16))


@pytest.mark.parametrize("name", ["shard-00000.safetensors", "shard-00001.json", "layout.json"])
def test_nothing_is_taken_over_from_a_damaged_ensemble(name, tmp_path):
    path = ensemble(tmp_path, 8, 4).path / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    said = Said(notes=True)
    assert_whole(whole := ensemble(tmp_path, 12, 4, said=said), 12)
    assert numbers_made(tmp_path) == [*range(8), *range(12)]
    assert [name in text for text in said.warnings] == [True]
    assert whole.taken_over == 0


def test_a_sound_smaller_ensemble_stands_in_for_a_damaged_larger_one(tmp_path):
    ensemble(tmp_path, 4, 4)
    path = ensemble(tmp_path, 8, 4).path / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert_whole(ensemble(tmp_path, 12, 4), 12)
    assert numbers_made(tmp_path) == [*range(8), *range(4, 12)]


def test_a_damaged_shard_is_taken_from_a_relative_that_is_sound(tmp_path):
    small = ensemble(tmp_path, 8, 4)
    path = ensemble(tmp_path, 12, 4).path / "shard-00001.safetensors"
    damaged = path.read_bytes()[:-1] + b"?"
    path.unlink()  # the file may be that of the small ensemble, which is to stay sound
    path.write_bytes(damaged)
    assert_whole(ensemble(tmp_path, 12, 4), 12)
    assert_whole(small, 8)
    assert numbers_made(tmp_path) == list(range(12))


def test_a_relative_that_is_removed_meanwhile_is_done_without(tmp_path, monkeypatch):
    path = ensemble(tmp_path, 8, 4).path
    layout = Draft.layout

    def remove_first(draft: Draft, wanted: list[list[int]]) -> list[list[int]]:
        shutil.rmtree(path)
        return layout(draft, wanted)

    monkeypatch.setattr(Draft, "layout", remove_first)
    assert_whole(ensemble(tmp_path, 12, 4), 12)
    assert numbers_made(tmp_path) == [*range(8), *range(12)]


def extend(root: Path, barrier: Any) -> None:
    barrier.wait(60)
    ensemble(root, 12, 4)


def test_two_processes_that_extend_at_once_do_it_once(processes, tmp_path):
    ensemble(tmp_path, 8, 4)
    barrier = processes.Barrier(2)
    started = [processes.Process(target=extend, args=(tmp_path, barrier)) for _ in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0]
    assert numbers_made(tmp_path) == list(range(12))
    assert_whole(ensemble(tmp_path, 12, 4), 12)
