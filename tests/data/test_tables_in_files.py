"""Tables as people have them: text files of many makes, columns that are no inputs, words, and labels."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dmm_exp.config.identity import run_name
from dmm_exp.config.schema import Config, PathsConfig
from dmm_exp.data import Dataset, Examples, Split
from dmm_exp.data.formats import Table, delimited
from dmm_exp.errors import UserError

ROWS = 30
X, Z = [np.random.default_rng(seed).normal(size=ROWS).round(3) for seed in (1, 2)]


def frame(**more: Any) -> pd.DataFrame:
    """Return two columns of numbers, sorted labels of three classes, and more columns before them."""
    return pd.DataFrame({**more, "x": X, "z": Z, "label": np.repeat(["a", "b", "c"], ROWS // 3)})


def load(path: Path, **settings: Any) -> Examples:
    return Dataset({"table": Table(**settings)}, str(path), split=Split(test=0.2)).load()


def loaded(table: pd.DataFrame, folder: Path, **settings: Any) -> Examples:
    table.to_csv(folder / "table.csv", index=False)
    return load(folder / "table.csv", **settings)


def assert_plain(examples: Examples) -> None:
    """Check that the examples are those of :func:`frame`."""
    assert examples.class_names == ["a", "b", "c"]
    assert sorted(map(tuple, examples.inputs.tolist())) == sorted(zip(X.astype("f4"), Z.astype("f4"), strict=True))


# ---------------------------------------------------------------------- text files


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, ""),
        ({"sep": ";"}, "values separated by semicolons"),
        ({"sep": ";", "decimal": ","}, "values separated by semicolons; decimal commas"),
        ({"sep": "\t"}, "values separated by tabs"),
        ({"sep": "\t", "decimal": ","}, "decimal commas"),
        ({"encoding": "utf-16"}, "characters in UTF-16"),
        ({"encoding": "utf-8-sig"}, ""),
        ({"lineterminator": "\r\n"}, ""),
        ({"quoting": 2, "quotechar": '"'}, ""),
    ],
)
def test_text_files_of_many_makes_hold_the_same_table(options: dict[str, Any], said: str, tmp_path: Path):
    frame().to_csv(tmp_path / "table.csv", index=False, **options)
    examples = load(tmp_path / "table.csv")
    assert_plain(examples)
    assert said in examples.taken[0]
    assert "label 'label' of 3 classes ('a', 'b', 'c'); inputs 'x', 'z'" in examples.taken[0]


@pytest.mark.parametrize("place", ["in the first line", "in the first rows", "far down"])
def test_latin_1_is_read_and_said(place: str, tmp_path: Path):
    words = np.array(["gruen", "weiss"] * 2000)
    words[{"in the first rows": 1, "far down": -1}.get(place, [])] = "größer"
    table = pd.DataFrame({"x": np.arange(4000) % 97 / 2, "long column of text " * 2: words, "label": ["a", "b"] * 2000})
    name = "größe" if place == "in the first line" else "x"
    table.rename(columns={"x": name}).to_csv(tmp_path / "table.csv", index=False, encoding="latin-1")
    examples = load(tmp_path / "table.csv", keep=[table.columns[1]])
    assert "characters in LATIN-1" in examples.taken[0]
    assert f"inputs '{name}'" in examples.taken[0]


def zipped(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inside.csv", content)


PACKERS: dict[str, Callable[[Path, bytes], Any]] = {
    ".gz": lambda path, content: path.write_bytes(gzip.compress(content)),
    ".bz2": lambda path, content: path.write_bytes(bz2.compress(content)),
    ".xz": lambda path, content: path.write_bytes(lzma.compress(content)),
    ".zip": zipped,
}


@pytest.mark.parametrize("end", PACKERS)
def test_compressed_tables_are_read_up_to_a_limit(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / f"table.CSV{end}"
    PACKERS[end](path, frame().to_csv(index=False).encode())
    assert_plain(load(path))
    monkeypatch.setattr(delimited, "UNPACKED", 100)
    with pytest.raises(UserError, match=r"holds more than 100 bytes; unpack it"):
        load(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=rf"is not a complete \{end} file"):
        load(path)


def test_a_zip_of_several_files_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "table.csv.zip", "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")
    with pytest.raises(UserError, match=r"expected a \.zip with one file"):
        load(tmp_path / "table.csv.zip")


@pytest.mark.parametrize("name", ["table.CSV", "table.tsv", "Table.Csv"])
def test_endings_in_capitals_and_of_tabs_are_known(name: str, tmp_path: Path):
    frame().to_csv(tmp_path / name, index=False, sep="\t" if name.endswith("tsv") else ",")
    assert_plain(load(tmp_path / name))


def test_parts_in_a_folder_may_be_compressed_or_in_capitals(tmp_path: Path):
    frame().to_csv(tmp_path / "TRAIN.CSV", index=False)
    frame()[["label", "z", "x"]].to_csv(tmp_path / "test.csv.gz", index=False)  # columns in another order
    examples = load(tmp_path)
    assert (examples.n_train, examples.n_points) == (ROWS, 2 * ROWS)
    assert examples.inputs[:ROWS].equal(examples.inputs[ROWS:])


# ---------------------------------------------------------------------- columns that are no inputs


def test_numbers_of_rows_without_a_name_are_left_out_and_said(tmp_path: Path):
    for number, table in enumerate([frame(), frame().sample(frac=1, random_state=0)]):
        table.to_csv(tmp_path / f"{number}.csv")
        examples = load(tmp_path / f"{number}.csv")
        assert_plain(examples)
        assert "'Unnamed: 0' left out, since it has no name" in examples.taken[0]


@pytest.mark.parametrize(
    "lines",
    [
        [f"{number},{x},{z},{label}" for number, x, z, label in frame().itertuples()],
        [f"row {number},{x},{z},{label}" for number, x, z, label in frame().itertuples()],
        [f"{x},{z},{label}," for _, x, z, label in frame().itertuples()],
    ],
)
def test_rows_with_one_value_more_than_names_are_read(lines: list[str], tmp_path: Path):
    (tmp_path / "table.csv").write_text("\n".join(["x,z,label", *lines]))
    assert_plain(load(tmp_path / "table.csv"))


def test_an_empty_column_without_a_name_is_left_out(tmp_path: Path):
    text = frame().to_csv(index=False).replace("\n", ",\n")
    (tmp_path / "table.csv").write_text(text)
    examples = load(tmp_path / "table.csv")
    assert_plain(examples)
    assert "left out, since it is empty" in examples.taken[0]


def test_values_without_a_name_are_refused(tmp_path: Path):
    (tmp_path / "table.csv").write_text(frame(w=X).to_csv(index=False).replace("w,", ",", 1))
    with pytest.raises(UserError, match=r"has no name; give it one, or leave it out with .*leave_out=\[Unnamed: 0\]"):
        load(tmp_path / "table.csv")


@pytest.mark.parametrize(
    "counts",
    [np.arange(ROWS), np.arange(ROWS)[::-1], np.random.default_rng(0).permutation(ROWS) + 1, 10**9 + np.arange(ROWS)],
)
@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_a_column_that_numbers_the_rows_is_refused_until_a_key_settles_it(end: str, counts: np.ndarray, tmp_path: Path):
    table, path = frame(id=counts), tmp_path / f"table.{end}"
    table.to_csv(path, index=False) if end == "csv" else table.to_parquet(path)
    with pytest.raises(UserError, match=r"column 'id' of .* numbers the rows .*leave_out=\[id\], .*keep=\[id\]"):
        load(path)
    assert_plain(load(path, leave_out=["id"]))
    if counts.max() < 2**24:
        assert load(path, keep=["id"]).input_shape == (3,)


CODES = np.repeat([7, 3, 5], ROWS // 3)


@pytest.mark.parametrize(
    "copy",
    [
        np.repeat(["a", "b", "c"], ROWS // 3),
        CODES,
        CODES / 2,
        np.repeat(["cat", "dog", "cow"], ROWS // 3),
        np.repeat([True, False, False], ROWS // 3),  # one class, as one of several columns for each
        np.repeat(["pet", "pet", "farm"], ROWS // 3),
    ],
)
def test_a_column_that_gives_the_labels_away_is_refused_until_a_key_settles_it(copy: np.ndarray, tmp_path: Path):
    with pytest.raises(UserError, match=r"column 'kind' of .* reveals the labels; .*leave_out=\[kind\], .*keep"):
        loaded(frame(kind=copy), tmp_path)
    assert_plain(loaded(frame(kind=copy), tmp_path, leave_out=["kind"]))
    assert loaded(frame(kind=copy), tmp_path, keep=["kind"]).input_shape[0] > 2


def test_a_second_column_of_the_labels_name_is_refused(tmp_path: Path):
    (tmp_path / "table.csv").write_text("label,x,label\n" + "".join(f"{i % 2},{i}.5,{i % 2}\n" for i in range(20)))
    with pytest.raises(UserError, match=r"table\.csv: 2 columns are called 'label'"):
        load(tmp_path / "table.csv")


def test_columns_that_almost_follow_the_labels_are_inputs(tmp_path: Path):
    nearly = CODES.copy()
    nearly[0] = 3
    assert loaded(frame(nearly=nearly, constant=1, step=np.arange(ROWS) * 2), tmp_path).input_shape == (5,)


# ---------------------------------------------------------------------- what columns hold


def test_words_that_repeat_become_a_column_each_as_in_pandas(tmp_path: Path):
    colours = np.array(["red", "NA", "None", "blue"])[np.arange(ROWS) % 4]
    table = frame(colour=colours, flag=np.arange(ROWS) % 2 == 0)
    table.to_csv(tmp_path / "train.csv", index=False)
    table.to_csv(tmp_path / "test.csv", index=False)
    examples = load(tmp_path)
    expected = pd.get_dummies(table.drop(columns="label"), columns=["colour"], dtype=float).to_numpy(np.float32)
    assert np.array_equal(examples.inputs[:ROWS].numpy(), expected)
    assert "'colour' as 4 columns, one for each word" in examples.taken[0]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (
            [f"name {i}" for i in range(ROWS)],
            r"holds 30 different words in 30 rows; expected numbers, or words that repeat",
        ),
        ([f"street {i // 2 * 2 % 32}" for i in range(ROWS - 2)] + ["a", "b"], "different words in 30 rows"),
        (["?", *X[1:]], r"expected numbers, but it holds '\?'; write these as numbers"),
        ([f"{i % 9},5" for i in range(ROWS)], r"expected numbers, but it holds '0,5', '1,5', '2,5'"),
        ([f"{i % 9} %" for i in range(ROWS)], r"expected numbers, but it holds '0 %'"),
        ([f"1.{i % 9}34,5" for i in range(ROWS)], "expected numbers, but it holds"),
        (
            [f"2020-01-{i % 9 + 1:02}" for i in range(ROWS)],
            "holds dates such as 2020-01-01; expected numbers, such as days",
        ),
        ([f"{i % 9 + 1}.12.2020" for i in range(ROWS)], "holds dates such as"),
        ([None, *X[1:]], r"1 of 30 rows have no value; fill them in, .*leave_out=\[w\]"),
        (["NA", *X[1:]], "1 of 30 rows have no value"),
        (["", *np.array(["a", "b"])[np.arange(ROWS - 1) % 2]], "1 of 30 rows have no value"),
        ([np.nan] * ROWS, "30 of 30 rows have no value"),
        ([np.inf, *X[1:]], "expected finite numbers, but 1 are not"),
        (1.7e9 + np.arange(ROWS) / 4, r"in float32 only 1 of its 30 different numbers .*leave_out=\[w\]"),
        (10**15 + np.arange(ROWS) * 3, "in float32 only"),
        ([str(10**30 + i) for i in range(ROWS)], "column 'w' of .* expected numbers"),
    ],
)
def test_columns_that_are_no_inputs_are_refused_with_a_way_out(column: Any, expected: str, tmp_path: Path):
    with pytest.raises(UserError, match=expected) as error:
        loaded(frame(w=column), tmp_path)
    assert "column 'w' of" in str(error.value)
    assert_plain(loaded(frame(w=column), tmp_path, leave_out=["w"]))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pd.date_range("2020", periods=ROWS), "holds dates such as 2020"),
        ([[1.0, 2.0]] * ROWS, "expected numbers of at most 64 bits, or words"),
        (pd.array([None, *range(ROWS - 1)], dtype="Int64"), "1 of 30 rows have no value"),
        ([b"bytes"] * ROWS, "expected numbers"),
    ],
)
def test_columns_of_parquet_that_are_no_inputs_are_refused(column: Any, expected: str, tmp_path: Path):
    frame(w=column).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(UserError, match=expected):
        load(tmp_path / "table.parquet")


def test_columns_of_parquet_may_be_nullable_or_categories(tmp_path: Path):
    more = {"i": pd.array(np.arange(ROWS) % 7, "Int64"), "b": pd.array([True, False] * 15, "boolean")}
    table = frame(**more, c=pd.Categorical(["u", "v", "v"] * 10))
    table["label"] = table["label"].astype("category")
    table.to_parquet(tmp_path / "table.parquet")
    examples = load(tmp_path / "table.parquet")
    assert (examples.input_shape, examples.class_names) == ((6,), ["a", "b", "c"])


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (frame(c=["u", "w"] * 15), "holds 'w', which .*train.csv does not"),
        (frame(c=np.arange(ROWS) % 2), "holds whole numbers, column 'c' of .* words"),
        (frame(), "lacks the column 'c'; expected the columns of"),
        (frame(c=["u", "v"] * 15, d=X), "has the column 'd' besides; expected the columns of"),
        (frame(c=["u", "v"] * 15).drop(columns="label"), "has no column 'label', it has c, x, z"),
    ],
)
def test_a_test_part_that_differs_is_refused(test: pd.DataFrame, expected: str, tmp_path: Path):
    frame(c=["u", "v"] * 15).to_csv(tmp_path / "train.csv", index=False)
    test.to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(UserError, match=expected):
        load(tmp_path)


# ---------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["NA", "US", "None"], ["NA", "None", "US"]),
        (["null", "n/a", "NULL"], ["NULL", "n/a", "null"]),
        ([1.0, 2.0, 3.0], ["1.0", "2.0", "3.0"]),
        ([0.5, 1.0, 1.5], ["0.5", "1.0", "1.5"]),
        ([10, 9, -1], ["-1", "9", "10"]),
        (["a", "A", "true"], ["A", "a", "true"]),
    ],
)
def test_names_and_numbers_of_classes_are_taken_as_they_are(labels: list[Any], names: list[str], tmp_path: Path):
    assert loaded(frame().assign(label=np.repeat(labels, ROWS // 3)), tmp_path).class_names == names


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (X, r"label=label: the labels are 30 different fractions such as .*, a quantity"),
        (np.arange(ROWS) * 7, "30 examples have 30 different labels such as 0, 7, 14, which look like identifiers"),
        ([f"user {i}" for i in range(ROWS)], "look like identifiers"),
        ([*"ab" * 14, None, "a"], "column 'label': 1 labels are missing"),
        ([*[0, 1] * 14, "NA", 1], "column 'label': 1 labels are missing"),
        ([*"ab" * 14, "nan", "a"], "column 'label': 1 labels are missing"),
        ([*"ab" * 14, " a", "a"], "the labels ' a' and 'a' differ only by spaces"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: Any, expected: str, tmp_path: Path):
    with pytest.raises(UserError, match=expected):
        loaded(frame().assign(label=labels), tmp_path)


@pytest.mark.parametrize(("labels", "kind"), [([["a"], ["a", "b"]], "ndarray"), ([{"a": 1}, {"a": 0}], "dict")])
def test_several_labels_of_a_row_are_refused(labels: list[Any], kind: str, tmp_path: Path):
    frame().assign(label=labels * (ROWS // 2)).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(UserError, match=rf"label=label: 30 rows have labels such as .* \({kind}\); expected one class"):
        load(tmp_path / "table.parquet")


def test_several_columns_of_labels_are_refused():
    with pytest.raises(UserError, match=r"table\.label=\['x', 'z'\]: expected one column, whose values are classes"):
        Table(label=["x", "z"])  # type: ignore[arg-type]


def test_a_first_line_of_values_is_named(tmp_path: Path):
    frame().to_csv(tmp_path / "table.csv", index=False, header=False)
    with pytest.raises(UserError, match=r"the first line holds the value \S+, expected names of columns"):
        load(tmp_path / "table.csv")


def test_the_keys_that_came_later_change_no_runs_name():
    formats = {"table": {"label": "label", "leave_out": []}, "npz": {"channels_last": False}}
    later = {"table": {**formats["table"], "keep": None}, "npz": {**formats["npz"], "axes": None}}
    names = {
        run_name(Config(dataset={"formats": one}, paths=PathsConfig("outputs")), {"dataset": "table"})
        for one in (formats, later)
    }
    assert len(names) == 1
