"""Temporary folders: removed by their makers, and by the next process when their makers were killed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from processes import gone

from dmm_exp.store import lock, temporary
from dmm_exp.store.lock import ourselves
from dmm_exp.store.temporary import HOLDER, PREFIX, sweep, temporary_folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(temporary.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


def left(folder: Path, **facts: object) -> Path:
    """Leave a folder with something in it of a process that differs from this one in some facts."""
    folder.mkdir()
    (folder / "rows").write_bytes(b"private")
    (folder / HOLDER).write_text(json.dumps({**ourselves(), **facts}))
    return folder


def test_a_temporary_folder_is_there_while_it_is_used(here: Path):
    with temporary_folder() as folder:
        assert folder.parent == here
        assert folder.name.startswith(PREFIX)
        assert sweep() == []
        assert folder.is_dir()
    assert list(here.iterdir()) == []


def test_an_interruption_removes_it(here: Path):
    with pytest.raises(KeyboardInterrupt), temporary_folder():
        raise KeyboardInterrupt
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("facts", [{"pid": gone}, {"birth": "1"}, {"boot": "0" * 36 + "pid:[1]"}])
def test_what_a_killed_process_left_is_removed_by_the_next(here: Path, facts: dict):
    left(here / f"{PREFIX}a", **{name: value() if callable(value) else value for name, value in facts.items()})
    with temporary_folder() as folder:
        assert list(here.iterdir()) == [folder]


def test_a_killed_process_leaves_a_folder_that_the_next_one_removes(here: Path):
    child = os.fork()
    if not child:
        with temporary_folder():
            os._exit(9)
    os.waitpid(child, 0)
    assert len(list(here.iterdir())) == 1
    assert len(sweep()) == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("facts", [{"host": "elsewhere", "pid": 1}, {"boot": "other numbering"}, {}])
def test_what_may_be_in_use_is_left_alone(here: Path, facts: dict, monkeypatch: pytest.MonkeyPatch):
    if "boot" in facts:
        facts = {"boot": lock._boot()[: lock.BOOT] + "pid:[another]", "pid": gone()}
    folder = left(here / f"{PREFIX}a", **facts)
    assert sweep() == []
    assert (folder / "rows").exists()


def test_other_names_links_and_files_are_left_alone(here: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = left(tmp_path_factory.mktemp("other") / "data", pid=gone())
    left(here / "somebody_else", pid=gone())
    (here / f"{PREFIX}link").symlink_to(elsewhere)
    (here / f"{PREFIX}file").write_text("")
    marked_by_link = here / f"{PREFIX}marked"
    marked_by_link.mkdir()
    (marked_by_link / HOLDER).symlink_to(elsewhere / HOLDER)
    before = sorted(here.iterdir())
    assert sweep() == []
    assert sorted(here.iterdir()) == before
    assert (elsewhere / "rows").exists()


def test_a_link_inside_is_removed_and_not_followed(here: Path, tmp_path_factory: pytest.TempPathFactory):
    kept = tmp_path_factory.mktemp("other")
    (kept / "data").write_text("kept")
    (left(here / f"{PREFIX}a", pid=gone()) / "link").symlink_to(kept)
    assert len(sweep()) == 1
    assert (kept / "data").exists()


def test_folders_of_other_users_are_left_alone(here: Path, monkeypatch: pytest.MonkeyPatch):
    left(here / f"{PREFIX}a", pid=gone())
    monkeypatch.setattr(temporary.os, "getuid", lambda: os.geteuid() + 1)
    assert sweep() == []


@pytest.mark.parametrize("content", ["", "null", "[]", '{"host": 1}', "\ud800", "half a li"])
def test_a_folder_that_does_not_say_whose_it_is_is_left_alone(here: Path, content: str):
    folder = left(here / f"{PREFIX}a")
    (folder / HOLDER).write_text(content, errors="surrogatepass")
    assert sweep() == []


def test_an_empty_folder_without_a_holder_is_removed_when_it_is_old(here: Path):
    folder = here / f"{PREFIX}a"
    folder.mkdir()
    assert sweep() == []
    old = time.time() - 2 * temporary.YOUNG
    os.utime(folder, (old, old))
    assert sweep() == [folder]


def test_a_place_that_cannot_be_read_holds_nothing(tmp_path: Path):
    assert sweep(tmp_path / "nowhere") == []
