"""What ``--help`` and ``--cfg job`` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dmm_exp.config.loader import config_loader
from dmm_exp.config.loading import groups_of, options_of
from dmm_exp.config.preflight import Composer
from dmm_exp.errors import UserError


def help_text(config_dir: str, overrides: Sequence[str], more: Sequence[str] = (), *, resolve: bool = False) -> str:
    """Return how commands look, the choices of every group, and every key with its value.

    Hydra's own help says the same, and takes longer than all the rest of it to list the groups.

    Args:
        config_dir: absolute path of the folder with ``config.yaml``.
        overrides: as on the command line: the configuration shown is that with them.
        more: absolute paths of further folders to look for groups in (``--config-dir``).
        resolve: show what interpolations stand for.

    Raises:
        UserError: a misspelt key, value or choice.
    """
    from omegaconf import OmegaConf

    with config_loader(config_dir, more) as loader:
        config = Composer(loader).first(overrides)
        said = config.pop("hydra").help
        groups = "\n".join(f"{group}: {', '.join(options_of(group, loader))}" for group in _shown(loader))
    return "\n\n".join(
        [
            said.header.rstrip(),
            "Choices of every group (group=choice):",
            groups,
            "Every key with its value (key.within=value):",
            OmegaConf.to_yaml(config, resolve=resolve).rstrip(),
            said.footer.rstrip(),
        ]
    )


def config_text(compose: Composer, overrides: Sequence[str], package: str | None = None, *, resolve: bool) -> str:
    """Return the configuration that a command line stands for, as YAML.

    Args:
        compose: composes it.
        overrides: as on the command line.
        package: dotted key of the part to show; all of it when None.
        resolve: show what interpolations stand for.

    Raises:
        UserError: a misspelt key, value, choice or part.
    """
    from omegaconf import OmegaConf

    config = compose.first(overrides)
    config.pop("hydra")
    part = OmegaConf.select(config, package) if package else config
    if not OmegaConf.is_config(part):
        raise UserError(f"--package {package}: expected a key with further keys, or a list, such as model.network")
    return (f"# @package {package}\n" if package else "") + OmegaConf.to_yaml(part, resolve=resolve).rstrip()


def _shown(loader: Any) -> list[str]:
    return [group for group in groups_of(loader) if group.split("/")[0] != "hydra"]
