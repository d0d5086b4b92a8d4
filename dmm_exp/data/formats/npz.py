"""Arrays in a NumPy archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmm_exp.data.formats.format import TEST, TRAIN, Format, Part, Reading, label_values
from dmm_exp.data.groups import group_texts
from dmm_exp.data.numbers import numbers
from dmm_exp.errors import UserError, did_you_mean
from dmm_exp.files.reading import check_archive

KEY = "dataset.formats.npz"
FIRST, LAST = ("channels", "height", "width"), ("height", "width", "channels")
GREY, SERIES = ("height", "width"), ("steps", "values")
LAYOUTS = (FIRST, LAST, GREY, SERIES)
MOST_CHANNELS = 5  # largest length of a last axis that is accepted as channels without question
SMALLEST_PICTURE = 8  # square arrays of numbers with at least so many pixels on a side are grey images


@dataclass(frozen=True)
class Npz(Format):
    """Inputs and labels by name in one ``.npz`` file. Arrays of Python objects (pickles) are refused.

    Attributes:
        train: names of the training inputs and labels.
        test: names of the test inputs and labels; None when there are none.
        channels_last: images are ``[n, height, width, channels]`` instead of ``[n, channels, height, width]``. If it is
            false, shapes whose last axis is the shortest are refused, unless the second is 1 or 3 or ``axes`` is given.
        axes: the meaning of the axes after the first, one of :data:`LAYOUTS`. None takes ``[n, a, b]`` as grey images
            if they are uint8 or squares of 8 pixels or more, and refuses others, which may be sequences.
        group_by: names of arrays ``[n]`` that say from whom or where each training input is.
    """

    train: Sequence[str] = ("x_train", "y_train")
    test: Sequence[str] | None = ("x_test", "y_test")
    channels_last: bool = False
    axes: Sequence[str] | None = None
    group_by: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for part, names in ((TRAIN, self.train), (TEST, self.test)):
            if names is not None and len(names) != 2:
                raise UserError(f"{KEY}.{part}={list(names)}: expected the names [inputs, labels]")
        if self.axes is not None and tuple(self.axes) not in LAYOUTS:
            raise UserError(f"{KEY}.axes={_written(self.axes)}: expected one of {', '.join(map(_written, LAYOUTS))}")
        if self.channels_last and self.axes is not None and tuple(self.axes) != LAST:
            raise UserError(
                f"{KEY}.axes={_written(self.axes)}: contradicts {KEY}.channels_last=true; give only one of them"
            )

    @property
    def expected(self) -> str:
        """A description of the file, for errors."""
        return "one .npz file"

    def found(self, path: Path) -> bool:
        """Return whether ``path`` is such a file."""
        return path.is_file() and path.suffix == ".npz"

    def read(self, path: Path) -> Reading:
        """Return inputs uint8 or float32 ``[n, ...]``; grey images get a channel."""
        wanted = {TRAIN: self.train} | ({TEST: self.test} if self.test else {})
        try:
            check_archive(path)
            with np.load(path, allow_pickle=False) as archive:
                parts = {part: self._part(archive, path, part, names) for part, names in wanted.items()}
        except UserError:
            raise
        except Exception as error:  # a damaged archive, or one that needs a password, may raise any exception
            raise UserError(f"{path} is not a complete .npz file of plain arrays: {error}") from error
        source = f"{KEY}.train={list(self.train)}"
        return Reading(parts, files=(path,), taken=self._taken(np.asarray(parts[TRAIN].inputs), path), source=source)

    def _part(self, archive: np.lib.npyio.NpzFile, path: Path, part: str, names: Sequence[str]) -> Part:
        way_out = f"; a file without a test part takes {KEY}.test=null" if part == TEST else ""
        inputs, labels = (_array(archive, name, f"{KEY}.{part}={list(names)}: {path}", way_out) for name in names)
        where = f"{names[0]} of {path}"
        columns = self._columns(archive, path, len(inputs)) if part == TRAIN and inputs.ndim else {}
        return Part(self._inputs(inputs, where), label_values(labels, f"{names[1]} of {path}"), columns=columns)

    def _columns(self, archive: np.lib.npyio.NpzFile, path: Path, rows: int) -> dict[str, list[str]]:
        """Return the values by which training inputs are grouped."""
        columns = {}
        for name in self.group_by or ():
            key = f"{KEY}.group_by={list(self.group_by or ())}"
            values, where = _array(archive, name, f"{key}: {path}"), f"'{name}' of {path}"
            if values.size != rows or values.ndim == 0 or values.dtype.kind not in "biufUS":
                raise UserError(
                    f"{key}: {where} is {values.dtype} {list(values.shape)}; expected one number or text for each of "
                    f"{rows} training inputs"
                )
            columns[name] = group_texts(values.reshape(rows).tolist(), where)
        return columns

    def _inputs(self, inputs: np.ndarray, where: str) -> np.ndarray:
        if inputs.dtype != np.uint8:
            inputs = numbers(inputs, where)
        axes = self._axes(inputs, where)
        if axes == GREY:
            return inputs[:, None]
        return np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)) if axes == LAST else inputs

    def _axes(self, inputs: np.ndarray, where: str) -> tuple[str, ...]:
        """Return the meaning of the axes after the first; empty where it makes no difference."""
        shape = list(inputs.shape)
        if self.axes is not None:
            if len(self.axes) != inputs.ndim - 1:
                raise UserError(f"{KEY}.axes={_written(self.axes)}: {where} is {shape}; expected a name for each axis")
            return tuple(self.axes)
        if inputs.ndim == 4 and self.channels_last:
            if shape[1] in (1, 3) and shape[1] < min(shape[2:]) and shape[3] > MOST_CHANNELS:
                raise UserError(
                    f"{KEY}.channels_last=true: {where} is {shape}, which looks like images with channels first; leave "
                    f"the key out, or insist with {KEY}.axes={_written(LAST)}"
                )
            return LAST
        if inputs.ndim == 4 and shape[3] < min(shape[1:3]) and shape[1] not in (1, 3):
            raise UserError(
                f"{where}: {shape} looks like images with channels last; say so with {KEY}.channels_last=true, or say "
                f"that it is not with {KEY}.axes={_written(FIRST)}"
            )
        if inputs.ndim == 3 and inputs.dtype != np.uint8 and not shape[1] == shape[2] >= SMALLEST_PICTURE:
            raise UserError(
                f"{where}: {shape} may be grey images or sequences; say which with {KEY}.axes={_written(GREY)} or "
                f"{KEY}.axes={_written(SERIES)}"
            )
        return GREY if inputs.ndim == 3 else ()

    def _taken(self, inputs: np.ndarray, path: Path) -> tuple[str, ...]:
        """Return a sentence that says how the inputs were read."""
        shape, kind = inputs.shape[1:], inputs.dtype
        what = {1: "{} numbers", 2: "sequences of {} steps of {} values", 3: "images of {} channels, {} × {} pixels"}
        words = what.get(len(shape), f"numbers {list(shape)}").format(*shape)
        return (f"{path.name}: inputs '{self.train[0]}' are {words} ({kind}), labels are '{self.train[1]}'",)


def _array(archive: np.lib.npyio.NpzFile, name: str, where: str, way_out: str = "") -> np.ndarray:
    if name not in archive.files:
        there = ", ".join(archive.files) or "none"
        raise UserError(f"{where} has no array '{name}', it has {there}{did_you_mean(name, archive.files)}{way_out}")
    return archive[name]


def _written(axes: Sequence[str]) -> str:
    return f"[{','.join(axes)}]"
