"""Encoded images, and how they become arrays: at once in memory, or in a file that is mapped."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmm_exp.errors import UserError

MODES = {1: "L", 3: "RGB"}
AT_ONCE = 1024  # pictures decoded by all threads before more are begun
MANY = 5000  # pictures whose decoding deserves a progress bar


@dataclass(frozen=True)
class Pictures:
    """Images in files or columns, not decoded yet.

    Attributes:
        count: how many there are.
        content: index → the bytes of an image file (JPEG, PNG, ...).
        name: index → what to call it in an error.
        fingerprint: changes when any of them may have changed.
    """

    count: int
    content: Callable[[int], bytes]
    name: Callable[[int], str]
    fingerprint: str

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class Decoding:
    """How images are decoded.

    Attributes:
        size: height and width in pixels.
        channels: 3 for colour, 1 for grey.
        resize: scale and crop images of other sizes (the centre of the shorter side); otherwise they are an error.
        keep_in: folder for the decoded pixels, one ``.npy`` file that is mapped into memory instead of held there, and
            found again by the next run; None decodes into memory.
    """

    size: int
    channels: int = 3
    resize: bool = False
    keep_in: str | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"dataset.decoding.size={self.size}: expected pixels, at least 1")
        if self.channels not in MODES:
            raise UserError(f"dataset.decoding.channels={self.channels}: expected 1 (grey) or 3 (colour)")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one decoded image: channels, height, width."""
        return self.channels, self.size, self.size

    def decode(self, content: bytes, name: str) -> np.ndarray:
        """Return one image, uint8 ``[channels, size, size]``.

        Raises:
            UserError: it is no whole image, or has another size and ``resize`` is off.
        """
        from PIL import Image, ImageOps

        try:
            with Image.open(io.BytesIO(content)) as opened:
                image = opened.convert(MODES[self.channels])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{name} is not a whole image: {error}") from error
        if image.size != (self.size, self.size):
            if not self.resize:
                raise UserError(
                    f"{name} is {image.height}×{image.width} pixels, expected {self.size}×{self.size}; change "
                    "dataset.decoding.size, or scale images with dataset.decoding.resize=true"
                )
            image = ImageOps.fit(image, (self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)

    def array(self, chosen: Sequence[tuple[Pictures, np.ndarray]]) -> np.ndarray:
        """Return images ``[images, channels, size, size]`` uint8, those of several sources one after the other.

        Args:
            chosen: sources, and which of their images ``[images]`` in which order.
        """
        shape = (sum(len(rows) for _, rows in chosen), *self.shape)
        if self.keep_in is None:
            return self._fill(np.empty(shape, np.uint8), chosen)
        path = Path(self.keep_in).expanduser() / f"{self._digest(chosen)}.npy"
        if not path.exists():
            self._write(path, shape, chosen)
        return np.load(path, mmap_mode="c")  # pages that are written to are copied: the file never changes

    def _write(self, path: Path, shape: tuple[int, ...], chosen: Sequence[tuple[Pictures, np.ndarray]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
        try:
            mapped = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            self._fill(mapped, chosen)
            mapped.flush()
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _digest(self, chosen: Sequence[tuple[Pictures, np.ndarray]]) -> str:
        digest = hashlib.sha256(f"{self.shape} {self.resize}".encode())
        for pictures, rows in chosen:
            digest.update(pictures.fingerprint.encode())
            digest.update(rows.astype(np.int64).tobytes())
        return digest.hexdigest()[:24]

    def _fill(self, out: np.ndarray, chosen: Sequence[tuple[Pictures, np.ndarray]]) -> Any:
        """Decode into ``out``, several images at a time: decoders leave Python's lock alone."""
        from rich.console import Console
        from rich.progress import track

        work = [(pictures, int(row)) for pictures, rows in chosen for row in rows]
        starts = range(0, len(work), AT_ONCE)
        quiet = len(work) < MANY
        with ThreadPoolExecutor() as threads:
            for start in track(starts, "decoding images", console=Console(stderr=True), transient=True, disable=quiet):
                decoded = threads.map(self._one, work[start : start + AT_ONCE])
                for place, image in enumerate(decoded, start):
                    out[place] = image
        return out

    def _one(self, work: tuple[Pictures, int]) -> np.ndarray:
        pictures, row = work
        return self.decode(pictures.content(row), pictures.name(row))
