"""Where a result comes from: versions, commit and device, for every manifest and report."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dmm_exp import __version__
from dmm_exp.files.reading import Json

PACKAGES = ("torch", "lightning", "numpy", "pandas", "scikit-learn", "hydra-core")


@cache
def provenance() -> Json:
    """Return the package's version and commit, the versions of what it computes with, and the device."""
    return {**versions(), "device": _device()}


@cache
def versions() -> Json:
    """Return the package's version and commit, and the versions of what it computes with; needs no torch."""
    return {
        "dmm_exp": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def in_lines(facts: Json) -> dict[str, str]:
    """Return what :func:`provenance` or :func:`versions` say as name → text, without what is not known."""
    flat = {name: str(value) for name, value in facts.items() if value is not None and name != "packages"}
    return flat | facts["packages"]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the source tree this runs from (``+dirty`` when changed), None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+dirty", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
