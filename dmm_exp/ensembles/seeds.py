"""Seeds: a pure function of the run's seed, a role and an index."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch

Role = str  # what members are for: "original", "oracle", "subset", …; "design/NAME" and "shard/N" for parts
Stream = Literal["initialisation", "order", "subset", "noise", "augmentation"]


def member_seed(seed: int, role: Role, index: int, stream: Stream, epoch: int = 0) -> int:
    """Return the 63-bit seed of one stream of randomness of one member.

    Different arguments give unrelated seeds: roles never share a seed, and more members or workers change nothing for
    existing members.

    Args:
        seed: the run's seed.
        role: purpose of the member.
        index: number of the member within the role.
        stream: use of the random numbers.
        epoch: for streams that start again in every epoch.
    """
    name = f"{seed}/{role}/{index}/{stream}/{epoch}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def member_generator(seed: int, role: Role, index: int, stream: Stream, epoch: int = 0) -> torch.Generator:
    """Return a CPU generator seeded by :func:`member_seed`."""
    return torch.Generator().manual_seed(member_seed(seed, role, index, stream, epoch))


def seed_torch(seed: int) -> None:
    """Seed torch's global random numbers, of all devices that this process can use.

    ``torch.manual_seed`` seeds devices also where there are none, and keeps the text of the call stack for each: that
    takes longer than making a small network.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def global_numbers(seed: int) -> Iterator[None]:
    """Seed the global random numbers of torch, Python and numpy inside the block; afterwards restore their states."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        seed_torch(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
