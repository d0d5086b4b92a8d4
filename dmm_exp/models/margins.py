"""The margin: one number for the confidence of a network in a label."""

from __future__ import annotations

import torch
from torch import Tensor


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``log p/(1 − p)`` of the label, ``[...]``, of logits ``[..., classes]``: TRAK's model output."""
    own = functional_one_hot(labels, logits.shape[-1])
    return (logits * own).sum(-1) - logits.masked_fill(own.bool(), -torch.inf).logsumexp(-1)


def functional_one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return ``[..., classes]`` with a one at each label; works under ``vmap``, where PyTorch's own does not."""
    return (labels[..., None] == torch.arange(classes, device=labels.device)).float()
