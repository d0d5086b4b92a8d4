"""What noisy gradient steps certify: (ε, δ)-unlearning, whatever the loss and wherever the steps began.

Let ``x_0`` be the start, scaled into the ball of radius ``C0``, and for ``t = 1 … T``::

    x_t = ρ·x_{t−1} − γ·clip(g_t(x_{t−1}), C1) + ξ_t,    ρ = 1 − γλ in [0, 1],   ξ_t ~ N(0, σ²·I)

with ``g_t`` any function that knows nothing of the forget set. Let ``y_t`` be the same from another start in the ball.

**Theorem.** ``x_T`` and ``y_T`` are μ-GDP-indistinguishable (Dong, Roth and Su, "Gaussian Differential Privacy", arXiv
1905.02383), with ``μ = S / (σ·W)``, ``S = 2·C0·ρ^T + 2·γ·C1·(1 + ρ + … + ρ^(T−1))`` and ``W² = 1 + ρ² + … + ρ^(2T−2)``:
no event's probabilities differ by more than (ε, δ) allows, for all ε ≥ 0 and
``δ = Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ)``. That holds in both directions, and for all that is computed afterwards from
``x_T`` without the forget set. No smaller μ holds for all functions: where each ``g_t`` drives the two apart as fast as
clipping allows, ``x_T`` and ``y_T`` are normal with means ``S`` apart and variance ``σ²W²``.

*Proof.* Fix the starts and the functions. Two points at distance ``d`` are at most ``ρd + c`` apart after a step
without noise, with ``c = 2γC1``. Choose ``a_t = S·ρ^(T−t)/W²`` and let ``z_0 = 2·C0``, ``z_t = ρ·z_{t−1} + c − a_t``.
Then ``z_T = 0`` by the choice of ``a_t``. No ``z_t`` is negative: ``z_t/ρ^t`` changes by ``(c − a_t)/ρ^t``, and since
``a_t`` does not fall with ``t``, it first rises and then falls, from ``2·C0`` to 0 (for ρ = 0, ``z_t = c`` before T).
Now run, beside ``x``, a process ``w`` from the start of ``y`` with the *same* noise, and after each step pull it
towards ``x`` by up to ``a_t``. Its distance from ``x`` is at most ``z_t``, so that ``w_T = x_T``. Given the path of
``w`` until t − 1, that of ``x`` is known (the noise of each step can be read off), so the pull is a function of the
path of ``w``, and the path of ``w`` differs from that of ``y`` by an adaptive shift of at most ``a_t`` of the mean of
each normal step: ``T`` adaptive Gaussian mechanisms. Their composition is GDP with ``μ² = Σ a_t²/σ² = S²/(σ·W)²``
(composition of Gaussian mechanisms, same paper). ``x_T`` and ``y_T`` are functions of the two paths. Random starts and
functions (batches) that are drawn alike on both sides only mix such pairs, and (ε, δ) holds for mixtures. ∎

The steps are those of Koloskova et al., "Certified Unlearning for Neural Networks" (ICML 2025, arXiv 2506.06985,
gradient clipping). The proof follows Bok, Su and Altschuler, "Shifted Interpolation for Differential Privacy" (ICML
2024, arXiv 2403.00278), for steps that do not contract.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.special import log_ndtr, ndtr

from dmm_exp.errors import UserError

LARGEST_MU = 1e6


@dataclass(frozen=True)
class NoisySteps:
    """Noisy steps of gradient descent; names in brackets are those of the theorem.

    Attributes:
        count: of steps (T).
        rate: of learning (γ).
        clip: largest norm of a gradient (C1).
        decay: of weights (λ).
        radius: of the ball into which the start is scaled (C0).

    Raises:
        UserError: a number is out of range.
    """

    count: int
    rate: float
    clip: float
    decay: float
    radius: float

    def __post_init__(self) -> None:
        if self.count < 1 or min(self.rate, self.decay) < 0 or min(self.clip, self.radius) <= 0:
            raise UserError(
                f"unlearner.noisy_steps={self.count}, noisy_rate={self.rate}, noisy_clip={self.clip}, "
                f"noisy_decay={self.decay}, radius={self.radius}: expected at least 1, 0, a number above 0, 0, and a "
                "number above 0"
            )
        if not self.rate * self.decay <= 1:
            raise UserError(
                f"unlearner.noisy_rate={self.rate} times noisy_decay={self.decay}: expected at most 1, so that a step "
                "does not shrink a model beyond zero"
            )

    @property
    def kept(self) -> float:
        """What a step keeps of a model (ρ)."""
        return 1 - self.rate * self.decay

    @property
    def separation(self) -> float:
        """How far two runs from different starts may be apart at the end, but for noise (S)."""
        drift = sum(self.kept**step for step in range(self.count))
        return 2 * self.radius * self.kept**self.count + 2 * self.rate * self.clip * drift

    @property
    def spread(self) -> float:
        """Standard deviation at the end for noise of 1 in every step, without gradients (W)."""
        return math.sqrt(sum(self.kept ** (2 * step) for step in range(self.count)))

    def mu(self, noise: float) -> float:
        """Return μ for a standard deviation of the noise (σ); infinite without noise."""
        return self.separation / (noise * self.spread) if noise > 0 else math.inf

    def noise_for(self, epsilon: float, delta: float) -> float:
        """Return the smallest standard deviation of the noise (σ) with which the steps are (ε, δ)."""
        return self.separation / (mu_of(epsilon, delta) * self.spread)


def delta_of(epsilon: float, mu: float) -> float:
    """Return the smallest δ with which μ-GDP is (ε, δ): that of the Gaussian mechanism with sensitivity/σ = μ.

    Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018, arXiv 1805.06530.
    """
    if mu == 0:
        return 0.0
    if math.isinf(mu):
        return 1.0
    found = ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu))
    return max(0.0, float(found))


def epsilon_of(delta: float, mu: float) -> float:
    """Return the smallest ε ≥ 0 with which μ-GDP is (ε, δ); infinite for an infinite μ."""
    if math.isinf(mu):
        return math.inf
    return _boundary(lambda epsilon: delta_of(epsilon, mu) > delta, mu * mu / 2 + mu * 40)


def mu_of(epsilon: float, delta: float) -> float:
    """Return the largest μ that is (ε, δ)."""
    return _boundary(lambda mu: delta_of(epsilon, mu) <= delta, LARGEST_MU)


def _boundary(below: Callable[[float], bool], high: float) -> float:
    """Return where a condition that holds below some number, and not above, ceases to hold, between 0 and ``high``."""
    low = 0.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2
