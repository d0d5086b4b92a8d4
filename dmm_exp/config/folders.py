"""Where configuration files are."""

from __future__ import annotations

import sys
from pathlib import Path


def config_directory() -> str:
    """Return the absolute path of the configuration: inside an installed package, beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "conf"
    return str(packaged if packaged.is_dir() else package.parent / "conf")


def further_folders() -> list[str]:
    """Return the configuration folders that the running command was given beside its own (``--config-dir``)."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    return [source.path for source in sources if source.provider == "command-line" and source.schema == "file"]


def leave_this_folder() -> None:
    """Let no module be imported from the current folder, unless it holds this package."""
    here = Path.cwd()
    if here != Path(__file__).resolve().parents[2]:
        sys.path[:] = [path for path in sys.path if path not in ("", str(here))]
