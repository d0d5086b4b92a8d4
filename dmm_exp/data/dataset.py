"""A dataset: files in one of several formats, a split, names of classes, and normalisation."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from dmm_exp.data.classes import check_classes, check_names, numbered
from dmm_exp.data.corruption import Corruption, LabelCorruption
from dmm_exp.data.examples import Examples, Normalisation
from dmm_exp.data.formats.format import TRAIN, Format, Part, Reading
from dmm_exp.data.formats.hub import Hub
from dmm_exp.data.numbers import check_scales
from dmm_exp.data.pictures import Decoding, Pictures
from dmm_exp.data.split import Chosen, Split
from dmm_exp.data.words import Texts, Words, encoded
from dmm_exp.errors import UserError, did_you_mean, listed


@dataclass(frozen=True)
class Dataset:
    """Examples from files, or from a hub of datasets.

    Attributes:
        formats: possible layouts of the files, by name.
        path: a folder, or a file for formats that are one file. None looks in ``folders``, then asks ``hub``.
        folders: places to look in, in order: folders or files; the first that holds files of a format is read.
        format: the name of one of ``formats``; None takes the first that fits the files.
        hub: a dataset that can be downloaded by its name.
        class_names: a name for every class, for files without names: labels are then positions in this list, and a
            class may have no examples. None takes the sorted different labels as classes.
        decoding: how images are decoded, for formats with encoded images.
        split: which examples are trained on, and which stay unseen.
        normalisation: constants for the model's input. None computes them from the *unseen* points, which belong to no
            training set: an oracle must know nothing of the forget set, not even through a mean.
        train_size: number of training points to keep, drawn at random; None keeps all.
        validation_size: the same for unseen points.
        subset_seed: seed of these draws.
        train_skip: number of training points to pass over first, so that two draws of one seed share none.
        validation_skip: the same for unseen points.
        published: numbers of examples that the files should hold, by part.
        checksums: digests of the original files by their name, ``md5:…`` or ``sha256:…``. The digest of a name without
            ``.gz`` is that of a compressed file's content, since the same content can be compressed in several ways.
        verify: refuse files that differ from ``published`` or ``checksums``.
        corruption: what to introduce on purpose: wrong labels, or a class of its own.
        package: of Debian, which puts the files into one of ``folders``; the error names it where there are no files.
    """

    formats: Mapping[str, Format]
    path: str | None = None
    folders: Sequence[str] = ()
    format: str | None = None
    hub: Hub | None = None
    class_names: Sequence[str] | None = None
    decoding: Decoding | None = None
    split: Split = field(default_factory=Split)
    normalisation: Normalisation | None = None
    train_size: int | None = None
    validation_size: int | None = None
    subset_seed: int = 0
    train_skip: int | None = None
    validation_skip: int | None = None
    published: Mapping[str, int] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)
    verify: bool = True
    corruption: Corruption = field(default_factory=LabelCorruption)
    package: str | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in self.formats:
            hint = did_you_mean(self.format, self.formats)
            raise UserError(f"dataset.format={self.format}: expected one of {', '.join(self.formats)}{hint}")

    def load(self) -> Examples:
        """Return the examples: inputs uint8 or float32 ``[points, ...]``, training points first.

        Raises:
            UserError: there are no files, or they are damaged, or they do not hold what is expected.
        """
        reading = self._read()
        self._check(reading)
        labels, names = self._classes(reading)
        train, unseen = self.split(labels)
        trained, kept_unseen = (labels[part][rows] for part, rows in (train, unseen))
        check_classes(trained, kept_unseen, names, may_be_empty=self.class_names is not None)
        chosen = self._drawn(train, unseen)
        n_train = len(chosen[0][1])
        inputs = torch.from_numpy(self._inputs([(reading.parts[part].inputs, rows) for part, rows in chosen]))
        kept = torch.from_numpy(np.concatenate([labels[part][rows] for part, rows in chosen]))
        clean = torch.zeros(len(kept), dtype=torch.bool)
        words = _words(reading)
        normalisation = self._constants(inputs, n_train, words)
        part, rows = reading.parts[TRAIN], chosen[0][1].tolist()
        files = None if part.names is None else [part.names[row] for row in rows]
        columns = {name: [values[row] for row in rows] for name, values in part.columns.items()}
        taken = reading.taken + self._taken(reading, names) + _grouped(columns)
        examples = Examples(inputs, kept, n_train, names, normalisation, clean, files, taken, columns, words)
        return self.corruption.applied(examples)

    def chosen(self, labels: Mapping[str, np.ndarray]) -> list[Chosen]:
        """Return which rows of the files are the training and the validation points, each as a part and its indices.

        Args:
            labels: of the files' parts, ``[rows]`` each.
        """
        return self._drawn(*self.split(labels))

    def _drawn(self, train: Chosen, unseen: Chosen) -> list[Chosen]:
        return [self._subset(train, "train"), self._subset(unseen, "validation")]

    # ------------------------------------------------------------------ files

    def _read(self) -> Reading:
        for path in [self.path] if self.path is not None else self.folders:
            place = Path(path).expanduser()
            for form in self._formats() if place.exists() else ():
                if form.found(place):
                    reading = form.read(place)
                    self._verify(reading)
                    return reading
        if self.path is None and self.hub is not None and self.format is None:
            reading = self.hub.read()
            self._verify(reading)
            return reading
        raise UserError(self._nothing_found())

    def _formats(self) -> list[Format]:
        return list(self.formats.values()) if self.format is None else [self.formats[self.format]]

    def _nothing_found(self) -> str:
        expected = "; or ".join(form.expected for form in self._formats())
        if self.path is None:
            looked = f" (looked in {', '.join(self.folders)})" if self.folders else ""
            way_out = f"; on Debian they come with apt install {self.package}" if self.package else ""
            return f"dataset.path: give the place of the files{looked}; expected {expected}{way_out}"
        place = Path(self.path).expanduser()
        what = "does not exist" if not place.exists() else "holds none of the files"
        advice = "".join({form.advice(place) for form in self._formats()}) if place.exists() else ""
        return f"dataset.path={self.path} {what}; expected {expected}{advice}"

    def _verify(self, reading: Reading) -> None:
        """Compare the files with the published ones."""
        if not self.verify:
            return
        way_out = "download it again, or accept it with dataset.verify=false"
        for file in reading.files:
            if not self._is_original(file):
                raise UserError(f"{file} differs from the published file (checksum); {way_out}")
        for part, expected in self.published.items():
            there = len(reading.parts[part].labels) if part in reading.parts else 0
            if there != expected:
                raise UserError(f"the {part} part has {there:,} examples, published are {expected:,}; {way_out}")

    def _is_original(self, file: Path) -> bool:
        """Return whether a file has the published checksum; True when none is known."""
        for name in (file.name, file.name.removesuffix(".gz")):
            if name in self.checksums:
                algorithm, _, expected = self.checksums[name].partition(":")
                with file.open("rb") if name == file.name else gzip.open(file) as stream:
                    return hashlib.file_digest(stream, algorithm).hexdigest() == expected
        return True

    # ------------------------------------------------------------------ content

    def _classes(self, reading: Reading) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return labels ``[examples]`` int64 by part, and a name for every class."""
        labels = {part: content.labels for part, content in reading.parts.items()}
        has_texts = any(values.dtype.kind == "U" for values in labels.values())
        there, expected = reading.class_names, self.class_names
        if there is None and (expected is None or has_texts):
            labels, there = numbered(labels, reading.source)
        if there is not None and expected is not None and len(there) != len(expected):
            raise UserError(
                f"the files have {len(there)} classes, expected {len(expected)}; name them with dataset.class_names"
            )
        names = list(there if there is not None else expected or ())
        for part, values in labels.items():
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= len(names):
                raise UserError(
                    f"labels of the {part} part go from {low} to {high}: expected 0 to {len(names) - 1}, one for each "
                    "of dataset.class_names"
                )
        check_names(names)
        return labels, names

    def _taken(self, reading: Reading, names: list[str]) -> tuple[str, ...]:
        """Return a sentence that lists the classes, if files do not name them and labels are not 0, 1, 2, …."""
        if (
            reading.class_names is not None
            or self.class_names is not None
            or names == list(map(str, range(len(names))))
        ):
            return ()
        return (f"{reading.source}: the labels {listed(names)} are the classes, numbered from 0 in this order",)

    def _check(self, reading: Reading) -> None:
        shapes = {part: self._shape(content) for part, content in reading.parts.items()}
        for part, content in reading.parts.items():
            if len(content.labels) == 0:
                raise UserError(f"the {part} part of the dataset is empty")
            if len(content.inputs) != len(content.labels):
                raise UserError(f"{len(content.inputs)} {part} inputs, but {len(content.labels)} labels")
            if not shapes[part] or 0 in shapes[part]:
                raise UserError(
                    f"{part} inputs are {[len(content.inputs), *shapes[part]]}; expected [examples, ...] with at least "
                    "one number for each example, such as [examples, 1]"
                )
            if shapes[part] != shapes[TRAIN]:
                raise UserError(f"{part} inputs are {list(shapes[part])}, training inputs {list(shapes[TRAIN])}")
        source, decoding = reading.parts[TRAIN].inputs, self.decoding
        if decoding and isinstance(source, np.ndarray) and not decoding.takes(source.dtype, shapes[TRAIN]):
            raise UserError(f"images are {list(shapes[TRAIN])}, expected {list(decoding.shape)} (dataset.decoding)")
        _check_kinds(reading)

    def _shape(self, part: Part) -> tuple[int, ...]:
        if isinstance(part.inputs, Texts):
            return (part.inputs.encoder.length,)
        return self._decoding.shape if isinstance(part.inputs, Pictures) else part.inputs.shape[1:]

    @property
    def _decoding(self) -> Decoding:
        if self.decoding is None:
            raise UserError("dataset.decoding: this format holds encoded images; give their size")
        return self.decoding

    def _subset(self, rows: Chosen, group: str) -> Chosen:
        part, indices = rows
        size, skip = getattr(self, f"{group}_size"), getattr(self, f"{group}_skip") or 0
        if not 0 <= skip < len(indices):
            raise UserError(f"dataset.{group}_skip={skip}: expected a number from 0 to {len(indices) - 1}")
        left = len(indices) - skip
        if size is not None and not 0 < size <= left:
            raise UserError(f"dataset.{group}_size={size}: expected a number from 1 to {left}")
        if size is None and not skip:
            return rows
        drawn = torch.randperm(len(indices), generator=torch.Generator().manual_seed(self.subset_seed)).numpy()
        return part, indices[drawn[skip : skip + (left if size is None else size)]]

    def _inputs(self, chosen: Sequence[tuple[np.ndarray | Pictures | Texts, np.ndarray]]) -> np.ndarray:
        """Return the chosen rows of arrays, encoded images or texts, joined; the first ones are the training rows."""
        texts = [(source, rows) for source, rows in chosen if isinstance(source, Texts)]
        if texts:
            return encoded(texts)
        pictures = [(source, rows) for source, rows in chosen if isinstance(source, Pictures)]
        if pictures:
            return self._decoding.array(pictures)
        arrays = np.concatenate([source[rows] for source, rows in chosen if isinstance(source, np.ndarray)])
        return arrays if self.decoding is None else self.decoding.scaled(arrays)

    def _constants(self, inputs: torch.Tensor, n_train: int, words: Words | None) -> Normalisation:
        if words is not None and self.normalisation is not None:
            raise UserError("dataset.normalisation: inputs are words, which have no mean; expected null")
        if words is not None:
            return Normalisation(1.0, [0.0], [1.0])
        if self.normalisation is None:
            return Normalisation.of(inputs[n_train:])
        constants = len(self.normalisation.mean), len(self.normalisation.std)
        if any(count not in (1, inputs.shape[1]) for count in constants) or constants[0] != constants[1]:
            raise UserError(
                f"dataset.normalisation: {constants[0]} means and {constants[1]} standard deviations, expected one of "
                f"each or {inputs.shape[1]}, one for each channel or column"
            )
        return self.normalisation


def _words(reading: Reading) -> Words | None:
    """Return what inputs are numbers of, where they are texts."""
    inputs = reading.parts[TRAIN].inputs
    return inputs.facts if isinstance(inputs, Texts) else None


def _grouped(columns: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return a sentence that names the columns by which training rows are grouped; none where there are none."""
    named = [f"'{name}' ({len(set(values)):,} values)" for name, values in columns.items()]
    return (f"groups of training rows: {', '.join(named)}",) if named else ()


def _check_kinds(reading: Reading) -> None:
    """Raise ``UserError`` unless the inputs of all parts are of one type and in the same units."""
    arrays = {part: part_.inputs for part, part_ in reading.parts.items() if isinstance(part_.inputs, np.ndarray)}
    kinds = {part: values.dtype for part, values in arrays.items()}
    if len(set(kinds.values())) > 1:
        raise UserError(
            f"{' and '.join(f'{part} inputs are {kind}' for part, kind in kinds.items())}; expected the same for both: "
            "images as uint8 from 0 to 255, or numbers in the same units"
        )
    if all(kind != np.uint8 for kind in kinds.values()):
        check_scales(arrays)
