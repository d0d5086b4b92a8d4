"""What tests of several folders share."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dmm_exp.commands import cli
from dmm_exp.runs import batch


def command_here(
    *arguments: object, cwd: Path, main: Callable[[], None] = cli.main
) -> subprocess.CompletedProcess[str]:
    """Do in this process what a command does in its own, seconds faster: torch and lightning are imported already."""
    words, out, err = [str(argument) for argument in arguments], io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["dmm_exp", *words])
        patch.setattr(sys, "path", [*sys.path])
        for name in ("HYDRA_FULL_ERROR", batch.SWEEP):
            patch.setenv(name, "")  # restored afterwards
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return the function that does a command in this process."""
    return command_here


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that have slow tests, so that no worker is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
