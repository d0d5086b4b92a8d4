"""Sparse linear datamodels: L1-penalised regression of logits on inclusion masks (Ilyas et al., arXiv 2202.00622)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmm_exp.attribution.estimator import Effect, Estimator, Learned, at_least, towards
from dmm_exp.attribution.evidence import Evidence, SubsetModels
from dmm_exp.attribution.fista import Design, Problems, Weights, solve
from dmm_exp.ensembles.memory import require_memory
from dmm_exp.errors import UserError
from dmm_exp.files.reading import Json
from dmm_exp.store import blocks


class SparseDatamodel(Estimator):
    """Lasso of every logit on the inclusion mask, each with its own λ.

    λ decreases geometrically from the smallest value at which all weights except an example's own are zero; each
    solution starts from the previous one. The λ with the smallest error on members that are not fitted is chosen, and
    the output is fitted again, with that λ, to all members. Weights are those of masks of zeros and ones: the change
    when an example is included. (Weights of standardised masks would be half as large at α = 0.5.)

    An example acts on its own logits far more than any other does, so the weight of a training example in predicting
    itself is penalised less.

    Outputs are solved in blocks. Beside a block's logits this needs centred masks (9·M·n_train bytes with the masks
    themselves), their Gram matrices (8·n_train² bytes), about 60·outputs_at_once·n_train bytes while a block is solved,
    and 20 bytes for each weight that is not zero.

    Args:
        own_penalty: the penalty of an example's effect on its own logits, in multiples of λ.
        path_length: number of λ, the largest included.
        smallest_penalty: the last λ, as a fraction of the largest.
        patience: an output's path ends after so many λ in a row that are not better than its best.
        validation_fraction: share of the pool on which λ is chosen: its last members, which are as random as others.
            Members that depend on each other (complementary pairs) stay on one side.
        tolerance: largest duality gap, as a fraction of half the output's variance.
        iterations: largest number of steps to reach it.
        outputs_at_once: size of a block.

    Raises:
        UserError: an option is out of its range.
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
        self.path_length = at_least("path_length", path_length, 2)
        self.smallest_penalty = _between("smallest_penalty", smallest_penalty, 0, 1)
        self.patience = at_least("patience", patience, 1)
        self.validation_fraction = _between("validation_fraction", validation_fraction, 0, 1)
        self.tolerance = _between("tolerance", tolerance, 9e-7, 1, "from 1e-6 (single precision) to less than 1")
        self.iterations = at_least("iterations", iterations, 1)
        self.outputs_at_once = at_least("outputs_at_once", outputs_at_once, 1)

    def learn(self, evidence: Evidence) -> SparseEffects:
        """Choose λ and solve, block by block; the stored weights are sparse.

        Raises:
            UserError: the pool needs more memory than there is, or is too small to be split, or an output is not
                solved within ``iterations``.
        """
        pool = evidence.subset_models
        seen = self.seen_members(pool)
        self._check_memory(pool)
        designs = Designs.of(pool.masks[:, :], seen)
        shape = pool.logits.shape[1:]
        parts = blocks(shape[0] * shape[1], self.outputs_at_once)
        solved = [self._fit_outputs(designs, *self._outputs(pool, part)) for part in parts]
        weights, penalties, largest = zip(*solved, strict=True)
        return SparseEffects(weights, torch.cat(penalties), torch.cat(largest), shape)

    def seen_members(self, pool: SubsetModels) -> int:
        """Return the number of first members for fits that choose λ: whole blocks, at least two, with one left."""
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
        classes = pool.logits.shape[2]
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

    def _fit_outputs(self, designs: Designs, outputs: Tensor, relative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (sparse weights ``[outputs, n_train]``, λ, the largest λ) of a block ``[members, outputs]``."""
        seen = len(designs.seen.centred)
        problems = Problems.of(designs.seen, outputs[:seen], relative)
        unseen = (outputs[seen:] - outputs[:seen].mean(0)).T
        penalties, values = self._choose_penalties(problems, designs.unseen, unseen)
        whole = Problems.of(designs.whole, outputs, relative)
        start = Weights(values, designs.whole.multiply(values))
        return self._solve(whole, penalties, start).values.to_sparse(), penalties, self._largest(problems)

    @staticmethod
    def _largest(problems: Problems) -> Tensor:
        """Return the smallest λ at which all weights with a full penalty are zero, if those with less are, too."""
        return (problems.correlation.abs() * (problems.relative >= 1)).amax(1)

    def _choose_penalties(self, problems: Problems, masks: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
        """Return each output's best λ, and its weights there.

        Args:
            problems: to solve.
            masks: of members outside the fit, centred, ``[members, n_train]``.
            unseen: outputs of these members, centred, ``[outputs, members]``.
        """
        largest = self._largest(problems)
        penalties, solution = largest.clone(), problems.zeros()
        values, errors = solution.values.clone(), torch.full_like(largest, torch.inf)
        walking, stale = torch.arange(len(largest)), torch.zeros(len(largest), dtype=torch.long)
        for factor in self._factors():
            solution = self._solve(problems[walking], factor * largest[walking], solution)
            found = (unseen[walking] - solution.values @ masks.T).square().mean(1)
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


@dataclass(frozen=True)
class SparseEffects(Learned):
    """The predictions of sparse weights of masks.

    Attributes:
        weights: sparse ``[outputs, n_train]`` of every block of outputs, numbered point by point.
        penalties: λ of every output.
        largest: first λ of every output's path.
        shape: ``[points, classes]``.
    """

    weights: Sequence[Tensor]
    penalties: Tensor
    largest: Tensor
    shape: Sequence[int]

    def effect(self, rows: Tensor) -> Effect:
        """Return the summed weights; their error is not known."""
        return Effect(self.predict(towards(rows, self.weights[0].shape[1]))[0])

    def predict(self, directions: Tensor) -> Tensor:
        """Return predicted changes of all logits, ``[directions, points, classes]``."""
        changes = [torch.sparse.mm(weights, directions.T) for weights in self.weights]
        return torch.cat(changes).T.reshape(len(directions), *self.shape)

    def facts(self) -> Json:
        """Return the median λ, also as a fraction of the largest, and the mean number of weights."""
        counts = torch.cat([weights.indices()[0].bincount(minlength=len(weights)) for weights in self.weights])
        return {
            "penalty": float(self.penalties.median()),
            "penalty_fraction": float((self.penalties / self.largest.clamp(min=1e-30)).median()),
            "weights": float(counts.float().mean()),
        }


@dataclass(frozen=True)
class Designs:
    """A pool's masks, whole and split.

    Attributes:
        whole: all members.
        seen: members in the fits that choose λ.
        unseen: masks of the other members less the means of the first, ``[members, n_train]``.
    """

    whole: Design
    seen: Design
    unseen: Tensor

    @classmethod
    def of(cls, masks: Tensor, seen: int) -> Designs:
        """Split after some members."""
        first = Design(masks[:seen])
        return cls(Design(masks), first, masks[seen:].float() - first.mean)


def _between(name: str, value: float, low: float, high: float, range_: str = "") -> float:
    if not low < value < high:
        raise UserError(f"attribution.{name}={value}: expected a number {range_ or f'between {low} and {high}'}")
    return value
