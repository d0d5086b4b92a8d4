"""Damage anywhere in an artifact is seen; a full disk is one sentence, and work goes on when there is room."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from said import Said

from dmm_exp.errors import UserError, storage_errors
from dmm_exp.files import writing as store_files
from dmm_exp.store import Artifact, Draft, Spec, Store

MEMBERS = 6
SPEC = Spec("ensemble", {"members": MEMBERS, "seed": 0}, {"dataset": "d" * 64})


class Pairs:
    """Makes an ensemble of shards of some members, and remembers which it made."""

    def __init__(self, size: int = 2, floats: int = 50) -> None:
        self.made: list[int] = []
        self.size, self.floats = size, floats

    def __call__(self, draft: Draft) -> None:
        wanted = [[start, min(start + self.size, MEMBERS)] for start in range(0, MEMBERS, self.size)]
        for shard, (start, stop) in enumerate(draft.layout(wanted)):
            if draft.shard_facts(shard) is None:
                self.made.append(shard)
                values = torch.arange(start, stop).float()[:, None].repeat(1, self.floats)
                draft.write_shard(shard, {"logits": values}, {"history": [0.5]})
        draft.write_table("scores", pd.DataFrame({"point": [0, 1]}))


def obtain(root: Path, make: Pairs, said: Said | None = None) -> Artifact:
    return Store(root, said or Said()).obtain(SPEC, make)


def content(artifact: Artifact) -> dict[str, bytes]:
    """Return the files whose bytes do not depend on the clock."""
    names = [name for name in artifact.manifest["files"] if not name.startswith("shard") or name.endswith("tensors")]
    return {name: (artifact.path / name).read_bytes() for name in names}


@contextmanager
def files_no_larger_than(count: int) -> Iterator[None]:
    """Let the operating system refuse larger files, as it refuses any on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ---------------------------------------------------------------------- damage


def test_a_byte_changed_in_any_of_twenty_places_is_seen_and_the_artifact_made_as_it_was(tmp_path: Path):
    chance, whole = random.Random(0), content(obtain(tmp_path / "whole", Pairs()))
    for number in range(20):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", root)
        damaged = chance.choice(sorted(path for path in root.rglob("*") if path.is_file()))
        data = bytearray(damaged.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        damaged.write_bytes(data)
        make, said = Pairs(), Said()
        assert content(obtain(root, make, said)) == whole
        assert len(make.made) <= 1
        assert len(said.warnings) == 1
        assert damaged.name in said.warnings[0]


@pytest.mark.parametrize("text", ["", "[]", "[[0, 2], [2, 4], [5, 6]]", "[[0, 4], [2, 6]]", "null"])
def test_a_damaged_layout_of_a_finished_ensemble_costs_no_shard(text: str, tmp_path: Path):
    (obtain(tmp_path, Pairs()).path / "layout.json").write_text(text)
    make = Pairs(size=3)  # whatever chunks would be cut today
    artifact = obtain(tmp_path, make)
    assert make.made == []
    assert artifact.layout == [[0, 2], [2, 4], [4, 6]]
    assert artifact.stacked("logits")[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def unfinished(root: Path) -> Draft:
    """Return work of which the middle shard is missing, and the record of where shards lie, too."""
    path = obtain(root, Pairs()).path
    draft = Draft(path.rename(path.with_name(path.name + ".partial")))
    for name in ("manifest.json", "layout.json", "shard-00001.json"):
        (draft.path / name).unlink()
    return draft


def test_without_its_layout_unfinished_work_keeps_what_lies_where_it_should(tmp_path: Path):
    unfinished(tmp_path)
    make = Pairs()
    assert obtain(tmp_path, make).layout == [[0, 2], [2, 4], [4, 6]]
    assert make.made == [1]


def test_without_its_layout_unfinished_work_never_puts_members_in_another_place(tmp_path: Path):
    unfinished(tmp_path)
    make = Pairs(size=3)
    assert obtain(tmp_path, make).stacked("logits")[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert make.made == [0, 1]


# ---------------------------------------------------------------------- full and read-only disks


def test_a_full_disk_is_one_sentence_and_the_work_goes_on_when_there_is_room(tmp_path: Path):
    make = Pairs(floats=5_000)
    refused = pytest.raises(UserError, match=r"ensemble.*: files of this size are not allowed.*goes on")
    with refused as caught, storage_errors(), files_no_larger_than(20_000):
        obtain(tmp_path, make)
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".lock")] == []
    assert make.made == [0]
    assert obtain(tmp_path, make).members == MEMBERS


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "quota"), (errno.EROFS, "read-only"), (errno.EACCES, "permit")],
)
def test_what_the_operating_system_says_becomes_a_sentence_with_the_path(number, words, monkeypatch, tmp_path: Path):
    def refuse(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(store_files.os, "replace", refuse)
    with pytest.raises(UserError, match=rf"layout\.json: .*{words}"), storage_errors():
        obtain(tmp_path, Pairs())
    assert not list(tmp_path.rglob("*.tmp"))


def test_other_errors_of_the_operating_system_stay_what_they_are():
    with pytest.raises(FileNotFoundError), storage_errors():
        Path("/no/such/file").read_bytes()


def test_files_of_a_killed_writer_are_removed_before_work_goes_on(tmp_path: Path):
    draft = unfinished(tmp_path)
    (draft.path / ".shard-00001.safetensors.1.tmp").write_bytes(bytes(1000))
    seen: list[Path] = []

    def make(draft: Draft) -> None:
        seen.extend(draft.path.glob(".*"))
        Pairs()(draft)

    Store(tmp_path, Said()).obtain(SPEC, make)
    assert seen == []


# ---------------------------------------------------------------------- two machines that do the same


def test_work_that_another_machine_ended_first_is_used(tmp_path: Path):
    store = Store(tmp_path, Said())

    def overtaken(draft: Draft) -> None:
        Store(tmp_path, Said())._make(SPEC, Pairs())  # as if the lock had been given up
        draft.write_json("facts", {})

    assert store.obtain(SPEC, overtaken).members == MEMBERS


def test_a_store_keeps_a_list_of_what_was_asked_for(tmp_path: Path):
    store, other = Store(tmp_path, Said()), Spec("effect")
    first = store.obtain(SPEC, Pairs())
    store.record_to(tmp_path / "used.json")
    again = store.obtain(SPEC, Pairs())
    second = store.obtain(other, lambda draft: draft.write_json("facts", {}))
    assert first.digest == again.digest
    assert (tmp_path / "used.json").read_text().split('"')[1::2] == [SPEC.digest, other.digest]
    store.discard(second)
    assert (tmp_path / "used.json").read_text().split('"')[1::2] == [SPEC.digest]
