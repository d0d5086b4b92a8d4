"""What a dataset does whatever its format: splits, subsets, normalisation, choosing a format, mapping large images."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_files import made_up, write_idx, write_images

from dmm_exp.data import Dataset, Decoding, Examples, LabelCorruption, Normalisation, Split, content_hash
from dmm_exp.data.formats import Idx, ImageFolder, Npz
from dmm_exp.data.split import stratified
from dmm_exp.errors import UserError
from dmm_exp.store import Spec, Store


def labels_of(counts: Mapping[int, int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(list(counts), list(counts.values())))


CIFAR_LIKE = {"train": labels_of(dict.fromkeys(range(10), 500)), "test": labels_of(dict.fromkeys(range(10), 100))}


# ---------------------------------------------------------------------- splits


def test_by_default_the_test_part_is_unseen_and_all_training_examples_are_trained_on():
    train, unseen = Split()(CIFAR_LIKE)
    assert (train[0], unseen[0]) == ("train", "test")
    assert train[1].tolist() == list(range(5000))
    assert unseen[1].tolist() == list(range(1000))


def test_rums_split_sets_the_same_number_of_every_class_aside():
    searched, validation = Split(validation=500, unseen="validation")(CIFAR_LIKE)
    reported, test = Split(validation=500, unseen="test")(CIFAR_LIKE)
    assert (len(searched[1]), len(validation[1]), len(test[1])) == (4500, 500, 1000)
    assert np.array_equal(searched[1], reported[1])
    assert (validation[0], test[0]) == ("train", "test")
    assert np.bincount(CIFAR_LIKE["train"][validation[1]]).tolist() == [50] * 10
    assert sorted([*searched[1], *validation[1]]) == list(range(5000))


def test_files_without_a_test_part_can_be_cut_into_three():
    labels = {"train": CIFAR_LIKE["train"]}
    three = Split(test=0.2, validation=0.25, unseen="test"), Split(test=0.2, validation=0.25, unseen="validation")
    (train, test), (same, validation) = (split(labels) for split in three)
    assert np.array_equal(train[1], same[1])
    assert [len(rows) for _, rows in (train, validation, test)] == [3000, 1000, 1000]
    assert sorted([*train[1], *validation[1], *test[1]]) == list(range(5000))
    for rows in (train[1], validation[1], test[1]):
        assert len(set(np.bincount(labels["train"][rows]))) == 1


def test_a_test_part_of_the_files_own_is_left_as_it_is():
    assert Split(test=0.5)(CIFAR_LIKE)[1][0] == "test"
    assert len(Split(test=0.5)(CIFAR_LIKE)[0][1]) == 5000


def test_what_is_set_aside_depends_on_the_seed():
    first, again, other = (Split(validation=500, seed=seed)(CIFAR_LIKE)[0][1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_stratified_draw_keeps_proportions_to_within_one_example():
    counts = {0: 700, 1: 250, 2: 43, 3: 7}
    for size in (1, 10, 99, 500, 999):
        drawn = labels_of(counts)[stratified(labels_of(counts), size, seed=0)]
        assert len(drawn) == size
        assert all(abs(np.sum(drawn == label) - count * size / 1000) < 1 for label, count in counts.items())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"validation": -1}, r"dataset\.split\.validation=-1"),
        ({"validation": 2.5}, r"dataset\.split\.validation=2\.5"),
        ({"test": float("nan")}, r"dataset\.split\.test=nan"),
        ({"unseen": "val"}, r"dataset\.split\.unseen=val: expected test or validation"),
        ({"unseen": "validation"}, r"dataset\.split\.unseen=validation: no examples are set aside"),
        ({"validation": 5000}, r"dataset\.split\.validation=5000: of 5000 examples expected 1 to 4999"),
        ({"validation": 0.0001, "unseen": "validation"}, "of 5000 examples"),
    ],
)
def test_splits_that_cannot_be_are_refused(values: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        Split(**values)(CIFAR_LIKE)


def test_a_missing_test_part_is_refused_with_a_way_out():
    with pytest.raises(UserError, match=r"the files have no test part; .*dataset\.split\.test=0\.2"):
        Split()({"train": CIFAR_LIKE["train"]})


# ---------------------------------------------------------------------- datasets


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """A file with 60 + 20 examples of two columns whose first is the number of the example."""
    random, file = np.random.default_rng(0), tmp_path / "data.npz"
    number = np.arange(80.0)
    inputs, labels = np.stack([number, random.normal(5, 3, 80)], 1), random.integers(0, 3, 80)
    np.savez(file, x_train=inputs[:60], y_train=labels[:60], x_test=inputs[60:], y_test=labels[60:])
    return file


def numbers_in(examples: Examples) -> list[int]:
    return [int(number) for number in examples.inputs[:, 0]]


def load(path: Path, **changes: Any) -> Examples:
    return Dataset({"npz": Npz()}, str(path), **changes).load()


def test_training_points_come_first_in_the_order_of_the_files(npz: Path):
    examples = load(npz)
    assert numbers_in(examples) == list(range(80))
    assert (examples.n_train, examples.class_names) == (60, ["0", "1", "2"])


def test_subsets_have_the_sizes_asked_for_and_are_a_function_of_their_seed(npz: Path):
    part, again, other = (load(npz, train_size=20, validation_size=5, subset_seed=seed) for seed in (1, 1, 2))
    assert (part.n_train, part.n_points) == (20, 25)
    assert len(set(numbers_in(part))) == 25
    assert max(numbers_in(part)[:20]) < 60 <= min(numbers_in(part)[20:])
    assert numbers_in(part) == numbers_in(again) != numbers_in(other)


def test_draws_of_one_seed_that_pass_over_each_other_share_no_point(npz: Path):
    first = load(npz, train_size=20, validation_size=5)
    second = load(npz, train_size=20, validation_size=5, train_skip=20, validation_skip=5)
    rest = load(npz, train_skip=40, validation_skip=10)
    assert (rest.n_train, rest.n_points) == (20, 30)
    drawn = [number for part in (first, second, rest) for number in numbers_in(part)]
    assert sorted(drawn) == list(range(80))


@pytest.mark.parametrize(("key", "size"), [("train_skip", 60), ("train_skip", -1), ("validation_skip", 20)])
def test_passing_over_more_than_there_is_is_refused(key: str, size: int, npz: Path):
    with pytest.raises(UserError, match=rf"dataset\.{key}={size}: expected a number from 0 to"):
        load(npz, **{key: size})


@pytest.mark.parametrize(("key", "size"), [("train_size", 61), ("train_size", 0), ("validation_size", 21)])
def test_a_subset_that_does_not_exist_is_refused(key: str, size: int, npz: Path):
    with pytest.raises(UserError, match=rf"dataset\.{key}={size}"):
        load(npz, **{key: size})


def test_wrong_labels_are_put_into_training_points_only(npz: Path):
    clean, wrong = load(npz), load(npz, corruption=LabelCorruption(0.5))
    assert (clean.labels != wrong.labels).nonzero().squeeze(1).tolist() == wrong.corrupted.nonzero().squeeze(1).tolist()
    assert wrong.corrupted[:60].sum() == 30
    assert not wrong.corrupted[60:].any()


def test_constants_come_from_unseen_points_alone(npz: Path):
    examples = load(npz)
    unseen = examples.inputs[60:].double()
    assert examples.normalisation.scale == 1
    assert examples.normalisation.mean == pytest.approx(unseen.mean(0).tolist())
    assert examples.normalisation.std == pytest.approx(unseen.std(0, correction=0).tolist())
    with np.load(npz) as archive:
        changed = dict(archive)
    changed["x_train"] = changed["x_train"] * 7 + 1
    np.savez(npz, **changed)
    assert load(npz).normalisation == examples.normalisation


def test_constants_of_images_are_by_channel_and_of_what_does_not_vary_one():
    images = torch.randint(0, 256, (3000, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images[:, 2] = 51
    found, levels = Normalisation.of(images), images.double() / 255
    assert found.scale == 255
    assert found.mean == pytest.approx(levels.mean((0, 2, 3)).tolist())
    assert found.std == pytest.approx([*levels.std((0, 2, 3), correction=0)[:2].tolist(), 1.0])


@pytest.mark.parametrize(("mean", "std"), [([0.0] * 3, [1.0] * 3), ([0.0], [1.0, 1.0])])
def test_constants_of_another_number_than_channels_are_refused(mean: list[float], std: list[float], npz: Path):
    with pytest.raises(UserError, match=r"dataset\.normalisation: . means and . standard deviations, expected .* or 2"):
        load(npz, normalisation=Normalisation(1, mean, std))


def test_a_format_can_be_chosen_and_a_wrong_one_is_refused(tmp_path: Path):
    arrays = made_up(8, channels=1)
    write_idx(tmp_path, arrays)
    write_images(tmp_path, {part: (255 - images, labels) for part, (images, labels) in arrays.items()}, [*"abc"])
    formats = {"idx": Idx(), "folder": ImageFolder()}
    of = {
        name: Dataset(formats, str(tmp_path), format=name, decoding=Decoding(8, 1)).load()
        for name in (None, "idx", "folder")
    }
    assert torch.equal(of[None].inputs, of["idx"].inputs)
    assert sorted(of["folder"].inputs.flatten().tolist()) == sorted((255 - of["idx"].inputs).flatten().tolist())
    with pytest.raises(UserError, match=r"dataset\.format=foldr: expected one of idx, folder; did you mean 'folder'"):
        Dataset(formats, str(tmp_path), format="foldr")


def test_encoded_images_need_a_size(tmp_path: Path):
    write_images(tmp_path, made_up(8), [*"abc"])
    with pytest.raises(UserError, match=r"dataset\.decoding"):
        Dataset({"folder": ImageFolder()}, str(tmp_path)).load()


@pytest.mark.parametrize(("size", "channels"), [(0, 3), (8, 2)])
def test_impossible_images_are_refused(size: int, channels: int):
    with pytest.raises(UserError, match=r"dataset\.decoding\.(size=0|channels=2)"):
        Decoding(size, channels)


def test_a_number_of_classes_other_than_the_named_is_refused(tmp_path: Path):
    write_images(tmp_path, made_up(8), [*"abc"])
    with pytest.raises(UserError, match="the files have 3 classes, expected 2"):
        Dataset({"folder": ImageFolder()}, str(tmp_path), decoding=Decoding(8), class_names=["a", "b"]).load()


# ---------------------------------------------------------------------- large images


def folder_of(path: Path, keep_in: Path | None, **changes: Any) -> Dataset:
    decoding = Decoding(8, keep_in=None if keep_in is None else str(keep_in))
    return Dataset({"folder": ImageFolder()}, str(path), decoding=decoding, **changes)


def test_mapped_images_are_those_held_in_memory(tmp_path: Path):
    write_images(tmp_path / "images", made_up(8), [*"abc"])
    held, mapped = (folder_of(tmp_path / "images", place, train_size=7).load() for place in (None, tmp_path / "kept"))
    assert torch.equal(held.inputs, mapped.inputs)
    assert held.normalisation == mapped.normalisation
    assert [file.name for file in (tmp_path / "kept").rglob("*.npy")] == ["pictures.npy"]


def test_decoded_images_are_found_again_until_something_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path / "images", made_up(8), [*"abc"])
    decoded: list[str] = []
    decode = Decoding._decode
    monkeypatch.setattr(Decoding, "_decode", lambda self, *image: decoded.append(image[1]) or decode(self, *image))
    for expected, changes in ((18, {}), (0, {}), (11, {"train_size": 5}), (11, {"train_size": 5, "subset_seed": 1})):
        decoded.clear()
        folder_of(tmp_path / "images", tmp_path / "kept", **changes).load()
        assert len(decoded) == expected
    file = next((tmp_path / "images" / "train" / "a").iterdir())
    file.write_bytes(next((tmp_path / "images" / "train" / "b").iterdir()).read_bytes() + b"\0")
    folder_of(tmp_path / "images", tmp_path / "kept").load()
    assert len(decoded) == 11 + 18


def test_an_interrupted_decoding_leaves_nothing_behind(tmp_path: Path):
    write_images(tmp_path / "images", made_up(8), [*"abc"])
    next((tmp_path / "images" / "train" / "c").iterdir()).write_bytes(b"no image")
    with pytest.raises(UserError, match="is not a complete image"):
        folder_of(tmp_path / "images", tmp_path / "kept").load()
    assert [path for path in (tmp_path / "kept").rglob("*") if path.is_file()] == []


def own_memory() -> int:
    """Return the bytes of this process that no file stands behind."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_mapped_images_are_hashed_stored_and_read_without_being_held(tmp_path: Path):
    shape, size = (1024, 1, 256, 256), 1024 * 256 * 256
    images = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, shape)
    images[:] = 3
    images.flush()
    inputs, labels = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c")), torch.zeros(1024).long()
    examples = Examples(inputs, labels, 10, ["a"], Normalisation(255, [0.5], [0.5]), labels.bool())
    before = own_memory()
    tracemalloc.start()
    try:
        content_hash(examples.inputs)
        artifact = Store(tmp_path / "store", Silent()).obtain(Spec("dataset"), examples.write)
        assert tracemalloc.get_traced_memory()[1] < size / 16
    finally:
        tracemalloc.stop()
    again = Examples.read(artifact)
    assert sum(int(block.sum()) for block in again.inputs.split(64)) == 3 * size
    assert own_memory() - before < size / 4


class Silent:
    def warn(self, text: str) -> None:
        raise AssertionError(text)

    def note(self, text: str) -> None:
        raise AssertionError(text)


def test_mapped_examples_survive_the_way_through_an_artifact(tmp_path: Path):
    write_images(tmp_path / "images", made_up(8), [*"abc"])
    examples = folder_of(tmp_path / "images", tmp_path / "kept").load()
    artifact = Store(tmp_path / "store", Silent()).obtain(Spec("dataset"), examples.write)
    again = Examples.read(artifact)
    assert torch.equal(again.inputs, examples.inputs)
    assert again.normalisation == examples.normalisation
