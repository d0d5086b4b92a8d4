"""The code of a user's own methods, by which their results are told apart: they change while one works on them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from dmm_exp.files.digests import digest_of

OURS = "dmm_exp"  # whose results are told apart by formats and versions


def code_digest(found: Any) -> str | None:
    """Return the digest of the file that defines a class or a function, whole, since it may call others there.

    None for one of this package. Of what has no file, as in a notebook, the lines of the definition count.

    Args:
        found: the class or function.
    """
    module = str(getattr(found, "__module__", None))
    if module.split(".")[0] == OURS:
        return None
    try:
        path = inspect.getsourcefile(found)
        text = Path(path).read_text(encoding="utf-8") if path and Path(path).is_file() else inspect.getsource(found)
    except (OSError, TypeError, UnicodeDecodeError):
        text = f"{module}.{getattr(found, '__qualname__', type(found).__qualname__)}"
    return digest_of(text)
