"""Optimizers of stacked members: which ones keep them independent, their learning rates, and clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from dmm_exp.errors import UserError

ELEMENTWISE = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "ASGD", "Rprop")

OptimizerFactory = Callable[..., torch.optim.Optimizer]


def check_optimizer(make: OptimizerFactory, key: str) -> None:
    """Raise ``UserError`` when an optimizer refuses its settings; ``key`` is where they stand in the configuration."""
    try:
        make([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {error}") from error


def independent(optimizer: torch.optim.Optimizer, members: int) -> torch.optim.Optimizer:
    """Return an optimizer of stacked members that treats each number alone.

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
    """Scale every member's gradient down to a norm of at most ``limit``, by its own norm alone."""
    gradients = [value.grad for value in parameters if value.grad is not None]
    if not gradients:
        return
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factors = (limit / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))


class Rates:
    """The learning rates of an optimizer's groups, in multiples of what they were at first.

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
