"""Estimators through the optional package ``dattri`` (0.3): EK-FAC, Arnoldi, TracIn, LoGra and GraSS.

The package scores pairs of examples with files and loops of its own; here its parts make features of single examples,
which are artifacts like those of any estimator from gradients. Its loss is the training loss, its target every logit.
"""

from __future__ import annotations

from abc import abstractmethod
from importlib.util import find_spec
from math import isqrt
from typing import Any

import torch
from torch import nn

from dmm_exp.attribution.dattri_features import (
    ArnoldiFeatures,
    CompressedFeatures,
    EKFACFeatures,
    ProjectedFeatures,
)
from dmm_exp.attribution.estimator import at_least, not_negative
from dmm_exp.attribution.gradients import Features, GradientEstimator
from dmm_exp.data import Examples
from dmm_exp.errors import UserError


class DattriEstimator(GradientEstimator):
    """A method of the package.

    Args:
        proj_dim: what limits the width of features; see each method.
        checkpoints: see :class:`GradientEstimator`.
        calibration_members: see :class:`GradientEstimator`.
        block_size: see :class:`GradientEstimator`.
        seed: see :class:`GradientEstimator`.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(
        self,
        proj_dim: int,
        checkpoints: int = 10,
        calibration_members: int = 100,
        block_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(checkpoints, calibration_members, block_size, seed)
        self.proj_dim = at_least("proj_dim", proj_dim, 1)

    def check(self, model: nn.Module) -> None:
        """Raise ``UserError`` when the package is missing."""
        if find_spec("dattri") is None:
            raise UserError(
                f"attribution: {type(self).__name__} needs the package dattri, which is not installed; install it with "
                "pip install 'dattri>=0.3'"
            )

    def features(self, model: nn.Module, examples: Examples, number: int) -> Features:
        """Return what makes features of one trained model; random numbers depend on its number."""
        with torch.random.fork_rng():  # the package seeds the global generator
            return self.made(model, examples, self.seed + 1_000_003 * number)

    @abstractmethod
    def made(self, model: nn.Module, examples: Examples, seed: int) -> Features:
        """Return what makes features of one trained model, after whatever takes all training examples at once."""


class EKFAC(DattriEstimator):
    """``∇z_c(x)ᵀ (F + λI)⁻¹ (−∇ℓ_i)``: F is the empirical Fisher matrix in its Kronecker eigenbasis, layer by layer.

    George et al., NeurIPS 2018, arXiv 1806.03884; Grosse et al., arXiv 2308.03296. Linear layers only, as in the
    package: of a network with convolutions, only its linear layers are seen. Where these have more than ``proj_dim``
    parameters both sides are projected at random to that many.

    Args:
        proj_dim: largest width of features.
        damping: λ, in multiples of the mean eigenvalue of F in each network.
        checkpoints: see :class:`GradientEstimator`.
        calibration_members: see :class:`GradientEstimator`.
        block_size: see :class:`GradientEstimator`.
        seed: of the projection.
    """

    def __init__(
        self,
        proj_dim: int = 1024,
        damping: float = 0.1,
        checkpoints: int = 3,
        calibration_members: int = 100,
        block_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(proj_dim, checkpoints, calibration_members, block_size, seed)
        self.damping = not_negative("damping", damping)

    def check(self, model: nn.Module) -> None:
        """Raise ``UserError`` when the package is missing, or there is no linear layer."""
        super().check(model)
        linear_layers(model, "ekfac")

    def made(self, model: nn.Module, examples: Examples, seed: int) -> Features:
        """Estimate the Fisher matrix on all training examples."""
        return EKFACFeatures(model, examples, self.proj_dim, self.damping, seed)


class Arnoldi(DattriEstimator):
    """Gradients in the leading eigenvectors of the training loss's Hessian, found by Arnoldi iteration.

    Schioppa et al., AAAI 2022, arXiv 2112.03052. Only eigenvectors with positive eigenvalues are kept.

    Args:
        proj_dim: number of eigenvectors, at most.
        iterations: Hessian-vector products over the whole training set.
        regularisation: added to the Hessian's diagonal.
        checkpoints: see :class:`GradientEstimator`.
        calibration_members: see :class:`GradientEstimator`.
        block_size: see :class:`GradientEstimator`.
        seed: of the first vector.
    """

    def __init__(
        self,
        proj_dim: int = 100,
        iterations: int = 150,
        regularisation: float = 0.01,
        checkpoints: int = 5,
        calibration_members: int = 100,
        block_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(proj_dim, checkpoints, calibration_members, block_size, seed)
        self.iterations = at_least("iterations", iterations, 2)
        self.regularisation = not_negative("regularisation", regularisation)

    def made(self, model: nn.Module, examples: Examples, seed: int) -> Features:
        """Find the eigenvectors."""
        from dattri.algorithm import IFAttributorArnoldi

        def attributor(task: Any) -> Any:
            return IFAttributorArnoldi(
                task,
                device=examples.inputs.device.type,
                proj_dim=self.proj_dim,
                max_iter=self.iterations,
                regularization=self.regularisation,
                seed=seed,
            )

        return ArnoldiFeatures(model, examples, attributor, self.proj_dim)


class TracIn(DattriEstimator):
    """``∇z_c(x) · (−∇ℓ_i)``, both projected at random (Pruthi et al., NeurIPS 2020, arXiv 2002.08484).

    The paper sums over checkpoints along the training of one model, weighted by the learning rate. Originals are kept
    as they are after training only: the sum here is over their ends, equally weighted.

    Args:
        proj_dim: width of features.
        checkpoints: see :class:`GradientEstimator`.
        calibration_members: see :class:`GradientEstimator`.
        block_size: see :class:`GradientEstimator`.
        seed: of the projection.
    """

    def __init__(
        self,
        proj_dim: int = 512,
        checkpoints: int = 5,
        calibration_members: int = 100,
        block_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(proj_dim, checkpoints, calibration_members, block_size, seed)

    def made(self, model: nn.Module, examples: Examples, seed: int) -> Features:
        """Draw the projection."""
        return ProjectedFeatures(model, examples, self.proj_dim, seed)


class LoGra(DattriEstimator):
    """Both factors of every linear layer's gradient projected at random, with a damped empirical Fisher matrix a layer.

    Choe et al., arXiv 2405.13954. Linear layers only, as in the package.

    Args:
        proj_dim: width of a layer's features, a square number.
        damping: in multiples of the mean eigenvalue of a layer's Fisher matrix.
        checkpoints: see :class:`GradientEstimator`.
        calibration_members: see :class:`GradientEstimator`.
        block_size: see :class:`GradientEstimator`.
        seed: of the projection.
    """

    name = "logra"
    blow_up = 1

    def __init__(
        self,
        proj_dim: int = 144,
        damping: float = 0.01,
        checkpoints: int = 10,
        calibration_members: int = 100,
        block_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(proj_dim, checkpoints, calibration_members, block_size, seed)
        self.damping = not_negative("damping", damping)
        if isqrt(proj_dim * self.blow_up) ** 2 != proj_dim * self.blow_up:
            raise UserError(f"attribution.proj_dim={proj_dim}: expected a square number, such as 64, 144 or 256")

    def check(self, model: nn.Module) -> None:
        """Raise ``UserError`` when the package is missing, or there is no linear layer."""
        super().check(model)
        linear_layers(model, self.name)

    def made(self, model: nn.Module, examples: Examples, seed: int) -> Features:
        """Compress all training gradients, and invert their Fisher matrices."""
        return CompressedFeatures(model, examples, self.attributor, seed)

    def attributor(self, **settings: Any) -> Any:
        """Return the package's attributor."""
        from dattri.algorithm import LoGraAttributor

        return LoGraAttributor(proj_dim=self.proj_dim, damping=self.damping, **settings)


class GraSS(LoGra):
    """As :class:`LoGra`, but factors are sampled at random to four times the width, and then projected.

    Hu et al., arXiv 2505.18976, as the package's FactGraSS.
    """

    name = "grass"
    blow_up = 4

    def attributor(self, **settings: Any) -> Any:
        """Return the package's attributor."""
        from dattri.algorithm import FactGraSSAttributor

        return FactGraSSAttributor(proj_dim=self.proj_dim, damping=self.damping, blowup_factor=self.blow_up, **settings)


def linear_layers(model: nn.Module, method: str) -> list[str]:
    """Return the names of all linear layers.

    Raises:
        UserError: there are none.
    """
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not names:
        raise UserError(f"attribution={method}: the network has no linear layer, and this method sees no others")
    return names
