"""Inputs as pictures, where they are some."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def is_picture(images: np.ndarray) -> bool:
    """Tell whether inputs are images ``[points, 1 or 3, height, width]`` or grey ones ``[points, height, width]``."""
    return images.ndim == 3 or (images.ndim == 4 and images.shape[1] in (1, 3))


def as_pictures(images: np.ndarray, rows: np.ndarray) -> NDArray[np.float32]:
    """Turn some images into floats in [0, 1], ``[rows, height, width]`` or ``[rows, height, width, 3]``.

    Floats outside [0, 1] were normalised; the range of the first thousand images is then the only scale left.
    """
    sample = images[:1000]
    low, high = float(sample.min()), float(sample.max())
    if images.dtype == np.uint8 and high > 16:  # scikit-learn's digits are bytes, but from 0 to 16
        low, high = 0.0, 255.0
    elif images.dtype != np.uint8 and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    values = np.clip((images[rows].astype(np.float32) - low) / max(high - low, 1e-12), 0.0, 1.0)
    if values.ndim == 3:
        return values
    return values[:, 0] if values.shape[1] == 1 else np.moveaxis(values, 1, -1)


def png_of(pixels: NDArray[np.float32]) -> bytes:
    """Return pixels in [0, 1], ``[height, width]`` or ``[height, width, 3]``, as a PNG file of eight bits a channel."""
    values = np.rint(255 * pixels).astype(np.uint8)
    height, width = values.shape[:2]
    lines = np.insert(values.reshape(height, -1), 0, 0, axis=1)  # every line starts with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if values.ndim == 2 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def data_uri(png: bytes) -> str:
    """Return a PNG file as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def sheet(pictures: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """Lay pictures ``[n, height, width(, 3)]`` out in rows on one sheet; returns it and how many make a row."""
    count, height, width = pictures.shape[:3]
    across = max(1, round(float(np.sqrt(count * height / width))))
    down = -(-count // across)
    canvas = np.zeros((down * height, across * width, *pictures.shape[3:]), dtype=np.float32)
    for place, picture in enumerate(pictures):
        top, left = height * (place // across), width * (place % across)
        canvas[top : top + height, left : left + width] = picture
    return canvas, across
