"""Estimators from gradients of trained models: a first-order change of every logit, on a scale fitted to the pool.

Including example i moves the parameters by about ``-H⁻¹∇ℓ_i`` (Koh and Liang, ICML 2017, arXiv 1703.04730), and with
them every logit by ``-∇z_c(x)ᵀ H⁻¹ ∇ℓ_i``. Methods differ in the approximation of H and in how
gradients are reduced. None gives the right scale, so it is fitted to models trained on known subsets.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from dmm_exp.attribution.estimator import Effect, Estimator, Learned, Source, at_least, towards
from dmm_exp.attribution.evidence import Evidence
from dmm_exp.data import Examples
from dmm_exp.files.reading import Json
from dmm_exp.models import margin

MATRIX_VALUES = 1 << 28  # largest part of a random matrix that is kept between blocks; 1 GiB


class Features(Protocol):
    """Gradient features of one trained model."""

    def train(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return features ``[examples, width]`` of training points' own output, and weights ``[examples]``."""
        ...

    def targets(self, points: Tensor) -> Tensor:
        """Return features ``[examples, classes, width]`` of every logit of some points."""
        ...


class GradientEstimator(Estimator):
    """Predicts changes by inner products of gradient features, averaged over several originals.

    One factor for each group of outputs is fitted by least squares to logits of subset models, centred over members,
    on the predictions for their masks. It is never negative: a method with effects of the wrong sign predicts zero.

    Without subset models there is one factor for all outputs, from a known relation: an example's effect
    on its own margin is, averaged over training examples, the gap between margins of training and of unseen points.
    Without unseen points either, the factor is 1, the method's own scale.

    Args:
        checkpoints: originals whose gradients are taken, at most; all where a run has fewer.
        calibration_members: subset models that the scale is fitted to, at most; those held out for LDS are not used.
        block_size: number of examples whose gradients are in memory together; it changes no result.
        seed: of random projections.

    Raises:
        UserError: a number is out of range.
    """

    source: ClassVar[Source] = "gradients"
    fitted_later: ClassVar[tuple[str, ...]] = (
        "calibration_members",
        "block_size",
    )  # settings that do not change features

    def __init__(
        self, checkpoints: int = 10, calibration_members: int = 100, block_size: int = 64, seed: int = 0
    ) -> None:
        self.checkpoints = at_least("checkpoints", checkpoints, 1)
        self.calibration_members = at_least("calibration_members", calibration_members, 2)
        self.block_size = at_least("block_size", block_size, 1)
        self.seed = at_least("seed", seed, 0)

    @abstractmethod
    def features(self, model: nn.Module, examples: Examples, number: int) -> Features:
        """Return the features of one trained model.

        Args:
            model: in eval mode, on the device to compute on.
            examples: the dataset, on the same device.
            number: of the model among the originals.
        """

    def precondition(self, train: Tensor) -> Tensor:
        """Return one checkpoint's training features ``[n_train, width]`` times the approximate inverse of H."""
        return train

    def learn(self, evidence: Evidence) -> GradientEffects:
        """Precondition the features, and fit the scale of every group of outputs."""
        gradients = evidence.gradients
        if gradients is None:
            raise TypeError(f"{type(self).__name__} needs gradients")
        # weights are averaged apart from features, as TRAK does (arXiv 2303.14186, equation 17)
        weights, points = gradients.weights.mean(0), evidence.points_of_groups
        examples = [centred(self.precondition(train) * weights[:, None]) for train in gradients.train]
        found = GradientEffects(examples, gradients.targets, points, dict.fromkeys(points, 1.0))
        if evidence.pool is None:
            return replace(found, factor=dict.fromkeys(points, scale_of_gap(found, evidence)))
        seen = evidence.pool[: self.calibration_members]
        predicted, logits = found.unscaled(seen.masks[:, :].float() - seen.inclusion), seen.logits[:, :]
        actual = logits - logits.mean(0)
        factor = {group: fitted_scale(predicted[:, where], actual[:, where]) for group, where in points.items()}
        return replace(found, factor=factor, calibrated=len(seen))


@dataclass(frozen=True)
class GradientEffects(Learned):
    """The predictions of inner products of gradient features.

    Attributes:
        examples: preconditioned features of training examples, ``[n_train, width]`` of every checkpoint.
        targets: features of every logit, ``[checkpoints, points, classes, width]``.
        points: of every group.
        factor: of the products, for every group.
        calibrated: number of subset models to which the factor was fitted.
    """

    examples: Sequence[Tensor]
    targets: Tensor
    points: Mapping[int, Tensor]
    factor: Mapping[int, float]
    calibrated: int = 0

    def effect(self, rows: Tensor) -> Effect:
        """Return the prediction, and the error from few checkpoints, without the error of the gradient approximation.

        With a single checkpoint the error is not known.
        """
        direction = towards(rows, len(self.examples[0]))
        mean = self.predict(direction)[0]
        if len(self.examples) < 2:
            return Effect(mean)
        changes = torch.stack([change[0] for change in self._by_checkpoint(direction)])
        return Effect(mean, changes.std(0) / len(changes) ** 0.5 * self._scale())

    def predict(self, directions: Tensor) -> Tensor:
        """Return predicted changes of all logits, ``[directions, points, classes]``."""
        return self.unscaled(directions) * self._scale()

    def unscaled(self, directions: Tensor) -> Tensor:
        """Return changes ``[directions, points, classes]`` on the method's own scale."""
        total = torch.zeros(len(directions), *self.targets.shape[1:3])
        for change in self._by_checkpoint(directions):
            total += change
        return total / len(self.examples)

    def facts(self) -> Json:
        """Return every group's factor, and the numbers of models."""
        return {
            "factor": {str(group): value for group, value in self.factor.items()},
            "checkpoints": len(self.examples),
            "calibration_members": self.calibrated,
        }

    def _by_checkpoint(self, directions: Tensor) -> Iterator[Tensor]:
        """Yield every checkpoint's changes ``[directions, points, classes]``."""
        for examples, targets in zip(self.examples, self.targets, strict=True):
            yield ((directions @ examples) @ targets.flatten(0, 1).T).unflatten(1, targets.shape[:2])

    def _scale(self) -> Tensor:
        """Return the factor of every point, ``[points, 1]``."""
        scale = torch.empty(self.targets.shape[1], 1)
        for group, where in self.points.items():
            scale[where] = self.factor[group]
        return scale


def scale_of_gap(found: GradientEffects, evidence: Evidence) -> float:
    """Return the factor that makes the mean effect of examples on their own margins the gap of generalisation."""
    if evidence.originals is None or evidence.labels is None or len(evidence.groups) == evidence.n_train:
        return 1.0
    labels, n_train = evidence.labels, evidence.n_train
    logits = evidence.originals.mean(0).requires_grad_()
    margins = margin(logits, labels)
    (slopes,) = torch.autograd.grad(margins[:n_train].sum(), logits)  # of each point's margin by its logits
    own = torch.zeros(())
    for examples, targets in zip(found.examples, found.targets, strict=True):
        direction = (targets[:n_train] * slopes[:n_train, :, None]).sum(1)
        own += (examples * direction).sum(1).mean() / len(found.examples)
    seen, unseen = margins.detach()[:n_train], margins.detach()[n_train:]
    return max(0.0, float(seen.mean() - unseen.mean()) / float(own)) if float(own) > 0 else 0.0


def centred(examples: Tensor) -> Tensor:
    """Return ``[n_train, width]`` less its mean, since subsets of one size tell nothing about it."""
    return examples - examples.mean(0)


def fitted_scale(predicted: Tensor, actual: Tensor) -> float:
    """Return the factor ≥ 0 with the least squared error of predictions; 0 if they are all zero."""
    size = float(predicted.double().square().sum())
    return max(0.0, float((predicted.double() * actual.double()).sum()) / size) if size > 0 else 0.0


def projection_block(size: int, width: int) -> int:
    """Return how many columns of a random matrix ``[size, width]`` to keep in memory; others are drawn again.

    Packages draw a hundred columns at a time for every batch, which costs more than the projection itself.
    """
    return ceil(width / ceil(width * size / MATRIX_VALUES))
