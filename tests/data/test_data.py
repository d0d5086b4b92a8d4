"""Datasets in memory: splits, wrong labels, and the files they are read from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_files import N_TEST, N_TRAIN, idx_bytes, made_up, write_idx
from omegaconf import OmegaConf

import dmm_exp
from dmm_exp.config.instantiate import instantiate
from dmm_exp.data import Dataset, Digits, Examples, LabelCorruption, Normalisation, PlantedClass
from dmm_exp.data.formats import Idx
from dmm_exp.data.formats.idx import read_idx
from dmm_exp.errors import UserError
from dmm_exp.store import Spec, Store

UNIT = Normalisation(scale=1, mean=[0.0], std=[1.0])
FASHION = Path("/usr/share/datasets/fashion-mnist")


def configured(name: str) -> Any:
    """Return a dataset as its file in conf/ describes it."""
    conf = Path(dmm_exp.__file__).parents[1] / "conf" / "dataset" / f"{name}.yaml"
    return instantiate(OmegaConf.to_container(OmegaConf.load(conf)))


def digits(**changes: Any) -> Examples:
    return Digits(UNIT, **changes).load()


def contents(examples: Examples) -> list[tuple[int, ...]]:
    """Return every example (label and pixels) in an order that does not depend on the split."""
    rows = torch.cat([examples.labels[:, None], examples.inputs.flatten(1).long()], dim=1)
    return sorted(map(tuple, rows.tolist()))


# ---------------------------------------------------------------------- digits


def test_digits_are_1797_small_pictures_of_ten_classes():
    examples = digits()
    assert examples.inputs.shape == (1797, 1, 8, 8)
    assert examples.inputs.dtype == torch.uint8
    assert examples.inputs.max() == 16
    assert examples.labels.dtype == torch.int64
    assert examples.class_names == list("0123456789")
    assert examples.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert examples.input_shape == (1, 8, 8)
    assert (examples.n_points, examples.n_classes) == (1797, 10)


def test_a_fifth_of_the_digits_is_for_validation():
    assert digits().n_train == 1797 - 359
    assert digits(validation_fraction=0.5).n_train == 1797 - 898


def test_the_split_is_a_function_of_its_seed():
    first, again, other = digits(split_seed=3), digits(split_seed=3), digits(split_seed=4)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)


def test_every_split_holds_every_digit_once():
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    whole = sorted((int(y), *map(int, x)) for x, y in zip(bunch.data, bunch.target, strict=True))
    assert contents(digits(split_seed=0)) == contents(digits(split_seed=1, validation_fraction=0.4)) == whole


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0])
def test_a_split_without_training_or_validation_points_is_refused(fraction: float):
    with pytest.raises(UserError, match=rf"dataset\.validation_fraction={fraction}"):
        Digits(UNIT, validation_fraction=fraction)


def assert_normalises(examples: Examples) -> None:
    counts = examples.inputs.flatten().bincount(minlength=256).double()
    levels = torch.arange(256) / examples.normalisation.scale
    mean = (counts * levels).sum() / counts.sum()
    std = ((counts * (levels - mean) ** 2).sum() / counts.sum()).sqrt()
    assert examples.normalisation.mean == pytest.approx([mean.item()], rel=0.01)
    assert examples.normalisation.std == pytest.approx([std.item()], rel=0.01)


def test_the_constants_of_digits_are_those_of_the_dataset():
    assert_normalises(configured("digits").load())


# ---------------------------------------------------------------------- wrong labels


def test_corruption_changes_exactly_the_share_of_training_labels_asked_for():
    clean, wrong = digits(), digits(corruption=LabelCorruption(fraction=0.1, seed=5))
    changed = clean.labels != wrong.labels
    assert changed.sum() == round(0.1 * clean.n_train)
    assert torch.equal(changed, wrong.corrupted)
    assert not wrong.corrupted[wrong.n_train :].any()
    assert torch.equal(clean.inputs, wrong.inputs)
    assert not clean.corrupted.any()


def test_wrong_labels_are_spread_over_all_other_classes():
    labels, corrupted = LabelCorruption(fraction=0.9)(torch.full((5000,), 3), 4000, 10)
    counts = labels[corrupted].bincount(minlength=10)
    assert counts[3] == 0
    assert counts.sum() == 3600
    assert (counts[[0, 1, 2, 4, 5, 6, 7, 8, 9]] - 400).abs().max() < 5 * 400**0.5


def test_corruption_is_a_function_of_its_seed():
    first, again, other = (digits(corruption=LabelCorruption(fraction=0.1, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.corrupted, other.corrupted)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 5.0])
def test_a_share_of_wrong_labels_outside_its_range_is_refused(fraction: float):
    with pytest.raises(UserError, match=rf"dataset\.corruption\.fraction={fraction}"):
        LabelCorruption(fraction=fraction)


# ---------------------------------------------------------------------- a planted class


def test_a_planted_class_is_a_new_last_class_of_mirrored_inputs():
    clean, planted = digits(), digits(corruption=PlantedClass(fraction=0.1, seed=5))
    chosen = planted.corrupted
    assert planted.class_names == [*clean.class_names, "planted"]
    assert int(chosen[: clean.n_train].sum()) == round(0.1 * clean.n_train)
    assert int(chosen[clean.n_train :].sum()) == round(0.1 * (clean.n_points - clean.n_train))
    assert torch.equal(planted.labels == 10, chosen)
    assert torch.equal(planted.inputs[chosen], 16 - clean.inputs[chosen])
    assert torch.equal(planted.inputs[~chosen], clean.inputs[~chosen])
    assert torch.equal(planted.labels[~chosen], clean.labels[~chosen])
    assert planted.normalisation == clean.normalisation


def test_a_planted_class_takes_rows_of_all_others():
    clean, planted = digits(), digits(corruption=PlantedClass(fraction=0.2))
    assert (clean.labels[planted.corrupted].bincount(minlength=10) > 10).all()


def test_numbers_of_a_table_are_mirrored_by_column_within_what_is_seen_on_unseen_rows():
    inputs = torch.tensor([[0.0, 5.0], [9.0, 7.0], [1.0, 4.0], [3.0, 8.0]])
    table = Examples(inputs, torch.zeros(4).long(), 2, ["a"], Normalisation(1, [0.0], [1.0]), torch.zeros(4).bool())
    before = inputs.clone()
    planted = PlantedClass(fraction=0.99, seed=1).applied(table)
    assert torch.equal(planted.inputs, torch.tensor([[3.0, 7.0], [1.0, 5.0], [3.0, 8.0], [1.0, 4.0]]))
    assert torch.equal(table.inputs, before)


def test_a_planted_class_is_a_function_of_its_seed_and_may_be_empty():
    first, again, other = (digits(corruption=PlantedClass(0.1, seed)) for seed in (1, 1, 2))
    assert torch.equal(first.corrupted, again.corrupted)
    assert not torch.equal(first.corrupted, other.corrupted)
    assert digits(corruption=PlantedClass()).class_names == digits().class_names


def test_a_planted_class_cannot_have_the_name_of_another():
    with pytest.raises(UserError, match=r"corruption\.name=3: is the name of another class; expected a new one"):
        digits(corruption=PlantedClass(0.1, name="3"))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 5.0])
def test_a_share_of_a_planted_class_outside_its_range_is_refused(fraction: float):
    with pytest.raises(UserError, match=rf"dataset\.corruption\.fraction={fraction}"):
        PlantedClass(fraction=fraction)


# ---------------------------------------------------------------------- IDX files

NAMES = [f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
ARRAYS = made_up(5, channels=1)


def read_folder(*folders: Path, **changes: Any) -> Examples:
    names = ["a", "b", "c"]
    dataset = Dataset({"idx": Idx()}, folders=[str(folder) for folder in folders], class_names=names, **changes)
    return replace(dataset, normalisation=UNIT).load()


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("dotted", [False, True])
def test_idx_files_are_read_plain_and_gzipped_and_in_both_spellings(end: str, dotted: bool, tmp_path: Path):
    examples = read_folder(write_idx(tmp_path, ARRAYS, end=end, dotted=dotted))
    assert examples.n_train == N_TRAIN
    assert examples.inputs.shape == (N_TRAIN + N_TEST, 1, 5, 5)
    assert examples.inputs.dtype == torch.uint8
    for rows, part in ((slice(0, N_TRAIN), "train"), (slice(N_TRAIN, None), "test")):
        assert torch.equal(examples.inputs[rows], torch.from_numpy(ARRAYS[part][0]))
        assert torch.equal(examples.labels[rows], torch.from_numpy(ARRAYS[part][1]))


def test_the_first_folder_with_files_is_read(tmp_path: Path):
    write_idx(tmp_path / "here", ARRAYS)
    assert read_folder(tmp_path / "nowhere", tmp_path, tmp_path / "here").n_train == N_TRAIN


def test_no_folder_at_all_is_refused_with_a_way_out(tmp_path: Path):
    with pytest.raises(UserError, match=r"dataset\.path: give the place .*looked in .*nowhere.*train-images-idx3"):
        read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(name: str, tmp_path: Path):
    (write_idx(tmp_path, ARRAYS) / name).unlink()
    with pytest.raises(UserError, match=rf"{tmp_path} lacks the file {name}"):
        read_folder(tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 6, 15, 16, 17, 300])
def test_a_truncated_file_is_named(kept: int, tmp_path: Path):
    path = write_idx(tmp_path, ARRAYS) / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte is (truncated|not an IDX file)"):
        read_folder(tmp_path)


@pytest.mark.parametrize("kept", [1, 12, 100])
def test_a_truncated_gzip_file_is_named(kept: int, tmp_path: Path):
    path = write_idx(tmp_path, ARRAYS, end=".gz") / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz is not a complete gzip file"):
        read_folder(tmp_path)


def test_a_corrupt_gzip_file_is_named(tmp_path: Path):
    path = write_idx(tmp_path, ARRAYS, end=".gz") / "t10k-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz is not a complete gzip file"):
        read_folder(tmp_path)


@pytest.mark.parametrize("magic", [b"\x89PNG", b"\0\0\x0d\x03", b"\1\0\x08\x03"])
def test_a_file_of_another_format_is_named(magic: bytes, tmp_path: Path):
    path = write_idx(tmp_path, ARRAYS) / "t10k-images-idx3-ubyte"
    path.write_bytes(magic + path.read_bytes()[4:])
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte is not an IDX file of unsigned bytes"):
        read_folder(tmp_path)


def test_more_bytes_than_the_header_says_are_refused(tmp_path: Path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(np.arange(5)) + b"\0")
    with pytest.raises(UserError, match="labels"):
        read_idx(path)


def test_images_and_labels_of_different_number_are_refused(tmp_path: Path):
    write_idx(tmp_path, ARRAYS)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(5)))
    with pytest.raises(UserError, match="6 test inputs, but 5 labels"):
        read_folder(tmp_path)


def test_swapped_images_and_labels_are_refused(tmp_path: Path):
    write_idx(tmp_path, ARRAYS)
    (tmp_path / "train-images-idx3-ubyte").rename(tmp_path / "other")
    (tmp_path / "train-labels-idx1-ubyte").rename(tmp_path / "train-images-idx3-ubyte")
    (tmp_path / "other").rename(tmp_path / "train-labels-idx1-ubyte")
    with pytest.raises(UserError, match=str(tmp_path)):
        read_folder(tmp_path)


def test_labels_without_a_name_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"from 0 to 2: expected 0 to 1, .*class_names"):
        Dataset({"idx": Idx()}, str(write_idx(tmp_path, ARRAYS)), class_names=["a", "b"]).load()


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_whole_original_balanced_and_normalised():
    dataset = configured("fashion_mnist")
    assert dataset.verify
    examples = dataset.load()
    assert examples.inputs.shape == (70_000, 1, 28, 28)
    assert examples.n_train == 60_000
    assert examples.labels[:60_000].bincount().tolist() == [6_000] * 10
    assert examples.labels[60_000:].bincount().tolist() == [1_000] * 10
    assert_normalises(examples)


# ---------------------------------------------------------------------- as an artifact


class Silent:
    def warn(self, text: str) -> None:
        raise AssertionError(text)

    def note(self, text: str) -> None:
        raise AssertionError(text)


def test_examples_survive_the_way_through_an_artifact(tmp_path: Path):
    examples = digits(corruption=LabelCorruption(fraction=0.2))
    artifact = Store(tmp_path, Silent()).obtain(Spec("dataset"), examples.write)
    again = Examples.read(artifact)
    for name in ("inputs", "labels", "corrupted"):
        before, after = getattr(examples, name), getattr(again, name)
        assert before.dtype == after.dtype
        assert torch.equal(before, after)
    assert (again.n_train, again.class_names) == (examples.n_train, examples.class_names)
    assert again.normalisation == examples.normalisation
