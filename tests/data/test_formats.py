"""Every dataset from every format that people have it in, and what is said when files are not what they should be."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from dataset_files import (
    N_TEST,
    N_TRAIN,
    Arrays,
    archived,
    by_class,
    cifar_bytes,
    made_up,
    png,
    write_cifar10,
    write_cifar100,
    write_idx,
    write_images,
    write_parquet,
    write_svhn,
    write_tiny_imagenet,
)
from omegaconf import OmegaConf
from PIL import Image

import dmm_exp
from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.data import Dataset, Decoding, Examples
from dmm_exp.data.formats import Hub
from dmm_exp.data.formats.cifar import CifarBinary
from dmm_exp.errors import UserError

CONF = Path(dmm_exp.__file__).parents[1] / "conf" / "dataset"
PUBLISHED = ("cifar10", "cifar100", "svhn", "mnist", "fashion_mnist", "tiny_imagenet", "living17")
SIZES = {"cifar10": 32, "cifar100": 32, "svhn": 32, "mnist": 28, "fashion_mnist": 28, "tiny_imagenet": 64}
WORDNET = ["n01443537", "n01629819", "n01641577"]


def dataset(name: str, path: Path | None, **changes: Any) -> Dataset:
    """Return a dataset of conf/ with other values, ``a__b`` standing for ``a.b``; published sizes are not asked for."""
    config = OmegaConf.load(CONF / f"{name}.yaml")
    OmegaConf.update(config, "path", None if path is None else str(path))
    for key, value in ({"verify": False} | changes).items():
        OmegaConf.update(config, key.replace("__", "."), value)
    plain: Any = OmegaConf.to_container(config)
    check_targets(plain, "dataset")
    return instantiate(plain)


def load(name: str, path: Path | None, **changes: Any) -> Examples:
    return dataset(name, path, **changes).load()


def assert_holds(examples: Examples, arrays: Arrays) -> None:
    assert examples.inputs.dtype == torch.uint8
    assert examples.n_train == N_TRAIN
    expected = np.concatenate([arrays["train"][0], arrays["test"][0]])
    assert np.array_equal(examples.inputs.numpy(), expected)
    assert examples.labels.tolist() == [*arrays["train"][1], *arrays["test"][1]]


# ---------------------------------------------------------------------- every dataset × format


def pictures_of(name: str) -> Arrays:
    return made_up(SIZES[name], 1 if "mnist" in name else 3)


def test_cifar10_from_its_binary_batches(tmp_path: Path):
    arrays = pictures_of("cifar10")
    examples = load("cifar10", write_cifar10(tmp_path, arrays))
    assert_holds(examples, arrays)
    assert examples.class_names[:3] == ["airplane", "automobile", "bird"]
    assert examples.n_classes == 10


def test_cifar100_from_its_binary_files_by_the_second_label(tmp_path: Path):
    arrays = made_up(32, classes=100)
    examples = load("cifar100", write_cifar100(tmp_path, arrays))
    assert_holds(examples, arrays)
    assert examples.n_classes == 100


@pytest.mark.parametrize(
    ("name", "write", "inside"),
    [("cifar10", write_cifar10, "cifar-10-batches-bin"), ("cifar100", write_cifar100, "cifar-100-binary")],
)
def test_cifar_from_the_published_archive_and_from_the_folder_around_it(
    name: str, write: Callable[[Path, Arrays], Path], inside: str, tmp_path: Path
):
    arrays = pictures_of(name)
    folder = write(tmp_path / inside, arrays)
    assert_holds(load(name, tmp_path), arrays)
    assert_holds(load(name, archived(folder, "archive.tar.gz", inside)), arrays)


def test_svhn_from_its_matlab_files(tmp_path: Path):
    arrays = made_up(32, classes=10)
    examples = load("svhn", write_svhn(tmp_path, arrays))
    assert_holds(examples, arrays)
    assert examples.class_names[0] == "0"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_mnists_from_idx_files(name: str, end: str, tmp_path: Path):
    arrays = pictures_of(name)
    assert_holds(load(name, write_idx(tmp_path, arrays, end=end)), arrays)


@pytest.mark.parametrize("name", SIZES)
def test_published_datasets_from_parquet_as_hubs_keep_it(name: str, tmp_path: Path):
    image = "img" if "cifar" in name else "image"
    label = "fine_label" if name == "cifar100" else "label"
    test = "valid" if name == "tiny_imagenet" else "test"
    arrays = pictures_of(name)
    folder = write_parquet(tmp_path / "data", arrays, image=image, label=label, test=test)
    assert_holds(load(name, tmp_path), arrays)
    assert folder.is_dir()


@pytest.mark.parametrize("name", SIZES)
def test_published_datasets_from_image_folders(name: str, tmp_path: Path):
    arrays = pictures_of(name)
    classes = 10 if name != "cifar100" else 100
    names = sorted(f"{number}" for number in range(classes))  # as text: 10 comes after 1, as in torchvision
    examples = load(name, write_images(tmp_path, arrays, names), class_names=names[:3])
    assert_holds(examples, by_class(arrays))


def test_tiny_imagenet_from_its_own_layout(tmp_path: Path):
    arrays = pictures_of("tiny_imagenet")
    examples = load("tiny_imagenet", write_tiny_imagenet(tmp_path, arrays, WORDNET))
    expected = by_class({"train": arrays["train"]}) | {"test": arrays["test"]}
    assert_holds(examples, expected)
    assert examples.class_names == WORDNET


def test_living17_from_folders_of_superclasses_or_from_imagenets_with_groups(tmp_path: Path):
    arrays = made_up(16, classes=3)
    small: Any = {"decoding__size": 16, "decoding__keep_in": None}
    folder = write_images(tmp_path / "imagenet", arrays, WORDNET, test="val")
    examples = load("living17", folder, **small)
    assert_holds(examples, by_class(arrays))
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({"salamander": [WORDNET[1]], "other": [WORDNET[2], WORDNET[0]]}))
    grouped = load("living17", folder, formats__folder__groups=str(groups), **small)
    assert grouped.class_names == ["other", "salamander"]
    assert torch.equal(grouped.inputs, examples.inputs)
    assert grouped.labels.tolist() == [[0, 1, 0][label] for label in examples.labels.tolist()]


def test_subfolders_that_no_group_names_are_left_out(tmp_path: Path):
    arrays = made_up(8)
    folder = write_images(tmp_path / "images", arrays, WORDNET)
    (tmp_path / "groups.json").write_text(json.dumps({"a": [WORDNET[0]], "b": [WORDNET[2]]}))
    examples = load("folder", folder, decoding__size=8, formats__folder__groups=str(tmp_path / "groups.json"))
    assert examples.labels.bincount().tolist() == [(N_TRAIN + N_TEST) // 3] * 2


def test_a_folder_of_images_of_many_sizes_and_kinds_is_scaled(tmp_path: Path):
    for name, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
        (tmp_path / name).mkdir()
        for number, size in enumerate([(40, 20), (9, 33), (16, 16), (7, 7), (64, 10)]):
            Image.new("RGB", size, colour).save(tmp_path / name / f"{number}.{'jpg' if number % 2 else 'png'}")
    examples = load("folder", tmp_path, decoding__size=16, split__test=4)
    assert examples.inputs.shape == (10, 3, 16, 16)
    assert (examples.n_train, examples.class_names) == (6, ["blue", "red"])
    loudest = examples.inputs.flatten(2).float().mean(2).argmax(1)
    assert torch.equal(loudest, torch.where(examples.labels == 0, 2, 0))


def test_scaling_keeps_the_centre_of_the_shorter_side():
    image = np.zeros((3, 4, 12), dtype=np.uint8)
    image[:, :, 4:8] = 255
    assert (Decoding(size=4, resize=True).decode(png(image), "an image") == 255).all()


@pytest.mark.parametrize("last", [False, True])
def test_npz_images_in_either_order_of_channels(last: bool, tmp_path: Path):
    arrays = made_up(6)
    content = {
        f"{letter}_{part}": value
        for part, (images, labels) in arrays.items()
        for letter, value in (("x", images.transpose(0, 2, 3, 1) if last else images), ("y", labels[:, None]))
    }
    np.savez(tmp_path / "data.npz", **content)
    assert_holds(load("npz", tmp_path / "data.npz", formats__npz__channels_last=last), arrays)


def test_npz_of_numbers_without_a_test_part_is_split(tmp_path: Path):
    values = np.random.default_rng(0).normal(3, 2, (50, 4))
    np.savez_compressed(tmp_path / "data.npz", x=values, y=np.arange(50) % 2)
    examples = load("npz", tmp_path / "data.npz", formats__npz__train=["x", "y"], formats__npz__test=None)
    assert examples.inputs.dtype == torch.float32
    assert (examples.n_train, examples.n_points) == (40, 50)
    assert sorted(examples.inputs[:, 0].tolist()) == sorted(values[:, 0].astype(np.float32).tolist())


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_a_table_with_words_as_labels(end: str, tmp_path: Path):
    table = pd.DataFrame({"number": range(20), "wide": np.linspace(0, 1, 20), "yes": [True, False] * 10})
    table["species"] = ["lynx", "bear"] * 10
    write = table.to_csv if end == ".csv" else table.to_parquet
    write(tmp_path / f"table{end}", index=False)
    examples = load(
        "table",
        tmp_path / f"table{end}",
        formats__table__label="species",
        formats__table__leave_out=["number"],
        formats__table__keep=["yes"],  # which gives the labels away
    )
    assert examples.class_names == ["bear", "lynx"]
    assert examples.input_shape == (2,)
    assert torch.equal(examples.inputs[:, 1], examples.labels.float())
    assert examples.n_train == 16


def test_a_folder_with_a_training_and_a_test_table(tmp_path: Path):
    pd.DataFrame({"a": [1.0, 2.0, 3.0], "label": [5, 7, 10]}).to_csv(tmp_path / "train.csv", index=False)
    pd.DataFrame({"a": [4.0], "label": [10]}).to_csv(tmp_path / "test.csv", index=False)
    examples = load("table", tmp_path)
    assert examples.inputs[:, 0].tolist() == [1, 2, 3, 4]
    assert examples.labels.tolist() == [0, 1, 2, 2]
    assert examples.class_names == ["5", "7", "10"]


# ---------------------------------------------------------------------- by name


def test_by_name_through_the_real_package_on_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    arrays = pictures_of("cifar10")
    write_parquet(tmp_path / "files", arrays, image="img", names=list("abcdefghij"))
    changes: Any = {"folders": [], "hub__name": str(tmp_path / "files")}
    examples = load("cifar10", None, **changes)
    assert_holds(examples, arrays)
    assert examples.class_names == list("abcdefghij")
    with pytest.raises(UserError, match=r"dataset\.hub: .* has no split 'tset', it has train, test"):
        load("cifar10", None, **changes, hub__test="tset")
    with pytest.raises(UserError, match=r"has no column 'image', it has img, label; did you mean 'img'"):
        load("cifar10", None, **changes, hub__image="image")


def test_without_the_package_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"uoft-cs/cifar10 needs a package: pip install .*hub.*dataset\.path=FOLDER"):
        load("cifar10", None, folders=[])


def test_without_a_network_one_sentence_says_how_to_supply_files(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub\nsecond line")

    monkeypatch.setitem(sys.modules, "datasets", type("datasets", (), {"load_dataset": unreachable}))
    with pytest.raises(UserError, match=r"uoft-cs/cifar10 could not be loaded \(Couldn't reach the Hub\); .*path") as e:
        load("cifar10", None, folders=[])
    assert "second" not in str(e.value)


def test_files_that_are_there_are_preferred_to_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Hub, "read", lambda _: pytest.fail("asked for by name"))
    arrays = pictures_of("cifar10")
    write_cifar10(tmp_path, arrays)
    assert_holds(load("cifar10", None, folders=[str(tmp_path / "nowhere"), str(tmp_path)]), arrays)


# ---------------------------------------------------------------------- files that are not what they should be


@pytest.mark.parametrize("name", [*PUBLISHED, "folder", "npz", "table"])
def test_a_place_that_does_not_exist_or_holds_nothing_is_refused(name: str, tmp_path: Path):
    with pytest.raises(UserError, match=rf"dataset\.path={tmp_path}/nowhere does not exist; expected .*"):
        load(name, tmp_path / "nowhere")
    with pytest.raises(UserError, match=rf"dataset\.path={tmp_path} holds none of the files; expected .*"):
        load(name, tmp_path)


@pytest.mark.parametrize("name", ["living17", "folder", "npz", "table"])
def test_a_dataset_that_has_no_name_elsewhere_asks_for_its_files(name: str):
    with pytest.raises(UserError, match=r"dataset\.path: give the place of the files; expected "):
        load(name, None, folders=[])
    with pytest.raises(UserError, match=r"give the place of the files \(looked in /nowhere\)"):
        load(name, None, folders=["/nowhere"])


@pytest.mark.parametrize(("name", "file"), [("cifar10", "cifar-10-batches-py/data_batch_1"), ("cifar100", "train")])
def test_pickled_batches_are_refused_for_the_binary_version(name: str, file: str, tmp_path: Path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"\x80\x02}q\x01.")
    with pytest.raises(UserError, match=r"pickled Python batches are never loaded: use the binary version"):
        load(name, tmp_path)


def test_an_archive_of_pickled_batches_is_refused(tmp_path: Path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"\x80\x02}q\x01.")
    archive = archived(tmp_path / "cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar-10-batches-py")
    with pytest.raises(UserError, match=r"lacks .*; the Python version is pickled and never loaded: use the binary"):
        load("cifar10", archive)


@pytest.mark.parametrize("kept", [0, 1, 3000, 3073 + 1])
def test_truncated_cifar_records_are_refused(kept: int, tmp_path: Path):
    path = write_cifar10(tmp_path, pictures_of("cifar10")) / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=rf"data_batch_3\.bin has {kept} bytes, expected complete records of 3073"):
        load("cifar10", tmp_path)


def test_a_missing_cifar_file_is_named(tmp_path: Path):
    (write_cifar10(tmp_path, pictures_of("cifar10")) / "test_batch.bin").unlink()
    with pytest.raises(UserError, match=rf"{tmp_path} lacks the file test_batch\.bin"):
        load("cifar10", tmp_path)


def test_a_truncated_archive_is_refused(tmp_path: Path):
    folder = write_cifar10(tmp_path / "folder", pictures_of("cifar10"))
    archive = archived(folder, "cifar.tar.gz", "folder")
    archive.write_bytes(archive.read_bytes()[:20_000])
    with pytest.raises(UserError, match=r"cifar\.tar\.gz is not a complete \.tar\.gz archive"):
        load("cifar10", archive)


def test_labels_out_of_range_are_refused(tmp_path: Path):
    arrays = pictures_of("cifar10")
    arrays["train"][1][4] = 10
    with pytest.raises(UserError, match=r"labels of the train part go from 0 to 10: expected 0 to 9"):
        load("cifar10", write_cifar10(tmp_path, arrays))


@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_truncated_matlab_file_is_refused(kept: int, tmp_path: Path):
    path = write_svhn(tmp_path, pictures_of("svhn")) / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"train_32x32\.mat"):
        load("svhn", tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"X": np.zeros((32, 32, 3, 4), np.uint8)}, "does not hold the arrays X and y"),
        ({"X": np.zeros((4, 32, 32, 3), np.uint8), "y": np.ones((4, 1), np.uint8)}, "expected X uint8"),
        ({"X": np.zeros((32, 32, 3, 4)), "y": np.ones((4, 1), np.uint8)}, "expected X uint8"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.zeros((4, 1), np.uint8)}, "labels from 1 to 10"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.full((4, 1), 1.5)}, "expected one whole number"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((5, 1), np.uint8)}, "4 train inputs, but 5 labels"),
        ({"X": np.zeros((31, 32, 3, 4), np.uint8), "y": np.ones((4, 1), np.uint8)}, r"\[3, 31, 32\]"),
    ],
)
def test_matlab_files_with_other_content_are_refused(content: dict[str, np.ndarray], said: str, tmp_path: Path):
    from scipy.io import savemat

    write_svhn(tmp_path, pictures_of("svhn"))
    savemat(tmp_path / "train_32x32.mat", content)
    with pytest.raises(UserError, match=said):
        load("svhn", tmp_path)


def test_damaged_parquet_files_are_refused(tmp_path: Path):
    path = write_parquet(tmp_path, pictures_of("svhn")) / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet is not a complete parquet file"):
        load("svhn", tmp_path)


def test_parquet_with_other_columns_is_refused_with_those_it_has(tmp_path: Path):
    write_parquet(tmp_path, pictures_of("cifar10"))
    with pytest.raises(UserError, match=r"dataset\.formats\.parquet\.image=img: .* has no such column, it has image"):
        load("cifar10", tmp_path)


def test_parquet_whose_images_are_no_images_is_refused(tmp_path: Path):
    table = pd.DataFrame({"image": ["not bytes"] * 4, "label": [0, 1, 0, 1]})
    for part in ("train", "test"):
        table.to_parquet(tmp_path / f"{part}-0.parquet")
    with pytest.raises(UserError, match=r"train-0\.parquet, row \d: expected an encoded image"):
        load("svhn", tmp_path)


def test_a_truncated_image_is_named(tmp_path: Path):
    write_images(tmp_path, made_up(32), WORDNET)
    path = tmp_path / "test" / WORDNET[1] / "00001.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=rf"{path} is not a complete image"):
        load("folder", tmp_path)


def test_an_image_of_another_size_is_named(tmp_path: Path):
    write_images(tmp_path, made_up(31), [*"0123456789"])
    with pytest.raises(UserError, match=r"\.png is 31×31 pixels, expected 32×32; .*dataset\.decoding\.resize=true"):
        load("cifar10", tmp_path, class_names=[*"012"])


def test_a_test_class_that_is_not_trained_on_is_named(tmp_path: Path):
    write_images(tmp_path, made_up(8), WORDNET)
    (tmp_path / "test" / "n99999999").mkdir()
    with pytest.raises(UserError, match=r"test has a sub-folder 'n99999999' that is not a class of the training"):
        load("folder", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ('["a"]', "expected"),
        ('{"a": []}', "expected"),
        (f'{{"a": ["{WORDNET[0]}"], "b": ["{WORDNET[0]}"]}}', "in two classes"),
        ('{"a": ["n1"]}', "lacks n1"),
    ],
)
def test_groups_that_do_not_fit_are_refused(text: str, said: str, tmp_path: Path):
    write_images(tmp_path / "images", made_up(8), WORDNET)
    (tmp_path / "groups.json").write_text(text)
    with pytest.raises(UserError, match=rf"dataset\.formats\.folder\.groups=.*{said}"):
        load("folder", tmp_path / "images", formats__folder__groups=str(tmp_path / "groups.json"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("val_0.JPEG\tn9\t0\n", "'n9' is not a class"),
        (f"val_99.JPEG\t{WORDNET[0]}\t0\n", "there is no file"),
        ("", "empty"),
    ],
)
def test_wrong_annotations_of_tiny_imagenet_are_refused(line: str, said: str, tmp_path: Path):
    write_tiny_imagenet(tmp_path, pictures_of("tiny_imagenet"), WORDNET)
    (tmp_path / "val" / "val_annotations.txt").write_text(line)
    with pytest.raises(UserError, match=said):
        load("tiny_imagenet", tmp_path)


def npz_bytes(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


FINE = {"x_train": np.zeros((4, 3)), "y_train": np.arange(4) % 2, "x_test": np.ones((2, 3)), "y_test": np.arange(2)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a complete .npz file"),
        (npz_bytes(**FINE)[:300], "is not a complete .npz file"),
        (npz_bytes(**FINE | {"x_train": np.array([{}] * 4)}), "is not a complete .npz file of plain arrays"),
        (npz_bytes(x_train=FINE["x_train"]), r"no array 'y_train', it has x_train"),
        (npz_bytes(x_train=FINE["x_train"], y_train=FINE["y_train"]), r"dataset\.formats\.npz\.test=null"),
        (npz_bytes(**FINE | {"x_train": np.full((4, 3), np.nan)}), "12 are not"),
        (npz_bytes(**FINE | {"x_train": np.array([["a"]] * 4)}), "expected numbers"),
        (npz_bytes(**FINE | {"y_train": np.full(4, 0.5)}), "whole number"),
        (npz_bytes(**FINE | {"y_train": np.arange(3)}), "4 train inputs, but 3 labels"),
        (npz_bytes(**FINE | {"y_train": np.arange(4) - 1}), "from -1 to 2"),
        (npz_bytes(**FINE | {"x_test": np.ones((2, 4))}), r"test inputs are \[4\], training inputs \[3\]"),
        (npz_bytes(**FINE | {"x_test": np.ones((0, 3)), "y_test": np.arange(0)}), "the test part .* is empty"),
        (npz_bytes(**FINE | {"x_train": np.zeros((4, 8, 8, 3), np.uint8)}), r"npz\.channels_last=true"),
    ],
)
def test_npz_files_with_other_content_are_refused(content: bytes, said: str, tmp_path: Path):
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(UserError, match=said):
        load("npz", tmp_path / "data.npz")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"table\.csv is not a complete \.csv table"),
        ('a,label\n"1,2\n', r"table\.csv is not a complete \.csv table"),
        ("a,lable\n1,0\n", r"label: .*no column 'label', it has a, lable; did you mean 'lable'"),
        ("label\n1\n", "no column besides 'label'"),
        ("a,b,label\n1,x,0\n2,y,1\n", r"column 'b' of .* 2 different words .*expected numbers"),
        ("a,label\n1,0\n,1\n", r"column 'a' of .*: 1 of 2 rows have no value; .*leave_out=\[a\]"),
        ("a,label\n1,0\n2,\n", "column 'label': 1 labels are missing"),
        ("a,label\n", "has no rows"),
    ],
)
def test_tables_with_other_content_are_refused(text: str, said: str, tmp_path: Path):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        load("table", tmp_path / "table.csv")


def test_a_label_byte_that_a_record_does_not_have_is_refused():
    with pytest.raises(UserError, match="label=1"):
        CifarBinary(["a"], ["b"], label_bytes=1, label=1)


# ---------------------------------------------------------------------- what was published


def test_incomplete_files_are_refused_unless_one_insists(tmp_path: Path):
    arrays = pictures_of("cifar10")
    write_cifar10(tmp_path, arrays)
    with pytest.raises(
        UserError, match=r"the train part has 12 examples, published are 50,000; .*dataset\.verify=false"
    ):
        load("cifar10", tmp_path, verify=True)
    published = {"train": N_TRAIN, "test": N_TEST}
    assert_holds(load("cifar10", tmp_path, verify=True, published=published), arrays)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_files_with_another_checksum_are_refused(end: str, tmp_path: Path):
    write_idx(tmp_path, pictures_of("mnist"), end=end)
    with pytest.raises(UserError, match=rf"train-images-idx3-ubyte{end} differs from the published .*verify=false"):
        load("mnist", tmp_path, verify=True)


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_files_with_the_published_checksum_are_read(algorithm: str, tmp_path: Path):
    import hashlib

    arrays = pictures_of("cifar10")
    archive = archived(write_cifar10(tmp_path / "folder", arrays), "cifar-10-binary.tar.gz", "folder")
    expected = f"{algorithm}:{hashlib.new(algorithm, archive.read_bytes()).hexdigest()}"
    changes: Any = {"verify": True, "published": {"train": N_TRAIN, "test": N_TEST}}
    assert_holds(load("cifar10", archive, **changes, checksums={archive.name: expected}), arrays)
    other = {archive.name: expected[:-1] + ("0" if expected[-1] != "0" else "1")}
    with pytest.raises(UserError, match="differs from the published file"):
        load("cifar10", archive, **changes, checksums=other)


@pytest.mark.parametrize("name", PUBLISHED)
def test_constants_are_one_for_each_channel(name: str):
    config: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    channels = config["decoding"]["channels"]
    assert len(config["normalisation"]["mean"]) == len(config["normalisation"]["std"]) == channels
    assert set(config["published"]) == {"train", "test"}


def test_cifar_records_are_label_then_red_green_and_blue_planes(tmp_path: Path):
    record = bytes([7]) + bytes([1]) * 1024 + bytes([2]) * 1024 + bytes([3]) * 1024
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(record if number < 5 else b"\2" + record[1:])
    (tmp_path / "test_batch.bin").write_bytes(record)
    examples = load("cifar10", tmp_path)
    assert examples.labels.tolist() == [7, 7, 7, 7, 2, 7]
    assert examples.inputs[0, :, 5, 5].tolist() == [1, 2, 3]
    assert cifar_bytes(examples.inputs.numpy()[:1], np.array([7])) == record
