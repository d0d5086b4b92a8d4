"""TRAK through the package ``trak`` (Park et al., ICML 2023, arXiv 2303.14186), with every logit as a target."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dmm_exp.attribution.estimator import at_least, not_negative
from dmm_exp.attribution.gradients import GradientEstimator, projection_block
from dmm_exp.data import Examples
from dmm_exp.ensembles.single_examples import ExampleGradients
from dmm_exp.ensembles.skeletons import Mounted
from dmm_exp.errors import UserError
from dmm_exp.models import functional_one_hot, margin

MARGIN = -1  # number of the output that stands for the margin; others are numbers of logits


class EveryLogit:
    """The package's interface of a task: the output of an example, and how its loss depends on the output.

    The output of a training example is its margin, as in the paper, since its loss depends on nothing else:
    ``ℓ = log(1 + exp(−margin))``. The output of a target is one of its logits. The batch says which output is meant.
    """

    @staticmethod
    def get_output(
        model: nn.Module,
        weights: dict[str, Tensor],
        buffers: dict[str, Tensor],
        image: Tensor,
        label: Tensor,
        output: Tensor,
    ) -> Tensor:
        """Return one example's output; the package calls it under ``vmap``.

        Args:
            model: of the architecture.
            weights: parameters by name.
            buffers: running statistics by name.
            image: one input.
            label: its class, ``[]``.
            output: ``MARGIN`` or the number of a logit, ``[]``.
        """
        return chosen_output(functional_call(model, (weights, buffers), (image.unsqueeze(0),)), label, output)

    @staticmethod
    def get_out_to_loss_grad(
        model: nn.Module, weights: dict[str, Tensor], buffers: dict[str, Tensor], batch: tuple[Tensor, ...]
    ) -> Tensor:
        """Return ``1 − p`` of every example's label, ``[examples, 1]``: minus the loss's derivative by the margin."""
        images, labels, *_ = batch
        logits = functional_call(model, (weights, buffers), (images,))
        return (1 - logits.softmax(-1).gather(1, labels[:, None])).detach()


def chosen_output(logits: Tensor, label: Tensor, output: Tensor) -> Tensor:
    """Return the margin or a logit of one example, ``[]``; see :meth:`EveryLogit.get_output`.

    Args:
        logits: ``[1, classes]``.
        label: its class, ``[]``.
        output: ``MARGIN`` or the number of a logit, ``[]``.

    Raises:
        UserError: the network's output for one example has another shape.
    """
    if logits.ndim != 2:
        raise UserError(
            f"attribution=trak: the network gives {list(logits.shape)} for one example; expected [1, classes]"
        )
    chosen = (logits[0] * functional_one_hot(output, logits.shape[1])).sum()
    return torch.where(output == MARGIN, margin(logits[0], label), chosen)


class Trak(GradientEstimator):
    """``P∇z_c(x) · (XᵀX + λI)⁻¹ · P∇margin_i (1 − p_i)``, with X all projected gradients of margins.

    Gradients, projection and the inverse come from the package; its files are not used, since features are artifacts.
    All numbers are float32, and the projector that needs no compiler is used on every device.

    Args:
        proj_dim: width of features; well below the number of training examples, or damped.
        damping: λ, in multiples of the mean eigenvalue of ``XᵀX``; the package's default is 0.
        checkpoints: see :class:`GradientEstimator`.
        calibration_members: see :class:`GradientEstimator`.
        block_size: see :class:`GradientEstimator`.
        seed: of the projection.
    """

    fitted_later: ClassVar[tuple[str, ...]] = (*GradientEstimator.fitted_later, "damping")

    def __init__(
        self,
        proj_dim: int = 512,
        damping: float = 0.0,
        checkpoints: int = 10,
        calibration_members: int = 100,
        block_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(checkpoints, calibration_members, block_size, seed)
        self.proj_dim = at_least("proj_dim", proj_dim, 1)
        self.damping = not_negative("damping", damping)

    def features(self, model: nn.Module, examples: Examples, number: int) -> TrakFeatures:
        """Return the features of one trained model; the projection depends on its number."""
        return TrakFeatures(model, examples, number, self.proj_dim, self.seed)

    def precondition(self, train: Tensor) -> Tensor:
        """Return ``X(XᵀX + λI)⁻¹`` as the package computes it: divided by the inverse's mean absolute entry."""
        from trak.score_computers import BasicScoreComputer

        computer = BasicScoreComputer(torch.float32, torch.device("cpu"), logging_level=logging.WARNING)
        gram = computer.get_xtx(train)
        computer.lambda_reg = self.damping * float(gram.diagonal().mean())
        return computer.get_x_xtx_inv(train, gram)


class TrakFeatures:
    """Projected gradients of one model, ``Pᵀ∇f/√parameters``, by the package.

    Args:
        model: the trained model.
        examples: the dataset, on the model's device.
        number: of the model; each has a projection of its own.
        width: dimension after projection.
        seed: of the projection.
    """

    def __init__(self, model: nn.Module, examples: Examples, number: int, width: int, seed: int) -> None:
        from trak.gradient_computers import FunctionalGradientComputer
        from trak.projectors import BasicProjector, ProjectionType

        self.examples, self.number = examples, number
        self.size = sum(value.numel() for value in model.parameters())
        device = examples.inputs.device
        task: Any = EveryLogit()
        self.computer = FunctionalGradientComputer(model, task, self.size, torch.float32, device)
        buffers, alone = dict(model.named_buffers()), Mounted(model)
        self.gradients = ExampleGradients(
            lambda params, image, *row: chosen_output(alone({**params, **buffers}, image[None]), *row),
            dict(model.named_parameters()),
            "attribution=trak",
            lambda *batch: cast("dict[str, Tensor]", self.computer.compute_per_sample_grad(batch)),
        )
        self.projector = BasicProjector(
            grad_dim=self.size,
            proj_dim=width,
            seed=seed,
            proj_type=ProjectionType("normal"),
            device=device,
            block_size=projection_block(self.size, width),
        )

    def train(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of margins ``[examples, width]``, and ``1 − p`` ``[examples]``."""
        batch = self._batch(points, torch.full_like(points, MARGIN))
        return self._project(batch), self.computer.compute_loss_grad(batch).squeeze(1)

    def targets(self, points: Tensor) -> Tensor:
        """Return features of every logit, ``[examples, classes, width]``."""
        classes = self.examples.n_classes
        outputs = torch.arange(classes, device=points.device).repeat(len(points))
        features = self._project(self._batch(points.repeat_interleave(classes), outputs))
        return features.unflatten(0, (len(points), classes))

    def _batch(self, points: Tensor, outputs: Tensor) -> tuple[Tensor, ...]:
        return self.examples.inputs[points], self.examples.labels[points], outputs

    def _project(self, batch: tuple[Tensor, ...]) -> Tensor:
        gradients: Any = self.gradients(*batch)
        return self.projector.project(gradients, model_id=self.number) / self.size**0.5
