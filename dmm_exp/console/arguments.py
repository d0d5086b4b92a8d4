"""Parsers of command lines that do not go through Hydra."""

from __future__ import annotations

import argparse
from typing import NoReturn

from dmm_exp.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose texts are shown as they are written, and that reports errors as the rest of the package does."""

    @classmethod
    def of(cls, program: str, description: str, epilog: str) -> Parser:
        """Return the parser of a command; its options have to be written in full."""
        form = argparse.RawDescriptionHelpFormatter
        return cls(program, description=description, epilog=epilog, formatter_class=form, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise ``UserError``: an argument is wrong."""
        raise UserError(f"{message}; --help shows what is accepted")
