"""Ensembles that differ in size alone find each other, and only what can be trusted is shared."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from said import Said

from dmm_exp.store import Artifact, Draft, Missing, Spec, Store
from dmm_exp.store.manifest import sealed

DATASET = {"dataset": "d" * 64}


def pool_of(members: int, **config) -> Spec:
    return Spec("ensemble", {"members": members, "role": "subset", **config}, DATASET)


def in_pairs(members: int):
    """Return what makes an ensemble in shards of two members."""

    def make(draft: Draft) -> None:
        layout = draft.layout([[start, min(start + 2, members)] for start in range(0, members, 2)])
        for shard, (start, stop) in enumerate(layout):
            draft.write_shard(shard, {"logits": torch.arange(start, stop).float()}, {"shard": shard}, cpu=5.0)

    return make


def made(root: Path, members: int, **config) -> Artifact:
    return Store(root, Said()).obtain(pool_of(members, **config), in_pairs(members))


def inode(path: Path) -> int:
    return path.stat().st_ino


# ---------------------------------------------------------------------- families


def test_ensembles_of_another_size_are_of_one_family_at_different_addresses():
    assert pool_of(2).family == pool_of(7).family
    assert pool_of(2).digest != pool_of(7).digest


@pytest.mark.parametrize(
    "other",
    [
        pool_of(2, seed=1),
        Spec("unlearned", pool_of(2).config, DATASET),
        Spec("ensemble", pool_of(2).config, {"dataset": "e" * 64}),
        Spec("ensemble", pool_of(2).config, DATASET | {"initial": "f" * 64}),
    ],
)
def test_any_other_difference_is_another_family(other: Spec):
    assert other.family != pool_of(2).family


def test_an_input_that_enters_member_by_member_counts_by_its_family():
    few, many, others = (
        Spec("unlearned", {}, {"originals": source.digest}, {"originals": source.family})
        for source in (pool_of(2), pool_of(7), pool_of(2, seed=1))
    )
    assert few.family == many.family != others.family
    assert few.digest != many.digest


def test_the_family_of_an_input_does_not_change_the_address():
    inputs = {"originals": pool_of(2).digest}
    with_family = Spec("unlearned", {}, inputs, {"originals": pool_of(2).family})
    assert with_family.digest == Spec("unlearned", {}, inputs).digest


def test_an_artifact_says_what_determined_it(tmp_path: Path):
    spec = Spec("unlearned", {"seed": 3}, {"originals": "o" * 64}, {"originals": "f" * 64})
    assert Store(tmp_path, Said()).obtain(spec, in_pairs(2)).spec == spec


# ---------------------------------------------------------------------- finding relatives


def test_the_largest_relative_is_found(tmp_path: Path):
    for members in (3, 8, 5):
        made(tmp_path, members)
    made(tmp_path, 9, seed=1)
    found = Store(tmp_path, Said()).relative(pool_of(4))
    assert found is not None
    assert (found.members, found.digest) == (8, pool_of(8).digest)


def test_an_ensemble_is_not_its_own_relative(tmp_path: Path):
    made(tmp_path, 3)
    assert Store(tmp_path, Said()).relative(pool_of(3)) is None


def test_a_damaged_relative_is_said_and_passed_over_unchanged(tmp_path: Path):
    made(tmp_path, 3)
    damaged = made(tmp_path, 8).path / "shard-00001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    before, said = damaged.read_bytes(), Said()
    found = Store(tmp_path, said).relative(pool_of(4))
    assert found is not None
    assert found.members == 3
    assert ["shard-00001.safetensors" in text and "damaged" in text for text in said.warnings] == [True]
    assert damaged.read_bytes() == before


@pytest.mark.parametrize("name", ["layout.json", "shard-00000.json"])
def test_a_relative_without_one_of_its_files_is_said_and_passed_over(name: str, tmp_path: Path):
    (made(tmp_path, 3).path / name).unlink()
    said = Said()
    assert Store(tmp_path, said).relative(pool_of(4)) is None
    assert [name in text for text in said.warnings] == [True]


@pytest.mark.parametrize("content", ["", "[]", "null", '{"kind": "ensemble"}', '{"kind": 1, "config": 2, "inputs": 3}'])
def test_a_folder_that_does_not_say_what_it_is_is_no_relative(content: str, tmp_path: Path):
    (made(tmp_path, 3).path / "manifest.json").write_text(content)
    said = Said()
    assert Store(tmp_path, said).relative(pool_of(4)) is None
    assert said.warnings == []


def test_an_artifact_made_before_families_were_recorded_is_a_relative(tmp_path: Path):
    path = made(tmp_path, 3).path / "manifest.json"
    manifest = json.loads(path.read_text())
    kept = {key: manifest[key] for key in manifest if key not in ("families", "taken_over", "checksum")}
    path.write_text(json.dumps(sealed(kept)))
    found = Store(tmp_path, Said()).relative(pool_of(4))
    assert found is not None
    assert (found.members, found.taken_over) == (3, 0)


def test_a_plan_learns_of_the_relative(tmp_path: Path):
    made(tmp_path, 3)
    with pytest.raises(Missing) as caught:
        Store(tmp_path, Said(), read_only=True).obtain(pool_of(4), in_pairs(4))
    assert caught.value.relative is not None
    assert caught.value.relative.members == 3


# ---------------------------------------------------------------------- sharing shards


def extended(root: Path) -> Artifact:
    """Return an ensemble of four whose first shard is that of one of three."""

    def make(draft: Draft) -> None:
        draft.layout([[0, 2], [2, 4]])
        assert draft.relative is not None
        draft.take_shard(0, draft.relative, 0)
        draft.write_shard(1, {"logits": torch.tensor([2.0, 3.0])}, {"shard": 1})

    return Store(root, Said()).obtain(pool_of(4), make)


def test_a_shared_shard_is_one_file_that_survives_the_removal_of_either(tmp_path: Path):
    small = made(tmp_path, 3)
    large = extended(tmp_path)
    assert inode(small.path / "shard-00000.safetensors") == inode(large.path / "shard-00000.safetensors")
    Store(tmp_path, Said()).discard(small)
    assert not small.path.exists()
    found = Store(tmp_path, Said()).find(pool_of(4))
    assert found is not None
    assert found.stacked("logits").tolist() == [0, 1, 2, 3]


def test_without_hard_links_a_shared_shard_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*paths: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    small, large = made(tmp_path, 3).path, extended(tmp_path).path
    one, other = (path / "shard-00000.safetensors" for path in (small, large))
    assert inode(one) != inode(other)
    assert one.read_bytes() == other.read_bytes()


def test_the_manifest_says_whose_members_were_taken_over_and_counts_no_seconds_for_them(tmp_path: Path):
    small, large = made(tmp_path, 3), extended(tmp_path)
    assert large.manifest["taken_over"] == {small.digest: 2}
    assert (small.taken_over, large.taken_over) == (0, 2)
    assert large.shard_facts() == [{"shard": 0}, {"shard": 1}]
    assert large.manifest["seconds"]["cpu"] < 5


def test_a_shard_of_an_artifact_that_is_gone_cannot_be_taken(tmp_path: Path):
    small = made(tmp_path, 3)
    draft = Draft(tmp_path / "draft")
    draft.path.mkdir()
    assert small.layout
    shutil.rmtree(small.path)
    with pytest.raises(FileNotFoundError):
        draft.take_shard(0, small, 0)
    assert list(draft.path.iterdir()) == []
