"""The commands that compose a configuration: ``run``, ``scores`` and ``unlearn``."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import RunMode

from dmm_exp.commands.options import folders, option, questions, read_options
from dmm_exp.config.folders import config_directory
from dmm_exp.config.help import config_text, help_text
from dmm_exp.config.overrides import in_shell
from dmm_exp.config.preflight import PRIMARY, Composed, Composer, ask_hydra, composer
from dmm_exp.config.ranges import check_config
from dmm_exp.config.rerun import checked_copy
from dmm_exp.console.ranks import rank, ranks
from dmm_exp.console.terminal import Closed
from dmm_exp.errors import UserError, storage_errors

if TYPE_CHECKING:
    from dmm_exp.pipeline import Shared
    from dmm_exp.runs.run import Plans


def run(words: list[str]) -> int:
    """Do what a command line asks for, and return the exit code; other processes of ``torchrun`` help the first."""
    if rank() > 0:
        from dmm_exp.executors.distributed import serve

        serve()
        return 0
    try:
        return _answer(read_options(words))
    finally:
        if ranks() > 1:
            from dmm_exp.executors import close_executors

            close_executors()


def scores(words: list[str]) -> int:
    """Do what ``job=scores`` asks for, and return the exit code."""
    return run(["job=scores", *words])


def unlearn(words: list[str]) -> int:
    """Delete rows from a trained network, print the folder of the results, and return the exit code."""
    options = read_options(words)
    from dmm_exp.deletion.command import HELP, unlearn_command

    if options.help:
        print(HELP)
        return 0
    if options.multirun:
        raise UserError("-m: a deletion is one request; start the command once for each")
    print(unlearn_command(options.overrides, folders(options)))
    return 0


def _answer(options: Namespace) -> int:
    """Give help or information, show a configuration, or start what it stands for."""
    with _run_again(options) as choices:
        if options.help and not (options.config_path or options.config_name):
            print(help_text(config_directory(), options.overrides, folders(options), resolve=options.resolve))
            return 0
        if questions(options):
            ask_hydra(config_directory())
            return 0
        name = (options.config_name or PRIMARY).removesuffix(".yaml")
        with composer(options.config_path or config_directory(), folders(options), name) as compose:
            cells = _checked(compose, options)
            if options.cfg == "job":
                print(config_text(compose, options.overrides, options.package, resolve=options.resolve))
                return 0
            if choices is not None and cells[0][0].dry_run:
                return _accept(cells, choices)
            if options.cfg:
                compose.show(options.overrides, options.cfg, options.package, resolve=options.resolve)
                return 0
            return _sweep(compose, options, cells) if options.multirun else _single(compose, options)


@contextmanager
def _run_again(options: Namespace) -> Iterator[dict[str, str] | None]:
    """Put a checked copy in the place of a folder that is run again, and give its choices; None where none is."""
    if options.config_path is None:
        if options.trust:
            raise UserError(f"--trust {options.trust[0]}: is for a folder that is run again; give --config-path FOLDER")
        yield None
        return
    if given := questions(options):
        raise UserError(f"{option(given[0])}: shows nothing of a folder; expected no --config-path beside it")
    name = (options.config_name or PRIMARY).removesuffix(".yaml")
    with checked_copy(Path(options.config_path), name, options.trust) as (copy, choices):
        options.config_path, options.config_name = str(copy), None
        yield choices


def _checked(compose: Composer, options: Namespace) -> Composed:
    """Return the configurations that a command line stands for; of a sweep, each could start."""
    if not options.multirun and (several := compose.several(options.overrides)):
        raise UserError(
            "several values for one key (key=a,b) are a sweep; add -m to run it, or quote a text with commas: "
            f"{in_shell(several)}"
        )
    cells = compose.to_start(options.overrides, multirun=options.multirun)
    if options.multirun:
        for cell, _ in cells:
            check_config(cell)
    return cells


def _accept(cells: Composed, choices: Mapping[str, str]) -> int:
    """Say of a folder that is run again what it would do; nothing of it is imported or made for that."""
    from dmm_exp.runs.job import print_accepted

    for cell, _ in cells:
        print_accepted(cell, choices)
    return 0


def _single(compose: Composer, options: Namespace) -> int:
    """Run what a command line stands for."""
    if compose.first(options.overrides).hydra.mode == RunMode.MULTIRUN:
        raise UserError("hydra.mode=MULTIRUN: is set in a file; expected -m on the command line instead")
    refused: list[UserError | Closed] = []
    compose.start(options.overrides, partial(_do, sys.argv[1:], refused, None))
    if refused:
        raise refused[0]
    return 0


def _sweep(compose: Composer, options: Namespace, cells: Composed) -> int:
    """Run the cells of a sweep, and end in one table."""
    from dmm_exp.runs import batch

    config = cells[0][0]
    batch.begin(options.overrides)
    if config.dry_run:
        from dmm_exp.runs.run import Plans

        plans = Plans()
        with batch.temporary_place():
            compose.start(options.overrides, partial(_do, sys.argv[1:], [], None, plans=plans), multirun=True)
        plans.finish()
        print(batch.folder_of_sweep(config))
        return 0
    from dmm_exp.pipeline import Shared

    folder = batch.prepared(config)
    compose.start(options.overrides, partial(_do, sys.argv[1:], [], Shared()), multirun=True)
    return batch.finish(folder, len(cells))


def _do(
    words: list[str],
    refused: list[UserError | Closed],
    shared: Shared | None,
    config: Any,
    plans: Plans | None = None,
) -> None:
    """Do what Hydra composed, here or in a process of a launcher.

    Args:
        words: of the command line, which the run records.
        refused: where bad input is put; Hydra has words of its own for jobs that fail.
        shared: with other cells of a sweep, None for a single job.
        config: without Hydra's own part.
        plans: of a sweep that is only planned; cells in other processes add to copies of it.
    """
    from dmm_exp.runs.batch import from_hydra

    sys.argv[1:] = words
    try:
        with storage_errors():
            from_hydra(config, shared, plans)
    except (UserError, Closed) as error:
        refused.append(error)
