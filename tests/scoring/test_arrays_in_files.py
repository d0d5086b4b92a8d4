"""The same numbers in every format; what is no array of numbers is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from dmm_exp.errors import UserError
from dmm_exp.scoring.arrays import ArrayFile
from dmm_exp.scoring.groups import read_groups

DRAWN = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)


def read(path: Path, key: str = "unlearned") -> np.ndarray:
    return ArrayFile(key, str(path)).read(lists=key == "forget")


@pytest.mark.parametrize("array", [DRAWN[..., 0], DRAWN, np.arange(4)], ids=["margins", "logits", "labels"])
def test_every_format_holds_the_same_numbers(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "one.npz", whatever=array)
    np.savez(tmp_path / "named.npz", unlearned=array, retrained=-array)
    save_file({"whatever": np.ascontiguousarray(array)}, tmp_path / "a.safetensors")
    pd.DataFrame({"x": array.tolist()}).astype(object if array.ndim > 1 else array.dtype).to_parquet(
        tmp_path / "a.parquet"
    )
    if array.ndim == 2:
        pd.DataFrame(array).rename(columns=str).to_parquet(tmp_path / "wide.parquet")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5 + (array.ndim == 2)
    for path in files:
        assert np.array_equal(read(path), array), path.name


def test_an_archive_of_several_arrays_has_one_for_each_option(tmp_path: Path) -> None:
    save_file({"unlearned": DRAWN, "retrained": -DRAWN}, tmp_path / "a.safetensors")
    assert np.array_equal(read(tmp_path / "a.safetensors", "retrained"), -DRAWN)
    with pytest.raises(UserError, match=r"originals=.*holds 2 arrays .*expected one, or one named 'originals'"):
        read(tmp_path / "a.safetensors", "originals")


def test_what_is_damaged_pickled_or_no_number_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "texts.npy", np.array(["a"]))
    np.savez(tmp_path / "pickled.npz", np.array([{}], dtype=object))
    np.savez(tmp_path / "none.npz")
    pd.DataFrame({"x": [[1.0], [1.0, 2.0]]}).to_parquet(tmp_path / "ragged.parquet")
    pd.DataFrame({"x": [1.0, None]}).to_parquet(tmp_path / "gaps.parquet")
    pd.DataFrame({"x": [[1.0]], "y": [[2.0]]}).to_parquet(tmp_path / "lists.parquet")
    for end in ("npy", "npz", "safetensors", "parquet"):
        (tmp_path / f"damaged.{end}").write_bytes(b"\x80\x04no array")
    (tmp_path / "a.pt").write_bytes(b"")
    (tmp_path / "link.npy").symlink_to(tmp_path / "nowhere.npy")
    said = {
        "texts.npy": "expected numbers",
        "pickled.npz": "cannot be read",
        "none.npz": "holds 0 arrays",
        "ragged.parquet": "lists of several lengths",
        "gaps.parquet": "has 1 empty values",
        "lists.parquet": "expected columns of numbers, or one of lists",
        "a.pt": "expected a file ending in .npy, .npz, .parquet, .safetensors",
        "link.npy": "there is no such file",
    }
    for name in sorted(path.name for path in tmp_path.iterdir()):
        with pytest.raises(UserError, match=f"unlearned=.*{name}: .*{said.get(name, 'cannot be read')}"):
            read(tmp_path / name)


def test_groups_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    forget, validation, points = [3, 1], [5], 6
    np.save(tmp_path / "forget.npy", np.array(forget))
    (tmp_path / "forget.json").write_text(json.dumps(forget))
    np.save(tmp_path / "mask.npy", np.isin(np.arange(points), forget))
    np.save(tmp_path / "val.npy", np.array(validation))
    np.save(tmp_path / "retain.npy", np.array([0, 2, 4]))
    np.save(tmp_path / "groups.npy", np.array([1, 0, 1, 0, 1, 2], np.uint8))

    def groups(**names: str) -> list[int]:
        files = {key: ArrayFile(key, str(tmp_path / name)) for key, name in names.items()}
        return read_groups(files, points).tolist()

    expected = [1, 0, 1, 0, 1, 2]
    assert groups(groups="groups.npy") == expected
    for name in ("forget.npy", "forget.json", "mask.npy"):
        assert groups(forget=name, validation="val.npy") == expected
    assert groups(forget="forget.npy", validation="val.npy", retain="retain.npy") == expected
    assert groups(forget="forget.npy") == [1, 0, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [([6], "from 6 to 6; expected some from 0 to 5"), ([-1], "from -1"), ([1, 1], "lists 1 points twice"),
     ([], "one or more"), ([1.0], "expected indices"), ([True], "expected indices"), ([[1]], "expected indices")],
)  # fmt: skip
def test_lists_of_points_are_checked(tmp_path: Path, values: list, sentence: str) -> None:
    np.save(tmp_path / "f.npy", np.array(values))
    with pytest.raises(UserError, match=f"forget=.*f.npy: .*{sentence}"):
        read_groups({"forget": ArrayFile("forget", str(tmp_path / "f.npy"))}, 6)


def test_a_group_of_another_number_is_refused(tmp_path: Path) -> None:
    for values in ([0, 1, 3], [0, 1], [1, 1, 2], [0.0, 1.0, 2.0]):
        np.save(tmp_path / "g.npy", np.array(values))
        with pytest.raises(UserError, match=r"groups=.*g\.npy: "):
            read_groups({"groups": ArrayFile("groups", str(tmp_path / "g.npy"))}, 3)
