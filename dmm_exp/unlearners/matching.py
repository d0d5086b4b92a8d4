"""Matching the outputs of a retrained model: real (oracle matching), predicted (DMM), or without training (DM-Direct).

Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", ICLR 2025, arXiv 2410.23232.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from dmm_exp.errors import UserError
from dmm_exp.unlearners.unlearner import FineTuning, Target, Unlearned, Unlearner, UnlearningTask, own_rows, shuffled


class OracleMatching(FineTuning):
    """Fine-tune towards the logits of real oracles: the ceiling of every method that matches outputs.

    Minimises the mean over batch and classes of ``(z(x) − z_target(x))²`` on the forget set and a sample of the retain
    set (algorithm 1 of the paper). Member i matches oracle i, of the role that scoring never sees.

    Args:
        forget_multiplier: how often the forget set is repeated in an epoch.
        retain_multiplier: retain points in an epoch, in multiples of the forget set's size, drawn anew for every
            member and epoch; at most the retain set.
        **optimisation: ``epochs``, ``batch_size``, ``optimizer`` and ``schedule``.

    Raises:
        UserError: a multiplier is out of range.
    """

    target: ClassVar[Target] = "oracle"
    reference: ClassVar[bool] = True
    targets: Tensor

    def __init__(self, *, forget_multiplier: int = 1, retain_multiplier: float = 5, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        if forget_multiplier < 1 or retain_multiplier < 0:
            raise UserError(
                f"unlearner.forget_multiplier={forget_multiplier}, unlearner.retain_multiplier={retain_multiplier}: "
                "expected at least 1, and at least 0"
            )
        self.forget_multiplier = forget_multiplier
        self.retain_multiplier = retain_multiplier

    def prepare(self) -> None:
        """Put the targets beside the data."""
        if self.task.targets is None:
            raise TypeError(f"{type(self).__name__} needs targets")
        self.register_buffer("targets", self.task.targets, persistent=False)

    def sample(self, row: int, generator: torch.Generator) -> Tensor:
        """Return the repeated forget set and a fresh sample of the retain set, shuffled together."""
        wanted = min(len(self.task.retain), round(self.retain_multiplier * len(self.task.forget)))
        retain = shuffled(self.task.retain, generator)[:wanted]
        return shuffled(torch.cat([self.task.forget.repeat(self.forget_multiplier), retain]), generator)

    def losses(self, indices: Tensor) -> Tensor:
        """Return the mean squared distance of every member's logits to its targets."""
        return (self.predict_batch(indices) - own_rows(self.targets, indices)).square().mean((1, 2))


class DMM(OracleMatching):
    """Datamodel matching: oracle matching towards ``z_θ0(x) − effect(x)``, each original with its own targets.

    Takes no oracle: the targets are predicted by data attribution, once, before the first step.
    """

    target: ClassVar[Target] = "predicted"
    reference: ClassVar[bool] = False


class DMDirect(Unlearner):
    """The predicted logits themselves, without training: a predictor on indexed points, not a model."""

    target: ClassVar[Target] = "predicted"
    reference: ClassVar[bool] = True
    own_sets: ClassVar[bool] = True

    def unlearn(self, task: UnlearningTask) -> Unlearned:
        """Return the targets as the answer."""
        if task.targets is None:
            raise TypeError("DMDirect needs targets")
        return Unlearned(None, task.targets.clone(), 0, [])
