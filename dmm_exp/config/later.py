"""Functions and classes that are imported when they are first called.

Lightning takes longer to import than all other packages together, and 100 MB of memory. Only a process that trains
needs it.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Later:
    """A function or a class by its name; it can be sent to another process.

    Attributes:
        place: ``module:name``.
    """

    place: str

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Import it, and call it."""
        module, _, name = self.place.partition(":")
        return getattr(_imported(module), name)(*arguments, **options)


def _imported(name: str) -> ModuleType:
    """Import a module; the first time nobody looks for garbage meanwhile, which takes a fifth of Lightning's import."""
    if name in sys.modules:
        return import_module(name)
    before = gc.get_threshold()
    gc.set_threshold(0, *before[1:])
    try:
        return import_module(name)
    finally:
        gc.set_threshold(*before)
