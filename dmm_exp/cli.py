"""The command line: Hydra's plumbing, and nothing that computes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dmm_exp.config.folders import config_directory
from dmm_exp.config.processes import rank, ranks
from dmm_exp.errors import UserError

USAGE_ERROR = 2
CLEANING = 30.0  # seconds after a signal to end during which further ones are ignored, so that all is cleaned up


def main() -> None:
    """Run ``python -m dmm_exp`` or ``dmm-exp``."""
    _end(_runs)


def scores() -> None:
    """Run ``python -m dmm_exp.scores``."""
    _end(_scores)


def compare() -> None:
    """Run ``python -m dmm_exp.compare``."""
    _end(_compare)


def artifacts() -> None:
    """Run ``python -m dmm_exp.artifacts``."""
    _end(_artifacts)


def unlearn() -> None:
    """Run ``python -m dmm_exp.unlearn``."""
    _end(_unlearn)


def verify() -> None:
    """Run ``python -m dmm_exp.verify``."""
    _end(_verify)


def _end(command: Callable[[], int]) -> None:
    """Run a command and exit with its code.

    Bad input ends with one sentence and exit code 2, Ctrl-C with exit code 130, and SIGTERM like Ctrl-C, with 143.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back here, where they become sentences
    with interruptions() as received:
        try:
            sys.exit(command())
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(USAGE_ERROR)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
            sys.exit(128 + (received or [signal.SIGINT])[0])


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """Let the first SIGTERM or Ctrl-C raise ``KeyboardInterrupt``; those that follow do not break off the clean-up.

    Gives a list that the number of the signal is added to. Signals that the caller of this process ignores stay
    ignored. Ranks of ``torchrun`` end at once, as it expects: they may be waiting for one another outside of Python.
    """
    received: list[int] = []
    since = 0.0

    def end(number: int, frame: object) -> None:
        nonlocal since
        if received and time.monotonic() - since < CLEANING:
            return
        received.append(number)
        since = time.monotonic()
        raise KeyboardInterrupt

    heeded = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    alone = threading.current_thread() is threading.main_thread() and ranks() == 1
    before = {number: usual for number, usual in heeded.items() if alone and signal.getsignal(number) == usual}
    for number in before:
        signal.signal(number, end)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _runs() -> int:
    if rank() > 0:
        from dmm_exp.executors.distributed import serve

        serve()
        return 0
    try:
        return _work()
    finally:
        if ranks() > 1:
            from dmm_exp.executors import close_executors

            close_executors()


def _work() -> int:
    arguments, cells = _checked_arguments()
    if arguments.help and _own(arguments):
        return _help(arguments)
    run, refused = _hydra(_run)
    if not (arguments.multirun and cells):
        run()
        if refused:
            raise refused[0]
        return 0
    from dmm_exp import sweep

    sweep.begin(arguments.overrides)
    if cells[0]["dry_run"]:
        run()
        return 0
    folder = sweep.prepared(cells[0])
    run()
    return sweep.finish(folder, len(cells))


def _scores() -> int:
    arguments, _ = _checked_arguments()
    if arguments.help and _own(arguments):
        return _help(arguments)
    if arguments.multirun:
        raise UserError("-m: scores are those of one experiment; start the command once for each")
    run, refused = _hydra(_score)
    run()
    if refused:
        raise refused[0]
    return 0


def _compare() -> int:
    from dmm_exp.compare.command import compare_runs

    return compare_runs(sys.argv[1:])


def _artifacts() -> int:
    from dmm_exp.artifacts.command import artifacts

    return artifacts(sys.argv[1:])


def _unlearn() -> int:
    arguments = _arguments()
    from dmm_exp.deletion.command import HELP, unlearn_command

    if arguments.help:
        print(HELP)
        return 0
    if arguments.multirun:
        raise UserError("-m: a deletion is one request; start the command once for each")
    print(unlearn_command(arguments.overrides, _more(arguments)))
    return 0


def _verify() -> int:
    from dmm_exp.deletion.verify_command import verify

    return verify(sys.argv[1:])


def _checked_arguments() -> tuple[Any, list[dict[str, Any]]]:
    """Return the command line, after comparing it with what exists, and the configurations that it stands for.

    There are none where it asks for no work, or for another primary configuration.
    """
    from dmm_exp.config.schema import register

    register()
    arguments = _arguments()
    return arguments, _check(arguments) if _composes(arguments) else []


def _hydra(task: Callable[[Any], object]) -> tuple[Callable[[], Any], list[UserError]]:
    """Return a function that lets Hydra compose the command line and run a task on it, and what the task refuses.

    Bad input reaches the caller past Hydra's own words for failed jobs.
    """
    import hydra

    refused: list[UserError] = []
    made = hydra.main(version_base="1.3", config_path=config_directory(), config_name="config")
    return made(partial(_caught, refused, task)), refused


def _caught(refused: list[UserError], task: Callable[[Any], object], config: Any) -> None:
    try:
        task(config)
    except UserError as error:
        refused.append(error)


def _run(config: Any) -> None:
    from dmm_exp.run import run_from_hydra

    run_from_hydra(config)


def _score(config: Any) -> None:
    from hydra.core.hydra_config import HydraConfig

    from dmm_exp.config.preflight import choices_of
    from dmm_exp.example_scores import run_scores
    from dmm_exp.run import plain

    hydra = HydraConfig.get()
    folder = run_scores(plain(config), choices_of(hydra.runtime.choices))
    if folder is not None:
        print(folder)


def _arguments() -> Any:
    from hydra._internal.utils import get_args_parser

    return get_args_parser().parse_args()


def _composes(arguments: Any) -> bool:
    """Say whether a command line asks for work, and not for help, information or another primary configuration."""
    asks = ("help", "hydra_help", "info", "shell_completion", "version")
    return _own(arguments) and not any(getattr(arguments, name, None) for name in asks)


def _own(arguments: Any) -> bool:
    """Say whether a command line is about our own primary configuration."""
    return not any(getattr(arguments, name, None) for name in ("config_path", "config_name", "experimental_rerun"))


def _help(arguments: Any) -> int:
    from dmm_exp.config.help import help_text

    print(help_text(config_directory(), arguments.overrides, _more(arguments), resolve=arguments.resolve))
    return 0


def _more(arguments: Any) -> list[str]:
    """Return the further configuration folder of a command line, if it has one."""
    return [str(Path(arguments.config_dir).absolute())] if arguments.config_dir else []


def _check(arguments: Any) -> list[dict[str, Any]]:
    from dmm_exp.config.preflight import check_overrides

    cells = check_overrides(config_directory(), arguments.overrides, _more(arguments))
    if arguments.multirun:
        _check_cells(cells)
    elif len(cells) > 1:
        raise UserError("several values for one key (key=a,b) are a sweep; add -m to run it")
    return cells


def _check_cells(cells: list[dict[str, Any]]) -> None:
    """Refuse a sweep with a cell that could not start, before the first one does."""
    from dmm_exp.config.instantiate import check_targets
    from dmm_exp.config.schema import check_ranges

    for cell in cells:
        check_ranges(cell)
        check_targets(cell)


if __name__ == "__main__":
    main()
