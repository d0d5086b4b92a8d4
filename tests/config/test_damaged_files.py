"""Configuration and records that somebody else wrote: what is damaged is one sentence that names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from dmm_exp.commands.compare import compare_runs
from dmm_exp.config.convex import ConvexConfig, settings_of
from dmm_exp.config.folders import config_directory
from dmm_exp.config.loading import YAML_BYTES
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.schema import register
from dmm_exp.errors import UserError
from dmm_exp.files.writing import checksum
from dmm_exp.records import files
from dmm_exp.records.chain import CHAIN
from dmm_exp.records.chain_reading import read
from dmm_exp.records.files import CHECKPOINT, FORMAT, RECORD
from dmm_exp.records.signature import public_key
from dmm_exp.runs.batch import _recorded
from dmm_exp.store.lock import holder_in
from dmm_exp.store.manifest import sealed

TEXTS = ["# @pa\nseed: 1\n", "# @package a b c\n", "a: " + "[" * 5000, "- 1\n", "3\n", "1: 2\n", "? [1, 2]\n: 3\n"]


@pytest.mark.parametrize("text", TEXTS)
def test_an_odd_configuration_file_is_read_or_refused(text: str, tmp_path: Path):
    register()
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(text)
    with suppress(UserError):  # some texts are configuration
        check_overrides(config_directory(), ["experiment=own"], [str(tmp_path)])


@pytest.mark.parametrize("different", [3, float("nan"), "text", [1], True, 0, ""])
def test_a_convex_setting_without_keys_is_refused(different: object):
    with pytest.raises(UserError, match=r"convex\.settings\.own="):
        settings_of(ConvexConfig(settings={"own": different}))


def written_record(folder: Path, **changes: object) -> Path:
    (folder / CHECKPOINT).write_bytes(b"numbers")
    network = {"file": CHECKPOINT, "sha256": checksum(folder / CHECKPOINT)}
    whole = {"format": FORMAT, "when": "now", "removed": {"rows": 1}, "network": network, "signed_by": None}
    (folder / RECORD).write_text(json.dumps(sealed({**whole, **changes})))
    return folder


def test_a_record_has_what_is_read_of_it(tmp_path: Path):
    assert files.read(written_record(tmp_path))["removed"] == {"rows": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"network": None},
        {"network": {}},
        {"network": {"file": "../x", "sha256": "0"}},
        {"network": {"file": "..", "sha256": "0"}},
        {"network": {"file": "a\0b", "sha256": "0"}},
        {"network": {"file": [1], "sha256": "0"}},
        {"network": {"file": CHECKPOINT, "sha256": None}},
        {"removed": [1]},
        {"removed": {"rows": "1"}},
        {"when": {}},
    ],
)
def test_a_sealed_record_with_something_else_in_a_place_is_refused(changes: dict[str, object], tmp_path: Path):
    with pytest.raises(UserError, match="lacks what a record holds"):
        files.read(written_record(tmp_path, **changes))


READERS: list[tuple[str, Callable[[Path], object]]] = [
    (RECORD, lambda path: files.read(path)),
    (CHAIN, lambda path: read(path.parent)),
    ("key.pub", lambda path: public_key(path)),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("name", "reader"), READERS)
def test_a_pipe_is_not_waited_for_and_a_device_is_not_read(name: str, reader: Callable[[Path], object], tmp_path: Path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError):
        reader(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(UserError):
        reader(tmp_path / name)


@pytest.mark.parametrize(("name", "reader"), READERS)
def test_what_is_nested_deeply_is_refused(name: str, reader: Callable[[Path], object], tmp_path: Path):
    (tmp_path / name).write_text("[" * 200_000)
    with pytest.raises(UserError):
        reader(tmp_path / name)


@pytest.mark.parametrize("text", ["[1]", "{", '{"dataset": [1]}', "[" * 200_000])
def test_damaged_choices_of_a_run_are_refused(text: str, tmp_path: Path):
    (tmp_path / "choices.json").write_text(text)
    with pytest.raises(UserError, match="choices of a run"):
        _recorded(tmp_path / "choices.json")


def test_a_run_whose_choices_are_no_names_is_left_out(tmp_path: Path):
    choices = {"dataset": "digits", "model": "mlp", "forget": "random", "unlearner": ["dmm"], "refinement": "none"}
    files = {"status": {"state": "finished"}, "choices": choices, "metrics": {"tow": 0.5}, "forget": [1]}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(UserError, match="choices that are no names"):
        compare_runs([str(tmp_path)])


def test_a_deeply_nested_lock_names_no_holder():
    assert holder_in("[" * 200_000) == {}


def test_a_large_configuration_file_is_no_file_to_look_at(tmp_path: Path):
    register()
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "large.yaml").write_bytes(b"#" * (YAML_BYTES + 1))
    (tmp_path / "experiment" / "own.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(UserError, match=r"own\.yaml: is no UTF-8"):
        check_overrides(config_directory(), ["experiment=own"], [str(tmp_path)])
