"""The code of a user's own methods, by which their results are told apart: it changes while one works on them."""

from __future__ import annotations

import inspect
from pathlib import Path

from hydra.utils import get_object

from dmm_exp.config.schema import Plain
from dmm_exp.config.trust import named
from dmm_exp.files.digests import digest_of

KNOWN = ("dmm_exp", "torch", "lightning")  # packages whose results are told apart by formats and versions


def with_code(config: Plain) -> Plain:
    """Return the configuration of methods with what identifies the code of those that are a user's own, as ``code``.

    Args:
        config: with a ``_target_`` for every class and function that it names; the same object if none is a user's.
    """
    own = {target: code_digest(target) for target in named(config) if target.split(".")[0] not in KNOWN}
    return {**config, "code": own} if own else config


def code_digest(target: str) -> str:
    """Return the digest of the file that defines a class or a function, whole, since it may call others there.

    Of what has no file, as in a notebook, the lines of the definition count, and of what is not written in Python its
    name.

    Args:
        target: the name by which it is imported.
    """
    found = get_object(target)
    try:
        path = inspect.getsourcefile(found)
        text = Path(path).read_text(encoding="utf-8") if path and Path(path).is_file() else inspect.getsource(found)
    except (OSError, TypeError, UnicodeDecodeError):
        text = target
    return digest_of(text)
