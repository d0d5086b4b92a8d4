"""The options of commands that compose a configuration: Hydra's, and ``--trust``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from dmm_exp.config.overrides import MULTIRUN
from dmm_exp.errors import UserError, did_you_mean

QUESTIONS = ("help", "hydra_help", "info", "shell_completion")  # options that ask for no work
ONE_OF = ("run", "multirun", "info", "cfg", "shell_completion", "hydra_help")  # options of which Hydra takes one


def read_options(words: Sequence[str]) -> Namespace:
    """Return the options and the overrides of a command line, in whatever order they stand; folders are absolute.

    Raises:
        UserError: an option does not exist, or does not go with another one.
    """
    parser = get_args_parser()
    parser.error = _refuse
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE")
    options, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        names = [name for action in parser._actions for name in action.option_strings]
        raise UserError(_unknown_option(unknown[0], names))
    if options.experimental_rerun:
        raise UserError("--experimental-rerun: reads a pickle, which may run anything; expected --config-path FOLDER")
    if options.resolve and not (options.cfg or options.help):
        raise UserError("--resolve: shows nothing by itself; expected --cfg job beside it")
    given = [name for name in ONE_OF if getattr(options, name, None)]
    if len(given) > 1 and options.cfg != "job":
        raise UserError(f"{option(given[0])} and {option(given[1])}: expected one of them")
    options.multirun = options.multirun or MULTIRUN in options.overrides
    for key in ("config_dir", "config_path"):
        folder = getattr(options, key)
        if folder is not None and (key == "config_path" or "://" not in folder):
            if not folder or not Path(folder).is_dir():
                raise UserError(f"{option(key)} {folder}: there is no such folder")
            setattr(options, key, str(Path(folder).absolute()))
    return options


def option(key: str) -> str:
    """Return how an option is typed."""
    return f"--{key.replace('_', '-')}"


def questions(options: Namespace) -> list[str]:
    """Return the options of a command line that ask for no work, but for help or information."""
    return [name for name in QUESTIONS if getattr(options, name)]


def folders(options: Namespace) -> list[str]:
    """Return the further configuration folder of a command line, if it has one."""
    return [str(Path(options.config_dir).absolute())] if options.config_dir else []


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; --help shows what is accepted")


def _unknown_option(word: str, known: list[str]) -> str:
    """Return the sentence for an option that does not exist."""
    name, equals, value = word.lstrip("-").partition("=")
    if equals:
        return f"'{word}': there is no such option; a key stands without dashes: {name}={value}"
    return (
        f"'{word}': there is no such option; expected key=value or one of {', '.join(known)}{did_you_mean(word, known)}"
    )
