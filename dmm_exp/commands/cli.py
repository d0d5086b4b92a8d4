"""The command line: the names of commands, and nothing that computes."""

from __future__ import annotations

import os
import sys

from dmm_exp.config.folders import leave_this_folder
from dmm_exp.console.command import start

COMMANDS = {
    "run": "dmm_exp.commands.experiments.run",
    "scores": "dmm_exp.commands.experiments.scores",
    "compare": "dmm_exp.commands.compare.compare_runs",
    "artifacts": "dmm_exp.commands.artifacts.artifacts",
    "export": "dmm_exp.commands.export.export_figures",
    "score": "dmm_exp.commands.score.score",
    "leaderboard": "dmm_exp.commands.leaderboard.leaderboard",
    "unlearn": "dmm_exp.commands.experiments.unlearn",
    "verify": "dmm_exp.records.verify_command.verify",
}


def main() -> None:
    """Run ``python -m dmm_exp`` or ``dmm-exp``, or the command that the first word names: ``dmm-exp export``."""
    _choose_import_path()
    name = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] in COMMANDS else None
    if name is not None:
        del sys.argv[1]
    start(COMMANDS[name or "run"])


def _choose_import_path() -> None:
    """Let ``dmm-exp`` find modules in the current folder, as ``python -m dmm_exp`` does.

    Neither does where a run's folder is run again: the current folder may then be the stranger's, whose modules would
    be taken for those of packages.
    """
    if any(word.startswith(("--config-p", "-cp")) for word in sys.argv[1:]):
        leave_this_folder()
    elif not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())


if __name__ == "__main__":
    main()
