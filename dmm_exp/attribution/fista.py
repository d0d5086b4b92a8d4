"""Many L1-penalised regressions on the same columns, solved together to a certified duality gap.

For outputs ``y_k`` and centred columns ``Z`` of M members, with ``c_k = Zᵀy_k/M`` and ``G = ZᵀZ/M``:

    minimise over w_k:  ‖y_k − Z w_k‖²/(2M) + λ_k Σ_i v_ki |w_ki|

by FISTA (Beck and Teboulle 2009, SIAM J. Imaging Sciences 2(1), equations 4.1–4.3) with the momentum of an output
started again where it points uphill (O'Donoghue and Candès, arXiv 1204.3982, the gradient scheme). One matrix product
moves all outputs; those that are solved drop out of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dmm_exp.errors import UserError

FEW = 0.08  # share of nonzero weights below which a sparse product is faster than a dense one, as measured


class Design:
    """The centred inclusion masks that all outputs are regressed on.

    Keeps ``G``, 4·n_train² bytes, unless members are so few that multiplying by masks twice is cheaper than by ``G``.

    Attributes:
        mean: the subtracted means, ``[n_train]``.
        centred: ``[members, n_train]`` float32.
        curvature: an upper bound of the largest eigenvalue of ``G``.
    """

    def __init__(self, masks: Tensor) -> None:
        self.mean = masks.float().mean(0)
        self.centred = masks.float() - self.mean
        members, n_train = masks.shape
        wide = 2 * members < n_train
        gram = (self.centred @ self.centred.T if wide else self.centred.T @ self.centred) / members
        self.curvature = 1.001 * float(torch.linalg.eigvalsh(gram)[-1])  # rounding must not make steps too long
        self.gram = None if wide else gram

    def multiply(self, weights: Tensor) -> Tensor:
        """Return ``weights G``, ``[outputs, n_train]``."""
        if self.gram is None:
            return (weights @ self.centred.T) @ self.centred / len(self.centred)
        if torch.count_nonzero(weights) < FEW * weights.numel():
            return torch.sparse.mm(weights.to_sparse(), self.gram)
        return weights @ self.gram


@dataclass(frozen=True)
class Problems:
    """Regressions that differ in their outputs.

    Attributes:
        design: what they share.
        correlation: ``c``, ``[outputs, n_train]``.
        power: mean square of each centred output, ``[outputs]``.
        relative: ``v``, factors of the weights' penalties, ``[outputs, n_train]`` above 0.
    """

    design: Design
    correlation: Tensor
    power: Tensor
    relative: Tensor

    @classmethod
    def of(cls, design: Design, outputs: Tensor, relative: Tensor | None = None) -> Problems:
        """Return the regressions of ``outputs``, ``[members, outputs]``, centred or not; ``v`` is 1 by default."""
        varies = outputs.amax(0) > outputs.amin(0)  # rounding of the mean would make a constant vary
        centred = (outputs - outputs.mean(0)) * varies
        correlation = centred.T @ design.centred / len(outputs)
        relative = torch.ones(1, 1).expand_as(correlation) if relative is None else relative
        return cls(design, correlation, centred.square().mean(0), relative)

    def __getitem__(self, chosen: Tensor) -> Problems:
        """Return some of the regressions."""
        return Problems(self.design, self.correlation[chosen], self.power[chosen], self.relative[chosen])

    def largest_penalties(self) -> Tensor:
        """Return the smallest λ at which all weights are zero, ``max |c|/v``, ``[outputs]``."""
        return (self.correlation / self.relative).abs().amax(1)

    def zeros(self) -> Weights:
        """Return weights of nothing."""
        return Weights(torch.zeros_like(self.correlation), torch.zeros_like(self.correlation))


@dataclass(frozen=True)
class Weights:
    """Weights of outputs.

    Attributes:
        values: ``[outputs, n_train]``.
        product: ``values G``, which steps and certificates both need.
    """

    values: Tensor
    product: Tensor

    def __getitem__(self, chosen: Tensor) -> Weights:
        """Return those of some outputs."""
        return Weights(self.values[chosen], self.product[chosen])

    def put(self, where: Tensor, others: Weights) -> None:
        """Overwrite those of some outputs."""
        self.values[where] = others.values
        self.product[where] = others.product


def solve(problems: Problems, penalties: Tensor, start: Weights, *, tolerance: float, iterations: int) -> Weights:
    """Return the weights of every output, each certified: its duality gap is at most ``tolerance`` times that of zero.

    The objective at zero is half the output's mean square, so fitted values are off by at most ``√tolerance`` of the
    output's standard deviation, as a root mean square over members; in practice by much less.

    Args:
        problems: what to solve.
        penalties: λ, ``[outputs]``.
        start: first weights, for example the solution for another λ; they are not changed.
        tolerance: see above; single precision can certify about 1e-6 at best.
        iterations: largest number of steps for an output.

    Raises:
        UserError: an output is not solved after so many steps.
    """
    found = problems.zeros()
    left = torch.arange(len(penalties))
    descent = _Descent(problems, penalties, start)
    for _ in range(iterations + 1):
        solved = descent.gaps() <= 0.5 * tolerance * descent.problems.power
        if solved.any():
            found.put(left[solved], descent.now[solved])
            left = left[~solved]
            descent.keep(~solved)
        if not len(left):
            return found
        descent.step()
    raise UserError(
        f"attribution.iterations={iterations}: {len(left)} of {len(penalties)} outputs have not reached "
        f"attribution.tolerance={tolerance:g} by then; increase one of them"
    )


class _Descent:
    """FISTA's state for the outputs that are not solved yet."""

    def __init__(self, problems: Problems, penalties: Tensor, start: Weights) -> None:
        self.problems = problems
        self.penalties = penalties
        self.now = self.before = start
        self.pace = torch.ones(len(penalties), 1)

    def keep(self, rows: Tensor) -> None:
        """Forget all other outputs."""
        self.problems, self.penalties, self.pace = self.problems[rows], self.penalties[rows], self.pace[rows]
        self.now, self.before = self.now[rows], self.before[rows]

    def gaps(self) -> Tensor:
        """Return objective minus dual objective, ``[outputs]``.

        With residual r, ``s·r`` is a dual point where ``|s| max |Zᵀr|/(Mv) ≤ λ``; its value
        ``s⟨r,y⟩/M − s²‖r‖²/(2M)`` is largest at ``⟨r,y⟩/‖r‖²``, cut to that range.
        """
        weights, correlation, power = self.now.values, self.problems.correlation, self.problems.power
        slope = correlation - self.now.product
        explained = torch.linalg.vecdot(weights, correlation)
        squares = (power - explained - torch.linalg.vecdot(weights, slope)).clamp(min=0)
        aligned = power - explained
        steepest = (slope / self.problems.relative).abs().amax(1)
        scale = torch.minimum(aligned / squares.clamp(min=1e-30), self.penalties / steepest.clamp(min=1e-30))
        dual = scale * aligned - 0.5 * scale.square() * squares
        return 0.5 * squares + self.penalties * (self.problems.relative * weights).abs().sum(1) - dual

    def step(self) -> None:
        """Take one accelerated step, for which ``values G`` of the point ahead follows from those already known."""
        design, now, before = self.problems.design, self.now, self.before
        next_pace = 0.5 + (0.25 + self.pace.square()).sqrt()
        reach = 1 + (self.pace - 1) / next_pace
        ahead = torch.lerp(before.values, now.values, reach)
        slope = self.problems.correlation - torch.lerp(before.product, now.product, reach)
        moved = ahead + slope / design.curvature
        threshold = self.problems.relative * (self.penalties[:, None] / design.curvature)
        values = moved - moved.clamp(-threshold, threshold)
        uphill = torch.linalg.vecdot(ahead - values, values - now.values) > 0
        self.pace = torch.where(uphill[:, None], 1.0, next_pace)
        self.now, self.before = Weights(values, design.multiply(values)), now
