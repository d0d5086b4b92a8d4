"""Problems whose retrained model is known exactly: linear models with a convex loss and an L2 penalty.

The loss of parameters θ ``[d]`` on examples A is ``Σ_{i∈A} φ(xᵢᵀθ, yᵢ) + ½λ‖θ‖²`` with φ the squared error
``½(z − y)²`` (ridge) or the logistic loss ``log(1 + eᶻ) − yz``. All arrays hold many problems at once, one a seed, in
float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dmm_exp.config.convex import SettingConfig

Floats = NDArray[np.float64]
Loss = Literal["ridge", "logistic"]

SIGNAL = 3.0  # standard deviation of a logit, before labels are flipped


@dataclass(frozen=True)
class Problem:
    """Some problems of one setting; the first ``size`` examples of each are its forget set.

    Attributes:
        loss: of an example.
        inputs: ``[seeds, n, d]``.
        targets: ``[seeds, n]``; 0 or 1 for the logistic loss.
        size: of the forget set.
        penalty: λ, beside the sum of the examples' losses.
        matched: number of examples, from the first on, whose outputs are matched.
    """

    loss: Loss
    inputs: Floats
    targets: Floats
    size: int
    penalty: float
    matched: int

    @property
    def forgotten(self) -> Subset:
        """The forget set F."""
        return Subset(self, slice(0, self.size))

    @property
    def retained(self) -> Subset:
        """The retain set R = S∖F."""
        return Subset(self, slice(self.size, None))

    @property
    def whole(self) -> Subset:
        """The training set S."""
        return Subset(self, slice(None))

    def mean(self, outputs: Floats) -> Floats:
        """Return the model's prediction at outputs z; less the target it is ∂φ/∂z."""
        return outputs if self.loss == "ridge" else _logistic(outputs)

    def curvature(self, outputs: Floats) -> Floats:
        """Return ∂²φ/∂z²."""
        if self.loss == "ridge":
            return np.ones_like(outputs)
        answers = _logistic(outputs)
        return answers * (1 - answers)

    def single(self, outputs: Floats, targets: Floats) -> Floats:
        """Return φ of each example."""
        if self.loss == "ridge":
            return 0.5 * (outputs - targets) ** 2
        return np.maximum(outputs, 0.0) + np.log1p(np.exp(-np.abs(outputs))) - targets * outputs


def _logistic(outputs: Floats) -> Floats:
    """Return 1/(1 + e⁻ᶻ), without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * outputs)


@dataclass(frozen=True)
class Subset:
    """Some examples of every problem, with the loss on them."""

    problem: Problem
    rows: slice

    @property
    def inputs(self) -> Floats:
        """Return ``[seeds, rows, d]``."""
        return self.problem.inputs[:, self.rows]

    @property
    def targets(self) -> Floats:
        """Return ``[seeds, rows]``."""
        return self.problem.targets[:, self.rows]

    def __len__(self) -> int:
        return self.inputs.shape[1]

    def value(self, parameters: Floats) -> Floats:
        """Return the penalised loss ``[seeds, k]`` of parameters ``[seeds, d, k]``, a sum over examples."""
        outputs = self.inputs @ parameters
        losses = self.problem.single(outputs, self.targets[..., None]).sum(1)
        return losses + 0.5 * self.problem.penalty * (parameters**2).sum(1)

    def gradient(self, parameters: Floats) -> Floats:
        """Return the gradient ``[seeds, d, k]`` of :meth:`value`."""
        errors = self.problem.mean(self.inputs @ parameters) - self.targets[..., None]
        return self.inputs.transpose(0, 2, 1) @ errors + self.problem.penalty * parameters

    def loss_gradient(self, parameters: Floats) -> Floats:
        """Return the gradient ``[seeds, d, k]`` of the examples' losses alone."""
        return self.gradient(parameters) - self.problem.penalty * parameters

    def hessian(self, parameters: Floats) -> Floats:
        """Return the Hessian ``[seeds, d, d]`` of :meth:`value` at parameters ``[seeds, d]``."""
        curved = self.problem.curvature(self.inputs @ parameters[..., None])
        penalty = self.problem.penalty * np.eye(parameters.shape[1])
        return self.inputs.transpose(0, 2, 1) @ (curved * self.inputs) + penalty


def make_problem(setting: SettingConfig, loss: Loss, seeds: range) -> Problem:
    """Draw a problem for every seed."""
    draw = _gaussian if setting.data == "gaussian" else _real
    drawn = [draw(setting, loss, np.random.default_rng([seed, 0])) for seed in seeds]
    inputs, targets = (np.stack(parts) for parts in zip(*drawn, strict=True))
    matched = setting.size + round(setting.matched * (setting.n - setting.size))
    return Problem(loss, inputs, targets, setting.size, setting.penalty, matched)


def _gaussian(setting: SettingConfig, loss: Loss, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw inputs whose last ``rare`` directions have a variance of 1/condition, and targets of a linear teacher.

    An *unusual* example has one rare feature of size √d on top, the next example the next feature.
    """
    scales = np.ones(setting.d)
    scales[-setting.rare :] = setting.condition**-0.5
    inputs = rng.standard_normal((setting.n, setting.d)) * scales
    if setting.forget == "unusual":
        first = np.arange(setting.size)
        inputs[first, setting.d - setting.rare + first % setting.rare] += setting.d**0.5
    outputs = inputs @ rng.standard_normal(setting.d) / setting.d**0.5
    if loss == "ridge":
        targets = outputs + setting.noise * rng.standard_normal(setting.n)
    else:
        targets = (SIGNAL * outputs + rng.logistic(size=setting.n) > 0).astype(np.float64)
        targets = np.where(rng.random(setting.n) < setting.noise, 1 - targets, targets)
    return inputs, _mislabelled(setting, loss, targets)


def _real(setting: SettingConfig, loss: Loss, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw rows of a real dataset."""
    inputs, labels = _projected(setting.data, setting.d)
    rows = rng.choice(len(inputs), setting.n, replace=False)
    targets = np.where(rng.random(setting.n) < setting.noise, 1 - labels[rows], labels[rows])
    return inputs[rows], _mislabelled(setting, loss, targets)


def _mislabelled(setting: SettingConfig, loss: Loss, targets: Floats) -> Floats:
    if setting.forget == "mislabelled":
        wrong = targets[: setting.size]
        targets[: setting.size] = -wrong if loss == "ridge" else 1 - wrong
    return targets


@cache
def _projected(data: str, directions: int) -> tuple[Floats, Floats]:
    """Return a dataset's leading principal components, scaled to a mean variance of 1, with a constant; and its labels.

    Digits are those below 5 against the others; the features of ``breast_cancer`` are standardised first.
    """
    from sklearn.datasets import load_breast_cancer, load_digits

    found: Any = (load_digits if data == "digits" else load_breast_cancer)()
    inputs = found.data / (16.0 if data == "digits" else found.data.std(0))
    labels = found.target >= 5 if data == "digits" else found.target
    centred = inputs - inputs.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    kept = centred @ axes[:directions].T
    kept /= kept.std(0).mean()
    return np.concatenate([kept, np.ones((len(kept), 1))], axis=1), labels.astype(np.float64)
