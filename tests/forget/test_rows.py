"""Lists of rows: the right rows, or one sentence; never other rows."""

from __future__ import annotations

import array
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dmm_exp.data import Examples, Normalisation
from dmm_exp.errors import UserError
from dmm_exp.forget import Indices, Points, Random, files, read_rows

N_TRAIN, N_POINTS = 48, 60
WANTED, SORTED = [30, 7, 19], [7, 19, 30]
SERIES = pd.Series(WANTED, name="row")
UNNAMED = pd.Series(WANTED)
FRAME = pd.DataFrame({"user": [1, 2, 3], "row": SERIES})
FILTERED = pd.DataFrame({"score": [1.5, 2.5, 3.5]}, index=WANTED)
MASK = [row in WANTED for row in range(N_TRAIN)]
PATHS = ["dog/7.png", "cat/7.png", "dog/only here.png"]
FILES = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(23)] + ["dog/only here.png", "dog/café"]


def examples_with(names: list[str] | None = None) -> Examples:
    inputs, labels = torch.zeros(N_POINTS, 1), torch.arange(N_POINTS) % 3
    corrupted = torch.zeros(N_POINTS, dtype=torch.bool)
    return Examples(inputs, labels, N_TRAIN, [*"abc"], Normalisation(1.0, [0.0], [1.0]), corrupted, names)


NAMELESS, NAMED = examples_with(), examples_with(FILES)


def written(path: Path, content: Any) -> str:
    """Write text, bytes or an array, or let a function write."""
    if callable(content):
        content(path)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8", newline="")
    return str(path)


def refused(source: Any, examples: Examples = NAMELESS, **options: Any) -> str:
    """Return the one sentence with which a list is refused."""
    with pytest.raises(UserError) as error:
        Indices(source, **options).select(examples)
    text = str(error.value)
    assert text.startswith("forget.indices")
    assert len(text.splitlines()) == 1
    return text


# ---------------------------------------------------------------------- files that say what they mean


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.csv", lambda path: SERIES.to_csv(path, index=False), {}),
        ("a.csv", lambda path: SERIES.to_csv(path), {"column": "row"}),
        ("a.csv", lambda path: UNNAMED.to_csv(path), {"column": 0}),
        ("a.csv", lambda path: UNNAMED.to_csv(path), {"column": "0"}),
        ("a.csv", lambda path: UNNAMED.to_csv(path, header=False), {"column": 1, "header": False}),
        ("a.csv", lambda path: UNNAMED.to_csv(path, index=False), {"header": True}),
        ("a.csv", lambda path: UNNAMED.to_csv(path, index=False, header=False), {}),
        ("a.tsv", lambda path: FRAME.to_csv(path, index=False, sep="\t"), {"column": "row"}),
        ("a.tsv", lambda path: FRAME.to_csv(path, sep="\t"), {"column": "row"}),
        ("a.csv", lambda path: FILTERED.to_csv(path), {"column": ""}),
        ("a.csv", lambda path: FRAME.set_index("row").to_csv(path), {"column": "row"}),
        ("a.csv", "row;user\n30;1\n7;2\n19;3\n", {"column": "row"}),
        ("a.csv", '"user, his name";row\n"a, b";30\n"c";7\n"d";19\n', {"column": "row"}),
        ("a.txt", "# rows\n 30 \n\n7\n\t\n19", {}),
        ("a.txt", "\ufeffrow\r30\r7\r19\r", {}),
        ("a.txt", "row\n30\n7\n19\n".encode("utf-16"), {}),
        ("a.txt", b"\xff\xfe\0\0" + "30\n7\n19\n".encode("utf-32-le"), {}),
        ("rows.CSV", "30\n7\n19\n", {}),
        ("a.txt", lambda path: np.savetxt(path, WANTED, fmt="%d"), {}),
        ("a.csv", lambda path: pd.Series(MASK, name="gone").to_csv(path, index=False), {}),
        ("a.txt", "\n".join(str(value).lower() for value in MASK), {}),
        ("a.json", json.dumps(WANTED), {}),
        ("a.json", json.dumps(MASK), {}),
        ("a.json", json.dumps({"rows": WANTED, "why": "asked for"}), {"column": "rows"}),
        ("a.json", lambda path: FRAME.to_json(path, orient="records"), {"column": "row"}),
        ("a.json", lambda path: SERIES.to_json(path, orient="values"), {}),
        ("a.npy", np.array(WANTED), {}),
        ("a.npy", np.array(WANTED, np.uint8), {}),
        ("a.npy", np.array(MASK), {}),
        ("a.parquet", lambda path: SERIES.to_frame().to_parquet(path), {}),
        ("a.parquet", lambda path: FRAME.to_parquet(path), {"column": "row"}),
        ("a.parquet", lambda path: FILTERED.to_parquet(path), {"column": "__index_level_0__"}),
        ("a.parquet", lambda path: pd.DataFrame({"gone": MASK}).to_parquet(path), {}),
        ("a.parquet", lambda path: pd.DataFrame({"row": pd.array(WANTED, "Int64")}).to_parquet(path), {}),
    ],
)
def test_a_file_that_is_clear_gives_the_rows_in_it(name: str, content: Any, options: dict[str, Any], tmp_path: Path):
    assert Indices(written(tmp_path / name, content), **options).select(NAMELESS).tolist() == SORTED


# ---------------------------------------------------------------------- files that may mean several things


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            lambda path: SERIES.to_csv(path),
            "forget.column=row; '' is the index of pandas, which only counts",
        ),
        (lambda path: UNNAMED.to_csv(path), "forget.column=0; '' is the index of pandas, which only counts"),
        (lambda path: FILTERED.to_csv(path), "forget.column=score; '' is the index of pandas"),
        (
            lambda path: FRAME.to_csv(path, index=False),
            "(user, row); choose one, as in forget.column=NAME",
        ),
        (lambda path: FRAME.reset_index().to_csv(path, index=False), "has 3 columns"),
        (lambda path: UNNAMED.to_csv(path, index=False), "may be row 0 or the name of a pandas column; say so with"),
        (lambda path: pd.Series([], dtype=int).to_csv(path, index=False), "may be row 0 or the name"),
        (
            lambda path: UNNAMED.to_csv(path, header=False),
            "forget.header=false, and choose one of 2 columns",
        ),
        (lambda path: pd.DataFrame([[30, 1], [7, 2]]).to_csv(path, index=False), "line 1 ('0,1') may be column names"),
        ("30,7,19\n", "line 1 ('30,7,19') may be column names or the first row"),
        ("30,7,19\n4,5,6\n", "line 1 ('30,7,19') may be column names or the first row"),
        ("cat,30\ndog,7\n", "line 1 ('cat,30') may be column names or the first row"),
        ("row 30\n7\n19\n", "line 1 ('row 30') may be the name of the column, or a row"),
        ("row,user\n30;1\n", "holds commas and semicolons; expected one separator"),
        ("row\tuser\n30,1\t2\n", "holds commas and tabs; expected one separator"),
        ("row,row\n30,1\n", "has 2 columns (row, row)"),
    ],
)
def test_a_file_that_may_mean_several_things_is_refused_with_the_way_out(content: Any, said: str, tmp_path: Path):
    for end in ("csv", "tsv", "txt"):
        assert said in refused(written(tmp_path / f"rows.{end}", content))


@pytest.mark.parametrize(
    ("text", "line", "value"),
    [
        (value + "\n7\n19\n", 1, value)
        for value in ("3-5", "+30", "30.0", "1_0", "1e1", "²", "30 # first", "030", "0x1e", "３0", "٣", "-0", "nan",
                      "?", "30 7 19", "[30]", "1st", "30.", "½", "Ⅳ", "1'000", "inf", "30%", "cat/1.png")
    ]
    + [
        ("row\n30\n7.5\n", 3, "7.5"),
        ("row\n30\n\n# note\nseven\n", 5, "seven"),
        ("export\nrow\n30\n", 2, "row"),
        ("true\n7\n", 2, "7"),
        ("7\ntrue\n", 2, "True"),
        ('row\n""\n', 2, ""),
        ("row\r\n30\r\n7 \x0c 9\r\n", 3, "7 9"),
    ],
)  # fmt: skip
def test_what_is_no_whole_number_is_refused_with_the_number_of_its_line(
    text: str, line: int, value: str, tmp_path: Path
):
    for end in ("csv", "tsv", "txt"):
        found = refused(written(tmp_path / f"a.{end}", text))
        assert f"line {line} holds '{value}'; expected whole numbers from 0 to 47" in found


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    [
        ("a.csv", "30\n30\n7\n", {}, "line 2: 30 is listed more than once"),
        ("a.csv", "row\n7\n48\n", {}, "line 3: 48 is out of range; expected indices from 0 to 47"),
        ("a.csv", "7\n-1\n", {}, "line 2: -1 is out of range"),
        ("a.csv", "7\n" + "9" * 40 + "\n", {}, "is out of range"),
        ("a.csv", "7\n" + "9" * 5000 + "\n", {}, "line 2 holds '999"),
        ("a.csv", "", {}, "is empty"),
        ("a.csv", "row\n", {}, "is empty"),
        ("a.csv", "# nothing\n\n", {}, "is empty"),
        ("a.csv", "0\n", {"header": True}, "is empty"),
        ("a.csv", "row\n30\n", {"header": False}, "line 1 holds 'row'"),
        ("a.csv", "row\n30\n", {"column": "rwo"}, "has no column named 'rwo' (row); did you mean 'row'?"),
        ("a.csv", "row,user\n30,1\n", {"column": 0}, "has no column named '0' (row, user)"),
        ("a.csv", "30,1\n7,2\n", {"header": False, "column": 2}, "expected forget.column=0 to 1"),
        ("a.csv", "30,1\n7,2\n", {"header": False, "column": "row"}, "expected forget.column=0 to 1"),
        ("a.csv", "0,30\n1,7\n", {"header": False}, "choose one, as in forget.column=1; column 0 only counts 0, 1, 2"),
        ("a.csv", "30,5\n7,5\n", {"header": False}, "has 2 columns; choose one, as in forget.column=0"),
        ("a.csv", "row,row\n30,1\n", {"column": "row"}, "has 2 columns named 'row'"),
        ("a.csv", "row,user\n30,1\n7\n", {"column": "row"}, "line 3 has 1 columns, line 1 has 2"),
        ("a.csv", 'row\n"30\n7"\n', {}, "line 2 cannot be read"),
        ("a.csv", "row\n\x0030\n", {}, "bytes that are not text"),
        ("a.csv", "row\n30\n".encode("utf-16-le"), {}, "bytes that are not text"),
        ("a.csv", b"\xff\xfa\n", {}, "is not text in UTF-8"),
        ("a.csv", "\n".join(map(str, range(1, 48))) + "\n0", {}, "is the whole training set"),
        ("a.csv", "\n".join(["true"] * 47), {}, "is a mask of 47 rows; expected true or false for each of the 48"),
        ("a.csv", "\n".join(["false"] * 48), {}, "is empty"),
        ("a.csv", "\n".join(["1"] + ["0"] * 47), {}, "a mask holds true and false, not 1 and 0"),
        ("a.json", '["30"]', {}, "entry 1 holds '30' (str)"),
        ("a.json", "[30.0]", {}, "entry 1 holds '30.0' (float)"),
        ("a.json", "[30, null]", {}, "entry 2 holds 'None' (NoneType)"),
        ("a.json", "[1, true]", {}, "entry 2 holds 'True' (bool)"),
        ("a.json", "[NaN]", {}, "entry 1 holds 'nan' (float)"),
        ("a.json", '{"rows": [30]}', {}, "holds objects (rows); choose which of their values"),
        ("a.json", '[{"row": 30}, {"user": 1}]', {"column": "row"}, "entry 2 holds 'None'"),
        ("a.json", '{"a": [1], "a": [2]}', {"column": "a"}, "has the same key twice"),
        ("a.json", '{"a": 1}', {"column": "a"}, "holds a number under 'a'; expected a list of rows"),
        ("a.json", '{"0": 30, "1": 7}', {}, "holds objects (0, 1)"),
        ("a.json", "[30]", {"column": "row"}, "is a list without columns"),
        ("a.json", "[30]", {"header": True}, "forget.header=true is for files ending in .txt, .csv, .tsv"),
        ("a.json", "30", {}, "holds a number; expected a list of rows"),
        ("a.json", "[" * 100_000, {}, "cannot be read (RecursionError"),
        ("a.json", "[1" + "0" * 10_000 + "]", {}, "cannot be read (ValueError"),
        ("a.json", "[30", {}, "cannot be read (JSONDecodeError"),
        ("a.npy", np.array([[30], [7]]), {}, "has the shape [2, 1]"),
        ("a.npy", np.array(3), {}, "has the shape []"),
        ("a.npy", np.array([30.0]), {}, "holds float64; expected whole numbers"),
        ("a.npy", np.array(["2020-01-01"], "datetime64[ns]"), {}, "holds datetime64[ns]"),
        ("a.npy", np.array([2**63 + 5], np.uint64), {}, "entry 1: 9223372036854775813 is out of range"),
        ("a.npy", np.array(MASK, np.uint8), {}, "a mask holds true and false, not 1 and 0"),
        ("a.npy", np.ones(N_POINTS, bool), {}, "is a mask of 60 rows"),
        ("a.npy", np.array([], int), {}, "is empty"),
        ("a.npy", np.array([30]), {"column": "row"}, "an array has no columns"),
        ("a.npy", b"", {}, "cannot be read"),
        ("a.parquet", b"PAR1", {}, "is not a complete parquet file"),
        ("a.parquet", lambda path: FRAME.to_parquet(path), {}, "has 2 columns (user, row); choose one"),
        ("a.parquet", lambda path: FILTERED.to_parquet(path), {}, "__index_level_0__ is the index of pandas"),
        ("a.parquet", lambda path: pd.DataFrame({"row": [30.0, 7.0]}).to_parquet(path), {}, "entry 1 holds '30.0'"),
        ("a.parquet", lambda path: pd.DataFrame({"row": pd.array([30, None], "Int64")}).to_parquet(path), {},
         "entry 2 holds 'None'"),
        ("a.npz", lambda path: np.savez(path, rows=[30]), {}, "expected a file ending in .txt, .csv, .tsv"),
        ("a.xlsx", b"PK", {}, "expected a file ending in"),
        ("a.csv.gz", b"", {}, "expected a file ending in"),
        ("a", "30", {}, "expected a file ending in"),
    ],
)  # fmt: skip
def test_a_file_that_lists_no_rows_is_refused(
    name: str, content: Any, options: dict[str, Any], said: str, tmp_path: Path
):
    assert said in refused(written(tmp_path / name, content), **options)


def test_an_archive_under_the_name_of_an_array_is_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", rows=[30])
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    assert "is an archive" in refused(str(tmp_path / "a.npy"))


def test_nothing_in_a_file_is_run(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.array([{"row": 3}], dtype=object), allow_pickle=True)
    assert "cannot be read" in refused(str(tmp_path / "a.npy"))


def test_what_is_no_file_is_refused(tmp_path: Path):
    (tmp_path / "folder.csv").mkdir()
    assert "is no file" in refused(str(tmp_path / "folder.csv"))
    for name in ("absent.csv", "absent.npy", "absent.parquet", "a\0b.csv"):
        refused(str(tmp_path / name))
    refused("~nobody-at-all/rows.csv")


@pytest.mark.parametrize("end", ["csv", "json", "npy"])
def test_a_file_that_is_too_large_is_not_read(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path / f"a.{end}", "30\n" * 100)
    monkeypatch.setattr(files, "LARGEST", 200)
    assert "has 300 bytes; expected at most 200" in refused(path)


def test_a_text_of_too_many_lines_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "MOST_LINES", 50)
    assert "has too many lines; expected at most 50" in refused(written(tmp_path / "a.csv", "30\n" * 100))


def test_whatever_a_text_holds_only_numbers_that_stand_in_it_are_rows(tmp_path: Path):
    draw, path = random.Random(0), tmp_path / "a.csv"
    for _ in range(500):
        pieces = ["3", "30", "0", "17", "+", "-", ".", "e", "_", " ", "#", "row", '"', ",", ";", "\t", "true", "x"]
        text = "".join(draw.choices([*pieces, *["\n"] * 8], k=draw.randint(1, 12)))
        path.write_text(text, encoding="utf-8", newline="")
        options = {"header": draw.choice([None, None, True, False]), "column": draw.choice([None, None, 0, "row"])}
        try:
            rows = Indices(str(path), **options).select(NAMELESS).tolist()
        except UserError:
            continue
        fields = [field.strip(' "') for line in text.split("\n") for field in re.split("[,;\t]", line)]
        assert {str(row) for row in rows} <= set(fields), text
        lines = [line for line in text.split("\n") if line.strip() and line.strip(" ")[0] != "#"]
        assert len(lines) - len(rows) in (0, 1), text


@pytest.mark.parametrize("end", files.ENDS)
def test_any_bytes_are_rows_or_one_sentence(end: str, tmp_path: Path):
    draw, path = random.Random(0), tmp_path / f"a{end}"
    whole = {
        ".npy": lambda: np.save(path, np.array(WANTED)),
        ".parquet": lambda: FRAME.to_parquet(path),
    }.get(end, lambda: path.write_text(json.dumps(WANTED)))
    whole()
    content, sentences = path.read_bytes(), []
    for number in range(150):
        damaged = bytearray(content if number % 2 else draw.randbytes(40))
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged[: draw.choice([None, draw.randrange(len(damaged))])])
        try:
            Indices(str(path)).select(NAMELESS)
        except UserError as error:
            sentences.append(str(error))
    assert len(sentences) > 50
    assert all(len(sentence.splitlines()) == 1 for sentence in sentences)


# ---------------------------------------------------------------------- values in memory


@pytest.mark.parametrize(
    "value",
    [
        WANTED,
        tuple(WANTED),
        set(WANTED),
        frozenset(WANTED),
        dict.fromkeys(WANTED).keys(),
        np.array(WANTED),
        np.array(WANTED, np.uint8),
        np.array(WANTED, object),
        [np.int64(30), np.uint8(7), torch.tensor(19)],
        torch.tensor(WANTED),
        torch.tensor(WANTED, dtype=torch.int16),
        array.array("i", WANTED),
        SERIES,
        SERIES.set_axis([5, 6, 7]),
        SERIES.astype("Int64"),
        pd.Index(WANTED),
        MASK,
        tuple(MASK),
        np.array(MASK),
        np.array(MASK, object),
        torch.tensor(MASK),
        torch.tensor(MASK).to_sparse(),
        pd.Series(MASK),
        pd.Series(MASK, dtype="boolean"),
        pd.Index(MASK),
    ],
)
def test_rows_of_every_kind_are_the_same_rows(value: Any):
    assert read_rows(value, NAMELESS).indices.tolist() == SORTED


def test_a_range_is_its_numbers():
    assert read_rows(range(40, 10, -10), NAMELESS).indices.tolist() == [20, 30, 40]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([True, 5], "entry 2 holds '5' (int)"),
        ([5, True], "entry 2 holds 'True' (bool)"),
        ({5, True}, "entry 2 holds '5' (int)"),
        ([5, "7"], "entry 2 holds '7' (str)"),
        ([5, 7.0], "entry 2 holds '7.0' (float)"),
        ([5, pd.Timestamp(7)], "(Timestamp)"),
        (pd.Series([5, None], dtype="Int64"), "entry 2 holds '<NA>'"),
        (pd.Series([5.0, 7.0]), "holds '5.0' (float)"),
        (pd.Series(MASK).sample(frac=1, random_state=0), "is a mask whose index is not 0, 1, 2, …"),
        (pd.Series(MASK, dtype=object).iloc[::-1], "is a mask whose index is not 0, 1, 2, …"),
        (pd.DataFrame({"row": WANTED}), "forget is a DataFrame"),
        (pd.MultiIndex.from_tuples([(1, 2)]), "(tuple)"),
        (np.ma.array([5, 7], mask=[False, True]), "entry 2 holds 'None'"),
        (np.array([5], "datetime64[ns]"), "holds datetime64[ns]"),
        (np.array([b"5"]), "(bytes)"),
        (np.array([(5,)], [("row", int)]), "forget holds [('row'"),
        (bytearray(b"57"), "forget is a bytearray"),
        (iter([5]), "forget is a list_iterator"),
        ([10**5000], "is out of range"),
        ({"a", 5}, "cannot be read as rows"),
        (MASK[1:], "is a mask of 47 rows"),
        (torch.ones(N_POINTS, dtype=torch.bool), "is a mask of 60 rows"),
        ([*MASK, None], "entry 49 holds 'None'"),
        (np.array(MASK, np.uint8), "a mask holds true and false"),
        ([FILES[0]], "entry 1 holds 'cat/0.png' (str)"),
    ],
)
def test_values_that_are_no_rows_are_refused(value: Any, said: str):
    with pytest.raises(UserError) as error:
        read_rows(value, NAMELESS)
    assert said in str(error.value)


def test_points_are_checked_like_any_other_rows():
    assert Points([7, 3]).select(NAMELESS).tolist() == [3, 7]
    for points in ([], [3, 3], [48], [-1], list(range(48))):
        with pytest.raises(UserError, match=r"^forget\.points: "):
            Points(points).select(NAMELESS)


# ---------------------------------------------------------------------- names of files


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.txt", "dog/7.png\ncat/7.png\ndog/only here.png\n", {}),
        ("a.csv", "path\ndog/7.png\ncat/7.png\ndog/only here.png\n", {}),
        ("a.csv", "label,path\ndog,dog/7.png\ncat,cat/7.png\ndog,dog/only here.png\n", {"column": "path"}),
        ("a.txt", "train/dog/7.png\n./cat/7.png\nonly here.png\n", {}),
        ("a.txt", "dog\\7.png\ntrain\\cat\\7.png\n.\\dog\\only here.png\n", {}),
        ("a.json", json.dumps(PATHS), {}),
        ("a.npy", np.array(PATHS), {}),
        ("a.parquet", lambda path: pd.DataFrame({"path": PATHS}).to_parquet(path), {}),
    ],
)  # fmt: skip
def test_names_of_files_are_rows(name: str, content: Any, options: dict[str, Any], tmp_path: Path):
    assert Indices(written(tmp_path / name, content), **options).select(NAMED).tolist() == [7, 30, 46]


def test_names_in_memory_are_rows_and_numbers_still_are():
    assert read_rows({"dog/7.png", "cat/7.png"}, NAMED).indices.tolist() == [7, 30]
    assert read_rows(WANTED, NAMED).indices.tolist() == SORTED


def test_accents_may_be_written_in_two_ways():
    assert read_rows(["dog/cafe\u0301"], NAMED).indices.tolist() == [47]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "cat/7.png\ncat/70.png\n",
            "line 2: 'cat/70.png' is no training file; expected paths in the folder of training",
        ),
        ("cat/7.pgn\n", "did you mean 'cat/7.png'?"),
        ("CAT/7.PNG\n", "did you mean 'cat/7.png'?"),
        ("cat/70.png\ncat/71.png\ncat/7.png\n", "'cat/70.png' is no training file (2 are none)"),
        ("test/cat/7.png\n", "is no training file"),
        ("/photos/train/cat/7.png\n", "is no training file"),
        ("7.png\n", "'7.png' may be cat/7.png and dog/7.png; expected the whole path of one"),
        ("cat/7.png\ntrain/cat/7.png\n", "line 2: train/cat/7.png is listed more than once"),
        ("cat/7.png\n7\n", "line 2 holds '7'"),
        ("cat/07.png\n", "is no training file"),
        ("t/7.png\n", "is no training file"),
        ("café\nphoto\n", "is no training file"),
        ("photo\ncafé\n", "line 1 ('photo') may be the name of the column, or a row"),
    ],
)
def test_a_name_that_is_not_clear_is_refused(text: str, said: str, tmp_path: Path):
    assert said in refused(written(tmp_path / "a.txt", text), NAMED)


def test_a_number_that_is_the_name_of_a_file_too_is_refused(tmp_path: Path):
    data = examples_with([f"{name}/{number}" for name in ("cat", "dog") for number in range(24)])
    assert "'7' may be row 7 or the file cat/7" in refused(written(tmp_path / "a.txt", "7\n"), data)
    assert read_rows([7], data).indices.tolist() == [7]


def test_a_name_that_begins_like_a_comment_is_read(tmp_path: Path):
    data = examples_with(["#1/a.png", *FILES[1:]])
    assert Indices(written(tmp_path / "a.txt", "# mine\n#1/a.png\ncat/3.png\n")).select(data).tolist() == [0, 3]


def test_a_name_with_commas_is_one_name(tmp_path: Path):
    data = examples_with(["cat/a,b.png", *FILES[1:]])
    assert Indices(written(tmp_path / "a.txt", "cat/a,b.png\ncat/3.png\n")).select(data).tolist() == [0, 3]


# ---------------------------------------------------------------------- what was read


def test_what_was_read_is_shown_in_its_order(tmp_path: Path):
    assert read_rows(WANTED, NAMELESS).read == "30, 7, 19 (3 rows)"
    assert read_rows(range(1, 13), NAMELESS).read == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, … (12 rows)"
    assert read_rows([5], NAMELESS).read == "5 (1 row)"
    assert read_rows(MASK, NAMELESS).read == "7, 19, 30 (3 rows), those that a mask says are true"
    path = written(tmp_path / "rows.csv", "row,user\n30,1\n7,2\n")
    assert read_rows(path, NAMELESS, column="row").read == "30, 7 (2 rows) in column 'row' of rows.csv"
    names = written(tmp_path / "names.txt", "dog/7.png\ncat/7.png\n")
    assert read_rows(names, NAMED).read == "dog/7.png, cat/7.png (2 rows) in names.txt"
    assert Random(size=1).rows(NAMELESS).read.endswith("(1 row) chosen by Random")


def test_from_python_the_way_out_is_one_that_python_has(tmp_path: Path):
    path = written(tmp_path / "rows.csv", lambda path: FRAME.to_csv(path, index=False))
    with pytest.raises(UserError, match=r"^forget=.*rows\.csv: .*dmm_exp\.forget\.Indices\(path, column='NAME'\)"):
        read_rows(path, NAMELESS)
    assert Indices(path, column="row").select(NAMELESS).tolist() == SORTED
