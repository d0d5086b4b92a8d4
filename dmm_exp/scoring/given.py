"""What is scored: ensembles with as many models and the same points, their groups, and labels where they are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dmm_exp.errors import UserError
from dmm_exp.evaluation.outputs import Outputs
from dmm_exp.scoring.arrays import Array, ArrayFile
from dmm_exp.scoring.groups import KEYS, read_groups

FEWEST_MODELS = 2
ENSEMBLES = {"unlearned": "unlearned", "retrained": "oracle", "retrained_again": "floor", "originals": "original"}
"""Options that name ensembles → what the ensemble is called in metrics."""


@dataclass(frozen=True)
class Given:
    """Arrays that fit each other.

    Attributes:
        ensembles: ``unlearned`` and ``oracle``, with or without ``floor`` and ``original``: margins
            ``[models, points]`` of all of them, or logits ``[models, points, classes]`` of all of them.
        groups: ``[points]``: 0 forget, 1 retain, 2 validation.
        labels: class indices ``[points]``; None where they are not known, which they are for logits.
        notes: sentences on what was taken as what.
    """

    ensembles: Mapping[str, Array]
    groups: NDArray[np.int64]
    labels: NDArray[np.int64] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """How much there is, in a few words."""
        models, points = self.ensembles["unlearned"].shape[:2]
        return f"{models:,} models on {points:,} points"

    @property
    def has_logits(self) -> bool:
        """Whether the ensembles are logits."""
        return self.ensembles["unlearned"].ndim == 3

    @property
    def has_attack(self) -> bool:
        """Whether membership inference can be attempted: there are logits, and points of every group."""
        return self.has_logits and len(np.unique(self.groups)) == len(KEYS)

    def outputs(self) -> dict[str, Outputs]:
        """Return the outputs of every ensemble."""
        if self.labels is None or not self.has_logits:
            return {name: Outputs(margins) for name, margins in self.ensembles.items()}
        return {name: Outputs.of(logits, self.labels) for name, logits in self.ensembles.items()}


def read_given(files: Mapping[str, ArrayFile], models: int | None = None) -> Given:
    """Return what files hold.

    Args:
        files: by option: ``unlearned`` and ``retrained``; groups as in :func:`read_groups`; and perhaps
            ``retrained_again``, ``originals`` and ``labels``.
        models: how many of every ensemble are compared, the first ones; None for all unlearned ones.

    Raises:
        UserError: a file is missing, cannot be read, or does not fit the others.
    """
    for key in ("unlearned", "retrained"):
        if key not in files:
            raise UserError(f"{key}: is missing; expected {key}=FILE with margins or logits of {key} models")
    arrays = {key: read_ensemble(files[key]) for key in ENSEMBLES if key in files}
    _check_points(files, arrays)
    points = arrays["unlearned"].shape[1]
    ensembles, notes = take_models(arrays, {key: f"{key}={files[key].text}" for key in arrays}, models)
    return Given(ensembles, read_groups(files, points), _labels(files, arrays["unlearned"]), notes)


def read_ensemble(file: ArrayFile) -> Array:
    """Return margins ``[models, points]`` or logits ``[models, points, classes]``, float32 or float64."""
    return checked_ensemble(file, file.read())


def checked_ensemble(file: ArrayFile, found: Array) -> Array:
    """Return an array that can be an ensemble's, with at least float32; raise ``UserError`` for another one."""
    if found.ndim not in (2, 3) or 0 in found.shape or found.dtype.kind not in "iuf":
        raise file.error(
            f"holds {found.dtype} of the shape {list(found.shape)}; expected numbers [models, points] (margins) or "
            "[models, points, classes] (logits)"
        )
    if found.ndim == 3 and found.shape[2] < 2:
        raise file.error(f"has the shape {list(found.shape)}; expected logits of at least two classes")
    if wrong := found.size - int(np.count_nonzero(np.isfinite(found))):
        raise file.error(f"holds {wrong} values that are NaN or infinite; expected finite numbers")
    return found.astype(np.result_type(found.dtype, np.float32), copy=False)


def _check_points(files: Mapping[str, ArrayFile], arrays: Mapping[str, Array]) -> None:
    """Raise ``UserError`` unless all ensembles have the same points, and the same classes or none."""
    expected = arrays["unlearned"].shape[1:]
    for key, array in arrays.items():
        if array.shape[1:] != expected:
            raise files[key].error(
                f"has the shape {list(array.shape)}; expected [models, {', '.join(map(str, expected))}] as in "
                f"unlearned={files['unlearned'].text}"
            )


def take_models(
    arrays: Mapping[str, Array], said: Mapping[str, str], models: int | None = None
) -> tuple[dict[str, Array], list[str]]:
    """Return ensembles with as many models, by their names in metrics, and sentences on what was taken as what.

    Where there is no second ensemble of retrained models, and the first has twice as many models or more, its second
    part is taken for it.

    Args:
        arrays: by option, those of :data:`ENSEMBLES`.
        said: how errors name each of them.
        models: how many of every ensemble are taken, the first ones; None for all unlearned ones.

    Raises:
        UserError: an ensemble has too few, or both ensembles of retrained models are the same.
    """
    count = len(arrays["unlearned"]) if models is None else models
    if count < FEWEST_MODELS:
        raise UserError(f"{said['unlearned']}: has {count} model; expected at least {FEWEST_MODELS}")
    for key, array in arrays.items():
        if len(array) < count:
            raise UserError(
                f"{said[key]}: has {len(array)} models; expected at least {count}, as many as are compared "
                f"(models={len(array)} compares the first {len(array)} of each)"
            )
    found = {ENSEMBLES[key]: array[:count] for key, array in arrays.items()}
    notes = [
        f"The first {count} of {len(array)} models in {key} are compared."
        for key, array in arrays.items()
        if len(array) > count
    ]
    if "floor" not in found and len(arrays["retrained"]) >= 2 * count:
        found["floor"] = arrays["retrained"][count : 2 * count]
        notes.append(f"The next {count} retrained models are the second ensemble, which the floor is measured with.")
    if "floor" in found and np.array_equal(found["oracle"], found["floor"]):
        raise UserError(f"{said['retrained']}: both ensembles of retrained models are the same; expected other seeds")
    return found, notes


def _labels(files: Mapping[str, ArrayFile], unlearned: Array) -> NDArray[np.int64] | None:
    """Return the labels of the points, None where none were given."""
    points, classes = unlearned.shape[1], unlearned.shape[2] if unlearned.ndim == 3 else None
    if "labels" not in files:
        if classes is not None:
            raise UserError(f"labels: are missing, and {files['unlearned'].text} holds logits; expected labels=FILE")
        return None
    file = files["labels"]
    found = file.read()
    if found.shape != (points,) or found.dtype.kind not in "iu":
        raise file.error(
            f"holds {found.dtype} of the shape {list(found.shape)}; expected a whole number for each of {points} points"
        )
    if found.min() < 0 or (classes is not None and found.max() >= classes):
        most = "on" if classes is None else f"to {classes - 1}"
        raise file.error(f"runs from {found.min()} to {found.max()}; expected class indices from 0 {most}")
    return found.astype(np.int64)
