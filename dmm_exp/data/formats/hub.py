"""Datasets by name, through Hugging Face ``datasets``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dmm_exp.data.formats.format import TEST, TRAIN, Part, Reading, label_values
from dmm_exp.data.formats.parquet import encoded
from dmm_exp.data.pictures import Pictures
from dmm_exp.errors import UserError, did_you_mean

SUPPLY = "give its files with dataset.path=FOLDER (docs/datasets.md says which)"


@dataclass(frozen=True)
class Hub:
    """A dataset that ``datasets.load_dataset`` can load.

    Attributes:
        name: the repository.
        image: name of the column of images.
        label: name of the column of labels.
        config: of the dataset, by name; None is its default.
        train: name of the training split.
        test: name of the test split.
        revision: commit or branch of the repository; None is the newest.
    """

    name: str
    image: str = "image"
    label: str = "label"
    config: str | None = None
    train: str = "train"
    test: str = "test"
    revision: str | None = None

    def read(self) -> Reading:
        """Return encoded images, downloaded or from the package's cache.

        Raises:
            UserError: the package is missing, or the dataset cannot be loaded or has other columns or splits.
        """
        splits = self._load()
        parts = {part: self._part(splits, name) for part, name in ((TRAIN, self.train), (TEST, self.test))}
        names = getattr(splits[self.train].features[self.label], "names", None)
        return Reading(parts, names, source=f"dataset.hub.label={self.label}")

    def _load(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise UserError(
                f"dataset.hub.name={self.name} needs a package: pip install 'dmm_exp[hub]'; or {SUPPLY}"
            ) from error
        try:
            return datasets.load_dataset(self.name, self.config, revision=self.revision)
        except (
            Exception
        ) as error:  # clients raise exceptions of many kinds, for a missing dataset as for a missing network
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"dataset.hub.name={self.name} could not be loaded ({reason}); {SUPPLY}") from error

    def _part(self, splits: Any, name: str) -> Part:
        import datasets

        if name not in splits:
            there = [str(split) for split in splits]
            raise UserError(f"dataset.hub: {self.name} has no split '{name}', it has {', '.join(there)}")
        split = splits[name]
        for column in (self.image, self.label):
            if column not in split.column_names:
                raise UserError(
                    f"dataset.hub: {self.name} has no column '{column}', it has {', '.join(split.column_names)}"
                    f"{did_you_mean(column, split.column_names)}"
                )
        column = split.select_columns([self.image]).cast_column(self.image, datasets.Image(decode=False))
        labels = np.asarray(split.select_columns([self.label]).with_format("numpy")[:][self.label])

        def called(row: int) -> str:
            return f"{self.name}, {name}, row {row}"

        pictures = Pictures(
            count=len(split),
            content=lambda row: encoded(column[row][self.image], called(row)),
            name=called,
            fingerprint=f"{self.name} {self.revision} {split._fingerprint}",
        )
        return Part(pictures, label_values(labels, f"column '{self.label}' of {self.name}"))
