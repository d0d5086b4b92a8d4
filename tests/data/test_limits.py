"""Files that would fill memory, or that no reader expects, are refused in one sentence before they are decoded."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dataset_files import made_up, png, write_svhn

from dmm_exp.data.formats import CifarBinary, Idx, Npz, Parquet, SvhnMat, Table, TinyImageNet
from dmm_exp.data.formats.folder import read_groups
from dmm_exp.data.formats.idx import read_idx
from dmm_exp.deletion.checkpoints import read_tensors
from dmm_exp.errors import UserError
from dmm_exp.files import reading as foreign
from dmm_exp.forget.files import ListFile

ROWS = 100_000


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "machine_memory", lambda: 500_000)


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


# ---------------------------------------------------------------------- bombs


@pytest.mark.usefixtures("small_machine")
def test_an_archive_that_unpacks_to_more_than_the_memory_is_refused(tmp_path: Path):
    path = npz(tmp_path / "x.npz", x_train=np.zeros((10, 100_000)), y_train=np.zeros(10, int))
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match="of memory"):
        Npz(test=None).read(path)


@pytest.mark.usefixtures("small_machine")
def test_a_matlab_file_that_unpacks_to_more_than_the_memory_is_refused(tmp_path: Path):
    folder = write_svhn(tmp_path, made_up(32, classes=10, n_train=10, n_test=1000))
    SvhnMat().read(write_svhn(tmp_path / "small", made_up(32, classes=10, n_train=2, n_test=2)))
    with pytest.raises(UserError, match="of memory"):
        SvhnMat().read(folder)


@pytest.mark.usefixtures("small_machine")
def test_a_checkpoint_that_unpacks_to_more_than_the_memory_is_refused(tmp_path: Path):
    torch.save({"weight": torch.zeros(1_000_000)}, tmp_path / "net.pt")
    with zipfile.ZipFile(tmp_path / "net.pt") as plain, zipfile.ZipFile(tmp_path / "packed.pt", "w") as packed:
        for member in plain.namelist():
            packed.writestr(member, plain.read(member), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "packed.pt").stat().st_size < 20_000
    with pytest.raises(UserError, match="of memory"):
        read_tensors(tmp_path / "packed.pt")


@pytest.mark.usefixtures("small_machine")
def test_a_list_of_rows_that_unpacks_to_more_than_the_memory_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"row": ["word" * 2000] * 5_000}), tmp_path / "rows.parquet")
    assert (tmp_path / "rows.parquet").stat().st_size < 20_000
    with pytest.raises(UserError, match="of memory"):
        ListFile(tmp_path / "rows.parquet", "forget.indices", None, None, lambda text: False).entries()


def test_an_array_that_says_it_is_larger_than_it_is_is_refused(tmp_path: Path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (10**15,), "fortran_order": False, "descr": "<f8"})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x_train.npy", header.getvalue() + bytes(8))
        archive.writestr("y_train.npy", header.getvalue() + bytes(8))
    with pytest.raises(UserError, match="is not a complete"):
        Npz(test=None).read(tmp_path / "x.npz")


HEADERS = ["{'shape': " + "(" * 5000, "-" * 9000 + "1", "{'shape': (1,), 'descr': '|O', 'fortran_order': False}", "3"]


@pytest.mark.parametrize("header", HEADERS)
def test_damaged_headers_of_arrays_are_refused(header: str, tmp_path: Path):
    content = b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + bytes(64)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x_train.npy", content)
        archive.writestr("y_train.npy", content)
    with pytest.raises(UserError, match="is not a complete"):
        Npz(test=None).read(tmp_path / "x.npz")


def test_one_array_named_like_an_archive_is_refused(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(UserError, match="is not a complete"):
        Npz(test=None).read(tmp_path / "x.npz")


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("repeated", [1.5, "word" * 200])
def test_a_table_that_unpacks_to_more_than_the_memory_is_refused(repeated: object, tmp_path: Path):
    rows = ROWS if isinstance(repeated, float) else 5_000
    table = pa.table({"x": [repeated] * rows, "label": pa.array([0] * rows, pa.int8())})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd")
    assert (tmp_path / "x.parquet").stat().st_size < 20_000
    with pytest.raises(UserError, match="of memory"):
        Table().read(tmp_path / "x.parquet")


@pytest.mark.usefixtures("small_machine")
def test_a_table_of_repeated_texts_that_fits_is_no_bomb(tmp_path: Path):
    pq.write_table(pa.table({"x": ["word" * 10] * 3_000}), tmp_path / "x.parquet")
    foreign.check_parquet(tmp_path / "x.parquet")


@pytest.mark.usefixtures("small_machine")
def test_a_text_larger_than_the_memory_is_refused(tmp_path: Path):
    with (tmp_path / "x.csv").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(UserError, match="would take 1 GB of memory"):
        Table().read(tmp_path / "x.csv")


@pytest.mark.usefixtures("small_machine")
def test_images_in_a_table_larger_than_the_memory_are_refused(tmp_path: Path):
    table = pa.table({"image": [bytes(100)] * 20_000, "label": [0] * 20_000})
    pq.write_table(table, tmp_path / "train-0.parquet")
    with pytest.raises(UserError, match="of memory"):
        Parquet().read(tmp_path)


def idx_header(*shape: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)


def test_no_more_is_unpacked_than_a_header_says(tmp_path: Path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_header(2) + bytes(10**7)))
    with pytest.raises(UserError, match="says 2 bytes of data, more exist"):
        read_idx(tmp_path / "a.gz")


@pytest.mark.parametrize("shape", [(2**31,) * 4, (2**32 - 1,) * 9])
def test_a_header_that_says_too_much_is_refused(shape: tuple[int, ...], tmp_path: Path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_header(*shape) + bytes(10)))
    with pytest.raises(UserError, match="of memory"):
        read_idx(tmp_path / "a.gz")


@pytest.mark.parametrize("kept", range(0, 13))
def test_an_idx_file_cut_anywhere_is_refused(kept: int, tmp_path: Path):
    (tmp_path / "a").write_bytes((idx_header(1, 5) + bytes(5))[:kept])
    with pytest.raises(UserError):
        read_idx(tmp_path / "a")


@pytest.mark.usefixtures("small_machine")
def test_a_member_of_an_archive_larger_than_the_memory_is_refused(tmp_path: Path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("data_batch_1.bin")
        member.size = 10**6
        archive.addfile(member, io.BytesIO(bytes(10**6)))
    with pytest.raises(UserError, match="of memory"):
        CifarBinary(["data_batch_1.bin"], ["test_batch.bin"]).read(tmp_path / "x.tar.gz")


# ---------------------------------------------------------------------- damage


def test_any_byte_of_a_table_may_be_wrong(tmp_path: Path):
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": np.arange(50.0), "word": ["a", "b"] * 25, "label": [0, 1] * 25})
    frame.to_parquet(tmp_path / "x.parquet")
    content = (tmp_path / "x.parquet").read_bytes()
    for place in random.integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.integers(8)
        (tmp_path / "x.parquet").write_bytes(damaged)
        try:
            Table().read(tmp_path / "x.parquet")
        except UserError:
            continue


def test_any_byte_of_an_archive_may_be_wrong(tmp_path: Path):
    random = np.random.default_rng(0)
    content = npz(tmp_path / "x.npz", x_train=np.zeros((4, 3)), y_train=np.arange(4)).read_bytes()
    for place in random.integers(0, len(content), 100):
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.integers(8)
        (tmp_path / "x.npz").write_bytes(damaged)
        try:
            Npz(test=None).read(tmp_path / "x.npz")
        except UserError:
            continue


@pytest.mark.parametrize("names", ["[" * 9999, json.dumps({"info": 3}), "\xff"])
def test_class_names_that_cannot_be_read_are_none(names: str, tmp_path: Path):
    images, labels = made_up(4)["train"]
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())], {b"huggingface": names.encode("latin-1")})
    pq.write_table(pa.table([[png(image) for image in images], labels], schema=schema), tmp_path / "train-0.parquet")
    assert Parquet().read(tmp_path).class_names is None


def test_tables_of_other_kinds_beside_one_another_are_refused(tmp_path: Path):
    pq.write_table(pa.table({"image": [b"a"], "label": [0]}), tmp_path / "train-0.parquet")
    pq.write_table(pa.table({"image": [3], "label": [[0]]}), tmp_path / "train-1.parquet")
    with pytest.raises(UserError, match="columns of different types"):
        Parquet().read(tmp_path)


READERS = [
    ("groups.json", lambda folder: read_groups(folder / "groups.json")),
    ("train-0.parquet", lambda folder: Parquet().read(folder)),
    ("train-images-idx3-ubyte", lambda folder: Idx().read(folder)),
    ("data_batch_1.bin", lambda folder: CifarBinary(["data_batch_1.bin"], ["data_batch_1.bin"]).read(folder)),
]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
@pytest.mark.parametrize(("name", "read"), READERS)
def test_folders_pipes_and_links_named_like_files_are_refused(
    name: str, read: Callable[[Path], object], make: Callable[[Path], object], tmp_path: Path
):
    make(tmp_path / name)
    with pytest.raises(UserError):
        read(tmp_path)


def test_annotations_name_no_files_elsewhere(tmp_path: Path):
    (tmp_path / "train" / "n1" / "images").mkdir(parents=True)
    (tmp_path / "train" / "n1" / "images" / "a.png").write_bytes(png(made_up(4)["train"][0][0]))
    (tmp_path / "val" / "images").mkdir(parents=True)
    (tmp_path / "val" / "val_annotations.txt").write_text("../../train/n1/images/a.png\tn1\t0")
    with pytest.raises(UserError, match="there is no file"):
        TinyImageNet().read(tmp_path)
