"""Examples in memory, or memory-mapped: one index space for training and validation points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dmm_exp.data.words import Words, vectors

if TYPE_CHECKING:
    from dmm_exp.store import Artifact, Draft

BLOCK = 1024  # points whose moments are computed at once


@dataclass(frozen=True)
class Normalisation:
    """Constants of ``(input / scale - mean) / std``, which the model applies to its input.

    They are fixed in the dataset's configuration or computed from the unseen points (:meth:`of`), never from the run's
    training set: an oracle must know nothing of the forget set, not even through a mean.
    """

    scale: float
    mean: list[float]
    std: list[float]

    @classmethod
    def of(cls, inputs: Tensor) -> Normalisation:
        """Return constants that give inputs ``[points, channels or columns, ...]`` zero mean and unit variance.

        The points must not be training points. Where a value does not vary, the standard deviation is 1.
        """
        scale = 255.0 if inputs.dtype == torch.uint8 else 1.0
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        count = inputs.numel() // inputs.shape[1]
        mean = sum((block.double().sum(axes) for block in inputs.split(BLOCK)), torch.zeros(1)) / count
        centre = mean.view(-1, *[1] * (inputs.ndim - 2))
        squares = sum(((block - centre).square().sum(axes) for block in inputs.split(BLOCK)), torch.zeros(1))
        std = (squares / count).sqrt()
        return cls(scale, (mean / scale).tolist(), torch.where(std > 0, std / scale, 1.0).tolist())


@dataclass(frozen=True)
class Examples:
    """A dataset as tensors; training points come first, then validation points, which a run never trains on.

    Attributes:
        inputs: ``[points, ...]``, uint8 or float32, as stored: normalisation belongs to the model; or numbers of words
            ``[points, length]`` int32, or int64 from Python. They may be a memory-mapped file.
        labels: ``[points]`` int64, what models are trained on (corrupted labels included).
        n_train: points ``0 … n_train-1`` are the training set.
        class_names: a name for every class.
        normalisation: constants for the model's input.
        corrupted: ``[points]`` bool, whose labels were changed.
        names: of the files of training points, ``[n_train]``: paths in the folder of training images, such as
            ``cat/1.png``; None where points are not files. They are not written to artifacts and change no result.
        columns: name → value of every training row, as text: from whom or where rows are, such as users or sessions.
            They are not written to artifacts either, and change no result.
        taken: sentences that say how the files were read where that was not obvious. They are not written to artifacts
            and change no result, either.
        words: what inputs are numbers of, where they are texts.
    """

    inputs: Tensor
    labels: Tensor
    n_train: int
    class_names: list[str]
    normalisation: Normalisation
    corrupted: Tensor
    names: list[str] | None = field(default=None, repr=False, compare=False)
    taken: tuple[str, ...] = field(default=(), repr=False, compare=False)
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False, compare=False)
    words: Words | None = None

    @property
    def n_points(self) -> int:
        """Number of training and validation points."""
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the leading dimension."""
        return tuple(self.inputs.shape[1:])

    def vectors(self, points: Tensor) -> Tensor:
        """Return inputs of some points as rows of real numbers, ``[points, values]``; see :func:`vectors`."""
        return vectors(self.inputs[points], self.words)

    def to(self, device: torch.device | str) -> Examples:
        """Return the same examples on a device."""
        inputs, labels, corrupted = (values.to(device) for values in (self.inputs, self.labels, self.corrupted))
        return replace(self, inputs=inputs, labels=labels, corrupted=corrupted)

    def write(self, draft: Draft) -> None:
        """Write everything to an artifact, from which workers read it."""
        draft.write_tensors("examples", {"inputs": self.inputs, "labels": self.labels, "corrupted": self.corrupted})
        facts = {"n_train": self.n_train, "class_names": self.class_names, "normalisation": vars(self.normalisation)}
        draft.write_json("facts", facts if self.words is None else {**facts, "words": vars(self.words)})

    @classmethod
    def read(cls, artifact: Artifact) -> Examples:
        """Read what :meth:`write` wrote."""
        facts, tensors = artifact.json("facts"), artifact.tensors("examples")
        return cls(
            inputs=tensors["inputs"],
            labels=tensors["labels"],
            corrupted=tensors["corrupted"],
            n_train=facts["n_train"],
            class_names=facts["class_names"],
            normalisation=Normalisation(**facts["normalisation"]),
            words=Words(**facts["words"]) if "words" in facts else None,
        )
