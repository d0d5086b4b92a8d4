"""What tests of several folders share."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dmm_exp.commands import cli
from dmm_exp.runs import batch


def command_here(*arguments: object, cwd: Path, full: bool = False) -> subprocess.CompletedProcess[str]:
    """Do in this process what a command does in its own, seconds faster: torch and lightning are imported already.

    With ``full``, its standard output is a device that takes nothing.
    """
    words, err = [str(argument) for argument in arguments], io.StringIO()
    out = open("/dev/full", "w") if full else io.StringIO()  # noqa: SIM115  (it may not close without an error)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["dmm_exp", *words])
        patch.setattr(sys, "path", [*sys.path])
        for name in ("HYDRA_FULL_ERROR", batch.SWEEP):
            patch.setenv(name, "")  # restored afterwards
        root = logging.getLogger()
        patch.setattr(root, "handlers", [*root.handlers])  # Hydra adds some that write to what is closed afterwards
        patch.setattr(root, "level", root.level)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    assert isinstance(code, int)
    said = out.getvalue() if isinstance(out, io.StringIO) else ""
    with contextlib.suppress(OSError):
        out.close()
    return subprocess.CompletedProcess(words, code, said, err.getvalue())


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return the function that does a command in this process."""
    return command_here


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that have slow tests, so that no worker is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
