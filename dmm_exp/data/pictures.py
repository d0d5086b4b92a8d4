"""Encoded images, and their decoding to an array in memory or in a memory-mapped file."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmm_exp.console.terminal import tracked
from dmm_exp.data.decoded import MODES, RULES, decoded
from dmm_exp.errors import UserError, printable, reason_of, storage_errors
from dmm_exp.files.reading import read_bytes
from dmm_exp.files.writing import write_atomically
from dmm_exp.store import Draft, Spec, Store

if TYPE_CHECKING:
    from PIL import Image

AT_ONCE = 1024  # pictures that are decoded by all threads before the next ones start
MANY = 5000  # number of pictures from which a progress bar is shown
ENCODED_BYTES = 1 << 30  # largest size of one image file
FILE = "pictures.npy"  # of decoded pixels, in its artifact


@dataclass(frozen=True)
class Pictures:
    """Encoded images in files or columns.

    Attributes:
        count: number of images.
        content: index → the bytes of an image file (JPEG, PNG, ...).
        name: index → name of the image in error messages.
        fingerprint: changes when any of the images may have changed.
    """

    count: int
    content: Callable[[int], bytes]
    name: Callable[[int], str]
    fingerprint: str

    def __len__(self) -> int:
        return self.count


def file_content(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        UserError: it cannot be read, is not an ordinary file, or is too large for one image.
    """
    try:
        return read_bytes(path, ENCODED_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an image ({reason_of(error)})") from error


@dataclass(frozen=True)
class Decoding:
    """How images are decoded. :mod:`dmm_exp.data.decoded` has the rule for every mode.

    Attributes:
        size: height and width in pixels.
        channels: 3 for colour, 1 for grey.
        resize: scale images of other sizes and crop them around the centre; otherwise other sizes are an error.
        keep_in: folder for an artifact with the decoded pixels, which is memory-mapped and used again by later runs;
            None decodes into memory.
        background: grey value from 0 (black) to 255 (white) behind transparent pixels.
    """

    size: int
    channels: int = 3
    resize: bool = False
    keep_in: str | None = None
    background: int = 255

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"dataset.decoding.size={self.size}: expected pixels, at least 1")
        if self.channels not in MODES:
            raise UserError(f"dataset.decoding.channels={self.channels}: expected 1 (grey) or 3 (colour)")
        if not 0 <= self.background <= 255:
            raise UserError(f"dataset.decoding.background={self.background}: expected a grey value from 0 to 255")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one decoded image: channels, height, width."""
        return self.channels, self.size, self.size

    def decode(self, content: bytes, name: str) -> np.ndarray:
        """Return one image, uint8 ``[channels, size, size]``.

        Raises:
            UserError: it is not a complete image, cannot be decoded safely, or has another size without ``resize``.
        """
        return self._decode(content, name)[0]

    def _decode(self, content: bytes, name: str) -> tuple[np.ndarray, list[str]]:
        """Return one image, and notes on how it was changed."""
        image, notes = decoded(content, name, self.channels, self.background)
        if image.size != (self.size, self.size) and not self.resize:
            raise UserError(
                f"{name} is {image.height}×{image.width} pixels, expected {self.size}×{self.size}; change "
                "dataset.decoding.size, or scale images with dataset.decoding.resize=true"
            )
        return self._fitted(image), notes

    def _fitted(self, image: Image.Image) -> np.ndarray:
        """Return an image, scaled and cropped if it has another size, uint8 ``[channels, size, size]``."""
        from PIL import Image, ImageOps

        if image.size != (self.size, self.size):
            image = ImageOps.fit(image, (self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)

    def takes(self, kind: np.dtype, shape: tuple[int, ...]) -> bool:
        """Return whether arrays of images ``[images, *shape]`` are of this size, or can be scaled to it."""
        scalable = self.resize and kind == np.uint8 and len(shape) == 3 and shape[0] == self.channels
        return shape == self.shape or scalable

    def scaled(self, images: np.ndarray) -> np.ndarray:
        """Return images ``[images, channels, size, size]`` of an array of another size, by the rule for encoded ones.

        Args:
            images: uint8 ``[images, channels, height, width]``.
        """
        from PIL import Image

        if images.shape[1:] == self.shape:
            return images
        found = np.empty((len(images), *self.shape), np.uint8)
        for place, image in enumerate(images):
            pixels = image[0] if self.channels == 1 else image.transpose(1, 2, 0)
            found[place] = self._fitted(Image.fromarray(np.ascontiguousarray(pixels)))
        return found

    def array(self, chosen: Sequence[tuple[Pictures, np.ndarray]]) -> np.ndarray:
        """Return images ``[images, channels, size, size]`` uint8 of several sources, joined.

        Args:
            chosen: sources, and the indices ``[images]`` of the images to take, in order.

        Raises:
            UserError: one cannot be decoded, or ``keep_in`` cannot be written.
        """
        shape = (sum(len(rows) for _, rows in chosen), *self.shape)
        if self.keep_in is None:
            return self._fill(np.empty(shape, np.uint8), chosen)
        with storage_errors("dataset.decoding.keep_in"):
            return self._kept(Path(self.keep_in).expanduser().absolute(), shape, chosen)

    def _kept(self, root: Path, shape: tuple[int, ...], chosen: Sequence[tuple[Pictures, np.ndarray]]) -> np.ndarray:
        """Return images from an artifact in a folder, which is written if it is missing or damaged."""

        def fill(path: Path) -> None:
            mapped = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
            self._fill(mapped, chosen)
            mapped.flush()

        def make(draft: Draft) -> None:
            write_atomically(draft.path / FILE, fill)

        config = {"rules": RULES, "shape": list(shape), "resize": self.resize, "background": self.background}
        spec = Spec("decoded", config, {"pictures": _digest(chosen)})
        file = Store(root, _LogMessages()).obtain(spec, make).path / FILE
        try:
            found = np.load(file, mmap_mode="c")  # copy on write: the file itself never changes
        except (OSError, ValueError) as error:
            raise UserError(_not_ours(file, reason_of(error))) from error
        if found.shape != shape or found.dtype != np.uint8:
            raise UserError(_not_ours(file, f"it holds {found.dtype} {list(found.shape)}"))
        return found

    def _fill(self, out: np.ndarray, chosen: Sequence[tuple[Pictures, np.ndarray]]) -> Any:
        """Decode into ``out`` in several threads: decoders release Python's global lock."""
        work = [(pictures, int(row)) for pictures, rows in chosen for row in rows]
        starts = range(0, len(work), AT_ONCE)
        noted: dict[str, list[str]] = defaultdict(list)
        with ThreadPoolExecutor() as threads:
            for start in tracked(starts, "decoding images", long=len(work) >= MANY):
                found = threads.map(self._one, work[start : start + AT_ONCE])
                for place, (image, notes) in enumerate(found, start):
                    out[place] = image
                    for note in notes:
                        noted[note].append(work[place][0].name(work[place][1]))
        _report(noted)
        return out

    def _one(self, work: tuple[Pictures, int]) -> tuple[np.ndarray, list[str]]:
        pictures, row = work
        return self._decode(pictures.content(row), pictures.name(row))


def _digest(chosen: Sequence[tuple[Pictures, np.ndarray]]) -> str:
    digest = hashlib.sha256()
    for pictures, rows in chosen:
        digest.update(pictures.fingerprint.encode())
        digest.update(rows.astype(np.int64).tobytes())
    return digest.hexdigest()


def _not_ours(file: Path, found: str) -> str:
    return f"{file} is not the expected file of decoded images ({found}); remove {file.parent}"


def _report(noted: dict[str, list[str]]) -> None:
    """Log, for each kind of change, how many images were changed."""
    for note, names in noted.items():
        count = "1 image was" if len(names) == 1 else f"{len(names):,} images were"
        example = names[0] if len(names) == 1 else f"the first is {names[0]}"
        logging.getLogger(__name__).warning(printable(f"{count} {note}: {example}"))


class _LogMessages:
    """Writes the messages of the store to the log."""

    def warn(self, text: str) -> None:
        logging.getLogger(__name__).warning(text)

    def note(self, text: str) -> None:
        logging.getLogger(__name__).warning(text)
