"""The one exception that means: the person at the keyboard can fix this."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, said in one sentence that names the key, the value and what is accepted.

    The command line prints the sentence and ends with exit code 2; from Python it is an ordinary ``ValueError``.
    """


def did_you_mean(word: str, accepted: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` when ``word`` is close to an accepted name, else an empty string."""
    close = difflib.get_close_matches(str(word), list(accepted), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
