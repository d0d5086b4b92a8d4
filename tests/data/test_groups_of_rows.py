"""Columns that say from whom or where a row is: named in every format, no inputs, and beside their rows ever after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dataset_files import png
from PIL import Image

from dmm_exp.config.folders import config_directory
from dmm_exp.config.identity import run_name
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.preflight import check_overrides
from dmm_exp.data import Dataset, Decoding, Examples, LabelCorruption, Split
from dmm_exp.data.formats import ImageFolder, Npz, Table
from dmm_exp.data.formats.format import Format
from dmm_exp.data.groups import group_texts
from dmm_exp.errors import UserError
from dmm_exp.pipeline.context import content_of

ROWS, USERS = 60, 7
NUMBERS = np.arange(ROWS)  # in the inputs of every row, so that a row is recognised wherever it is
LABELS = NUMBERS % 2


def user(row: Any) -> str:
    return str(row % USERS + 10)


def write_table(folder: Path) -> Path:
    users = [user(row) for row in NUMBERS]
    pd.DataFrame({"user": users, "x": NUMBERS / 2, "label": LABELS}).to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def write_parquet(folder: Path) -> Path:
    users = [int(user(row)) for row in NUMBERS]
    pd.DataFrame({"x": NUMBERS / 2, "label": LABELS, "user": users}).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def write_npz(folder: Path) -> Path:
    users = np.array([int(user(row)) for row in NUMBERS])
    np.savez(folder / "rows.npz", x=NUMBERS[:, None] / 2, y=LABELS, user=users)
    return folder / "rows.npz"


def write_folder(folder: Path) -> Path:
    for row in NUMBERS:
        place = folder / "photos" / "ab"[LABELS[row]]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{user(row)}_{row:02d}.png").write_bytes(png(np.full((1, 2, 2), row, np.uint8)))
    return folder / "photos"


PATTERN = "(?P<user>[^/_]+)_"
KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[], Format]]] = {
    "text": (write_table, lambda: Table(group_by=["user"])),
    "parquet": (write_parquet, lambda: Table(group_by=["user"])),
    "npz": (write_npz, lambda: Npz(train=("x", "y"), test=None, group_by=["user"])),
    "folder": (write_folder, lambda: ImageFolder(group_by=PATTERN)),
}


def loaded(path: Path, form: Format, **settings: Any) -> Examples:
    decoding = Decoding(2, 1) if isinstance(form, ImageFolder) else None
    return Dataset({"one": form}, str(path), decoding=decoding, **{"split": Split(test=0.2), **settings}).load()


def rows_of(examples: Examples) -> list[int]:
    """Return the number that every training row was written with."""
    first = examples.inputs[: examples.n_train].flatten(1)[:, 0].float()
    return (first if examples.inputs.ndim == 4 else 2 * first).int().tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train_size": 20, "subset_seed": 3},
        {"split": Split(test=0.2, validation=0.25, unseen="validation", seed=5)},
        {"corruption": LabelCorruption(0.3)},
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_values_stay_beside_their_rows(kind: str, settings: dict[str, Any], tmp_path: Path):
    write, form = KINDS[kind]
    examples = loaded(write(tmp_path), form(), **settings)
    rows = rows_of(examples)
    assert len(set(rows)) == examples.n_train
    assert examples.columns == {"user": [user(row) for row in rows]}
    assert f"groups of training rows: 'user' ({len(set(map(user, rows)))} values)" in examples.taken


@pytest.mark.parametrize("kind", KINDS)
def test_groups_change_nothing_else(kind: str, tmp_path: Path):
    write, form = KINDS[kind]
    path, grouped = write(tmp_path), form()
    changes = {"leave_out": ["user"], "group_by": None} if isinstance(grouped, Table) else {"group_by": None}
    one, other = loaded(path, grouped), loaded(path, type(grouped)(**{**vars(grouped), **changes}))
    assert content_of(one) == content_of(other)
    assert (one.normalisation, one.class_names, one.names) == (other.normalisation, other.class_names, other.names)
    assert other.columns == {}


# ---------------------------------------------------------------------- tables


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({**columns, "x": NUMBERS / 2, "label": LABELS})


def values_in(path: Path, **settings: Any) -> list[str]:
    """Return the different values of a table's users, without a split."""
    part = Table(group_by=["user"], **settings).read(path).parts["train"]
    return sorted(set(part.columns["user"]))


@pytest.mark.parametrize("options", [{}, {"sep": ";", "decimal": ","}, {"sep": "\t", "encoding": "utf-16"}])
def test_values_of_a_text_are_as_they_are_written(options: dict[str, Any], tmp_path: Path):
    written = ["17", "017", "17.50", "1e3", "1_000", "true", "NA", "Müller, A.", "9007199254740993", ""]
    table = frame(user=[written[row % len(written)] for row in NUMBERS])
    table.to_csv(tmp_path / "rows.csv", index=False, **options)
    assert values_in(tmp_path / "rows.csv") == sorted(written)


def test_numbers_beside_missing_ones_stay_whole(tmp_path: Path):
    """pandas alone would make 17.0 of them, and one user of two large numbers."""
    users = [[2**60, 2**60 + 1, 17, None][row % 4] for row in NUMBERS]
    frame(user=pd.array(users, "Int64")).to_csv(tmp_path / "rows.csv", index=False)
    frame(user=pd.array(users, "Int64")).to_parquet(tmp_path / "rows.parquet")
    frame(user=[17.0 if row % 2 else np.nan for row in NUMBERS]).to_parquet(tmp_path / "floats.parquet")
    expected = sorted(["", "17", str(2**60), str(2**60 + 1)])
    assert values_in(tmp_path / "rows.csv") == expected
    assert values_in(tmp_path / "rows.parquet") == expected
    assert values_in(tmp_path / "floats.parquet") == ["", "17"]


def test_spaces_around_a_value_and_its_unicode_form_make_no_other_group(tmp_path: Path):
    table = frame(user=[["ame\u0301lie", " am\u00e9lie", "am\u00e9lie "][row % 3] for row in NUMBERS])
    table.to_csv(tmp_path / "rows.csv", index=False)
    assert values_in(tmp_path / "rows.csv") == ["am\u00e9lie"]


def test_a_column_of_groups_is_no_input_whatever_it_holds(tmp_path: Path):
    """Else it would be refused: it numbers the rows, or reveals the labels, or holds dates."""
    more = {"number": NUMBERS, "copy": LABELS, "date": [f"2024-01-{row % 9 + 1:02d}" for row in NUMBERS]}
    frame(**more).to_csv(tmp_path / "rows.csv", index=False)
    examples = loaded(tmp_path / "rows.csv", Table(group_by=list(more)))
    assert examples.input_shape == (1,)
    assert examples.columns["copy"] == [str(label) for label in examples.labels[: examples.n_train].tolist()]
    assert "groups of training rows: 'number' (48 values), 'copy' (2 values), 'date' (9 values)" in examples.taken


@pytest.mark.parametrize("has_users", [True, False])
def test_a_test_part_needs_no_groups(has_users: bool, tmp_path: Path):
    table = frame(user=[user(row) for row in NUMBERS])
    table.to_csv(tmp_path / "train.csv", index=False)
    (table if has_users else table.drop(columns="user"))[:10].to_csv(tmp_path / "test.csv", index=False)
    examples = loaded(tmp_path, Table(group_by=["user"]), split=Split())
    assert (examples.n_train, examples.n_points) == (ROWS, ROWS + 10)
    assert examples.columns["user"] == [user(row) for row in NUMBERS]


# ---------------------------------------------------------------------- arrays and names of files


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([17, 5], np.int8), ["17", "5"]),
        (np.array([17.0, 17.5]), ["17", "17.5"]),
        (np.array(["u17", " u5"]), ["u17", "u5"]),
        (np.array([b"u17", b"u5"]), ["u17", "u5"]),
        (np.array([[17], [5]]), ["17", "5"]),
        (np.array([True, False]), ["True", "False"]),
    ],
)
def test_arrays_of_numbers_and_of_texts_are_groups(values: np.ndarray, expected: list[str], tmp_path: Path):
    np.savez(tmp_path / "rows.npz", x=NUMBERS[:, None] / 2, y=LABELS, user=np.concatenate([values] * (ROWS // 2)))
    part = Npz(train=("x", "y"), test=None, group_by=["user"]).read(tmp_path / "rows.npz").parts["train"]
    assert part.columns["user"] == expected * (ROWS // 2)


def test_a_pattern_names_several_columns_and_sees_the_whole_path(tmp_path: Path):
    for name in ("cat/anna_1/2024 a.png", "cat/ben_2/2025 b.png", "dog/anna_1/2025 c.png", "dog/anna_1/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / name)
    part = ImageFolder(group_by=r"/(?P<user>\w+)_\d/(?P<year>\d{4})?").read(tmp_path).parts["train"]
    assert part.columns == {"user": ["anna", "ben", "anna", "anna"], "year": ["2024", "2025", "2025", ""]}


def test_test_images_are_of_no_group(tmp_path: Path):
    for name in ("train/a/u1_1.png", "train/b/u2_1.png", "test/a/1.png", "test/b/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / name)
    assert loaded(tmp_path, ImageFolder(group_by=PATTERN), split=Split()).columns == {"user": ["u1", "u2"]}


# ---------------------------------------------------------------------- what is refused


def test_a_value_that_is_a_list_is_refused():
    with pytest.raises(UserError, match=r"column 'user' holds values such as \[1, 2\]; expected a number or a text"):
        group_texts([[1, 2]], "column 'user'")


@pytest.mark.parametrize(
    ("kind", "form", "message"),
    [
        ("text", lambda: Table(group_by=["users"]), r"table\.group_by: .* has no column 'users', .*mean 'user'"),
        ("text", lambda: Table(group_by=["label"]), r"table\.group_by: 'label' is the label or in .*keep"),
        ("text", lambda: Table(group_by=["x"], keep=["x"]), r"table\.group_by: 'x' is the label or in .*keep"),
        ("text", lambda: Table(group_by=["user", "x"]), "has no column besides 'label' and those left out"),
        ("npz", lambda: Npz(("x", "y"), None, group_by=["users"]), r"npz\.group_by=\['users'\]: .* no array 'users'"),
        (
            "npz",
            lambda: Npz(("x", "y"), None, group_by=["short"]),
            r"'short' of .* is int64 \[3\]; .* each of 60 training",
        ),
        ("folder", lambda: ImageFolder(group_by="(?P<user>[a-z]+_)"), r"does not match 'a/10_00\.png' \(60 of 60"),
        ("folder", lambda: ImageFolder(group_by="(?P<user>1[0-5])_"), r"does not match 'a/16_06\.png' \(8 of 60"),
        ("folder", lambda: ImageFolder(group_by="[^_]+_"), r"folder\.group_by=\[\^_\]\+_: expected a part with a name"),
        ("folder", lambda: ImageFolder(group_by="(?P<user"), r"folder\.group_by=.*: is no regular expression"),
    ],
)
def test_groups_that_are_not_there_are_refused(kind: str, form: Callable[[], Format], message: str, tmp_path: Path):
    path = KINDS[kind][0](tmp_path)
    if kind == "npz":
        with np.load(path) as archive:
            np.savez(path, **archive, short=np.arange(3))
    with pytest.raises(UserError, match=message):
        loaded(path, form())


# ---------------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    ("dataset", "text", "value"),
    [("table", "[user]", ["user"]), ("npz", "[user]", ["user"]), ("folder", f'"{PATTERN}"', PATTERN)],
)
def test_groups_are_keys_of_their_format_and_part_of_a_run_s_name(dataset: str, text: str, value: Any):
    choice = [f"dataset={dataset}", "dataset.path=somewhere"]
    more = f"dataset.formats.{dataset}.group_by={text}"
    configs = [check_overrides(config_directory(), words)[0] for words in (choice, [*choice, more])]
    forms = [instantiate(config.dataset, "dataset").formats[dataset] for config in configs]
    assert [form.group_by for form in forms] == [None, value]
    assert run_name(configs[0], {}) != run_name(configs[1], {})
