"""Runs that tests of comparisons share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from runs_by_hand import TARGETS, write_run

__all__ = ["TARGETS", "write_run"]


@pytest.fixture
def written(tmp_path) -> Callable[..., Path]:
    """Return a function that writes a finished run below ``tmp_path / "runs"``."""
    return lambda *arguments, **changes: write_run(tmp_path / "runs", *arguments, **changes)
