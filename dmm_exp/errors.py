"""The one exception that means: the person at the keyboard can fix this."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

# C0 and C1 but for tab and line feed; invisible marks that change the direction of writing; line separators; halves.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SEQUENCE = re.compile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\].*?(?:\x07|\x1b\\\\)|\x1b.", re.DOTALL)  # that begin with Esc
REASON = "{reason}"
_GOES_ON = "the same command then goes on where this one stopped"
_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "files of this size are not allowed",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "writing is not permitted",
    errno.EPERM: "writing is not permitted",
}
_NO_PLACE = {
    errno.ENOTDIR: "a file is where a folder is needed",
    errno.EEXIST: "something else is where a folder or a file is needed",
    errno.EISDIR: "a folder is where a file is needed",
    errno.ELOOP: "it is a link, or its links lead in a circle",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EINVAL: "this is no name of a file here",
}


def printable(text: str) -> str:
    r"""Return a text in which nothing is obeyed by a terminal; tabs and line feeds stay.

    >>> print(printable("cat\x1b[2J"))
    cat\x1b[2J
    """
    return _OBEYED.sub(_escape, text)


def plain_text(text: str) -> str:
    r"""Return a text in one line, without anything that a terminal obeys.

    >>> plain_text("\x1b[31mred\x1b[0m\n and \u202e plain")
    'red and plain'
    """
    return " ".join(_OBEYED.sub("", " ".join(_SEQUENCE.sub("", text).split())).split())


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


class UserError(ValueError):
    """Bad input, said in one sentence that names the key, the value and what is accepted.

    The command line prints the sentence and ends with exit code 2; from Python it is an ordinary ``ValueError``. What
    is quoted may hold line breaks and other characters that a terminal obeys; the sentence holds none.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(" ".join(sentence.splitlines())))


def shown(value: object) -> str:
    """Return a value as a message quotes it: in one line, printable, and cut after 60 characters."""
    text = printable(" ".join(str(value)[:1000].split()))
    return text if len(text) <= 60 else text[:57] + "..."


def listed(names: Sequence[str], at_most: int = 5) -> str:
    """Return names as a sentence lists them, the rest of a long list as a number.

    >>> listed(["a", "b", "c"], at_most=2)
    "'a', 'b' and 1 more"
    """
    quoted = ", ".join(f"'{shown(name)}'" for name in names[:at_most])
    return quoted if len(names) <= at_most else f"{quoted} and {len(names) - at_most} more"


def reason_of(error: BaseException) -> str:
    """Return an error in one line, for a message that names what it came from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def explained(sentence: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions into a :class:`UserError`; one that is raised already passes as it is.

    Args:
        sentence: of the error; :data:`REASON` in it stands for the exception in one line.
        kinds: of exceptions; all by default.
    """
    expected = kinds or (Exception,)
    try:
        yield
    except UserError:
        raise
    except expected as error:
        raise UserError(sentence.replace(REASON, reason_of(error.__cause__ or error))) from error


def did_you_mean(word: str, accepted: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` when ``word`` is close to an accepted name, else an empty string."""
    close = difflib.get_close_matches(str(word), list(accepted), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


@contextmanager
def storage_errors(key: str = "paths.outputs") -> Iterator[None]:
    """Turn what the operating system says of a place where nothing can be written into a :class:`UserError`.

    Args:
        key: names the folder in which is written.
    """
    try:
        yield
    except OSError as error:
        place = error.filename or key
        if error.errno in _NO_ROOM:
            reason = f"{_NO_ROOM[error.errno]}; make room there or choose another folder ({key}=DIR); {_GOES_ON}"
        elif error.errno in _NO_PLACE and error.filename is not None:
            reason = f"{_NO_PLACE[error.errno]}; move it away or choose another folder ({key}=DIR)"
        else:
            raise
        raise UserError(f"{place}: {reason}") from error
