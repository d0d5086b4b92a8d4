"""The command line: Hydra's plumbing, and nothing that computes."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from dmm_exp.config.folders import config_directory
from dmm_exp.errors import UserError

USAGE_ERROR = 2


def main() -> None:
    """Run ``python -m dmm_exp`` or ``dmm-exp``; bad input ends with one sentence and exit code 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back here, where they become sentences
    try:
        sys.exit(_main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(130)


def _main() -> int:
    import hydra

    from dmm_exp.config.schema import register

    register()
    arguments = _arguments()
    if _composes(arguments):
        _check(arguments)
    refused: list[UserError] = []
    task = partial(_task, refused)
    run = hydra.main(version_base="1.3", config_path=config_directory(), config_name="config")(task)
    if not (arguments.multirun and _composes(arguments)):
        run()
        if refused:
            raise refused[0]
        return 0
    from dmm_exp import sweep

    sweep.begin(arguments.overrides)
    run()
    return sweep.finish()


def _arguments() -> Any:
    from hydra._internal.utils import get_args_parser

    return get_args_parser().parse_args()


def _composes(arguments: Any) -> bool:
    """Say whether a command line asks for work, and not for help, information or another primary configuration."""
    asks = ("help", "hydra_help", "info", "shell_completion", "version")
    elsewhere = ("config_path", "config_name", "experimental_rerun")
    return not any(getattr(arguments, name, None) for name in (*asks, *elsewhere))


def _check(arguments: Any) -> None:
    from dmm_exp.config.preflight import check_overrides

    more = [str(Path(arguments.config_dir).absolute())] if arguments.config_dir else []
    cells = check_overrides(config_directory(), arguments.overrides, more)
    if arguments.multirun:
        _check_cells(cells)
    elif len(cells) > 1:
        raise UserError("several values for one key (key=a,b) are a sweep; add -m to run it")


def _check_cells(cells: list[dict[str, Any]]) -> None:
    """Refuse a sweep with a cell that could not start, before the first one does."""
    from dmm_exp.config.instantiate import check_targets
    from dmm_exp.config.schema import check_ranges

    for cell in cells:
        check_ranges(cell)
        check_targets(cell)


def _task(refused: list[UserError], config: Any) -> None:
    """Run what Hydra composed; bad input is handed to the caller, past Hydra's own words for failed jobs."""
    from dmm_exp.run import run_from_hydra

    try:
        run_from_hydra(config)
    except UserError as error:
        refused.append(error)


if __name__ == "__main__":
    main()
