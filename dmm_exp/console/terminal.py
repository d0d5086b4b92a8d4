r"""What may reach a terminal: text without control characters, in characters that the terminal has.

Names of files, classes and columns come from strangers. A terminal obeys some characters instead of showing them:
they move the cursor, change colours and titles, or turn the direction of writing. Here they become escapes such as
``\x1b``.
"""

from __future__ import annotations

import codecs
import io
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, TypeVar

from dmm_exp.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")
PLAIN = "dmm_exp.plain"  # how characters are written that the output's encoding does not have
_INSTEAD = {
    "✓": "ok", "✗": "!!", "–": "-", "—": "-", "−": "-", "×": "x", "·": ".", "…": "...", "±": "+/-", "≥": ">=",
    "≤": "<=", "→": "->", "α": "alpha", "‖": "||", "’": "'", "“": '"', "”": '"', "─": "-", "│": "|",
}  # fmt: skip


def _instead(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(_INSTEAD.get(letter) or ascii(letter)[1:-1] for letter in wrong), error.end


codecs.register_error(PLAIN, _instead)


class Closed(BaseException):
    """Standard output cannot be written any more.

    It ends a program as Ctrl-C does, and is no ``Exception``: what handles errors, as ``logging`` does, would go on.
    """


class _Stream:
    """A stream whose errors are those of an output: that of standard output ends the program, others are passed over.

    Args:
        stream: what is written to.
        needed: whether the program is to end when it cannot be written.
    """

    def __init__(self, stream: IO[str], *, needed: bool) -> None:
        self._stream, self._needed = stream, needed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text as it is."""
        with self._errors():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with self._errors():
            self._stream.flush()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # a full device, a pipe whose reader has ended, a closed stream
            if self._needed:
                raise Closed(error.strerror if isinstance(error, OSError) else str(error)) from error


class _Safe(_Stream):
    """The same for ``print`` and everything else that knows nothing of terminals; rich writes past it."""

    def __init__(self, stream: IO[str], *, needed: bool) -> None:
        super().__init__(stream, needed=needed)
        self.rich_proxied_file = _Stream(stream, needed=needed)

    def write(self, text: str) -> int:
        """Write a text without what a terminal obeys; a bar may begin by going back to the start of its line."""
        start = "\r" if text.startswith("\r") else ""
        super().write(start + printable(text[len(start) :]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)


def _prepared(stream: IO[str] | None) -> IO[str]:
    """Return a stream that takes every character; one that goes nowhere for what was closed before Python began."""
    if stream is None:
        return io.StringIO()
    if isinstance(stream, io.TextIOWrapper):
        with suppress(OSError, ValueError):
            stream.reconfigure(errors=PLAIN)
    return stream


@contextmanager
def safe_output() -> Iterator[None]:
    """Let only printable text reach standard output and standard error while the body runs.

    Raises:
        Closed: standard output cannot be written.
    """
    before = sys.stdout, sys.stderr
    out, err = map(_prepared, before)
    sys.stdout, sys.stderr = _Safe(out, needed=True), _Safe(err, needed=False)
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        finally:
            sys.stdout, sys.stderr = before


def leave_output(sentence: str) -> None:
    """Say why standard output is left, and forget what it still holds: Python would fail to write that at its end."""
    with suppress(OSError, ValueError):
        print(sentence, file=sys.stderr)
    with suppress(OSError, ValueError):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console(**options: Any) -> Console:
    """Return a console of rich that shows texts without what a terminal obeys, whoever they come from.

    Args:
        options: those of ``rich.console.Console``.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Safe(Console):
        def render(self, *arguments: Any, **more: Any) -> Iterator[Segment]:
            for text, style, control in super().render(*arguments, **more):
                yield Segment(text if control else printable(text), style, control)

    return Safe(**options)


def terminal_width() -> int:
    """Return how many columns standard output shows; 100 where it is no terminal."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 100


def tracked(items: Sequence[Item], description: str, *, long: bool) -> Iterable[Item]:
    """Return items as they are worked on, with a bar on a terminal where that takes long."""
    if not long:
        return items
    from rich.progress import track

    return track(items, description, console=console(stderr=True), transient=True)
