"""Folders of images: one order, which is torchvision's, and no file that is skipped in silence."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import re
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_files import made_up, write_images, write_tiny_imagenet
from PIL import Image

from dmm_exp.console.progress import Console
from dmm_exp.data import Dataset, Decoding, Examples, Split
from dmm_exp.data.formats import ImageFolder, TinyImageNet
from dmm_exp.data.formats.folder import class_of
from dmm_exp.data.formats.walk import NOT_DECODED
from dmm_exp.errors import UserError
from dmm_exp.forget import Indices
from dmm_exp.store import Spec, Store

SIZE = 2


def picture(value: int, form: str = "PNG") -> bytes:
    """Return a small grey picture of one value."""
    content = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE), value, np.uint8)).save(content, form)
    return content.getvalue()


def folder_with(folder: Path, *names: str) -> Path:
    """Write pictures under these names, the value of each being its place in the list."""
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(value))
    return folder


def load(folder: Path, split: Split | None = None, groups: str | None = None) -> Examples:
    form = ImageFolder(groups=groups)
    return Dataset({"folder": form}, path=str(folder), decoding=Decoding(SIZE, 1), split=split or Split(test=1)).load()


def parts(folder: Path, groups: str | None = None) -> tuple[list[str], list[str], list[int]]:
    """Return classes, names and labels of the training part before anything is set aside."""
    reading = ImageFolder(groups=groups).read(folder)
    part = reading.parts["train"]
    assert part.names is not None
    assert reading.class_names is not None
    return reading.class_names, part.names, part.labels.tolist()


def of_torchvision(folder: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Return classes and samples as ``torchvision.datasets.ImageFolder`` of version 0.20 finds them."""
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    samples = []
    for label, name in enumerate(classes):
        for root, _, files in sorted(os.walk(folder / name, followlinks=True)):
            for file in sorted(files):
                if file.lower().endswith((".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")):
                    samples.append((os.path.relpath(os.path.join(root, file), folder), label))
    return classes, samples


# ---------------------------------------------------------------------- the order


def test_numbered_classes_are_ordered_as_text_like_their_rows(tmp_path: Path):
    folder_with(tmp_path, *(f"{name}/{number}.png" for name in range(12) for number in range(2)))
    classes, names, labels = parts(tmp_path)
    assert classes == ["0", "1", "10", "11", *"23456789"]
    assert labels == sorted(labels)
    assert names[4:6] == ["10/0.png", "10/1.png"]
    assert [classes[label] for label in labels] == [name.split("/")[0] for name in names]


def test_the_order_is_that_of_the_documentation(tmp_path: Path):
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(train/\S+)` \| (\d+)", text, re.MULTILINE)
    assert len(rows) > 4
    names = [name for _, name, _ in rows]
    folder_with(tmp_path, *names[::-1])
    found = zip(*parts(tmp_path)[1:], strict=True)
    assert [(str(row), f"train/{name}", str(label)) for row, (name, label) in enumerate(found)] == rows


@pytest.mark.parametrize("seed", range(5))
def test_rows_and_classes_are_those_of_torchvision(seed: int, tmp_path: Path):
    draw = random.Random(seed)
    letters = ["a", "b", "A", "B", "1", "2", "10", "a b", "a-b", "a.b", "é", "é2", "_", "Z", "09", "9"]
    names = [
        "/".join([draw.choice(letters), *draw.choices(letters, k=draw.randint(0, 2)), f"{draw.choice(letters)}.png"])
        for _ in range(60)
    ]
    names = [name for name in dict.fromkeys(names) if not any(other.startswith(f"{name}/") for other in names)]
    folder_with(tmp_path, *names)
    classes, found, labels = parts(tmp_path)
    expected = of_torchvision(tmp_path)
    assert (classes, list(zip(found, labels, strict=True))) == expected


def test_names_follow_rows_through_split_and_subset(tmp_path: Path):
    names = [f"{name}/{number:02d}.png" for name in ("cat", "dog") for number in range(20)]
    folder_with(tmp_path, *names)
    form, split = {"folder": ImageFolder()}, Split(test=0.2, validation=0.1)
    data = Dataset(form, path=str(tmp_path), decoding=Decoding(SIZE, 1), split=split, train_size=15).load()
    assert data.names is not None
    assert data.n_train == len(data.names) == 15
    assert [names[value] for value in data.inputs[:15, 0, 0, 0].tolist()] == data.names
    assert [data.class_names[label] for label in data.labels[:15]] == [name[:3] for name in data.names]
    wanted = [data.names[row] for row in (3, 11, 7)]
    assert Indices(_written(tmp_path / "list.txt", wanted)).select(data).tolist() == [3, 7, 11]


def _written(path: Path, lines: list[str]) -> str:
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_names_are_paths_in_the_folder_of_training_images(tmp_path: Path):
    folder_with(tmp_path / "train", "cat/1.png", "dog/deep/er/2.png", "dog/3.png")
    folder_with(tmp_path / "test", "cat/1.png", "dog/4.png")
    data = load(tmp_path)
    assert data.names == ["cat/1.png", "dog/3.png", "dog/deep/er/2.png"]
    assert Indices(_written(tmp_path / "a.txt", ["train/dog/deep/er/2.png", "cat/1.png"])).select(data).tolist() == [
        0,
        2,
    ]
    with pytest.raises(UserError, match=r"line 1: 'test/cat/1\.png' is no training file"):
        Indices(_written(tmp_path / "a.txt", ["test/cat/1.png"])).select(data)


def test_groups_have_their_folders_in_order_and_names_with_them(tmp_path: Path):
    folder_with(tmp_path / "i", "n2/0.png", "n1/0.png", "n3/0.png", "n10/0.png")
    (tmp_path / "groups.json").write_text(json.dumps({"9": ["n3", "n1"], "10": ["n10"]}))
    classes, names, labels = parts(tmp_path / "i", str(tmp_path / "groups.json"))
    assert (classes, names, labels) == (["10", "9"], ["n1/0.png", "n10/0.png", "n3/0.png"], [1, 0, 1])


def test_tiny_imagenet_keeps_its_order_and_has_names(tmp_path: Path):
    wordnet = ["n02", "n01", "n10"]
    write_tiny_imagenet(tmp_path, made_up(4), wordnet)
    reading = TinyImageNet().read(tmp_path)
    assert reading.class_names == sorted(wordnet)
    names = reading.parts["train"].names
    assert names is not None
    assert names[0] == "n01/images/n01_0001.JPEG"
    assert names == sorted(names)


def test_names_are_no_part_of_the_artifact_of_a_dataset(tmp_path: Path):
    folder_with(tmp_path / "i", "cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png")
    data = load(tmp_path / "i")
    datas = {"with": data, "without": replace(data, names=None)}
    written = [Store(tmp_path / name, Console()).obtain(Spec("dataset"), datas[name].write) for name in datas]
    files = [{path.name: path.read_bytes() for path in found.path.iterdir()} for found in written]
    assert {**files[0], "manifest.json": b""} == {**files[1], "manifest.json": b""}
    assert Examples.read(written[0]).names is None
    assert data.to("cpu").names == data.names


# ---------------------------------------------------------------------- which files are pictures


def said(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(record.getMessage() for record in caplog.records)


def test_pictures_are_known_by_their_ending_or_their_content(tmp_path: Path):
    content = {"a.jfif": "JPEG", "b.PNG": "PNG", "c": "PNG", "d.photo": "BMP", "e.jp2": "JPEG2000", "f.ico": "PNG",
               "g.tga": "TGA", "h.dib": "BMP", "i.pnm": "PPM", "j.png.bak": "PNG", "k.": "GIF"}  # fmt: skip
    for value, (name, form) in enumerate(content.items()):
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / name).write_bytes(picture(10 * value, form))
    folder_with(tmp_path, "dog/1.png")
    data = load(tmp_path, Split(test=1))
    assert data.n_points == len(content) + 1
    assert parts(tmp_path)[1] == [f"cat/{name}" for name in sorted(content)] + ["dog/1.png"]


def test_what_is_no_picture_is_skipped_counted_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder_with(tmp_path, "cat/1.png", "cat/deep/2.png", "dog/3.png", "beside.png")
    others = ["Thumbs.db", "cat/desktop.ini", "cat/deep/notes.txt", "dog/movie.mpg", "dog/data.h5", "dog/drawing.eps"]
    for name in others:
        (tmp_path / name).write_bytes(b"%!PS-Adobe" if name.endswith("eps") else b"no picture")
    for name in (".DS_Store", "cat/._1.png", "dog/.hidden.png", ".git/objects/1.png", "cat/.thumbnails/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(0))
    with caplog.at_level(logging.WARNING):
        assert parts(tmp_path)[1] == ["cat/1.png", "cat/deep/2.png", "dog/3.png"]
        assert parts(tmp_path)[0] == ["cat", "dog"]
    assert len(caplog.records) == 1
    names = ", ".join(sorted([*others, "beside.png"])[:5])
    assert said(caplog) == f"{tmp_path}: skipped 7 files that are not pictures of a class: {names}, …"


def test_nothing_is_said_where_nothing_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder_with(tmp_path, "cat/1.png", "cat/2.png", "dog/3.png")
    with caplog.at_level(logging.WARNING):
        load(tmp_path)
    assert not caplog.records


def test_formats_that_pillow_only_knows_by_name_are_among_its_formats():
    Image.init()
    assert set(Image.OPEN) >= NOT_DECODED


def test_a_picture_that_is_damaged_is_an_error_and_not_skipped(tmp_path: Path):
    folder_with(tmp_path, "cat/1.png", "cat/2.png", "dog/3.png")
    (tmp_path / "cat" / "2.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"2\.png is not a complete image"):
        load(tmp_path)


@pytest.mark.timeout(20)
def test_links_that_lead_back_do_not_hang(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder_with(tmp_path / "i", "cat/1.png", "cat/deep/2.png", "dog/3.png")
    for place, target in {
        "cat/self": "cat", "cat/up": ".", "cat/deep/up": "cat", "all": ".", "dog/further": "..", "dog/dog": "dog",
        "dog/broken": "nowhere", "dog/round.png": "dog/round.png",
    }.items():  # fmt: skip
        (tmp_path / "i" / place).symlink_to(tmp_path / "i" / target)
    with caplog.at_level(logging.WARNING):
        classes, names, _ = parts(tmp_path / "i")
    assert (classes, names) == (["cat", "dog"], ["cat/1.png", "cat/deep/2.png", "dog/3.png"])
    assert "skipped 8 files" in said(caplog)


def test_links_to_other_folders_and_files_are_followed(tmp_path: Path):
    folder_with(tmp_path / "elsewhere", "1.png", "2.png")
    folder_with(tmp_path / "i", "cat/0.png")
    (tmp_path / "i" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "i" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "i" / "cat" / "9.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    names = ["cat/0.png", "cat/9.png", "cat/more/1.png", "cat/more/2.png", "dog/1.png", "dog/2.png"]
    assert parts(tmp_path / "i")[1] == names


@pytest.mark.timeout(20)
def test_what_is_no_ordinary_file_is_not_opened(tmp_path: Path):
    folder_with(tmp_path, "cat/1.png", "dog/3.png")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    os.mkfifo(tmp_path / "cat" / "pipe")
    assert parts(tmp_path)[1] == ["cat/1.png", "dog/3.png"]


def test_a_name_that_is_no_text_is_read_and_can_be_listed(tmp_path: Path):
    folder_with(tmp_path / "i", "cat/1.png", "dog/3.png", "dog/4.png")
    shutil.copy(tmp_path / "i/cat/1.png", os.fsencode(tmp_path) + b"/i/cat/caf\xe9.png")
    data = load(tmp_path / "i")
    names = parts(tmp_path / "i")[1]
    assert names[1] == "cat/caf\\xe9.png"
    json.dumps(data.names).encode()


def test_an_image_folder_is_found_by_pictures_deep_in_it(tmp_path: Path):
    folder_with(tmp_path, "train/cat/deep/1.photo", "train/dog/deep/2.photo")
    assert ImageFolder().found(tmp_path)
    assert not ImageFolder().found(write_images(tmp_path / "none", {}, []))


FORMS = ("NFC", "NFD")


@pytest.mark.parametrize("forms", [FORMS, FORMS[::-1]])
def test_a_class_is_the_same_however_unicode_writes_its_folder(forms: tuple[str, str], tmp_path: Path):
    train, test = (unicodedata.normalize(form, "amélie") for form in forms)
    names = [f"train/{train}/0.png", "train/bo/0.png", f"test/{test}/0.png", "test/bo/0.png"]
    reading = ImageFolder().read(folder_with(tmp_path, *names))
    assert {part: content.labels.tolist() for part, content in reading.parts.items()} == {
        part: [0, 1] for part in ("train", "test")
    }
    assert reading.class_names == [train, "bo"]
    assert reading.parts["test"].names == [f"{test}/0.png", "bo/0.png"]
    (tmp_path / "groups.json").write_text(json.dumps({"one": [test], "two": ["bo"]}), encoding="utf-8")
    assert parts(tmp_path, str(tmp_path / "groups.json"))[0] == ["one", "two"]


def test_a_name_that_is_written_in_two_ways_is_taken_by_neither_of_others(tmp_path: Path):
    both = {unicodedata.normalize(form, "é"): form for form in FORMS}
    assert [class_of(name, both) for name in both] == list(FORMS)
    assert class_of("\u0041", both) is None
