"""A store that a stranger has written: computed again, and nothing outside it is deleted, written or read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from said import Said

from dmm_exp.errors import UserError
from dmm_exp.files.reading import plain_name
from dmm_exp.files.writing import checksum, rows_at, write_json, write_tensors
from dmm_exp.store import Artifact, Draft, Spec, Store
from dmm_exp.store.manifest import MANIFEST, SEAL, read_manifest, sealed

SPEC = Spec("effect", {"seed": 0}, {"dataset": "d" * 64})


def make(draft: Draft) -> None:
    for shard, (start, stop) in enumerate(draft.layout([[0, 2], [2, 4]])):
        if draft.shard_facts(shard) is None:
            draft.write_shard(shard, {"logits": torch.zeros(stop - start, 3)}, {"history": [0.5]})
    draft.write_json("facts", {"n": 1})
    draft.write_table("scores", pd.DataFrame({"point": [0]}))


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return Store(tmp_path / "store", Said()).obtain(SPEC, make)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Return a file outside the store that has to stay as it is."""
    path = tmp_path / "outside" / "precious.txt"
    path.parent.mkdir()
    path.write_text("mine")
    return path


def again(root: Path) -> tuple[Artifact, list[str]]:
    said = Said()
    return Store(root, said).obtain(SPEC, make), said.warnings


def rewritten(artifact: Artifact, **changes: Any) -> None:
    """Change a manifest, and seal it as a stranger can."""
    manifest = {key: value for key, value in artifact.manifest.items() if key != SEAL}
    (artifact.path / MANIFEST).write_text(json.dumps(sealed({**manifest, **changes})))


# ---------------------------------------------------------------------- names


def escapes(victim: Path) -> list[str]:
    return [str(victim), "../../../outside/precious.txt", f"../{victim.name}", "a/../b", "x\\y", "..", ".", "", "a\0b"]


def test_names_in_a_manifest_delete_nothing_elsewhere(artifact: Artifact, victim: Path):
    files = artifact.manifest["files"]
    for name in escapes(victim):
        rewritten(artifact, files={**files, name: "0" * 64})
        with pytest.raises(ValueError, match="'files'"):
            read_manifest(artifact.path)
        found, warnings = again(artifact.path.parents[1])
        assert [MANIFEST in text for text in warnings] == [True]
        assert found.manifest["files"].keys() == files.keys()
    assert victim.read_text() == "mine"


PATHS = ["/a", "../a", "a/b", "a\\b", "..", ".", "", "C:a"]
OBEYED = ["a\n", "a\x1b[2J", "\x7f", "\u0085", "\ud800"]
SPECIAL = [".a", "a ", "a.", "con", "NUL.txt", "a" * 256, None, 3, ["a"]]


@pytest.mark.parametrize("name", [*PATHS, *OBEYED, *SPECIAL])
def test_a_plain_name_is_one_of_a_file_directly_in_a_folder(name: object):
    assert not plain_name(name)


@pytest.mark.parametrize("name", ["shard-00000.safetensors", "a b", "é", "名", "a..b", "_a", "con1"])
def test_ordinary_names_are_plain(name: str):
    assert plain_name(name)


# ---------------------------------------------------------------------- seals and kinds


def test_a_manifest_without_its_seal_is_computed_again(artifact: Artifact):
    manifest = {key: value for key, value in artifact.manifest.items() if key != SEAL}
    (artifact.path / MANIFEST).write_text(json.dumps(manifest))
    assert Store(artifact.path.parents[1], Said()).find(SPEC) is None
    found, warnings = again(artifact.path.parents[1])
    assert SEAL in found.manifest
    assert len(warnings) == 1


def test_a_receipt_without_its_seal_does_not_count(artifact: Artifact):
    draft = Draft(artifact.path)
    path = artifact.path / "shard-00000.json"
    receipt = json.loads(path.read_text())
    del receipt[SEAL]
    path.write_text(json.dumps(receipt))
    assert draft.shard_facts(0) is None
    assert draft.shard_facts(1) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"files": ["a"]},
        {"files": {"facts.json": 3}},
        {"files": {MANIFEST: "0" * 64}},
        {"seconds": {"wall": "long", "cpu": 0.0}},
        {"seconds": None},
        {"inputs": {"dataset": ["d"]}},
        {"inputs": None},
        {"config": []},
        {"families": 3},
        {"taken_over": {"x": "many"}},
        {"kind": "../../etc"},
        {"kind": 3},
        {"commit": []},
        {"device": None},
        {"format": "one"},
    ],
)
def test_a_sealed_manifest_of_other_kinds_of_values_is_computed_again(changes: dict, artifact: Artifact):
    rewritten(artifact, **changes)
    assert Store(artifact.path.parents[1], Said()).relative(Spec("effect", {"seed": 0, "members": 2})) is None
    _, warnings = again(artifact.path.parents[1])
    assert len(warnings) == 1


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("content", [DEEP, '{"a":' * 10_000, "\xff", "nul", "1e999", '{"a": "\\ud800"}', "9" * 9999])
@pytest.mark.parametrize("name", [MANIFEST, "layout.json", "shard-00000.json"])
def test_records_that_no_reader_expects_are_computed_again(name: str, content: str, artifact: Artifact):
    (artifact.path / name).write_text(content, encoding="latin-1")
    _, warnings = again(artifact.path.parents[1])
    assert len(warnings) == 1


def test_a_record_too_large_to_be_read_is_computed_again(artifact: Artifact):
    with (artifact.path / MANIFEST).open("wb") as file:
        file.truncate(1 << 40)
    _, warnings = again(artifact.path.parents[1])
    assert len(warnings) == 1


def with_content(artifact: Artifact, name: str, content: bytes) -> Artifact:
    """Return the artifact as a stranger can write it: with this content, its checksum, and a seal."""
    (artifact.path / name).write_bytes(content)
    files = {**artifact.manifest["files"], name: checksum(artifact.path / name)}
    rewritten(artifact, files=files)
    found = Store(artifact.path.parents[1], Said()).find(SPEC)
    assert found is not None
    return found


HUGE_HEADER = (1 << 62).to_bytes(8, "little") + b"{}"


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("facts.json", DEEP.encode(), lambda found: found.json("facts")),
        ("facts.json", b"no json", lambda found: found.json("facts")),
        ("scores.parquet", b"PAR1 no parquet PAR1", lambda found: found.table("scores")),
        ("shard-00000.safetensors", HUGE_HEADER, lambda found: found.stacked("logits")),
        ("shard-00000.safetensors", HUGE_HEADER, lambda found: found.stacked_names()),
        ("shard-00000.safetensors", b"", lambda found: found.rows("logits", 0, 1)),
        ("shard-00000.safetensors", HUGE_HEADER, lambda found: found.lazy("logits")),
        ("shard-00000.json", b"{}", lambda found: found.shard_facts()),
        ("layout.json", b'[["a", "b"]]', lambda found: found.lazy("logits")),
    ],
)
def test_whole_files_that_are_something_else_are_one_sentence(
    name: str, content: bytes, read: Callable[[Artifact], object], artifact: Artifact
):
    found = with_content(artifact, name, content)
    with pytest.raises(UserError, match=r"cannot be read.*remove this folder"):
        read(found)


@pytest.mark.parametrize("content", [HUGE_HEADER, b"", b"x", (2).to_bytes(8, "little") + b"{}", b"\1" + bytes(7)])
def test_the_place_of_rows_is_read_from_whole_files_alone(content: bytes, tmp_path: Path):
    write_tensors(tmp_path / "x.safetensors", {"inputs": torch.arange(12.0).reshape(3, 4), "labels": torch.arange(3)})
    start, size = rows_at(tmp_path / "x.safetensors", "inputs")
    there = (tmp_path / "x.safetensors").read_bytes()[start + 2 * size : start + 3 * size]
    assert np.frombuffer(there, np.float32).tolist() == [8, 9, 10, 11]
    (tmp_path / "y.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"header|value"):
        rows_at(tmp_path / "y.safetensors", "inputs")


# ---------------------------------------------------------------------- links, pipes, and folders named like files


def test_a_file_that_is_a_link_does_not_count_and_is_replaced(artifact: Artifact, victim: Path):
    file = artifact.path / "facts.json"
    content = file.read_bytes()
    victim.write_bytes(content)  # even where the checksum is right
    file.unlink()
    file.symlink_to(victim)
    _, warnings = again(artifact.path.parents[1])
    assert ["facts.json" in text for text in warnings] == [True]
    assert not file.is_symlink()
    assert victim.read_bytes() == content


@pytest.mark.parametrize("name", ["facts.json", MANIFEST, "shard-00001.safetensors", "layout.json"])
@pytest.mark.parametrize("make_other", [Path.mkdir, os.mkfifo])
def test_a_folder_or_pipe_named_like_a_file_is_replaced(
    name: str, make_other: Callable[[Path], None], artifact: Artifact
):
    (artifact.path / name).unlink()
    make_other(artifact.path / name)
    _, warnings = again(artifact.path.parents[1])
    assert len(warnings) == 1
    assert (artifact.path / name).is_file()


@pytest.mark.parametrize("partial", [False, True])
def test_an_artifact_that_is_a_link_to_a_folder_is_not_followed(partial: bool, artifact: Artifact, victim: Path):
    there = victim.parent
    shutil.copytree(artifact.path, there, dirs_exist_ok=True)
    (there / ".precious.tmp").write_text("mine")
    (there / "shard-00007.json").write_text("mine")
    before = {path: path.read_bytes() for path in there.iterdir()}
    place = artifact.path.with_name(artifact.path.name + ".partial") if partial else artifact.path
    shutil.rmtree(artifact.path)
    place.symlink_to(there)
    found, warnings = again(artifact.path.parents[1])
    assert ["is a link or a file" in text for text in warnings] == [True]
    assert not found.path.is_symlink()
    assert {path: path.read_bytes() for path in there.iterdir()} == before


def test_an_artifact_that_is_a_file_is_replaced(artifact: Artifact):
    shutil.rmtree(artifact.path)
    artifact.path.write_text("a file")
    found, warnings = again(artifact.path.parents[1])
    assert found.json("facts") == {"n": 1}
    assert len(warnings) == 1


def test_unfinished_work_with_links_folders_and_other_files_is_cleared_of_them(artifact: Artifact, victim: Path):
    partial = artifact.path.with_name(artifact.path.name + ".partial")
    artifact.path.rename(partial)
    (partial / "shard-00000.safetensors").unlink()
    (partial / "shard-00000.safetensors").symlink_to(victim)
    (partial / "link").symlink_to(victim.parent)
    (partial / "folder").mkdir()
    (partial / "folder" / "link").symlink_to(victim)
    (partial / "shard-99999.json").write_text("damaged")
    (partial / ".hidden").write_text("")
    (partial / "esc\x1b[2J").write_text("")
    found, warnings = again(artifact.path.parents[1])
    assert warnings == []
    names = sorted(path.name for path in found.path.iterdir())
    assert names == sorted([*found.manifest["files"], MANIFEST])
    assert not {"link", "folder", ".hidden"} & set(names)
    assert victim.read_text() == "mine"


def test_a_link_left_where_a_temporary_file_is_written_is_not_followed(victim: Path, tmp_path: Path):
    (tmp_path / f".a.json.{os.getpid()}.tmp").symlink_to(victim)
    write_json(tmp_path / "a.json", {})
    assert victim.read_text() == "mine"
    assert json.loads((tmp_path / "a.json").read_text()) == {}


def test_discarding_an_artifact_follows_no_link(artifact: Artifact, victim: Path):
    (victim.parent / MANIFEST).write_text("mine")
    shutil.rmtree(artifact.path)
    artifact.path.symlink_to(victim.parent)
    Store(artifact.path.parents[1], Said()).discard(artifact)
    assert victim.exists()
    assert (victim.parent / MANIFEST).read_text() == "mine"
