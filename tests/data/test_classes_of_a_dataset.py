"""Classes in every format: which there are, and which have no training example."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dmm_exp.data import Dataset, Decoding, Examples, Split
from dmm_exp.data.formats import ImageFolder, Npz, Parquet, Table
from dmm_exp.data.split import stratified
from dmm_exp.deletion.rows import with_classes
from dmm_exp.errors import UserError
from dmm_exp.forget.classes import class_index

SIZE = 4
Labels = list[str]


def image(value: int) -> Image.Image:
    return Image.fromarray(np.full((SIZE, SIZE), value, np.uint8))


def write_folder(folder: Path, parts: dict[str, Labels]) -> Dataset:
    for part, labels in parts.items():
        for row, label in enumerate(labels):
            place = folder / part / label if len(parts) > 1 else folder / label
            place.mkdir(parents=True, exist_ok=True)
            image(row).save(place / f"{row:03}.png")
    return Dataset({"folder": ImageFolder()}, str(folder), decoding=Decoding(SIZE, 1), split=Split(test=0.25))


def write_npz(folder: Path, parts: dict[str, Labels]) -> Dataset:
    arrays = {f"y_{part}": np.array(labels) for part, labels in parts.items()}
    arrays |= {f"x_{part}": np.random.default_rng(0).normal(size=(len(y), 3)) for part, y in parts.items()}
    np.savez(folder / "data.npz", **arrays)
    form = Npz(test=("x_test", "y_test") if "test" in parts else None)
    return Dataset({"npz": form}, str(folder / "data.npz"), split=Split(test=0.25))


def write_table(folder: Path, parts: dict[str, Labels]) -> Dataset:
    for part, labels in parts.items():
        values = np.random.default_rng(0).normal(size=len(labels))
        pd.DataFrame({"x": values, "label": labels}).to_csv(folder / f"{part}.csv", index=False)
    return Dataset({"table": Table()}, str(folder), split=Split(test=0.25))


def write_parquet(folder: Path, parts: dict[str, Labels]) -> Dataset:
    from io import BytesIO

    for part, labels in parts.items():
        cells = []
        for row in range(len(labels)):
            content = BytesIO()
            image(row).save(content, "PNG")
            cells.append({"bytes": content.getvalue()})
        pd.DataFrame({"image": cells, "label": labels}).to_parquet(folder / f"{part}-0.parquet")
    return Dataset({"parquet": Parquet()}, str(folder), decoding=Decoding(SIZE, 1), split=Split(test=0.25))


WRITERS = [write_folder, write_npz, write_table, write_parquet]
Writer = Callable[[Path, dict[str, Labels]], Dataset]


@pytest.mark.parametrize("write", WRITERS)
def test_one_class_alone_is_refused(write: Writer, tmp_path: Path):
    with pytest.raises(UserError, match=r"all \d+ training examples are of one class, 'a'; expected at least two"):
        write(tmp_path, {"train": ["a"] * 12}).load()


@pytest.mark.parametrize("write", [write_npz, write_table, write_parquet])
def test_a_class_that_only_test_examples_have_is_refused(write: Writer, tmp_path: Path):
    with pytest.raises(UserError, match="no training example has the class 'c' that unseen examples have"):
        write(tmp_path, {"train": ["a", "b"] * 6, "test": ["a", "b", "c"]}).load()


@pytest.mark.parametrize("write", WRITERS)
def test_the_only_example_of_a_class_stays_a_training_example(write: Writer, tmp_path: Path):
    examples = write(tmp_path, {"train": ["a"] * 7 + ["b"] * 7 + ["c", "d", "e"]}).load()
    trained = examples.labels[: examples.n_train].bincount(minlength=5)
    assert (examples.n_train, examples.n_points) == (13, 17)
    assert (trained > 0).all()


@pytest.mark.parametrize("write", [write_npz, write_table, write_parquet])
def test_names_that_unicode_writes_in_two_ways_are_one_class(write: Writer, tmp_path: Path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    examples = write(tmp_path, {"train": [composed, "tea"] * 6, "test": [decomposed, "tea"]}).load()
    assert examples.class_names == [composed, "tea"]
    assert examples.labels[examples.n_train :].tolist() == [0, 1]
    assert class_index(decomposed, examples.class_names, "forget.label") == 0


def test_two_folders_whose_names_unicode_writes_in_two_ways_are_refused(tmp_path: Path):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    with pytest.raises(UserError, match=r"have the same name in two Unicode forms"):
        write_folder(tmp_path, {"train": [*names, "tea"] * 4}).load()


def test_an_empty_class_folder_is_refused_and_settled_by_the_classes_names(tmp_path: Path):
    dataset = write_folder(tmp_path, {"train": ["a", "c"] * 6})
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"the class 'b' has no examples; .*dataset\.class_names"):
        dataset.load()
    named = Dataset(dataset.formats, dataset.path, class_names=[*"abc"], decoding=dataset.decoding, split=dataset.split)
    assert named.load().class_names == [*"abc"]


def test_labels_keep_their_numbers_where_all_classes_are_named(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(40, 2)), y=np.arange(40) % 3 + 1)

    def load(names: list[str] | None) -> Examples:
        form = Npz(train=("x", "y"), test=None)
        return Dataset({"npz": form}, str(tmp_path / "a.npz"), class_names=names, split=Split(test=0.2)).load()

    coded, named = load(None), load([*"0123"])
    assert coded.class_names == ["1", "2", "3"]
    assert coded.taken[-1].endswith("the labels '1', '2', '3' are the classes, numbered from 0 in this order")
    assert torch.equal(coded.labels + 1, named.labels)
    with pytest.raises(UserError, match=r"the network gives 4 logits; .*dataset\.class_names"):
        with_classes(coded, torch.zeros(1, 4))
    assert with_classes(named, torch.zeros(1, 4)).class_names == [*"0123"]
    assert with_classes(coded, torch.zeros(1, 3)).class_names == ["1", "2", "3"]


def test_a_draw_leaves_one_row_of_every_class_where_it_can():
    labels = np.repeat(np.arange(12), [90, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2])
    for size in (1, 30, 60, 90):
        drawn = stratified(labels, size, seed=0)
        assert len(drawn) == size
        assert len(np.unique(np.delete(labels, drawn))) == 12
    assert len(stratified(labels, 100, seed=0)) == 100


# ---------------------------------------------------------------------- what is no class: quantities, several labels


@pytest.mark.parametrize("mark", [".", ","])
def test_a_quantity_is_refused_when_it_is_written_as_texts(tmp_path, mark):
    values = [f"{value:.3f}".replace(".", mark) for value in np.linspace(0, 1, 30)]
    pd.DataFrame({"x": np.arange(60.0) ** 2, "label": 2 * values}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"label=label: the labels are 30 different fractions such as .* a quantity"):
        Dataset({"table": Table()}, str(tmp_path), split=Split(test=0.25)).load()


@pytest.mark.parametrize("several", ["drama|comedy", "comedy; drama", "drama,comedy,drama"])
def test_several_labels_in_one_are_refused(tmp_path, several):
    labels = [several, *10 * ["drama", "comedy"]]
    with pytest.raises(
        UserError, match=r"label=label: the label .* joins the labels .*expected one class for each row"
    ):
        write_table(tmp_path, {"train": labels}).load()


def test_a_name_with_such_a_mark_is_a_class_where_its_parts_are_none(tmp_path):
    assert write_table(tmp_path, {"train": 10 * ["salt, pepper", "salt"]}).load().class_names == [
        "salt",
        "salt, pepper",
    ]
