"""Functions and classes that are imported when they are first called.

Lightning takes longer to import than all other packages together, and 100 MB of memory. Only a process that trains
needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
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
        return getattr(import_module(module), name)(*arguments, **options)
