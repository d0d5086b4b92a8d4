"""One step of Newton's method: how far the optimum would move if the forget set were removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from dmm_exp.ensembles import Ensemble, member_generator
from dmm_exp.errors import UserError, reason_of
from dmm_exp.unlearners.unlearner import Unlearner, UnlearningResult, UnlearningTask, shuffled

Tree = dict[str, Tensor]  # stacked as an ensemble's parameters are: [members, ...]


class Influence(Unlearner):
    """Add ``scale·H⁻¹·(1/n)·Σ_{i∈F} ∇ℓ_i(θ0)`` to the original's parameters (influence unlearning).

    ``H = (1/n)·Σ_{i∈R} G_i + damping·I`` with the Gauss–Newton matrix ``G_i`` of the cross-entropy, which is its
    Hessian for models that are linear in their parameters; there the step is the exact Newton step on the retain
    objective (Koh and Liang, ICML 2017, arXiv 1703.04730; Guo et al., ICML 2020, arXiv 1911.03030). The system is
    solved by conjugate gradients for all members together, each with its own step sizes; the reported cost is that of
    all iterations, even if a member needs fewer. BatchNorm keeps its running statistics.

    Args:
        scale: length of the step, 1 being Newton's.
        damping: added to the curvature, at least 0.
        iterations: of conjugate gradients, at most.
        tolerance: relative residual below which a member's system counts as solved.
        curvature_sample: number of random retain points for each member from which the curvature is computed; None for
            all retain points.
        block_size: number of points in one product with the curvature.

    Raises:
        UserError: a number is out of range, or the step is not finite.
    """

    own_sets: ClassVar[bool] = True

    def __init__(
        self,
        *,
        scale: float = 1.0,
        damping: float = 0.01,
        iterations: int = 20,
        tolerance: float = 1e-6,
        curvature_sample: int | None = None,
        block_size: int = 512,
    ) -> None:
        if damping < 0 or iterations < 1 or tolerance < 0 or block_size < 1:
            raise UserError(
                f"unlearner.damping={damping}, iterations={iterations}, tolerance={tolerance}, "
                f"block_size={block_size}: expected at least 0, 1, 0 and 1"
            )
        if curvature_sample is not None and curvature_sample < 1:
            raise UserError(f"unlearner.curvature_sample={curvature_sample}: expected at least 1, or null")
        self.scale, self.damping, self.iterations, self.tolerance = scale, damping, iterations, tolerance
        self.curvature_sample, self.block_size = curvature_sample, block_size

    @torch.enable_grad()
    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Take the step with copies of all members."""
        ensemble = task.originals.copy().eval()
        curvature, cost = self._curvature(ensemble, task)
        step = conjugate_gradients(curvature, self._forget_gradient(ensemble, task), self.iterations, self.tolerance)
        if not all(bool(value.isfinite().all()) for value in step.values()):
            raise UserError("unlearner.damping: the Newton step is not finite; expected a larger damping")
        with torch.no_grad():
            for name, value in ensemble.params.items():
                value += self.scale * step[name]
        logits = ensemble.logits(task.examples.inputs)
        return UnlearningResult(ensemble.cpu(), logits, task.n_forget + cost * self.iterations, [])

    def _forget_gradient(self, ensemble: Ensemble, task: UnlearningTask) -> Tree:
        """Return ``(1/n)·Σ_{i∈F} ∇ℓ_i`` at the originals."""
        total = _zeros(ensemble)
        for points in task.forget.expand(len(ensemble), -1).split(self.block_size, dim=1):
            params = {name: value.requires_grad_() for name, value in _parameters(ensemble).items()}
            logits = _answers(ensemble, task, points)(params)
            labels = functional.one_hot(task.examples.labels[points], task.examples.n_classes).to(logits)
            gradient = _pulled(logits, params, (logits.softmax(-1) - labels).detach())
            total = {name: value + gradient[name] / task.n_train for name, value in total.items()}
        return total

    def _curvature(self, ensemble: Ensemble, task: UnlearningTask) -> tuple[Callable[[Tree], Tree], int]:
        """Return multiplication by H, and its cost in gradients of single examples (a product takes two passes)."""
        points = self._curvature_points(task)
        share = task.n_retain / task.n_train / points.shape[1]

        def multiply(vector: Tree) -> Tree:
            total = {name: self.damping * value for name, value in vector.items()}
            for block in points.split(self.block_size, dim=1):
                for name, value in _gauss_newton(_answers(ensemble, task, block), ensemble, vector).items():
                    total[name] = total[name] + share * value
            return total

        return multiply, 2 * points.shape[1]

    def _curvature_points(self, task: UnlearningTask) -> Tensor:
        """Return the retain points from which each member's curvature is computed, ``[members, points]``."""
        if self.curvature_sample is None or self.curvature_sample >= task.n_retain:
            return task.retain.expand(len(task.members), -1)
        generators = (member_generator(task.seed, "unlearned", index, "order") for index in task.members)
        orders = [shuffled(task.of(row).retain, generator) for row, generator in enumerate(generators)]
        return torch.stack([order[: self.curvature_sample] for order in orders])


def conjugate_gradients(multiply: Callable[[Tree], Tree], right: Tree, iterations: int, tolerance: float) -> Tree:
    """Solve ``multiply(x) = right`` for every member independently, from ``x = 0``.

    A member that has reached the relative tolerance does not change any more, so it does not depend on the others.

    Raises:
        UserError: the curvature is not positive definite, or not finite.
    """
    solution = {name: torch.zeros_like(value) for name, value in right.items()}
    residual, direction = right, right
    squared = _dot(residual, residual)
    enough = tolerance**2 * squared
    for _ in range(iterations):
        active = squared > enough
        if not active.any():
            break
        product = multiply(direction)
        bend = _dot(direction, product)
        if not bool((bend[active] > 0).all()):
            raise UserError("unlearner.damping: the curvature is not positive definite; expected a larger damping")
        length = torch.where(active, squared / bend, 0.0)
        solution = _combine(solution, direction, length)
        residual = _combine(residual, product, -length)
        before, squared = squared, torch.where(active, _dot(residual, residual), squared)
        direction = _combine(residual, direction, torch.where(active, squared / before, 0.0))
    return solution


def _gauss_newton(answers: Callable[[Tree], Tensor], ensemble: Ensemble, vector: Tree) -> Tree:
    """Return the sum over points of ``Jᵀ·(diag(p) − p·pᵀ)·J·vector``."""
    logits, change, params = _pushed(answers, _parameters(ensemble), vector)
    chances = logits.softmax(-1).detach()
    bent = chances * (change - (chances * change).sum(-1, keepdim=True))
    return _pulled(logits, params, bent)


def _pushed(answers: Callable[[Tree], Tensor], params: Tree, vector: Tree) -> tuple[Tensor, Tensor, Tree]:
    """Return logits with their graph, ``J·vector``, and the parameters at which the graph begins.

    Layers without forward derivatives (LSTM) are differentiated twice in backward mode.

    Raises:
        UserError: that is not possible, either.
    """
    leaves = {name: value.requires_grad_() for name, value in params.items()}
    try:
        change = jvp(answers, ({name: value.detach() for name, value in params.items()},), (vector,))[1].detach()
        return answers(leaves), change, leaves
    except (RuntimeError, NotImplementedError):
        pass
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the implementation of attention that has second derivatives
            logits = answers(leaves)
        weights = torch.zeros_like(logits, requires_grad=True)
        back = torch.autograd.grad(logits, list(leaves.values()), weights, create_graph=True, materialize_grads=True)
        (change,) = torch.autograd.grad(back, weights, [vector[name] for name in leaves], retain_graph=True)
    except (RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"unlearner=influence: needs second derivatives, which this network does not have ({reason_of(error)}); "
            "expected another method"
        ) from error
    return logits, change, leaves


def _pulled(logits: Tensor, params: Tree, weights: Tensor) -> Tree:
    """Return the gradient of the weighted sum of logits, by parameter."""
    found = torch.autograd.grad(logits, list(params.values()), weights, materialize_grads=True)
    return dict(zip(params, found, strict=True))


def _answers(ensemble: Ensemble, task: UnlearningTask, points: Tensor) -> Callable[[Tree], Tensor]:
    """Return the function from parameters to logits ``[members, points, classes]`` on each member's points."""
    inputs = task.examples.inputs[points].to(ensemble.device)
    return lambda params: ensemble(inputs, params=params)


def _parameters(ensemble: Ensemble) -> Tree:
    return {name: value.detach() for name, value in ensemble.params.items()}


def _zeros(ensemble: Ensemble) -> Tree:
    return {name: torch.zeros_like(value) for name, value in _parameters(ensemble).items()}


def _dot(left: Tree, right: Tree) -> Tensor:
    """Return the inner product of every member's vectors ``[members]``, in float64."""
    return torch.stack(list(_products(left, right))).sum(0)


def _products(left: Tree, right: Tree) -> Iterator[Tensor]:
    for name, value in left.items():
        yield (value * right[name]).flatten(1).sum(1, dtype=torch.float64)


def _combine(base: Tree, other: Tree, factor: Tensor) -> Tree:
    """Return ``base + factor·other`` with one factor a member."""
    return {
        name: value + factor.to(value.dtype).view(-1, *[1] * (value.ndim - 1)) * other[name]
        for name, value in base.items()
    }
