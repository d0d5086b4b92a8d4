"""NumPy archives as people have them: types, units, layouts and numbers that leave open what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dmm_exp.data import Dataset, Examples, Split
from dmm_exp.data.formats import Npz
from dmm_exp.data.numbers import numbers
from dmm_exp.deletion.rows import examples_of
from dmm_exp.errors import UserError

RANDOM = np.random.default_rng(0)
LABELS = np.arange(40) % 3
FLOATS = RANDOM.normal(size=(40, 4))
EXACT = 2**24


def bytes_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def load(folder: Path, x: np.ndarray, y: np.ndarray = LABELS, test: Any = None, **settings: Any) -> Examples:
    parts = {"x": x, "y": y} | ({} if test is None else {"xt": test[0], "yt": test[1]})
    np.savez(folder / "data.npz", **parts)
    form = Npz(train=("x", "y"), test=None if test is None else ("xt", "yt"), **settings)
    return Dataset({"npz": form}, path=str(folder / "data.npz"), split=Split(test=0.2)).load()


# ---------------------------------------------------------------------- types and units


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (bytes_of(40, 8, 8), bytes_of(9, 8, 8) / 255, "train inputs are uint8 and test inputs are float32"),
        (bytes_of(40, 8, 8) / 255, bytes_of(9, 8, 8), "train inputs are float32 and test inputs are uint8"),
        (bytes_of(40, 8, 8), bytes_of(9, 8, 8).astype(int), "train inputs are uint8 and test inputs are float32"),
        (bytes_of(40, 8, 8) * 1.0, bytes_of(9, 8, 8) / 255, "test inputs go up to 1, train inputs up to 255"),
        (bytes_of(40, 8, 8) / 127.5 - 1, bytes_of(9, 8, 8) * 1.0, "train inputs go up to 1, test inputs up to 255"),
        (bytes_of(40, 1, 8, 8).astype(np.uint16) * 257, bytes_of(9, 1, 8, 8) / 255, "up to 6.554e"),
        (FLOATS, np.abs(FLOATS[:9]) * 255 / 3, "only one of them seems to be scaled"),
    ],
)
def test_parts_of_different_types_or_units_are_refused(
    train: np.ndarray, test: np.ndarray, expected: str, tmp_path: Path
):
    with pytest.raises(UserError, match=expected):
        load(tmp_path, train, test=(test, np.arange(9) % 3))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (FLOATS, FLOATS[:2] * 60),  # too few to judge
        (np.abs(RANDOM.lognormal(0, 4, (40, 2))), np.abs(RANDOM.lognormal(0, 4, (20, 2)))),
        (bytes_of(40, 8, 8) / 255, bytes_of(9, 8, 8) / 4 / 255),  # darker
        (np.zeros((40, 3)), np.full((9, 3), 200.0)),
    ],
)
def test_parts_that_only_vary_are_accepted(train: np.ndarray, test: np.ndarray, tmp_path: Path):
    assert load(tmp_path, train, test=(test, np.arange(len(test)) % 3)).n_points == 40 + len(test)


# ---------------------------------------------------------------------- numbers that float32 cannot hold


@pytest.mark.parametrize(
    "values",
    [
        10**15 + np.arange(40),
        1_700_000_000 + np.arange(40),
        1_700_000_000 + np.arange(40) / 3,
        np.arange(40) + 2**25,
        -(10**12) - np.arange(40),
        2**60 + np.arange(40),
    ],
)
def test_identifiers_and_times_that_float32_makes_equal_are_refused(values: np.ndarray, tmp_path: Path):
    with pytest.raises(UserError, match=r"column 1 of x of .*npz: in float32 only \d+ of its 40 different numbers"):
        load(tmp_path, np.stack([np.arange(40) % 7, values], 1))


@pytest.mark.parametrize(
    "values",
    [
        np.arange(40) * 1_000_003 + EXACT,  # large, and still told apart
        RANDOM.normal(size=40) * 1e20,
        np.full(40, 10**15 + 1),
        np.arange(40) + EXACT - 40,
    ],
)
def test_large_numbers_that_stay_different_are_accepted(values: np.ndarray):
    assert numbers(values[:, None], "x").dtype == np.float32


def test_numbers_beyond_float32_are_refused_as_such():
    with pytest.raises(UserError, match=r"120 numbers are too large for float32"):
        numbers(np.full((40, 3), 1e39), "x")
    with pytest.raises(UserError, match=r"expected finite numbers, but 1 are not"):
        numbers(np.array([[1.0], [np.inf]]), "x")


# ---------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    "shape", [(8, 8, 3), (8, 8, 4), (16, 16, 2), (16, 16, 5), (9, 9, 1), (12, 10, 7), (64, 48, 13)]
)
def test_channels_that_seem_to_come_last_are_refused_until_a_key_settles_it(shape: tuple[int, ...], tmp_path: Path):
    images = bytes_of(40, *shape)
    with pytest.raises(UserError, match=r"channels_last=true, or .*npz\.axes=\[channels,height,width\]"):
        load(tmp_path, images)
    assert load(tmp_path, images, channels_last=True).input_shape == (shape[2], *shape[:2])
    assert load(tmp_path, images, axes=["height", "width", "channels"]).input_shape == (shape[2], *shape[:2])
    assert load(tmp_path, images, axes=["channels", "height", "width"]).input_shape == shape


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 9), (3, 3, 3), (4, 9, 9), (13, 16, 16), (64, 8, 8), (1, 20, 5)])
def test_channels_that_come_first_are_accepted(shape: tuple[int, ...], tmp_path: Path):
    assert load(tmp_path, bytes_of(40, *shape)).input_shape == shape


def test_channels_that_come_first_are_not_last_by_mistake(tmp_path: Path):
    with pytest.raises(UserError, match=r"channels_last=true: .* looks like images with channels first"):
        load(tmp_path, bytes_of(40, 3, 8, 8), channels_last=True)
    last = load(tmp_path, bytes_of(40, 3, 8, 8), channels_last=True, axes=["height", "width", "channels"])
    assert last.input_shape == (8, 3, 8)


@pytest.mark.parametrize("shape", [(20, 6), (6, 20), (3, 3), (7, 7), (1, 50)])
def test_sequences_become_images_only_if_a_key_says_so(shape: tuple[int, ...], tmp_path: Path):
    values = RANDOM.normal(size=(40, *shape))
    with pytest.raises(UserError, match=r"axes=\[height,width\] or dataset\.formats\.npz\.axes=\[steps,values\]"):
        load(tmp_path, values)
    assert load(tmp_path, values, axes=["height", "width"]).input_shape == (1, *shape)
    assert load(tmp_path, values, axes=["steps", "values"]).input_shape == shape


@pytest.mark.parametrize(
    "images", [bytes_of(40, 28, 20), RANDOM.normal(size=(40, 8, 8)), RANDOM.normal(size=(40, 9, 9))]
)
def test_bytes_and_large_squares_are_grey_images(images: np.ndarray, tmp_path: Path):
    examples = load(tmp_path, images)
    assert examples.input_shape == (1, *images.shape[1:])
    assert f"images of 1 channels, {images.shape[1]} × {images.shape[2]} pixels" in examples.taken[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"axes": ["width", "height"]}, r"axes=\[width,height\]: expected one of \[channels,height,width\], "),
        ({"axes": []}, r"axes=\[\]: expected one of"),
        ({"axes": ["steps", "values"], "channels_last": True}, "contradicts"),
        ({"axes": ["channels", "height", "width"]}, r"x of .* is \[40, 4\]; expected a name for each axis"),
    ],
)
def test_axes_that_cannot_be_are_refused(settings: dict[str, Any], expected: str, tmp_path: Path):
    with pytest.raises(UserError, match=expected):
        load(tmp_path, FLOATS, **settings)


@pytest.mark.parametrize("shape", [(40,), (40, 0), (40, 3, 0)])
def test_inputs_without_numbers_for_each_example_are_refused(shape: tuple[int, ...], tmp_path: Path):
    values = np.zeros(shape)
    settings = {"axes": ["steps", "values"]} if len(shape) == 3 else {}
    with pytest.raises(UserError, match=r"train inputs are .*expected \[examples, \.\.\.\]"):
        load(tmp_path, values, **settings)


# ---------------------------------------------------------------------- labels of many kinds


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (LABELS, ["0", "1", "2"]),
        (LABELS[:, None], ["0", "1", "2"]),
        (LABELS + 1, ["1", "2", "3"]),
        (np.array([0, 5, 9])[LABELS], ["0", "5", "9"]),
        (LABELS + 10**9, ["1000000000", "1000000001", "1000000002"]),
        (np.where(LABELS > 0, 1, -1), ["-1", "1"]),
        (LABELS.astype(float), ["0", "1", "2"]),
        (LABELS > 0, ["0", "1"]),
        (np.array(["lynx", "bear", "wolf"])[LABELS], ["bear", "lynx", "wolf"]),
        (LABELS.astype(">i2"), ["0", "1", "2"]),
    ],
)
def test_classes_are_the_sorted_labels_whatever_these_are(labels: np.ndarray, names: list[str], tmp_path: Path):
    examples = load(tmp_path, FLOATS, labels)
    assert examples.class_names == names
    assert sorted(examples.labels.unique().tolist()) == list(range(len(names)))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.arange(40), r"40 examples have 40 different labels such as 0, 1, 2, which look like identifiers"),
        (np.arange(40) + 10**9, "look like identifiers"),
        (np.array([f"user {number}" for number in range(40)]), "look like identifiers"),
        (np.eye(3)[LABELS], r"looks like one column for each class; .*argmax\(axis=1\)"),
        (np.linspace(0, 1, 40), "found fractions"),
        (LABELS - 1, r"labels of the train part go from -1 to 1 .*: expected whole numbers from 0, or -1 and 1"),
        (np.full(40, 2**63, dtype=np.uint64) + LABELS.astype(np.uint64), "beyond 64 bits"),
        (np.full(40, np.nan), "one whole number"),
        (LABELS + 1j, "one whole number"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: np.ndarray, expected: str, tmp_path: Path):
    with pytest.raises(UserError, match=expected):
        load(tmp_path, FLOATS, labels)


# ---------------------------------------------------------------------- arrays handed over in Python


def test_arrays_in_python_are_held_to_the_same_rules():
    labels = torch.from_numpy(LABELS)
    images = torch.from_numpy(bytes_of(40, 1, 8, 8)).float()
    with pytest.raises(UserError, match="validation inputs go up to 1, train inputs up to 255"):
        examples_of((images, labels), (images / 255, labels))
    times = torch.stack([torch.arange(40.0), 1.7e9 + torch.arange(40, dtype=torch.float64)], 1)
    with pytest.raises(UserError, match="column 1 of train inputs: in float32 only"):
        examples_of((times, labels), None)
