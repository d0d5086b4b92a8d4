"""Where the configuration names a class, and what a class there has to be."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from dmm_exp.config.schema import Plain
from dmm_exp.errors import UserError, shown

TARGET = "_target_"
OPTIMIZER, SCHEDULE = "torch.optim.Optimizer", "__call__"
PLACES = {  # place → what a class there derives from, or the method that it has
    "job": "dmm_exp.runs.job.Job",
    "dataset": "load",
    "model.network": "torch.nn.Module",
    "training.optimizer": OPTIMIZER,
    "training.schedule": SCHEDULE,
    "scores.held_out.optimizer": OPTIMIZER,
    "scores.held_out.schedule": SCHEDULE,
    "forget": "dmm_exp.forget.Selector",
    "attribution": "dmm_exp.attribution.Estimator",
    "unlearner": "dmm_exp.unlearners.Unlearner",
    "refinement": "dmm_exp.refinement.Refinement",
    "trainer": "lightning.pytorch.Trainer",
    "executor": "run",
    "logger": "dmm_exp.runs.trackers.Tracker",
}


def check_named(config: Plain) -> None:
    """Raise ``UserError`` for a place of a configuration that names no class, where one is needed."""
    for path in PLACES:
        for node in _at(config, path):
            if not isinstance(node, Mapping) or TARGET not in node:
                raise UserError(f"{path}={shown(node)}: names no class; expected {path}.{TARGET}=CLASS")


def check_place(path: str, target: str, found: Any) -> None:
    """Raise ``UserError`` for a class that is of another kind than its place needs; functions may make anything.

    Args:
        path: of the place.
        target: name of the class or function.
        found: the class or function.
    """
    wanted = PLACES.get(path)
    if wanted is None or not inspect.isclass(found):
        return
    if "." not in wanted and not any(wanted in vars(base) for base in found.__mro__):
        raise UserError(f"{path}.{TARGET}={target}: expected a class with a method '{wanted}'")
    if "." in wanted and not issubclass(found, _class(wanted)):
        raise UserError(f"{path}.{TARGET}={target}: expected a class that derives from {wanted}")


def _class(name: str) -> type:
    from hydra.utils import get_class

    return get_class(name)


def _at(config: Any, path: str) -> Iterator[Any]:
    """Yield what stands at a place, if there is something."""
    for key in path.split("."):
        if not isinstance(config, Mapping) or key not in config:
            return
        config = config[key]
    yield config
