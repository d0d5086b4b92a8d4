"""What tests of several folders share."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from compileall import compile_dir
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser
from hydra.core.hydra_config import HydraConfig

import dmm_exp
from dmm_exp.commands import cli
from dmm_exp.runs import batch

NO_BYTECODE = sys.dont_write_bytecode  # what Python was told


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
    HydraConfig.instance().cfg = None  # it holds --config-dir
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


@pytest.fixture(scope="session")
def processes() -> Any:
    """Return a context that starts processes as workers are: forked from one that imported torch and lightning once."""
    from dmm_exp.executors.processes import START, Processes

    Processes().warm_up()
    return multiprocessing.get_context(START)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a headless browser; without Chromium the test is skipped."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def measure_shortly(patch: pytest.MonkeyPatch) -> None:
    """Measure how fast networks train in a tenth of the time, or less; what is chosen changes no result.

    Where it is measured again for every folder of results, as here, that takes longer than training. And let Lightning
    look through the installed packages once: for each of thousands of trainers, that takes longer, too.
    """
    from lightning.fabric.utilities import registry

    from dmm_exp.deletion import timing
    from dmm_exp.ensembles import chunk_size
    from dmm_exp.runs import plan

    patch.setattr(timing, "LEAST_SECONDS", timing.LEAST_SECONDS / 10)
    patch.setattr(chunk_size, "LEAST_SECONDS", chunk_size.LEAST_SECONDS / 10)
    patch.setattr(registry, "entry_points", cache(entry_points))
    patch.setattr(plan, "BUDGET", plan.BUDGET / 100)


@pytest.fixture(autouse=True, scope="session")
def _short_measurements() -> Iterator[None]:
    """Let all tests measure shortly."""
    with pytest.MonkeyPatch.context() as patch:
        measure_shortly(patch)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that have slow tests, so that no worker is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_configure(config: pytest.Config) -> None:
    """Keep Python's garbage collector from going through what is being imported, which holds none.

    And compile the package once: where Python is told to write no bytecode, each process that a test starts would. What
    is imported now, the tests themselves, is kept for the next time.
    """
    gc.disable()
    sys.dont_write_bytecode = False
    if not hasattr(config, "workerinput"):
        compile_dir(Path(dmm_exp.__file__).parent, quiet=2)


def pytest_collection_finish() -> None:
    """Let it go through what tests make, and no more through all that was imported; modules of tests are not kept."""
    sys.dont_write_bytecode = NO_BYTECODE
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()
