"""Which of the processes that ``torchrun`` started this one is."""

from __future__ import annotations

import os


def ranks() -> int:
    """Return how many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """Return the number of this process among them; 0 decides what is done."""
    return int(os.environ["RANK"]) if ranks() > 1 else 0
