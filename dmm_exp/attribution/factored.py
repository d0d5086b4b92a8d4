"""TRAK whose projection needs no weight gradient.

A layer's gradient is the sum, over positions, of products of its input a and its output's gradient g:
``G = Σ_t g_t a_tᵀ`` (a convolution's input is a patch). So ``(B ⊗ A) vec(G) = Σ_t (B g_t)(A a_t)ᵀ`` with small random
matrices A and B: for a convolution, random filters on its input and a 1×1 convolution of its output's gradient.
The few gradients of a normalisation's scales and shifts are formed, and projected as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmm_exp.attribution.estimator import at_least, not_negative
from dmm_exp.attribution.gradients import GradientEstimator
from dmm_exp.data import Examples
from dmm_exp.errors import UserError


class TrakFactored(GradientEstimator):
    """``P∇z_c(x) · (XᵀX + λI)⁻¹ · P(−∇ℓ_i)``, with X all projected gradients of losses.

    As TRAK (arXiv 2303.14186), with two changes. The projection P is a Kronecker product in every layer, summed over
    layers. And X are gradients of losses rather than of margins, so that ``XᵀX`` is the empirical Fisher matrix of
    that very model: examples that are fitted well do not count. On digits that raises LDS by half.

    Args:
        proj_dim: width of features.
        damping: λ, in multiples of the mean eigenvalue of ``XᵀX``.
        checkpoints: see :class:`GradientEstimator`.
        calibration_members: see :class:`GradientEstimator`.
        block_size: see :class:`GradientEstimator`.
        seed: of the projection.
    """

    fitted_later: ClassVar[tuple[str, ...]] = (*GradientEstimator.fitted_later, "damping")

    def __init__(
        self,
        proj_dim: int = 512,
        damping: float = 0.01,
        checkpoints: int = 10,
        calibration_members: int = 100,
        block_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(checkpoints, calibration_members, block_size, seed)
        self.proj_dim = at_least("proj_dim", proj_dim, 1)
        self.damping = not_negative("damping", damping)

    def check(self, model: nn.Module) -> None:
        """Raise ``UserError`` when a layer with parameters is neither linear nor an ordinary convolution."""
        list(factored_layers(model))

    def features(self, model: nn.Module, examples: Examples, number: int) -> FactoredFeatures:
        """Return what makes features of one trained model; the projection depends on its number."""
        return FactoredFeatures(model, examples, self.proj_dim, self.seed + 1_000_003 * number)

    def precondition(self, train: Tensor) -> Tensor:
        """Return ``X(XᵀX + λI)⁻¹``."""
        gram = train.T.double() @ train.double()
        gram.diagonal().add_(self.damping * gram.diagonal().mean())
        return (train.double() @ torch.linalg.pinv(gram, hermitian=True)).float()


NormLayer = nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm
Layer = nn.Linear | nn.Conv2d | NormLayer


def factored_layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Yield (name, layer) of all layers with parameters.

    Raises:
        UserError: one of them is not supported.
    """
    for name, layer in model.named_modules():
        if not layer._parameters:
            continue
        if _is_factored(layer):
            yield name, layer  # pyright: ignore[reportReturnType]
        else:
            raise UserError(
                f"attribution=trak_factored: layer '{name}' ({_described(layer)}) has parameters but is neither linear "
                "nor an ordinary two-dimensional convolution, nor a normalisation by fixed statistics or by an "
                "example's own; use attribution=trak, which takes any layer"
            )


def _described(layer: nn.Module) -> str:
    """Return a layer in one line; what has layers of its own is said by the parameters that are in none of them."""
    if next(layer.children(), None) is None:
        return str(layer)
    return f"{type(layer).__name__} with {', '.join(layer._parameters)} outside of its layers"


def _is_factored(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros"
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return layer.track_running_stats
    return isinstance(layer, nn.Linear | nn.LayerNorm | nn.GroupNorm)


def factors_of(layer: Layer, width: int, generator: torch.Generator) -> Factors | ScaleFactors:
    """Return the projection of one layer's gradient."""
    kind = Factors if isinstance(layer, nn.Linear | nn.Conv2d) else ScaleFactors
    return kind(layer, width, generator)  # pyright: ignore[reportArgumentType]


class Factors:
    """The random factors A and B of one layer's projection; rows are orthogonal where there are few enough.

    Args:
        layer: gives the shapes.
        width: rows of A times rows of B.
        generator: what the factors are drawn from.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, width: int, generator: torch.Generator) -> None:
        self.layer = layer
        outputs, self.inputs = layer.weight.shape[0], layer.weight[0].numel()
        rows = max(rows for rows in range(1, isqrt(width) + 1) if width % rows == 0 and rows <= outputs)
        device = layer.weight.device
        self.of_gradient = random_rows(rows, outputs, generator).to(device)
        whole = random_rows(width // rows, self.inputs + (layer.bias is not None), generator).to(device)
        self.of_input, self.of_one = whole[:, : self.inputs], whole[:, self.inputs :].sum(1)

    def project(self, inputs: Tensor, gradients: Tensor) -> Tensor:
        """Return ``Σ_t (B g_t)(A a_t)ᵀ``, ``[examples, width]``.

        Args:
            inputs: of the layer, ``[examples, ...]``.
            gradients: of every example's output by the layer's output, ``[examples, ...]``.
        """
        if isinstance(self.layer, nn.Conv2d):
            small = functional.conv2d(
                inputs,
                self.of_input.view(-1, *self.layer.weight.shape[1:]),
                self.of_one,
                self.layer.stride,
                self.layer.padding,
                self.layer.dilation,
            ).flatten(2)
            return (self.of_gradient @ gradients.flatten(2) @ small.transpose(1, 2)).flatten(1)
        small = functional.linear(inputs, self.of_input, self.of_one).view(len(inputs), -1, len(self.of_input))
        projected = functional.linear(gradients, self.of_gradient).view(len(inputs), -1, len(self.of_gradient))
        return (projected.transpose(1, 2) @ small).flatten(1)

    def matrix(self) -> Tensor:
        """Return the projection that is never formed, ``B ⊗ A`` ``[width, outputs · (inputs + 1)]``; for tests."""
        ones = self.of_one[:, None] if self.layer.bias is not None else self.of_one[:, None][:, :0]
        return torch.kron(self.of_gradient, torch.cat([self.of_input, ones], dim=1))


class ScaleFactors:
    """The random matrix that a normalisation's few gradients, of its scales and shifts, are multiplied by.

    Args:
        layer: in eval mode, with the statistics that it was trained to.
        width: rows of the matrix.
        generator: what the matrix is drawn from.
    """

    def __init__(self, layer: NormLayer, width: int, generator: torch.Generator) -> None:
        self.layer = layer
        size = sum(value.numel() for value in layer.parameters())
        self._matrix = random_rows(width, size, generator).to(layer.weight.device)

    def project(self, inputs: Tensor, gradients: Tensor) -> Tensor:
        """Return the projected gradients of every example, ``[examples, width]``; arguments as in :class:`Factors`."""
        parts = [self._sums(gradients * self._normalised(inputs))]
        parts += [self._sums(gradients)] * (self.layer.bias is not None)
        return torch.cat(parts, dim=1) @ self._matrix.T

    def matrix(self) -> Tensor:
        """Return the projection ``[width, scales + shifts]``; for tests."""
        return self._matrix

    def _normalised(self, inputs: Tensor) -> Tensor:
        """Return what the scales multiply."""
        layer = self.layer
        if isinstance(layer, nn.LayerNorm):
            return functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
        if isinstance(layer, nn.GroupNorm):
            return functional.group_norm(inputs, layer.num_groups, eps=layer.eps)
        return functional.batch_norm(inputs, layer.running_mean, layer.running_var, eps=layer.eps)

    def _sums(self, values: Tensor) -> Tensor:
        """Return each example's sums over positions, one for each scale."""
        if isinstance(self.layer, nn.LayerNorm):
            return values.reshape(len(values), -1, self.layer.weight.numel()).sum(1)
        return values.reshape(len(values), self.layer.weight.numel(), -1).sum(2)


def random_rows(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return ``[rows, columns]`` that keeps squared lengths on average; rows are orthogonal if ``rows ≤ columns``."""
    drawn = torch.randn(max(rows, columns), min(rows, columns), generator=generator)
    if rows > columns:
        return drawn / rows**0.5
    return torch.linalg.qr(drawn).Q.T * (columns / rows) ** 0.5


class FactoredFeatures:
    """Projected gradients of one model, from the inputs of its layers and the gradients of their outputs.

    Args:
        model: the trained model.
        examples: the dataset, on the model's device.
        width: of the features.
        seed: of the projection.
    """

    def __init__(self, model: nn.Module, examples: Examples, width: int, seed: int) -> None:
        self.model, self.examples = model, examples
        generator = torch.Generator().manual_seed(seed)
        self.factors = {layer: factors_of(layer, width, generator) for _, layer in factored_layers(model)}
        self._calls: list[tuple[nn.Module, Tensor, Tensor]] = []
        for layer in self.factors:
            layer.register_forward_hook(self._remember)

    def train(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of what falls with the loss ``[examples, width]``, and ones ``[examples]``."""
        labels = self.examples.labels[points]
        losses = functional.cross_entropy(self._forward(points), labels, reduction="none")
        return self._backward(-losses), torch.ones(len(points))

    def targets(self, points: Tensor) -> Tensor:
        """Return features of every logit, ``[examples, classes, width]``: one backward pass a class."""
        return torch.stack([self._backward(logit) for logit in self._forward(points).unbind(1)], dim=1)

    def _remember(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._calls.append((layer, inputs[0].detach(), output))

    def _forward(self, points: Tensor) -> Tensor:
        self._calls.clear()
        return self.model(self.examples.inputs[points])

    def _backward(self, outputs: Tensor) -> Tensor:
        """Return the features of one output an example; their sum gives each example exactly its own gradient."""
        gradients = torch.autograd.grad(outputs.sum(), [output for *_, output in self._calls], retain_graph=True)
        parts = [
            self.factors[layer].project(inputs, gradient)  # pyright: ignore[reportArgumentType]
            for (layer, inputs, _), gradient in zip(self._calls, gradients, strict=True)
        ]
        return torch.stack(parts).sum(0)
