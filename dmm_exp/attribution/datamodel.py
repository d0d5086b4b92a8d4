"""Linear datamodels by ridge regression (Ilyas et al., ICML 2022, arXiv 2202.00622), in closed form.

With centred masks ``Z = U S Vᵀ`` everything follows from one decomposition: predictions for every λ, and leave-one-out
residuals by the hat matrix ``H(λ) = 11ᵀ/M + U S²/(S²+λ) Uᵀ``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dmm_exp.attribution.estimator import Effect, Estimator, Learned, towards
from dmm_exp.attribution.evidence import CentredLogits, Evidence, SubsetModels
from dmm_exp.ensembles.memory import require_memory
from dmm_exp.errors import UserError
from dmm_exp.files.reading import Json
from dmm_exp.store import blocks, points_at_once

NOISE_BLOCKS = 128  # number of blocks of members from which the variance of noise is estimated
EIGEN_BYTES = 36  # largest memory for each entry of a Gram matrix that is decomposed: matrix, vectors and workspace


class Datamodel(Estimator):
    """Ridge regression of every logit on the inclusion mask.

    λ is chosen for each group of outputs by leave-one-out error (leave-one-pair-out when members come in complementary
    pairs, since a member's complement holds nearly the same information). Effects are shrunk, so biased towards zero.

    Memory besides blocks of the pool: ``36 r² + 4 M r`` bytes with M members and ``r = min(M, n_train)``.

    Args:
        penalties: candidates for λ, in multiples of the mean squared singular value of the centred masks.
        tuning_outputs: number of evenly spaced outputs of a group on which λ is chosen.

    Raises:
        UserError: there are no penalties, or one is not positive.
    """

    def __init__(self, penalties: list[float] | None = None, tuning_outputs: int = 200) -> None:
        self.penalties = penalties or [10 ** (step / 4) for step in range(-6, 11)]
        self.tuning_outputs = tuning_outputs
        if min(self.penalties) <= 0 or tuning_outputs < 1:
            raise UserError("attribution.penalties and attribution.tuning_outputs: expected positive numbers")

    def learn(self, evidence: Evidence) -> RidgeEffects:
        """Decompose the masks and choose λ for every group.

        Raises:
            UserError: the pool needs more memory than there is.
        """
        check_memory(evidence.subset_models, type(self).__name__)
        ridge, points = Ridge.of(evidence.subset_models), evidence.points_of_groups
        return RidgeEffects(ridge, points, {group: self._best_penalty(ridge, where) for group, where in points.items()})

    def _best_penalty(self, ridge: Ridge, where: Tensor) -> float:
        sample = _evenly_drawn(ridge.logits, where, self.tuning_outputs)
        projected, scale = ridge.left.T @ sample, float(ridge.squares.sum()) / min(ridge.pool.masks.shape)
        left_out = (ridge.leave_out(sample, scale * factor, projected) for factor in self.penalties)
        errors = [float(residuals.square().mean()) for residuals in left_out]
        return scale * self.penalties[errors.index(min(errors))]


@dataclass(frozen=True)
class RidgeEffects(Learned):
    """The result of ridge regression.

    Attributes:
        ridge: for every λ.
        points: of every group.
        penalty: λ of every group.
    """

    ridge: Ridge
    points: Mapping[int, Tensor]
    penalty: Mapping[int, float]

    def effect(self, rows: Tensor) -> Effect:
        """Return the prediction, and its sampling error, which does not include the bias towards zero."""
        errors, direction = torch.empty_like(self.ridge.logits.means), towards(rows, self.ridge.pool.n_train)
        for group, where in self.points.items():
            weights = self.ridge.member_weights(direction, self.penalty[group])[0]
            errors[where] = weights.norm() * self.ridge.noise(where, self.penalty[group]).variance.sqrt()
        return Effect(self.predict(direction)[0], errors)

    def predict(self, directions: Tensor) -> Tensor:
        """Return the ridge prediction, ``[directions, points, classes]``."""
        changes = torch.empty(len(directions), *self.ridge.logits.means.shape)
        for group, where in self.points.items():
            weights = self.ridge.member_weights(directions, self.penalty[group])
            changes[:, where] = self.ridge.logits.weigh(weights, where)
        return changes

    def facts(self) -> Json:
        """Return the chosen λ of every group."""
        return {"penalty": {str(group): value for group, value in self.penalty.items()}}


@dataclass(frozen=True)
class Noise:
    """The part of one group's outputs that no mask explains.

    Attributes:
        variance: ``[points, classes]``.
        dimension: number of independent outputs whose total would vary as much.
    """

    variance: Tensor
    dimension: float


@dataclass(frozen=True)
class Ridge:
    """Ridge regression of a pool's logits on its masks, for every λ.

    Attributes:
        logits: of the pool.
        left: U, ``[members, rank]``.
        squares: squared singular values, ``[rank]``.
    """

    logits: CentredLogits
    left: Tensor
    squares: Tensor

    @classmethod
    def of(cls, pool: SubsetModels) -> Ridge:
        """Decompose the smaller of both Gram matrices of a pool's centred masks."""
        members, n_train = pool.masks.shape
        gram = torch.zeros(min(members, n_train), min(members, n_train), dtype=torch.double)
        if members <= n_train:
            for examples in blocks(n_train, points_at_once(pool.masks)):
                centred = pool.centred(examples)
                gram += centred @ centred.T
        else:
            for centred in _centred_members(pool):
                gram += centred.T @ centred
        squares, vectors = torch.linalg.eigh(gram)
        real = squares > 1e-6 * squares[-1]
        squares, vectors = squares[real].float(), vectors[:, real].float()
        if members > n_train:
            vectors = torch.cat([centred @ vectors / squares.sqrt() for centred in _centred_members(pool)])
        return cls(CentredLogits.of(pool), vectors.contiguous(), squares)

    @property
    def pool(self) -> SubsetModels:
        """The pool."""
        return self.logits.pool

    def member_weights(self, directions: Tensor, penalty: float) -> Tensor:
        """Return ``directions Zᵀ(ZZᵀ + λI)⁻¹``, ``[directions, members]``; only moved columns of ``Z`` are read."""
        moved = directions.any(0)
        projected = torch.zeros(len(directions), len(self.pool))
        for examples in moved.nonzero().squeeze(1).split(points_at_once(self.pool.masks)):
            projected += directions[:, examples] @ self.pool.centred(examples).T
        return (projected @ self.left / (self.squares + penalty)) @ self.left.T

    def example_weights(self, examples: slice, penalty: float) -> Tensor:
        """Return ``Zᵀ(ZZᵀ + λI)⁻¹``, the weights ``[examples, members]`` of some examples' coefficients."""
        return self.pool.centred(examples).T @ ((self.left / (self.squares + penalty)) @ self.left.T)

    def leave_out(self, values: Tensor, penalty: float, projected: Tensor | None = None) -> Tensor:
        """Return ``B(I − H) values``: residuals of a fit without the member's own block, ``[members, ...]``.

        Args:
            values: ``[members, columns]`` centred outputs.
            penalty: λ.
            projected: ``Uᵀ values``, if it is already known.
        """
        return self.unblock(self.residual_maker(values, penalty, projected), penalty)

    def residual_maker(self, values: Tensor, penalty: float, projected: Tensor | None = None) -> Tensor:
        """Return ``(I − H) values``; ``projected`` is ``Uᵀ values``, if it is already known."""
        kept = self.squares / (self.squares + penalty)
        projected = self.left.T @ values if projected is None else projected
        return values - values.mean(0) - self.left @ (kept[:, None] * projected)

    def unblock(self, residuals: Tensor, penalty: float) -> Tensor:
        """Return ``(I − H_bb)⁻¹ r_b`` for every block b of members that are left out together."""
        block = self.pool.block
        rows = self.left.view(-1, block, self.left.shape[1])
        hat = (rows * (self.squares / (self.squares + penalty))) @ rows.transpose(1, 2) + 1 / len(self.pool)
        system = torch.eye(block) - hat
        return (torch.linalg.inv(system) @ residuals.unflatten(0, (-1, block))).flatten(0, 1)

    def left_out_weights(self, weights: Tensor, penalty: float) -> Tensor:
        """Return the weights of outputs ``[rows, members]`` that weigh left-out residuals instead of outputs.

        They are ``weights · B(I − H)``; both factors are symmetric, so the transpose is applied from the left. Such a
        weighted sum has the squared length of its weights times the variance of an output's noise for a squared
        standard error.
        """
        return self.residual_maker(self.unblock(weights.T, penalty), penalty).T

    def noise(self, points: Tensor, penalty: float) -> Noise:
        """Return the noise of some points' outputs that no mask explains, from an even sample of blocks.

        Its variance is the mean product of a residual and its left-out version, in which the degrees of freedom that
        the fit took cancel. Weights of complementary members differ in sign: the difference of two of them counts.
        """
        block, blocks = self.pool.block, len(self.pool) // self.pool.block
        chosen = torch.arange(0, blocks, max(1, blocks // NOISE_BLOCKS))
        contrast = torch.zeros(len(chosen), len(self.pool))
        contrast[torch.arange(len(chosen)), chosen * block] = block**-0.5
        if block > 1:
            contrast[torch.arange(len(chosen)), chosen * block + 1] = -(block**-0.5)
        residual = self.residual_maker(contrast.T, penalty).T
        left_out = self.left_out_weights(contrast, penalty)
        variance, gram = [], torch.zeros(len(chosen), len(chosen))
        for part in self.logits.parts(points):
            seen, unseen = self.logits.weigh_each([residual, left_out], part)
            variance.append(((seen * unseen).sum(0) / (residual * left_out).sum()).clamp(min=0))
            gram += unseen.flatten(1) @ unseen.flatten(1).T
        apart = gram[~torch.eye(len(gram), dtype=torch.bool)]
        dimension = float(gram.diagonal().mean().square() / apart.square().mean().clamp(min=1e-30))
        return Noise(torch.cat(variance), max(1.0, dimension))


def check_memory(pool: SubsetModels, name: str, whole_matrices: int = 0) -> None:
    """Raise ``UserError`` if matrices that are not divided into blocks cannot fit into this machine's memory.

    Args:
        pool: from which the estimator learns.
        name: of the estimator.
        whole_matrices: number of matrices ``[n_train, members]`` in memory besides the decomposition.
    """
    members, n_train = pool.masks.shape
    rank = min(members, n_train)
    needed = EIGEN_BYTES * rank**2 + 4 * members * rank + 4 * whole_matrices * members * n_train
    require_memory(
        needed,
        f"pool.size: {name} of {members:,} members and {n_train:,} training examples",
        "fewer members, or attribution=feldman_zhang, which needs no such matrices",
    )


def _evenly_drawn(logits: CentredLogits, points: Tensor, count: int) -> Tensor:
    """Return evenly spaced centred outputs ``[members, outputs]`` of some points, at most ``count``."""
    classes = logits.means.shape[1]
    step = max(1, len(points) * classes // count)
    drawn = torch.arange(0, len(points) * classes, step)[:count]
    chosen, place = (drawn // classes).unique(return_inverse=True)
    return logits.at(points[chosen])[:, place, drawn % classes].contiguous()


def _centred_members(pool: SubsetModels) -> Iterator[Tensor]:
    """Yield the rows of ``Z`` in blocks ``[members, n_train]``."""
    share = points_at_once(pool.masks) / pool.n_train
    for members in blocks(len(pool), max(1, int(share * len(pool)))):
        yield pool.masks[members, :].float().sub_(pool.inclusion)
