"""Sparse linear datamodels: L1-penalised regression of logits on inclusion masks (Ilyas et al., arXiv 2202.00622)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmm_exp.attribution.estimator import PoolEstimator, SubsetModels
from dmm_exp.attribution.fista import Design, Problems, Weights, solve
from dmm_exp.ensembles.memory import require_memory
from dmm_exp.errors import UserError
from dmm_exp.store import blocks


class SparseDatamodel(PoolEstimator):
    """Lasso of every logit on the inclusion mask, with a λ of its own.

    λ walks from the smallest value at which all weights but an example's own are zero geometrically downwards, each
    solution starting from the last. The λ with the smallest error on members that the fit has not seen is taken, and
    the output is fitted anew, at that λ, to all members. Weights are those of masks of zeros and ones: what including
    an example changes. (Weights of standardised masks would be half as large at α = 0.5.)

    An example acts on its own logits far more than any other does, so the weight of a training example in predicting
    itself is penalised less.

    Outputs are solved in blocks. Beside a block's logits this needs centred masks (9·M·n_train bytes with the masks
    themselves), their Gram matrices (8·n_train² bytes), about 60·outputs_at_once·n_train bytes while a block is solved,
    and 20 bytes for each weight that is not zero.

    Args:
        own_penalty: the penalty of an example's effect on its own logits, in multiples of λ.
        path_length: number of λ, the largest included.
        smallest_penalty: the last λ, as a fraction of the largest.
        patience: an output's path ends once so many λ in a row were no better than its best.
        validation_fraction: share of the pool on which λ is chosen: its last members, which are as random as any.
            Members that are not independent (complementary pairs) stay on one side.
        tolerance: largest duality gap, as a fraction of half the output's variance.
        iterations: most steps to get there.
        outputs_at_once: size of a block.

    Raises:
        UserError: an option is out of its range; in ``fit``, the pool is too small to be split, or an output is not
            solved within ``iterations``.
    """

    tuned_by_group = False

    def __init__(
        self,
        own_penalty: float = 0.1,
        path_length: int = 15,
        smallest_penalty: float = 0.05,
        patience: int = 2,
        validation_fraction: float = 0.2,
        tolerance: float = 1e-4,
        iterations: int = 1000,
        outputs_at_once: int = 1024,
    ) -> None:
        self.own_penalty = _between("own_penalty", own_penalty, 0, 1.001, "above 0 and at most 1")
        self.path_length = _at_least("path_length", path_length, 2)
        self.smallest_penalty = _between("smallest_penalty", smallest_penalty, 0, 1)
        self.patience = _at_least("patience", patience, 1)
        self.validation_fraction = _between("validation_fraction", validation_fraction, 0, 1)
        self.tolerance = _between("tolerance", tolerance, 9e-7, 1, "from 1e-6 (single precision) to less than 1")
        self.iterations = _at_least("iterations", iterations, 1)
        self.outputs_at_once = _at_least("outputs_at_once", outputs_at_once, 1)

    def fit(self, pool: SubsetModels, groups: Tensor) -> None:
        """Choose λ and solve, block by block; what is kept is sparse."""
        self.shape = pool.logits.shape[1:]
        seen = self._seen_members(pool)
        self._check_memory(pool)
        masks = pool.masks[:, :]
        self._whole, self._seen = Design(masks), Design(masks[:seen])
        self._unseen = masks[seen:].float() - self._seen.mean
        parts = blocks(self.shape[0] * self.shape[1], self.outputs_at_once)
        solved = [self._fit_outputs(*self._outputs(pool, part)) for part in parts]
        self.weights = [weights for weights, _, _ in solved]
        self.penalties = torch.cat([penalties for _, penalties, _ in solved])
        self.largest = torch.cat([largest for _, _, largest in solved])

    def predict(self, directions: Tensor) -> Tensor:
        """Return predicted changes of all logits, ``[directions, points, classes]``."""
        changes = [torch.sparse.mm(weights, directions.T) for weights in self.weights]
        return torch.cat(changes).T.reshape(len(directions), *self.shape)

    def facts(self) -> dict[str, Any]:
        """Return the median λ, also as a fraction of the largest, and the mean number of weights."""
        counts = torch.cat([weights.indices()[0].bincount(minlength=len(weights)) for weights in self.weights])
        return {
            "penalty": float(self.penalties.median()),
            "penalty_fraction": float((self.penalties / self.largest.clamp(min=1e-30)).median()),
            "weights": float(counts.float().mean()),
        }

    def _seen_members(self, pool: SubsetModels) -> int:
        """Return how many of the first members λ's fits see: whole blocks, at least two, with at least one left."""
        blocks = len(pool) // pool.block
        unseen = max(1, round(self.validation_fraction * blocks))
        if blocks - unseen < 2:
            raise UserError(
                f"attribution.validation_fraction={self.validation_fraction}: of {len(pool)} pool members it leaves "
                f"{max(0, blocks - unseen) * pool.block} to fit to; lower it, or raise pool.size"
            )
        return (blocks - unseen) * pool.block

    def _outputs(self, pool: SubsetModels, outputs: slice) -> tuple[Tensor, Tensor]:
        """Return some outputs ``[members, outputs]``, numbered point by point, and the penalties of their weights."""
        classes = self.shape[1]
        first, last = outputs.start // classes, -(-outputs.stop // classes)
        values = pool.logits[:, first:last].flatten(1)[:, outputs.start - first * classes :]
        of = torch.arange(outputs.start, outputs.stop) // classes
        return values[:, : len(of)], self._relative(of, pool.n_train)

    @staticmethod
    def _check_memory(pool: SubsetModels) -> None:
        members, n_train = pool.masks.shape
        needed = 9 * members * n_train + (8 * n_train**2 if 2 * members >= n_train else 8 * members**2)
        require_memory(
            needed,
            f"pool.size: SparseDatamodel of {members:,} members and {n_train:,} training examples",
            "fewer members, or attribution=feldman_zhang, which needs no such matrices",
        )

    def _relative(self, points: Tensor, n_train: int) -> Tensor:
        """Return penalties in multiples of λ, ``[outputs, n_train]``, of outputs on some points."""
        relative = torch.ones(len(points), n_train)
        train = (points < n_train).nonzero().squeeze(1)
        relative[train, points[train]] = self.own_penalty
        return relative

    def _fit_outputs(self, outputs: Tensor, relative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (sparse weights ``[outputs, n_train]``, λ, the largest λ) of a block ``[members, outputs]``."""
        problems = Problems.of(self._seen, outputs[: len(self._seen.centred)], relative)
        unseen = (outputs[len(self._seen.centred) :] - outputs[: len(self._seen.centred)].mean(0)).T
        penalties, values = self._choose_penalties(problems, unseen)
        whole = Problems.of(self._whole, outputs, relative)
        start = Weights(values, self._whole.multiply(values))
        return self._solve(whole, penalties, start).values.to_sparse(), penalties, self._largest(problems)

    @staticmethod
    def _largest(problems: Problems) -> Tensor:
        """Return the smallest λ at which all weights with a full penalty are zero, if those with less are, too."""
        return (problems.correlation.abs() * (problems.relative >= 1)).amax(1)

    def _choose_penalties(self, problems: Problems, unseen: Tensor) -> tuple[Tensor, Tensor]:
        """Return each output's best λ, and its weights there; ``unseen`` is ``[outputs, members]``."""
        largest = self._largest(problems)
        penalties, solution = largest.clone(), problems.zeros()
        values, errors = solution.values.clone(), torch.full_like(largest, torch.inf)
        walking, stale = torch.arange(len(largest)), torch.zeros(len(largest), dtype=torch.long)
        for factor in self._factors():
            solution = self._solve(problems[walking], factor * largest[walking], solution)
            found = (unseen[walking] - solution.values @ self._unseen.T).square().mean(1)
            better = found < errors[walking]
            improved = walking[better]
            errors[improved], values[improved] = found[better], solution.values[better]
            penalties[improved] = factor * largest[improved]
            stale[walking] += 1
            stale[improved] = 0
            going = stale[walking] < self.patience
            walking, solution = walking[going], solution[going]
        return penalties, values

    def _factors(self) -> list[float]:
        """Return all λ in multiples of the largest."""
        last = self.path_length - 1
        return [self.smallest_penalty ** (step / last) for step in range(self.path_length)]

    def _solve(self, problems: Problems, penalties: Tensor, start: Weights) -> Weights:
        return solve(problems, penalties, start, tolerance=self.tolerance, iterations=self.iterations)


def _at_least(name: str, value: int, fewest: int) -> int:
    if value < fewest:
        raise UserError(f"attribution.{name}={value}: expected a whole number of at least {fewest}")
    return value


def _between(name: str, value: float, low: float, high: float, range_: str = "") -> float:
    if not low < value < high:
        raise UserError(f"attribution.{name}={value}: expected a number {range_ or f'between {low} and {high}'}")
    return value
