"""A command as a process: it is imported once signals are handled, and ends with an exit code and no traceback."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from importlib import import_module
from typing import NoReturn

from dmm_exp.console.signals import Interruptions, interruptions
from dmm_exp.console.terminal import Closed, leave_output, safe_output
from dmm_exp.errors import UserError, storage_errors

USAGE_ERROR = 2


class Parser(ArgumentParser):
    """A parser of options that refuses as the rest of the package does."""

    @classmethod
    def of(cls, program: str, description: str, epilog: str) -> Parser:
        """Return the parser of a command; its texts are shown as they are written."""
        return cls(
            prog=program,
            description=description,
            epilog=epilog,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise a ``UserError``."""
        raise UserError(f"{message}; --help shows what is accepted")


def start(name: str) -> NoReturn:
    """Run a command with the words of the command line, and exit with its code.

    Args:
        name: of a function of these words that returns an exit code, such as
            ``dmm_exp.commands.compare.compare_runs``. It is imported when a signal can end the process in order.
    """
    exit_with(lambda: function_of(name)(sys.argv[1:]))


def function_of(name: str) -> Callable[[list[str]], int]:
    """Return the function of a command by its name."""
    module, _, function = name.rpartition(".")
    return getattr(import_module(module), function)


def exit_with(command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code.

    Bad input, and an output that cannot be written, end with one sentence and exit code 2, Ctrl-C with exit code 130,
    and SIGTERM like Ctrl-C, with 143.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back here, where they become sentences
    with interruptions() as received:
        try:
            with safe_output():
                code = _code(command, received)
        except Closed as error:
            code = USAGE_ERROR
            leave_output(f"error: standard output cannot be written ({error})")
        sys.exit(code)


def _code(command: Callable[[], int], received: Interruptions) -> int:
    """Run a command and return the exit code."""
    try:
        with received.raising(), storage_errors():
            return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except (KeyboardInterrupt, Exception) as error:
        if received.first is None and not isinstance(error, KeyboardInterrupt):
            raise  # and not what Python or a library made of an interruption, as in the making of a class
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 128 + (received.first or signal.SIGINT)
