"""Probes: what is done to models, unlearned or retrained, to see whether they still know what was to be forgotten.

A probe has the interface of an unlearner, since it takes an ensemble and returns its answers afterwards. Audits apply
it to the unlearned models, to two sets of retrained ones and to the originals alike (evaluation/audits).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dmm_exp.ensembles import member_generator
from dmm_exp.errors import UserError
from dmm_exp.models import Normalised
from dmm_exp.unlearners.unlearner import (
    FORWARD_PASSES,
    FineTuning,
    Unlearner,
    UnlearningResult,
    UnlearningTask,
    descent,
)

INT8_LEVELS = 127


class Relearn(FineTuning):
    """Train further on the retain set, and on a few forgotten rows: what comes back of the others?

    The rows that are shown belong to the task's retain set, not to its forget set.

    Args:
        shown: share of the forget set that is shown, in [0, 1); rounded, and at least one row if it is not 0.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`.

    Raises:
        UserError: the share is out of range.
    """

    losses = descent

    def __init__(self, *, shown: float = 0.0, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        if not 0 <= shown < 1:
            raise UserError(f"shown={shown}: expected a share of at least 0 and below 1")
        self.shown = shown

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Return the answers of all members after training further; the models are not kept."""
        return replace(super().unlearn(task), ensemble=None)


class Perturbed(Unlearner):
    """Answer on inputs with small noise, the same for every model: the mean logits over several draws.

    Args:
        size: standard deviation of the normal noise, in standard deviations of the dataset's normalisation.
        draws: number of draws.
        seed: of the noise.

    Raises:
        UserError: a number is out of range.
    """

    own_sets: ClassVar[bool] = True
    moves_inputs: ClassVar[bool] = True

    def __init__(self, *, size: float, draws: int, seed: int = 0) -> None:
        if not size > 0 or draws < 1:
            raise UserError(f"size={size}, draws={draws}: expected a size above 0, and at least 1 draw")
        self.size, self.draws, self.seed = size, draws, seed

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Return the mean answers on noisy inputs."""
        inputs, models = task.examples.inputs, task.originals
        deviation = self._deviation(task)
        logits = torch.zeros(())
        for draw in range(self.draws):
            generator = member_generator(self.seed, "perturbed", draw, "noise")
            noise = torch.randn(inputs.shape, generator=generator) * deviation
            logits = logits + models.logits(inputs.float() + noise) / self.draws
        return UnlearningResult(None, logits, round(self.draws * len(inputs) / FORWARD_PASSES), [])

    def _deviation(self, task: UnlearningTask) -> Tensor:
        """Return the noise's standard deviation in units of the stored inputs, which broadcasts over them."""
        network = task.originals.skeleton
        assert isinstance(network, Normalised)
        return self.size / torch.tensor(network.slope).view(network.constant_shape)


class Quantized(Unlearner):
    """Answer with rounded weights, as small devices do.

    Args:
        to: ``int8`` rounds every matrix and filter to 255 levels, symmetric around 0, with one scale for each row of
            outputs, and leaves vectors (biases, norms) as they are; ``bfloat16`` rounds all parameters to 8 bits of
            significand. Numbers are computed in float32 in both cases.

    Raises:
        UserError: there is no such type.
    """

    own_sets: ClassVar[bool] = True

    def __init__(self, *, to: Literal["int8", "bfloat16"] = "int8") -> None:
        if to not in ("int8", "bfloat16"):
            raise UserError(f"to={to}: expected int8 or bfloat16")
        self.to = to

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Return the answers of rounded copies of all members."""
        ensemble = task.originals.copy()
        with torch.no_grad():
            for value in ensemble.parameters():
                value.copy_(self.rounded(value))
        return UnlearningResult(None, ensemble.logits(task.examples.inputs), 0, [])

    def rounded(self, values: Tensor) -> Tensor:
        """Return stacked parameters ``[members, ...]`` as this type represents them, in float32."""
        if self.to == "bfloat16":
            return values.bfloat16().float()
        if values.ndim < 3:  # a vector of each member
            return values
        largest = values.abs().flatten(2).amax(2).view(*values.shape[:2], *[1] * (values.ndim - 2))
        scale = largest.clamp(min=torch.finfo(values.dtype).tiny) / INT8_LEVELS
        return (values / scale).round() * scale
