"""The unlearner of a run, and those of the parts of a refined forget set, where these have their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hydra.utils import get_object

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import compose_unlearner
from dmm_exp.config.scale import scaled_part
from dmm_exp.config.schema import Config

AUTO = "auto"  # in the place of a part's unlearner: it is chosen among candidates


def composed_parts(config: Config, known: dict[str, Any] | None = None) -> Config:
    """Return a configuration in which every part's unlearner is a configuration (or ``auto``, or None), not a text.

    Args:
        config: the configuration.
        known: text → configuration of unlearners that were composed before, for configurations of one scale; others
            are added.

    Raises:
        UserError: an unlearner does not exist.
    """
    known = {} if known is None else known

    def composed(text: str) -> Any:
        if text not in known:
            known[text] = composed_part(text, config)
        return known[text]

    refinement = {
        key: {**part, "unlearner": composed(part["unlearner"])}
        if isinstance(part, Mapping) and isinstance(part.get("unlearner"), str)
        else part
        for key, part in config.refinement.items()
    }
    return replace(config, refinement=refinement)


def composed_part(text: str, config: Config) -> Any:
    """Return the configuration of a part's unlearner that is given as a text; ``auto`` stays.

    Raises:
        UserError: there is no such unlearner.
    """
    return text if text == AUTO else scaled_part("unlearner", compose_unlearner(config_directory(), text), config)


def is_reference(config: Config) -> bool:
    """Say whether a run's unlearner marks an end of the scale, and takes no part in a ranking; no function does."""
    return bool(getattr(get_object(config.unlearner["_target_"]), "reference", False))


def auto_parts(config: Config) -> list[str]:
    """Return the names of the parts whose unlearner is to be chosen."""
    parts = config.refinement.items()
    return [name for name, part in parts if isinstance(part, Mapping) and part.get("unlearner") == AUTO]
