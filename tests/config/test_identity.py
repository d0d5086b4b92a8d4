"""Files count by what is in them, not by where they are."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from dmm_exp.compare.runs import read_run
from dmm_exp.config.folders import config_directory
from dmm_exp.config.identity import contents, many_runs_digest, run_name
from dmm_exp.config.preflight import check_overrides
from dmm_exp.search.search import _records

SMALL = [
    "experiment=quick", "n_models=2", "pool.size=12", "pool.held_out=2", "pool.larger.size=0", "training.epochs=1",
    "training.batch_size=512", "logger=none", "executor=local", "evaluation.report=false",
]  # fmt: skip


def composed(*overrides):
    (config,) = check_overrides(config_directory(), overrides)
    return config


def name(*overrides):
    return run_name(composed(*overrides), {})


def write_groups(path, text):
    path.write_text(json.dumps({text: ["a", "b"]}))


def write_folder(path, text):
    (path / "class").mkdir(parents=True, exist_ok=True)
    (path / "class" / "image.png").write_bytes(text.encode())


WAYS = {
    "rows": (lambda path, text: path.write_text(text), ".csv", ["forget=indices", "forget.indices={}"]),
    "groups": (write_groups, ".json", ["dataset=folder", "dataset.formats.folder.groups={}"]),
    "table": (lambda path, text: path.write_text(text), ".csv", ["dataset=table", "dataset.path={}"]),
    "arrays": (lambda path, text: path.write_bytes(text.encode()), ".npz", ["dataset=npz", "dataset.path={}"]),
    "images": (write_folder, "", ["dataset=folder", "dataset.path={}"]),
    "a selector of one's own": (
        lambda path, text: path.write_text(text),
        ".txt",
        ["forget._target_=mine.Chosen", "forget.file={}"],
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_named_by_the_content_of_its_files(tmp_path, way):
    write, ending, overrides = WAYS[way]
    first, second = tmp_path / f"first{ending}", tmp_path / f"second{ending}"

    def name_with(path):
        return name(*(text.format(path) for text in overrides))

    write(first, "1\n2\n")
    write(second, "1\n2\n")
    before = name_with(first)
    assert name_with(second) == before
    write(second, "1\n2\n3\n")
    assert name_with(second) != before
    assert name_with(first) == before


def test_results_and_hidden_files_in_a_folder_of_data_do_not_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path, "pixels")
    before = name("dataset=folder", "dataset.path=.")
    write_folder(tmp_path / "outputs" / "runs", "result")
    write_folder(tmp_path / ".cache", "thumbnail")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    assert contents(composed("dataset=folder", "dataset.path=."))
    (tmp_path / "nowhere").unlink()
    assert name("dataset=folder", "dataset.path=.") == before


def test_a_large_folder_is_read_under_a_bar_and_counts_the_same(tmp_path, monkeypatch):
    write_folder(tmp_path / "data", "pixels")
    before, shown = name("dataset=folder", f"dataset.path={tmp_path / 'data'}"), []
    monkeypatch.setattr("dmm_exp.config.identity.MANY", 1)
    monkeypatch.setattr("rich.progress.track", lambda items, text, **_: shown.append(text) or items)
    assert name("dataset=folder", f"dataset.path={tmp_path / 'data'}") == before
    assert shown
    assert set(shown) == {f"reading {tmp_path / 'data'}"}


def test_a_file_that_is_not_there_counts_by_its_name():
    names = {name("forget=indices", f"forget.indices={file}") for file in ("a.csv", "b.csv")}
    assert len(names) == 2
    assert contents(composed("forget=indices", "forget.indices=a.csv")) == {}


def test_words_of_the_configuration_are_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = name()
    for word in ("high", "memorization", "numpy", "torch.optim.SGD"):
        (tmp_path / word).write_text("")
    assert contents(composed()) == {}
    assert name() == before


def test_many_runs_are_named_by_their_overrides_and_the_content_of_their_files(tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("1\n")
    plain, reading = composed("seed=1"), composed("forget=indices", f"forget.indices={rows}")
    assert many_runs_digest([(["a"], plain)]) != many_runs_digest([(["b"], plain)])
    before = many_runs_digest([(["a"], reading)])
    assert many_runs_digest([(["b"], reading)]) == before
    rows.write_text("2\n")
    assert many_runs_digest([(["a"], reading)]) != before


def test_trials_of_a_search_are_remembered_by_the_content_of_the_sets_they_saw(tmp_path):
    rows = tmp_path / "rows.csv"
    tuning = {"mine": {"_target_": "dmm_exp.forget.Indices", "indices": str(rows)}}
    places = set()
    for text in ("1\n", "2\n", "1\n"):
        rows.write_text(text)
        places.add(_records(composed(), "scrub", tuning))
    assert len(places) == 2


STUDY = """# @package _global_
defaults:
  - override /job: study
study:
  title: Rows
  tables:
    table:
      rows: {nothing: unlearner=do_nothing}
      columns: {mine: forget=indices forget.indices=rows.csv}
"""


@pytest.fixture
def study(command, tmp_path):
    """Return a function that does a study over a file of rows, and gives its folder and some of its numbers."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "rows.yaml").write_text(STUDY)

    def do(rows, *more):
        (tmp_path / "rows.csv").write_text("\n".join(map(str, rows)))
        done = command("--config-dir", "conf", "experiment=rows", *SMALL[1:], *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.splitlines()[-1])
        (row,) = csv.DictReader((folder / "cells.csv").open())
        return folder, {key: float(row[key]) for key in ("tow", "accuracy/unlearned/forget")}, done.stderr

    return do


def test_a_study_over_an_edited_file_shows_the_new_numbers(study):
    folder, found, _ = study(range(1, 41))
    other, changed, _ = study(range(700, 705))
    assert other != folder
    assert changed != found
    again, same, said = study(range(1, 41))
    assert (again, same) == (folder, found)
    assert "computed" not in said


def test_a_run_keeps_what_its_files_held_for_comparison(command, tmp_path):
    (tmp_path / "rows.csv").write_text("\n".join(map(str, range(1, 41))))
    shutil.copy(tmp_path / "rows.csv", tmp_path / "copy.csv")
    words = [*SMALL, "unlearner=do_nothing", "forget=indices"]
    folders = [
        Path(command(*words, f"forget.indices={file}", *more, cwd=tmp_path).stdout.splitlines()[-1])
        for file, more in (("rows.csv", []), ("copy.csv", []), ("copy.csv", ["seed=1"]))
    ]
    assert folders[0] == folders[1] != folders[2]
    first, other = read_run(folders[1]), read_run(folders[2])
    assert list(first.contents) == ["forget.indices"]
    assert first.setting == other.setting
