"""Where chunks of work run."""

from dmm_exp.executors.local import Local
from dmm_exp.executors.processes import Processes

__all__ = ["Local", "Processes"]
