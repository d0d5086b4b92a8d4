"""Artifacts are made once, whole or not at all, and verified before they are trusted."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import dmm_exp
from dmm_exp.files import writing as files
from dmm_exp.files.writing import checksum
from dmm_exp.store import Artifact, Draft, Missing, Spec, Store, digest_of

SHARDS = 5
SPEC = Spec("ensemble", {"members": SHARDS, "seed": 0}, {"dataset": "d" * 64})
NOT_PICKLE = {".safetensors", ".parquet", ".json"}


class Said:
    """Messages that are remembered."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Shards:
    """Makes an ensemble of one-member shards, remembers which it made, and may stop half-way."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.made: list[int] = []
        self.stop_before = stop_before

    def __call__(self, draft: Draft) -> None:
        layout = draft.layout([[shard, shard + 1] for shard in range(SHARDS)])
        for shard, (start, _) in enumerate(layout):
            if shard == self.stop_before:
                raise RuntimeError("interrupted")
            if draft.shard_facts(shard) is None:
                self.made.append(shard)
                draft.write_shard(shard, {"logits": logits_of(start)}, {"member": start})


class OneFile:
    """Makes an artifact of two files in one go."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, draft: Draft) -> None:
        self.calls += 1
        draft.write_json("facts", {"answer": 42})
        draft.write_tensors("effect", {"effect": torch.arange(100.0)})


def logits_of(member: int) -> torch.Tensor:
    return torch.full((1, 50), float(member))


def new_store(root: Path) -> tuple[Store, Said]:
    """Return a store that has verified nothing yet, as a new process would have it."""
    said = Said()
    return Store(root, said), said


def all_members(artifact: Artifact) -> list[float]:
    return artifact.stacked("logits")[:, 0].tolist()


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def interrupted(root: Path, stop_before: int = 4) -> Path:
    """Leave an attempt that was interrupted, and return its folder."""
    store, _ = new_store(root)
    with pytest.raises(RuntimeError, match="interrupted"):
        store.obtain(SPEC, Shards(stop_before))
    (partial,) = (root / "ensemble").iterdir()
    return partial


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(bytes(content))


def remove(path: Path) -> None:
    path.unlink()


def remove_receipt(path: Path) -> None:
    path.with_suffix(".json").unlink()


def truncate_receipt(path: Path) -> None:
    truncate(path.with_suffix(".json"))


def replace_receipt_by_another_kind_of_json(path: Path) -> None:
    path.with_suffix(".json").write_text("[]")


# ---------------------------------------------------------------------- addresses


def test_the_order_of_keys_does_not_change_the_address():
    one = Spec("effect", {"a": 1, "b": {"c": [1, 2], "d": None}}, {"pool": "1", "forget": "2"})
    other = Spec("effect", {"b": {"d": None, "c": [1, 2]}, "a": 1}, {"forget": "2", "pool": "1"})
    assert one.digest == other.digest


@pytest.mark.parametrize(
    "changed",
    [
        Spec("scores", {"a": 1, "b": [1, 2]}, {"pool": "1"}),
        Spec("effect", {"a": 2, "b": [1, 2]}, {"pool": "1"}),
        Spec("effect", {"a": "1", "b": [1, 2]}, {"pool": "1"}),
        Spec("effect", {"a": 1, "b": [2, 1]}, {"pool": "1"}),
        Spec("effect", {"a": 1, "b": [1, 2], "c": None}, {"pool": "1"}),
        Spec("effect", {"a": 1}, {"pool": "1"}),
        Spec("effect", {"a": 1, "b": [1, 2]}, {"pool": "2"}),
        Spec("effect", {"a": 1, "b": [1, 2]}, {"originals": "1"}),
        Spec("effect", {"a": 1, "b": [1, 2]}, {}),
    ],
)
def test_any_change_of_configuration_or_input_changes_the_address(changed: Spec, tmp_path: Path):
    spec = Spec("effect", {"a": 1, "b": [1, 2]}, {"pool": "1"})
    store, _ = new_store(tmp_path)
    assert changed.digest != spec.digest
    assert store.path(changed) != store.path(spec)


def test_a_value_that_is_not_a_number_has_no_address():
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_of({"alpha": float("nan")})


# ---------------------------------------------------------------------- making once


def test_an_artifact_is_made_once_and_then_reused(tmp_path: Path):
    make, (store, _) = OneFile(), new_store(tmp_path)
    first, again = store.obtain(SPEC, make), store.obtain(SPEC, make)
    later, _ = new_store(tmp_path)
    reused = later.obtain(SPEC, make)
    assert make.calls == 1
    assert first.path == again.path == reused.path
    assert (first.cached, reused.cached) == (False, True)
    assert reused.json("facts") == {"answer": 42}
    torch.testing.assert_close(reused.tensors("effect")["effect"], torch.arange(100.0))


def test_find_sees_nothing_before_and_the_artifact_afterwards(tmp_path: Path):
    store, _ = new_store(tmp_path)
    assert store.find(SPEC) is None
    assert list(tmp_path.iterdir()) == []
    made = store.obtain(SPEC, OneFile())
    found = store.find(SPEC)
    assert found is not None
    assert (found.path, found.digest) == (made.path, SPEC.digest)


def test_an_exception_while_making_leaves_no_artifact(tmp_path: Path):
    interrupted(tmp_path)
    store, _ = new_store(tmp_path)
    assert store.find(SPEC) is None
    assert not store.path(SPEC).exists()


def test_a_folder_without_manifest_does_not_exist(tmp_path: Path):
    store, _ = new_store(tmp_path)
    artifact = store.obtain(SPEC, OneFile())
    (artifact.path / "manifest.json").unlink()
    later, _ = new_store(tmp_path)
    assert store.find(SPEC) is None
    assert later.find(SPEC) is None


def test_a_read_only_store_raises_missing_and_writes_nothing(tmp_path: Path):
    root, make = tmp_path / "artifacts", OneFile()
    with pytest.raises(Missing) as caught:
        Store(root, Said(), read_only=True).obtain(SPEC, make)
    assert caught.value.spec == SPEC
    assert not root.exists()
    assert make.calls == 0


def test_a_read_only_store_leaves_unfinished_and_damaged_work_alone(tmp_path: Path):
    partial = interrupted(tmp_path)
    truncate(partial / "shard-00001.safetensors")
    other = Spec("effect")
    flip_a_bit(new_store(tmp_path)[0].obtain(other, OneFile()).path / "effect.safetensors")
    before = snapshot(tmp_path)
    for spec in (SPEC, other):
        with pytest.raises(Missing):
            Store(tmp_path, Said(), read_only=True).obtain(spec, OneFile())
    assert snapshot(tmp_path) == before


def test_a_read_only_store_gives_what_exists(tmp_path: Path):
    new_store(tmp_path)[0].obtain(SPEC, OneFile())
    assert Store(tmp_path, Said(), read_only=True).obtain(SPEC, OneFile()).json("facts") == {"answer": 42}


# ---------------------------------------------------------------------- interrupted work


def test_interrupted_work_goes_on_at_the_first_missing_shard(tmp_path: Path):
    partial = interrupted(tmp_path, stop_before=3)
    before = {path.name: path.read_bytes() for path in partial.glob("shard-*.safetensors")}
    make, (store, said) = Shards(), new_store(tmp_path)
    artifact = store.obtain(SPEC, make)
    assert make.made == [3, 4]
    assert all((artifact.path / name).read_bytes() == content for name, content in before.items())
    assert all_members(artifact) == [0, 1, 2, 3, 4]
    assert [facts["member"] for facts in artifact.shard_facts()] == [0, 1, 2, 3, 4]
    assert said.warnings == []
    assert not partial.exists()


@pytest.mark.parametrize(
    "damage",
    [truncate, flip_a_bit, remove, remove_receipt, truncate_receipt, replace_receipt_by_another_kind_of_json],
)
def test_only_the_shard_that_cannot_be_trusted_is_made_again(damage: Callable[[Path], None], tmp_path: Path):
    damage(interrupted(tmp_path) / "shard-00001.safetensors")
    make, (store, _) = Shards(), new_store(tmp_path)
    assert all_members(store.obtain(SPEC, make)) == [0, 1, 2, 3, 4]
    assert make.made == [1, 4]


def test_an_attempt_with_another_chunk_size_keeps_its_layout(tmp_path: Path):
    draft = Draft(tmp_path)
    begun = draft.layout([[0, 3], [3, 6]])
    draft.write_shard(0, {"logits": torch.zeros(3, 2)}, {})
    assert draft.layout([[member, member + 1] for member in range(6)]) == begun == [[0, 3], [3, 6]]
    assert draft.shard_facts(0) == {}


def test_shards_of_an_unknown_layout_are_not_used(tmp_path: Path):
    draft = Draft(tmp_path)
    draft.layout([[0, 3], [3, 6]])
    draft.write_shard(0, {"logits": torch.zeros(3, 2)}, {})
    truncate(tmp_path / "layout.json")
    assert draft.layout([[0, 6]]) == [[0, 6]]
    assert draft.shard_facts(0) is None


def test_what_a_killed_writer_left_does_not_become_part_of_the_artifact(tmp_path: Path):
    partial = interrupted(tmp_path)
    (partial / ".shard-00004.safetensors.99999.tmp").write_bytes(b"half a file")
    store, _ = new_store(tmp_path)
    artifact = store.obtain(SPEC, Shards())
    assert not list(artifact.path.glob(".*"))
    assert not any("tmp" in name for name in artifact.manifest["files"])


# ---------------------------------------------------------------------- damaged artifacts


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove, remove_receipt, truncate_receipt])
def test_a_damaged_artifact_loses_only_its_damaged_shard(damage: Callable[[Path], None], tmp_path: Path):
    path = new_store(tmp_path)[0].obtain(SPEC, Shards()).path
    damage(path / "shard-00002.safetensors")
    make, (store, said) = Shards(), new_store(tmp_path)
    assert store.find(SPEC) is None
    artifact = store.obtain(SPEC, make)
    assert make.made == [2]
    assert all_members(artifact) == [0, 1, 2, 3, 4]
    assert len(said.warnings) == 1
    assert "shard-00002" in said.warnings[0]
    assert "shard-00001" not in said.warnings[0]
    assert new_store(tmp_path)[0].find(SPEC) is not None


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_an_artifact_whose_address_alone_counts_is_verified_before_it_is_read(
    damage: Callable[[Path], None], tmp_path: Path
):
    path = new_store(tmp_path)[0].obtain(SPEC, Shards()).path
    damage(path / "shard-00002.safetensors")
    make, (store, said) = Shards(), new_store(tmp_path)
    assert store.obtain(SPEC, make, to_read=False).digest == SPEC.digest
    assert (make.made, said.warnings) == ([], [])
    assert all_members(store.obtain(SPEC, make)) == [0, 1, 2, 3, 4]
    assert (make.made, len(said.warnings)) == ([2], 1)


@pytest.mark.parametrize("name", ["shard-00002.safetensors", "manifest.json"])
def test_an_artifact_whose_address_alone_counts_is_made_again_if_a_file_is_missing(name: str, tmp_path: Path):
    (new_store(tmp_path)[0].obtain(SPEC, Shards()).path / name).unlink()
    make, (store, said) = Shards(), new_store(tmp_path)
    assert all_members(store.obtain(SPEC, make, to_read=False)) == [0, 1, 2, 3, 4]
    assert (make.made, len(said.warnings)) == ([2] if name.startswith("shard") else [], 1)


@pytest.mark.parametrize("content", ["", '{"kind": "ensemble", "fi', "{}", "null", '{"files": null}', "\udcff"])
def test_a_broken_manifest_is_made_again_without_remaking_shards(content: str, tmp_path: Path):
    path = new_store(tmp_path)[0].obtain(SPEC, Shards()).path
    (path / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    make, (store, said) = Shards(), new_store(tmp_path)
    assert all_members(store.obtain(SPEC, make)) == [0, 1, 2, 3, 4]
    assert make.made == []
    assert "manifest.json" in said.warnings[0]


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove])
def test_damage_is_found_in_artifacts_that_are_verified_by_several_threads(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = new_store(tmp_path)[0].obtain(SPEC, Shards()).path
    monkeypatch.setattr("dmm_exp.store.store.LARGE", 0)
    assert new_store(tmp_path)[0].damaged_files(SPEC) == []
    damage(path / "shard-00002.safetensors")
    assert new_store(tmp_path)[0].damaged_files(SPEC) == ["shard-00002.safetensors"]


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove])
def test_a_damaged_file_is_made_again(damage: Callable[[Path], None], tmp_path: Path):
    make = OneFile()
    path = new_store(tmp_path)[0].obtain(SPEC, make).path
    damage(path / "effect.safetensors")
    store, said = new_store(tmp_path)
    torch.testing.assert_close(store.obtain(SPEC, make).tensors("effect")["effect"], torch.arange(100.0))
    assert make.calls == 2
    assert "effect.safetensors" in said.warnings[0]


def test_an_undamaged_artifact_is_not_warned_about(tmp_path: Path):
    new_store(tmp_path)[0].obtain(SPEC, Shards())
    store, said = new_store(tmp_path)
    store.obtain(SPEC, Shards())
    assert said.warnings == said.notes == []


# ---------------------------------------------------------------------- several processes


def make_slowly(root: Path, log: Path, barrier: Any, results: Any) -> None:
    """Ask for an artifact at the same moment as others do."""
    store, said = new_store(root)

    def make(draft: Draft) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        OneFile()(draft)

    barrier.wait(60)
    artifact = store.obtain(SPEC, make)
    results.put((artifact.cached, len(said.notes), artifact.json("facts")))


def test_two_processes_that_ask_at_once_make_it_once(processes: Any, tmp_path: Path):
    log, barrier, results = tmp_path / "log", processes.Barrier(2), processes.SimpleQueue()
    started = [
        processes.Process(target=make_slowly, args=(tmp_path / "artifacts", log, barrier, results)) for _ in range(2)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0]
    assert len(log.read_text().splitlines()) == 1
    outcomes = sorted(results.get() for _ in started)
    assert [cached for cached, _, _ in outcomes] == [False, True]
    assert [notes for _, notes, _ in outcomes] == [0, 1]
    assert all(facts == {"answer": 42} for _, _, facts in outcomes)


def make_shard_by_shard(root: Path, log: Path, pause: float) -> None:
    """Make an ensemble, noting every shard before its work begins."""

    def make(draft: Draft) -> None:
        for shard, (start, _) in enumerate(draft.layout([[shard, shard + 1] for shard in range(SHARDS)])):
            if draft.shard_facts(shard) is None:
                with log.open("a") as file:
                    file.write(f"{shard}\n")
                time.sleep(pause)
                draft.write_shard(shard, {"logits": logits_of(start)}, {"member": start})

    new_store(root)[0].obtain(SPEC, make)


def test_after_sigkill_at_most_one_shard_is_done_twice(processes: Any, tmp_path: Path):
    root, log = tmp_path / "artifacts", tmp_path / "log"
    process = processes.Process(target=make_shard_by_shard, args=(root, log, 0.2))
    process.start()
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    store, _ = new_store(root)
    assert store.find(SPEC) is None
    begun = len(log.read_text().splitlines())
    assert begun < SHARDS
    make_shard_by_shard(root, log, 0.0)
    attempts = [int(line) for line in log.read_text().splitlines()]
    assert set(attempts) == set(range(SHARDS))
    assert len(attempts) <= SHARDS + 1
    found = store.find(SPEC)
    assert found is not None
    assert all_members(found) == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------------- what is on disk


def make_everything(draft: Draft) -> None:
    draft.layout([[0, 1]])
    draft.write_shard(0, {"logits": logits_of(0)}, {"seconds": 1.5, "history": [2.0, 1.0]})
    draft.write_tensors("effect", {"effect": torch.randn(3, 4)})
    draft.write_table("scores", pd.DataFrame({"point": [0, 1], "memorization": [0.5, 0.25]}))
    draft.write_json("facts", {"é": [1, None, "x"]})


def test_what_was_written_is_what_is_read(tmp_path: Path):
    artifact = new_store(tmp_path)[0].obtain(SPEC, make_everything)
    assert artifact.table("scores").to_dict("list") == {"point": [0, 1], "memorization": [0.5, 0.25]}
    assert artifact.json("facts") == {"é": [1, None, "x"]}
    assert artifact.shard_facts() == [{"seconds": 1.5, "history": [2.0, 1.0]}]
    assert artifact.stacked_names() == ["logits"]


def test_nothing_on_disk_is_a_pickle(tmp_path: Path):
    new_store(tmp_path)[0].obtain(SPEC, make_everything)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert len(files) == 7
    assert {path.suffix for path in files} == NOT_PICKLE
    assert not any(path.read_bytes().startswith((b"\x80", b"PK")) for path in files)


def test_json_refuses_what_is_not_a_number(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Draft(tmp_path).write_json("facts", {"klom": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_says_where_the_artifact_comes_from(tmp_path: Path):
    artifact = new_store(tmp_path)[0].obtain(SPEC, make_everything)
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["kind"] == "ensemble"
    assert manifest["config"] == SPEC.config
    assert manifest["inputs"] == SPEC.inputs
    assert manifest["dmm_exp"] == dmm_exp.__version__
    assert manifest["packages"]["torch"] == torch.__version__
    assert manifest["device"]
    assert 0 < manifest["seconds"]["wall"] == artifact.seconds < 60
    assert 0 <= manifest["seconds"]["cpu"] < 60
    for name, expected in manifest["files"].items():
        assert hashlib.sha256((artifact.path / name).read_bytes()).hexdigest() == expected
    assert {*manifest["files"], "manifest.json"} == {path.name for path in artifact.path.iterdir()}


def test_the_manifest_names_the_commit_of_a_checkout(tmp_path: Path):
    manifest = new_store(tmp_path)[0].obtain(SPEC, OneFile()).manifest
    if not (Path(dmm_exp.__file__).parents[1] / ".git").exists():
        assert manifest["commit"] is None
        return
    commit = manifest["commit"].removesuffix("+dirty")
    assert len(commit) == 12
    assert set(commit) <= set("0123456789abcdef")


def test_a_file_is_read_for_its_checksum_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, reads = tmp_path / "file", []
    monkeypatch.setattr(files, "checksum", lambda path: reads.append(path) or checksum(path))
    path.write_bytes(b"one")
    first = files.checksum_once(path)
    assert files.checksum_once(path) == first
    assert len(reads) == 2, "a change a moment ago may be followed by one that leaves the same time"
    monkeypatch.setattr(files, "SETTLED", -1.0)
    assert files.checksum_once(path) == files.checksum_once(path) == first
    assert len(reads) == 3
    time.sleep(0.02)
    path.write_bytes(b"two")
    os.utime(path, (0, 0))
    assert files.checksum_once(path) == checksum(path) != first
