"""Where chunks of work run."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.schema import Plain
from dmm_exp.executors.distributed import Distributed
from dmm_exp.executors.local import Local
from dmm_exp.executors.on_ray import Ray
from dmm_exp.executors.on_submitit import Submitit
from dmm_exp.executors.processes import Processes

__all__ = ["Distributed", "Local", "Processes", "Ray", "Submitit", "shared_executor"]


def shared_executor(config: Plain) -> Any:
    """Return the executor of a configuration; all runs of one process share it and its workers."""
    return _executor(json.dumps(config, sort_keys=True))


@cache
def _executor(config: str) -> Any:
    _started.append(instantiate(json.loads(config), "executor"))
    return _started[-1]


_started: list[Any] = []


def close_executors() -> None:
    """Stop the workers of all executors of this process."""
    while _started:
        _started.pop().close()
    _executor.cache_clear()
