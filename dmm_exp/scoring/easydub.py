"""The folder that EasyDUB publishes (arXiv 2602.16400): margins of ResNet-9 on CIFAR-10, an array for each model.

As the data set's card and ``easydub/data.py`` of github.com/easydub/EasyDUB-code say::

    margins/cifar10/oracle/forget_Z/{retain,forget,val}/resnet9/id_X_epoch_23.npy   retrained without forget set Z
    margins/cifar10/pretrain/{retain,forget_Z,val}/resnet9/id_X_epoch_23.npy         originals
    forget_sets/cifar10/forget_set_Z.npy                                             indices of training rows

Every array of margins is ``[points]``: retained rows by increasing index, forget rows as the forget set lists them. The
originals' ``retain`` has all training rows, of which the forget set is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmm_exp.errors import UserError
from dmm_exp.scoring.arrays import Array, ArrayFile
from dmm_exp.scoring.given import Given, checked_ensemble, take_models
from dmm_exp.scoring.groups import KEYS

PHASES = {"retain": KEYS["retain"], "forget": KEYS["forget"], "val": KEYS["validation"]}
"""Names of folders, in the order of EasyDUB's own script → the group of the points in them."""
MODEL = re.compile(r"id_(\d+)_epoch_\d+\.npy")
NETWORK = "resnet9"


@dataclass(frozen=True)
class EasyDub:
    """A copy of the published folder, and one of its forget sets.

    Attributes:
        text: the folder, as it was typed.
        forget_set: its number.
    """

    text: str
    forget_set: int

    def given(self, unlearned: ArrayFile, models: int | None = None) -> Given:
        """Return unlearned models beside the published ones.

        Points are numbered as the training rows, then the validation points.

        Args:
            unlearned: a file with margins ``[models, points]`` of retained rows, forget rows and validation points, in
                this order, as EasyDUB's ``demo.py`` puts them together; or a folder like an oracle's, with
                ``{retain,forget,val}/resnet9/id_X_epoch_Y.npy``.
            models: how many are compared, None for all unlearned ones.

        Raises:
            UserError: a file is missing, or does not fit the others.
        """
        own = self._unlearned(unlearned, models)
        count = len(own) if models is None else models
        arrays = {"unlearned": own, "retrained": self._read(self._oracles, 2 * count)}
        if self._originals["forget"].is_dir():
            arrays["originals"] = self._read(self._originals, count)
        said = dict.fromkeys(arrays, f"easydub={self.text}") | {"unlearned": f"unlearned={unlearned.text}"}
        taken, notes = take_models(arrays, said, models)
        notes.append("Points are numbered as the rows of the training set, then those of the validation set.")
        place = np.argsort(self._rows)
        groups = np.repeat(list(PHASES.values()), [self._sizes[phase] for phase in PHASES])
        return Given({name: array[:, place] for name, array in taken.items()}, groups[place], None, notes)

    @property
    def _margins(self) -> Path:
        return Path(self.text).expanduser() / "margins" / "cifar10"

    @property
    def _oracles(self) -> dict[str, Path]:
        """The folders of retrained models, by phase."""
        return {phase: self._margins / "oracle" / f"forget_{self.forget_set}" / phase for phase in PHASES}

    @property
    def _originals(self) -> dict[str, Path]:
        """The folders of originals, by phase."""
        names = {"retain": "retain", "forget": f"forget_{self.forget_set}", "val": "val"}
        return {phase: self._margins / "pretrain" / name for phase, name in names.items()}

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """How many points every phase has, as the first oracle says."""
        return {phase: self._model(next(iter(self._files(folder).values()))).shape[0]
                for phase, folder in self._oracles.items()}  # fmt: skip

    @cached_property
    def _forget(self) -> NDArray[np.integer]:
        """The training rows of the forget set, in the order in which it lists them."""
        name = f"forget_set_{self.forget_set}.npy"
        file = ArrayFile("easydub", str(Path(self.text).expanduser() / "forget_sets" / "cifar10" / name))
        found, train = file.read(), self._sizes["retain"] + self._sizes["forget"]
        fits = found.shape == (self._sizes["forget"],) and found.dtype.kind in "iu"
        if not fits or len(np.unique(found)) < len(found) or not 0 <= found.min() <= found.max() < train:
            raise file.error(
                f"holds {found.dtype} of the shape {list(found.shape)}; expected {self._sizes['forget']} different "
                f"rows from 0 to {train - 1}, as many as the oracles have margins for"
            )
        return found

    @property
    def _rows(self) -> NDArray[np.integer]:
        """The number of every point, in the order of :data:`PHASES`."""
        train = self._sizes["retain"] + self._sizes["forget"]
        retain = np.setdiff1d(np.arange(train), self._forget)
        return np.concatenate([retain, self._forget, train + np.arange(self._sizes["val"])])

    def _unlearned(self, file: ArrayFile, models: int | None) -> Array:
        if file.path.is_dir():
            return self._read({phase: file.path / phase for phase in PHASES}, models)
        found, points = checked_ensemble(file, file.read()), sum(self._sizes.values())
        if found.shape[1:] != (points,):
            sizes = ", ".join(f"{size} of {phase}" for phase, size in self._sizes.items())
            raise file.error(f"has the shape {list(found.shape)}; expected margins [models, {points}]: {sizes}")
        return found

    def _read(self, folders: Mapping[str, Path], at_most: int | None) -> Array:
        """Return margins ``[models, points]``, points in the order of :data:`PHASES`."""
        files = {phase: self._files(folder) for phase, folder in folders.items()}
        numbers = sorted(files["retain"])
        for phase, found in files.items():
            if found.keys() != set(numbers):
                raise UserError(
                    f"{folders[phase]}: has {len(found)} models and {folders['retain']} {len(numbers)}; expected those "
                    "with the same numbers"
                )
        parts = [self._phase(phase, [files[phase][number] for number in numbers[:at_most]]) for phase in PHASES]
        return np.concatenate(parts, axis=1)

    def _phase(self, phase: str, paths: list[Path]) -> Array:
        """Return margins ``[models, points]`` of a phase; those of all training rows without the forget set."""
        size, train = self._sizes[phase], self._sizes["retain"] + self._sizes["forget"]
        rows = []
        for path in paths:
            found = self._model(path)
            if phase == "retain" and len(found) == train:
                found = np.delete(found, self._forget)
            if len(found) != size:
                raise UserError(f"{path}: has {len(found)} margins; expected {size} as the oracles have")
            rows.append(found)
        return np.stack(rows)

    def _model(self, path: Path) -> Array:
        """Return the margins ``[points]`` of one model."""
        file = ArrayFile("easydub", str(path))
        found = file.read()
        if found.ndim != 1:
            raise file.error(f"has the shape {list(found.shape)}; expected [points]")
        return checked_ensemble(file, found[None])[0]

    def _files(self, folder: Path) -> dict[int, Path]:
        """Return the files of models by number, one or more."""
        place = folder / NETWORK
        found: dict[int, Path] = {}
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if named := MODEL.fullmatch(path.name):
                if int(named[1]) in found:
                    raise UserError(f"{path}: is a second file of model {named[1]}; expected one epoch of each")
                found[int(named[1])] = path
        if not found:
            raise UserError(
                f"easydub={self.text}: {place} has no id_X_epoch_Y.npy; expected the folder EasyDUB-dataset with the "
                f"margins of forget set {self.forget_set}"
            )
        return found
