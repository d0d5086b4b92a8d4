"""Random numbers from a counter instead of a generator with a state: each is a hash of what it is for.

So they do not depend on which members are computed together, on the worker, the device or the order of a batch, and no
loop over members or examples is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea & Flood 2014), as signed 64-bit numbers
GAMMA, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def keys_of(seeds: Tensor, step: int | Tensor, points: Tensor) -> Tensor:
    """Return a key ``[members, batch]`` for every point of a batch in one step.

    Args:
        seeds: ``[members]`` int64, one for each member.
        step: number of the optimisation step, from 0; an int64 tensor where steps are recorded and replayed.
        points: ``[members, batch]`` int64.
    """
    return mixed(mixed(seeds[:, None] + times_gamma(step + 1)) + GAMMA * (points + 1))


def normals(seeds: Tensor, step: int | Tensor, points: Tensor, count: int) -> Tensor:
    """Return standard normal numbers ``[members, batch, count]`` float32 for every point of a batch in one step.

    A uniform number of 24 bits goes through the inverse of the normal distribution, so none is beyond ±5.4.
    """
    uses = torch.arange(1, count + 1, device=points.device)
    bits = mixed(keys_of(seeds, step, points)[..., None] + GAMMA * uses) >> 40 & (1 << 24) - 1
    return torch.special.ndtri((bits.double() + 0.5) / (1 << 24)).float()


def below(count: int, keys: Tensor, use: int) -> Tensor:
    """Return whole numbers from 0 to ``count - 1``, one for each key, equally likely (to 1 in 2³¹ for small counts)."""
    return (mixed(keys + times_gamma(use + 1)) >> 32 & 0x7FFFFFFF) * count >> 31


def times_gamma(count: int | Tensor) -> int | Tensor:
    """Return ``count × GAMMA`` as 64-bit numbers, which wrap around."""
    if isinstance(count, Tensor):
        return count * GAMMA
    return (GAMMA * count + (1 << 63)) % (1 << 64) - (1 << 63)


def mixed(values: Tensor) -> Tensor:
    """Return SplitMix64's finaliser of int64 numbers; products wrap around."""
    values = (values ^ _shifted(values, 30)) * FIRST
    values = (values ^ _shifted(values, 27)) * SECOND
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shift right, with zeros coming in from the left as for unsigned numbers."""
    return values >> bits & (1 << 64 - bits) - 1
