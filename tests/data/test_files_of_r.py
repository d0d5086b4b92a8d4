"""Data frames in files of R: equal to the table that R would write, read as data alone; real data in Debian."""

from __future__ import annotations

import base64
import contextlib
import lzma
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rdata
import torch
from test_data import configured

from dmm_exp.data import Dataset, Examples, Split
from dmm_exp.data.formats import Table
from dmm_exp.data.formats.rda import read_frame
from dmm_exp.errors import UserError
from dmm_exp.files import reading as foreign

ROWS = 24
FRAME = pd.DataFrame(
    {
        "x": np.random.default_rng(0).normal(size=ROWS),
        "whole": np.arange(ROWS, dtype=np.int32) % 5,
        "yes": np.arange(ROWS) % 3 == 0,
        "kind": pd.Categorical(["red", "grün"] * (ROWS // 2)),
        "level": pd.Categorical(["10", "2.5", "7"] * (ROWS // 3)),
        "label": pd.Categorical(np.repeat(["a", "b"], ROWS // 2)),
    }
)
# By R 4.2, with id = 20:1, day = 1:20 (R writes these two as sequences) and x = sort(c(1:19, 14) / 4) (in a wrapper):
# d <- data.frame(id, x, day, kind = factor(rep(c("red", "grün"), 10)), level = factor(rep(c(10, 20, 2.5, 7), 5)),
#                 yes = rep(c(TRUE, FALSE), each = 10), label = factor(rep(c("a", "b"), 10)))
WRITTEN_BY_R = """
/Td6WFoAAAFpIt42AgAhARwAAAAQz1jM4AUJAWpdACkRB1RoEeRuUsqgM8UkXrtrnNeLUzcP1dKbshUqBwT4yAjz5XATtUXAHvfMokG3L4MTnOKBufwj
x1S/8It65NKzPSTUrueVtNrQTQW9Q/54/1acysmr3MGIlk9+2FtKLwlfTsRxPhxsdhKdz3vtvLY8xUbIXRb/+WL9LpF42dG1Amd3DSkHNWO/dnuxqKWY
jxX0G5ROL5jCa9pf3CHItLXUhvFnVL5u4q4gaWaQLxNFgq+NpihLSyS7fYI2zfyYDrq0FPPyD3OgDxPM1Qqhg3CsWsTDM0baXx1kCreghHGL2soYC5Zo
rTtcmH0lHCJ0iT8AX6Gs01vtJjCXDppTYJfgoXXvy5SI9GVON4P87qGOBNHTZwuqJcLoCE156fZAlCtuLMNL99TMdWtQzeQdzxq7kua8M0y9tWI6PudP
xg/VYlC82eUMyK4SVEUko3gkG/OuPvLAR2bX39FQWJdeFO9MeGO/JdTwLGq+AAAALnu/vgABggOKCgAAV8j+WD4wDYsCAAAAAAFZWg==
"""
MLBENCH = Path("/usr/lib/R/site-library/mlbench/data")


def write(path: Path, **settings: Any) -> Path:
    rdata.write_rda(path, {"d": FRAME}, **settings)
    return path


def load(path: Path, **settings: Any) -> Examples:
    return Dataset({"table": Table(**settings)}, str(path), split=Split(test=0.25)).load()


# ---------------------------------------------------------------------- as R writes it


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2", "xz"])
@pytest.mark.parametrize("version", [2, 3])
def test_a_data_frame_is_the_table_that_was_written(compression: str | None, version: int, tmp_path: Path):
    found = read_frame(write(tmp_path / "d.rda", compression=compression, format_version=version))
    assert found.columns.tolist() == FRAME.columns.tolist()
    for name in ("x", "whole", "yes"):
        assert np.array_equal(found[name], FRAME[name])
    assert found["kind"].tolist() == ["red", "grün"] * 12
    assert found["level"].tolist() == [10, 2.5, 7] * 8
    assert found["label"].tolist() == ["a"] * 12 + ["b"] * 12


@pytest.mark.parametrize("name", ["d.rda", "d.RData"])
def test_it_gives_the_examples_that_a_text_file_gives(name: str, tmp_path: Path):
    FRAME.to_csv(tmp_path / "d.csv", index=False)
    one, other = load(write(tmp_path / name)), load(tmp_path / "d.csv")
    assert one.inputs.equal(other.inputs)
    assert one.labels.equal(other.labels)
    assert one.class_names == other.class_names == ["a", "b"]
    assert one.taken[0].split(": ", 1)[1] == other.taken[0].split(": ", 1)[1]


def test_a_file_that_r_wrote_is_what_it_wrote_as_text(tmp_path: Path):
    (tmp_path / "d.rda").write_bytes(base64.b64decode(WRITTEN_BY_R))
    expected = pd.DataFrame(
        {
            "id": range(20, 0, -1),
            "x": [*np.arange(1, 15) / 4, 3.5, *np.arange(15, 20) / 4],
            "day": range(1, 21),
            "kind": ["red", "grün"] * 10,
            "level": [10, 20, 2.5, 7] * 5,
            "yes": [True] * 10 + [False] * 10,
            "label": ["a", "b"] * 10,
        }
    )
    pd.testing.assert_frame_equal(read_frame(tmp_path / "d.rda"), expected, check_dtype=False)


def test_parts_and_groups_may_be_data_frames(tmp_path: Path):
    for part in ("train", "test"):
        write(tmp_path / f"{part}.rda")
    examples = load(tmp_path, group_by=["whole", "kind"])
    assert (examples.n_train, examples.n_points) == (ROWS, 2 * ROWS)
    assert examples.columns == {"whole": [str(row % 5) for row in range(ROWS)], "kind": ["red", "grün"] * 12}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"x": [np.nan] + [0.5] * (ROWS - 1)}, "column 'x' of .*: 1 of 24 rows have no value"),
        ({"kind": pd.Categorical([None] + ["u", "v"] * 11 + ["u"])}, "column 'kind' of .*: 1 of 24 rows have no value"),
        ({"whole": pd.array([None, None] + [2, 1] * 11, pd.Int32Dtype())}, "'whole' of .*: 2 of 24 rows have no value"),
        ({"label": pd.Categorical([None] * 2 + ["a", "b"] * 11)}, "column 'label': 2 labels are missing"),
    ],
)
def test_missing_values_are_refused_as_in_any_table(changes: dict[str, Any], expected: str, tmp_path: Path):
    rdata.write_rda(tmp_path / "d.rda", {"d": FRAME.assign(**changes)})
    with pytest.raises(UserError, match=expected):
        load(tmp_path / "d.rda")


# ---------------------------------------------------------------------- anything else


def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path):
    path = write(tmp_path / "d.rda", compression="xz")
    content = path.read_bytes()
    inside = lzma.decompress(content)
    damaged = [content[:cut] for cut in range(0, len(content), 40)] + [
        inside[:cut] for cut in range(0, len(inside), 40)
    ]
    damaged += [
        b"RDX2\nX\n" + bytes(40),
        inside + b"more",
        b"\x1f\x8b" + content[2:],
        b"RDA2\nA\n2\n",
        b"x,label\n1,2\n",
    ]
    for bad in damaged:
        path.write_bytes(bad)
        with pytest.raises(UserError, match=re.escape(str(path))):
            load(path)


def test_no_change_of_a_byte_gives_anything_but_a_table_or_a_sentence(tmp_path: Path):
    inside = write(tmp_path / "d.rda", compression=None).read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.choice(len(inside), 150, replace=False):
        (tmp_path / "d.rda").write_bytes(inside[:place] + generator.bytes(1) + inside[place + 1 :])
        with contextlib.suppress(UserError):
            assert len(load(tmp_path / "d.rda").labels) == ROWS


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"d": FRAME, "e": FRAME}, "it holds 'd', 'e'; expected one data frame"),
        ({"d": np.arange(3.0)}, "it holds 'd', numbers; expected one data frame"),
        ({"d": "text"}, "it holds 'd', texts; expected one data frame"),
        ({"d": {"x": np.arange(3.0), "label": np.arange(3)}}, "it holds 'd', a list; expected one data frame"),
        ({"d": FRAME.assign(x=1j)}, "column 'x' is complex numbers; expected numbers, truth values or a factor"),
    ],
)
def test_what_is_no_data_frame_of_numbers_and_factors_is_refused(content: Any, expected: str, tmp_path: Path):
    rdata.write_rda(tmp_path / "d.rda", content)
    with pytest.raises(UserError, match=f"d.rda: {expected}"):
        load(tmp_path / "d.rda")


def word(text: str) -> bytes:
    return struct.pack(">ii", 0x40009, len(text)) + text.encode()


def symbol(text: str) -> bytes:
    return struct.pack(">i", 1) + word(text)


def texts(*values: str) -> bytes:
    return struct.pack(">ii", 16, len(values)) + b"".join(map(word, values))


def pairs(**values: bytes) -> bytes:
    """Return R's list of pairs with names, and its end."""
    return b"".join(struct.pack(">i", 0x402) + symbol(name) + value for name, value in values.items()) + NOTHING


NOTHING = struct.pack(">i", 254)
CALL = struct.pack(">i", 6) + symbol("system") + struct.pack(">i", 2) + texts("touch harm") + NOTHING
FUNCTION = struct.pack(">ii", 0x403, 253) + NOTHING + CALL
EXPRESSION = struct.pack(">ii", 20, 1) + CALL
DATES = struct.pack(">iidd", 0x30E, 2, 0.0, 1.0) + pairs(**{"class": texts("Date")})


def sequence(rows: int) -> bytes:
    """Return R's short form of the numbers from 1 to ``rows``."""
    state = struct.pack(">iiddd", 14, 3, rows, 1, 1)
    form = struct.pack(">i", 2) + symbol("compact_intseq") + struct.pack(">i", 2) + symbol("base") + NOTHING
    return struct.pack(">i", 238) + form + state + NOTHING


def saved(*columns: bytes) -> bytes:
    """Return a file of R with a data frame of some columns."""
    names = texts(*(f"c{number}" for number in range(len(columns))))
    facts = pairs(names=names, **{"class": texts("data.frame"), "row.names": struct.pack(">iiii", 13, 2, -(2**31), -2)})
    frame = struct.pack(">ii", 0x313, len(columns)) + b"".join(columns) + facts
    return b"RDX2\nX\n" + struct.pack(">iii", 2, 0x40202, 0x20300) + pairs(d=frame)


@pytest.mark.parametrize(
    ("column", "what"),
    [
        (CALL, "a call"),
        (texts("u", "v"), "texts"),
        (FUNCTION, "a function"),
        (EXPRESSION, "an expression"),
        (DATES, "of the class 'Date'"),
        (NOTHING, "of R's type NILVALUE"),
        (struct.pack(">i", 253), "of R's type GLOBALENV"),
    ],
    ids=["call", "texts", "function", "expression", "dates", "nothing", "environment"],
)
def test_a_column_of_what_r_could_run_and_of_texts_is_refused(
    column: bytes, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    numbers = struct.pack(">iidd", 14, 2, 1.5, 2.5)
    (tmp_path / "good.rda").write_bytes(saved(numbers, sequence(2)))
    assert read_frame(tmp_path / "good.rda").to_numpy().tolist() == [[1.5, 1], [2.5, 2]]
    (tmp_path / "d.rda").write_bytes(saved(numbers, column))
    with pytest.raises(UserError, match=f"column 'c1' is {what}; expected numbers, truth values or a factor"):
        load(tmp_path / "d.rda")
    assert not (tmp_path / "harm").exists()


def test_what_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "d.rda").write_bytes(saved(*[sequence(10**12)] * 3))
    with pytest.raises(UserError, match="its content would take 24,000 GB of memory"):
        load(tmp_path / "d.rda")
    zeros = struct.pack(">ii", 14, 10**5) + bytes(8 * 10**5)
    (tmp_path / "d.rda").write_bytes(lzma.compress(saved(zeros)))
    assert (tmp_path / "d.rda").stat().st_size < 2000
    monkeypatch.setattr(foreign, "machine_memory", lambda: 10**7)
    with pytest.raises(UserError, match="of memory"):
        load(tmp_path / "d.rda")


def test_a_value_that_is_no_level_of_its_factor_is_refused(tmp_path: Path):
    factor = struct.pack(">iiii", 0x30D, 2, 1, 3) + pairs(levels=texts("u", "v"), **{"class": texts("factor")})
    (tmp_path / "d.rda").write_bytes(saved(factor))
    with pytest.raises(UserError, match="column 'c0' has values that are none of its 2 levels"):
        load(tmp_path / "d.rda")


# ---------------------------------------------------------------------- Debian's r-cran-mlbench

SETS = {  # rows of the file, columns, classes, drawn training and validation points
    "letters": (20_000, 16, 26, 6_000, 2_000),
    "shuttle": (58_000, 9, 7, 6_000, 2_000),
    "satellite": (6_435, 36, 6, 2_500, 600),
    "dna": (3_186, 180, 3, 1_200, 300),
}
is_there = pytest.mark.skipif(not MLBENCH.is_dir(), reason="Debian's package r-cran-mlbench is not installed")


@is_there
@pytest.mark.parametrize("name", SETS)
def test_a_set_of_mlbench_is_whole_and_leaves_as_many_rows_for_another_draw(name: str):
    rows, columns, classes, n_train, n_unseen = SETS[name]
    dataset = configured(name)
    assert dataset.verify
    assert dataset.published == {"train": rows}
    examples = dataset.load()
    assert (examples.n_train, examples.n_points, examples.n_classes) == (n_train, n_train + n_unseen, classes)
    assert examples.input_shape == (columns,)
    whole = {"train_size": None, "validation_size": None}
    everything = load_with(name, **whole)
    assert (everything.n_points, everything.n_points - everything.n_train) == (rows, round(0.2 * rows))
    others = load_with(name, train_skip=n_train, validation_skip=n_unseen)
    assert (others.n_train, others.n_points) == (n_train, n_train + n_unseen)


def load_with(name: str, **changes: Any) -> Examples:
    return replace(configured(name), **changes).load()


@is_there
def test_classes_of_mlbench_are_those_that_its_manual_lists():
    """Counts as R's ``table(d$label)`` prints them."""
    counts = {}
    for name in ("letters", "shuttle", "satellite", "dna"):
        examples = load_with(name, train_size=None, validation_size=None)
        counts[name] = dict(zip(examples.class_names, examples.labels.bincount().tolist(), strict=True))
    assert "".join(counts["letters"]) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert (min(counts["letters"].values()), max(counts["letters"].values())) == (734, 813)
    assert counts["shuttle"] == {
        **{"Bpv.Close": 10, "Bpv.Open": 13, "Bypass": 3267, "Fpv.Close": 50, "Fpv.Open": 171},
        **{"High": 8903, "Rad.Flow": 45586},
    }
    assert counts["satellite"] == {
        **{"cotton crop": 703, "damp grey soil": 626, "grey soil": 1358, "red soil": 1533},
        **{"vegetation stubble": 707, "very damp grey soil": 1508},
    }
    assert counts["dna"] == {"ei": 767, "ie": 765, "n": 1654}


@is_there
@pytest.mark.parametrize("name", SETS)
def test_columns_of_mlbench_are_normalised_to_within_ten_standard_deviations(name: str):
    examples = load_with(name, train_size=None, validation_size=None)
    constants = examples.normalisation
    scaled = (examples.inputs - torch.tensor(constants.mean)) / torch.tensor(constants.std)
    assert scaled.mean(0).abs().max() < 0.12
    assert scaled.abs().max() < 10.01
    assert 0.05 < scaled.std(0).min() <= scaled.std(0).max() < 1.1


@pytest.mark.parametrize("name", SETS)
def test_the_package_is_named_where_it_is_not_installed(name: str):
    with pytest.raises(
        UserError, match=r"give the place of the files .*; on Debian they come with apt install r-cran-mlb"
    ):
        load_with(name, folders=["/nowhere"])


def test_the_package_that_reads_files_of_r_is_named_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "rdata.parser", None)
    with pytest.raises(UserError, match=r"need the package rdata: pip install 'dmm_exp\[rdata\]'"):
        load(write(tmp_path / "d.rda"))
