"""Speed of factored TRAK features of a ResNet-9 against the package ``trak``, and against a plain backward pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.timing import TABLE_HEAD, compare
from dmm_exp.attribution import TrakFactored
from dmm_exp.attribution.factored import FactoredFeatures, ScaleFactors
from dmm_exp.attribution.gradients import projection_block
from dmm_exp.attribution.trak import TrakFeatures
from dmm_exp.data import Examples, Normalisation
from dmm_exp.models import ResNet9

FEW, IMAGES, WIDTH = 8, 64, 2_048
ALIKE = 0.9  # least correlation of cosines between features with those between whole gradients


def main() -> str:
    """Return the section of ``results.md``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, examples, points = ResNet9((3, 32, 32), 10).eval(), _images(), torch.arange(IMAGES)
    size = sum(value.numel() for value in model.parameters())
    theirs = TrakFeatures(model, examples, 0, WIDTH, 0)
    exact = _cosines(_whole_gradients(model, examples))
    ours = TrakFactored(proj_dim=WIDTH).features(ResNet9((3, 32, 32), 10).eval(), examples, 0)
    ours.model.load_state_dict(model.state_dict())
    likeness: list[float] = []  # of the package's features and of ours, with whole gradients

    def keeps_cosines(expected: Tensor, found: Tensor) -> bool:
        pairs = tuple(torch.triu_indices(len(found), len(found), 1))
        rows = [cosines[pairs].numpy() for cosines in (exact, _cosines(expected), _cosines(found))]
        likeness[:] = np.corrcoef(rows)[0, 1:]
        return min(likeness) >= ALIKE

    speeds = [
        compare(
            f"the package's functional gradients and BasicProjector, {count} images at a time",
            lambda count=count: theirs.train(points[:count])[0],
            lambda count=count: ours.train(points[:count])[0],
            keeps_cosines,
            pairs=1,
            limit=40,
        )
        for count in (FEW, IMAGES)
    ]
    speeds.append(
        compare(
            "one plain forward and backward pass of the same batch (the limit)",
            lambda: _backward(model, examples),
            lambda: ours.train(points)[0],
            lambda gradients, found: _is_projected_sum(ours, gradients, found),
            limit=1,
        )
    )
    return "\n".join(
        [
            f"One thread, processor seconds, float32. ResNet-9 with {size:,} parameters, outside training, {IMAGES} "
            f"random images of 32×32, {WIDTH:,} dimensions. The package remakes its random matrix, "
            f"{projection_block(size, WIDTH)} columns at a time, in every batch; the fewer images, "
            "the more that weighs.",
            "",
            TABLE_HEAD,
            *(speed.row for speed in speeds),
            "",
            f"Factored features take {1 / speeds[-1].ratio:.2f} times a plain forward and backward pass (wanted: "
            "at most 1). Their sum over the batch is the projection of its whole gradient, to 1e-3. Cosines between "
            f"two images' features correlate with those between their whole gradients to {likeness[1]:.3f}, the "
            f"package's to {likeness[0]:.3f}.",
        ]
    )


def _images() -> Examples:
    inputs = torch.randn(IMAGES, 3, 32, 32)
    return Examples(
        inputs=inputs,
        labels=torch.randint(10, (IMAGES,)),
        n_train=IMAGES,
        class_names=[str(number) for number in range(10)],
        normalisation=Normalisation(1.0, [0.0], [1.0]),
        corrupted=torch.zeros(IMAGES, dtype=torch.bool),
    )


def _loss(model: torch.nn.Module, examples: Examples, points: slice = slice(None)) -> Tensor:
    return functional.cross_entropy(model(examples.inputs[points]), examples.labels[points], reduction="sum")


def _backward(model: torch.nn.Module, examples: Examples) -> list[Tensor]:
    """Return the gradient of the batch's loss by every parameter."""
    return list(torch.autograd.grad(_loss(model, examples), list(model.parameters())))


def _whole_gradients(model: torch.nn.Module, examples: Examples) -> Tensor:
    """Return ``[images, parameters]``, one backward pass an image."""
    parameters = list(model.parameters())
    losses = (_loss(model, examples, slice(row, row + 1)) for row in range(IMAGES))
    rows = (torch.autograd.grad(loss, parameters) for loss in losses)
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def _cosines(rows: Tensor) -> Tensor:
    """Return the cosine between every two rows, ``[rows, rows]``."""
    unit = functional.normalize(rows, dim=1)
    return unit @ unit.T


def _is_projected_sum(features: FactoredFeatures, gradients: list[Tensor], found: Tensor) -> bool:
    """Return whether features add up to ``−Σ_layers (B ⊗ A) vec(∂L/∂[W, b])``, each layer's gradient formed whole."""
    expected, rest = torch.zeros(WIDTH), iter(gradients)
    for layer, factors in features.factors.items():
        if isinstance(factors, ScaleFactors):
            expected -= factors.matrix() @ torch.cat([next(rest).flatten() for _ in layer.parameters()])
            continue
        projected = factors.of_gradient @ next(rest).flatten(1) @ factors.of_input.T
        if layer.bias is not None:
            projected += torch.outer(factors.of_gradient @ next(rest), factors.of_one)
        expected -= projected.flatten()
    return bool((found.sum(0) - expected).abs().max() <= 1e-3 * expected.abs().max())


if __name__ == "__main__":
    print(main())
