"""Settings of the optimisation of stacked members: independent optimizers, learning rates and clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dmm_exp.ensembles.schedules import Schedule
from dmm_exp.errors import UserError

ELEMENTWISE = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "ASGD", "Rprop")

NO_PARAMETERS = "optimizer got an empty parameter list"  # torch says so when the settings of an optimizer are right

OptimizerFactory = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Optimisation:
    """How members are optimised.

    Attributes:
        epochs: passes over a member's sample; of several numbers the largest, with checkpoints at the others.
        batch_size: rows of one member's sample in one step; a pass is cut into batches of nearly equal size.
        optimizer: makes the optimizer from an iterable of parameters.
        schedule: multiplier of the learning rate.
        clip_norm: largest norm of one member's gradient; longer gradients are scaled down to it.
        batch_norm: whether BatchNorm normalises with the batch's statistics and updates the running ones (``train``),
            or uses the running ones and leaves them alone (``frozen``).
        precision: of the optimisation, as Lightning names it; None is the trainer's precision.

    Raises:
        UserError: a number is out of range.
    """

    epochs: int | Sequence[int]
    batch_size: int
    optimizer: OptimizerFactory | None
    schedule: Schedule | None
    clip_norm: float | None = None
    batch_norm: Literal["train", "frozen"] = "train"
    precision: Literal["32-true", "bf16-mixed"] | None = None

    def __post_init__(self) -> None:
        least, several = (0, [self.epochs]) if isinstance(self.epochs, int) else (1, sorted(set(self.epochs)))
        if not several or several[0] < least or self.batch_size < 1:
            raise UserError(
                f"epochs={self.epochs}, batch_size={self.batch_size}: expected epochs ≥ 0 (in a list ≥ 1) and a batch "
                "of at least 1"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"clip_norm={self.clip_norm}: expected a number above 0, or null")
        if self.batch_norm not in ("train", "frozen"):
            raise UserError(f"batch_norm={self.batch_norm}: expected train or frozen")

    @property
    def stops(self) -> list[int]:
        """Numbers of epochs at which results are taken, in order; the last is the end."""
        return [self.epochs] if isinstance(self.epochs, int) else sorted(set(self.epochs))


def check_optimizer(make: OptimizerFactory | None, key: str) -> None:
    """Raise ``UserError`` when an optimizer refuses its settings; ``key`` is their place in the configuration.

    Optimizers of torch get no parameters: with some, they import torch's compiler, which takes a second.
    """
    if make is None:
        return
    of_torch = getattr(getattr(make, "func", make), "__module__", "").startswith("torch.optim.")
    try:
        make([] if of_torch else [torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        if of_torch and str(error) == NO_PARAMETERS:
            return
        raise UserError(f"{key}: {error}") from error


def independent(optimizer: torch.optim.Optimizer, members: int) -> torch.optim.Optimizer:
    """Return an optimizer of stacked members, if it treats every number independently.

    Raises:
        UserError: it would mix members.
    """
    if members > 1 and type(optimizer).__name__ not in ELEMENTWISE:
        raise UserError(
            f"optimizer {type(optimizer).__name__} mixes members that are trained together; use one of "
            f"{', '.join(ELEMENTWISE)}, or model.chunk_size=1"
        )
    return optimizer


def replayable(make: OptimizerFactory) -> dict[str, bool] | None:
    """Return the options with which an optimizer's step can be recorded and replayed, None if there are none."""
    optimizer = make([torch.nn.Parameter(torch.zeros(1))])
    if "capturable" in optimizer.defaults:
        return {"capturable": True}
    return {"fused": True} if isinstance(optimizer, torch.optim.SGD) else None


def clip_norms(parameters: Iterable[Tensor], limit: float) -> None:
    """Scale every member's gradient down to a norm of at most ``limit``, independently of other members."""
    gradients = [value.grad for value in parameters if value.grad is not None]
    if not gradients:
        return
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factors = (limit / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))


class Rates:
    """The learning rates of an optimizer's groups, in multiples of their first values.

    Args:
        optimizer: whose rates are set.
        device: where rates are kept as tensors, for steps that are recorded; None keeps them as numbers.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device | None = None) -> None:
        self._groups: list[dict[str, Any]] = optimizer.param_groups
        self._first = [group["lr"] for group in self._groups]
        for group in self._groups if device is not None else ():
            group["lr"] = torch.tensor(float(group["lr"]), device=device)

    def set(self, factor: float) -> None:
        """Set all rates to ``factor`` times the first ones."""
        for group, first in zip(self._groups, self._first, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(first * factor)
            else:
                group["lr"] = first * factor
