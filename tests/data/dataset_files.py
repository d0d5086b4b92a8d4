"""Tiny datasets in the true formats, written by hand or by the libraries that define them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

N_TRAIN, N_TEST = 12, 6
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # part → (images [n, channels, height, width], labels [n])


def made_up(size: int, channels: int = 3, classes: int = 3, n_train: int = N_TRAIN, n_test: int = N_TEST) -> Arrays:
    """Return random images whose labels go through all classes in turn."""
    random = np.random.default_rng(0)
    counts = {"train": n_train, "test": n_test}
    return {
        part: (
            random.integers(0, 256, (count, channels, size, size), dtype=np.uint8),
            np.arange(count, dtype=np.int64) % classes,
        )
        for part, count in counts.items()
    }


def by_class(arrays: Arrays) -> Arrays:
    """Return the same examples sorted by class, as folders of classes hold them."""
    return {part: (x[order], y[order]) for part, (x, y) in arrays.items() for order in [np.argsort(y, kind="stable")]}


def png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(content, "PNG")
    return content.getvalue()


# ---------------------------------------------------------------------- CIFAR


def cifar_bytes(images: np.ndarray, labels: np.ndarray, before: Sequence[int] = ()) -> bytes:
    """Return records: superclass bytes where asked for, the class byte, then the three planes."""
    return b"".join(bytes([*before, label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def write_cifar10(folder: Path, arrays: Arrays) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\n")
    images, labels = arrays["train"]
    for number, rows in enumerate(np.array_split(np.arange(len(labels)), 5), 1):
        (folder / f"data_batch_{number}.bin").write_bytes(cifar_bytes(images[rows], labels[rows]))
    (folder / "test_batch.bin").write_bytes(cifar_bytes(*arrays["test"]))
    return folder


def write_cifar100(folder: Path, arrays: Arrays) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part in arrays:
        (folder / f"{part}.bin").write_bytes(cifar_bytes(*arrays[part], before=[19]))
    return folder


def archived(folder: Path, name: str, inside: str) -> Path:
    """Return the folder as a ``.tar.gz`` beside it, under another name inside."""
    with tarfile.open(folder.parent / name, "w:gz") as archive:
        archive.add(folder, inside)
    return folder.parent / name


# ---------------------------------------------------------------------- IDX and MATLAB


def idx_bytes(array: np.ndarray) -> bytes:
    """Return an array of unsigned bytes in the IDX format, as its published description says."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, arrays: Arrays, *, end: str = "", dotted: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in arrays.items():
        prefix = {"train": "train", "test": "t10k"}[part]
        for name, array in (("images-idx3", images[:, 0]), ("labels-idx1", labels)):
            content, file = idx_bytes(array), f"{prefix}-{name}-ubyte{end}"
            path = folder / (file.replace("-idx", ".idx") if dotted else file)
            path.write_bytes(gzip.compress(content) if end == ".gz" else content)
    return folder


def write_svhn(folder: Path, arrays: Arrays) -> Path:
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in arrays.items():
        digits = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(folder / f"{part}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": digits}, do_compression=True)
    return folder


# ---------------------------------------------------------------------- encoded images


def write_parquet(
    folder: Path, arrays: Arrays, *, image: str = "image", label: str = "label", names: Sequence[str] = (), test="test"
) -> Path:
    """Write shards as hubs do: structs of bytes and path, names of classes in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    features: Any = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    for part, shards in (("train", 2), ("test", 1)):
        images, labels = arrays[part]
        for number, rows in enumerate(np.array_split(np.arange(len(labels)), shards)):
            cells = [{"bytes": png(images[row]), "path": f"{row}.png"} for row in rows]
            table = pa.table({image: cells, label: labels[rows]}).replace_schema_metadata(metadata)
            name = test if part == "test" else part
            pq.write_table(table, folder / f"{name}-{number:05d}-of-{shards:05d}.parquet")
    return folder


def write_images(folder: Path, arrays: Arrays, names: Sequence[str], *, test: str | None = "test") -> Path:
    """Write a folder of images for each class, under ``train`` and ``test`` or (``test=None``) without them."""
    for part, (images, labels) in arrays.items():
        if test is None and part == "test":
            continue
        place = folder if test is None else folder / (test if part == "test" else part)
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            (place / names[label]).mkdir(parents=True, exist_ok=True)
            (place / names[label] / f"{row:05d}.png").write_bytes(png(image))
    return folder


def write_tiny_imagenet(folder: Path, arrays: Arrays, names: Sequence[str]) -> Path:
    """Write the layout of tiny-imagenet-200 (with PNG inside the files called JPEG, so that pixels survive)."""
    for row, (image, label) in enumerate(zip(*arrays["train"], strict=True)):
        place = folder / "train" / names[label] / "images"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{names[label]}_{row:04d}.JPEG").write_bytes(png(image))
        (place.parent / f"{names[label]}_boxes.txt").write_text("")
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "test" / "images").mkdir(parents=True)
    lines = []
    for row, (image, label) in enumerate(zip(*arrays["test"], strict=True)):
        (folder / "val" / "images" / f"val_{row}.JPEG").write_bytes(png(image))
        lines.append(f"val_{row}.JPEG\t{names[label]}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(names))
    return folder
