"""A leaderboard: many methods on many forget sets, each an ordinary run, ending in one ranking."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dmm_exp.compare.runs import flat
from dmm_exp.config.folders import config_directory, further_folders
from dmm_exp.config.identity import identifying
from dmm_exp.config.parts import is_reference
from dmm_exp.config.preflight import composer, forget_overrides
from dmm_exp.config.schema import Config, LeaderboardConfig, plain
from dmm_exp.config.tables import check_settings
from dmm_exp.errors import UserError
from dmm_exp.leaderboard.making import Place, row_in
from dmm_exp.leaderboard.page import write_leaderboard
from dmm_exp.leaderboard.ranking import Outcome
from dmm_exp.leaderboard.recipe import STEPS, Recipe
from dmm_exp.leaderboard.tables import print_leaderboard
from dmm_exp.runs.folder import folder_of
from dmm_exp.runs.many import ManyRuns, PlannedRun, RunOutcome, named_folder


@dataclass(frozen=True)
class Entry(PlannedRun):
    """One method on one forget set.

    Attributes:
        method: the unlearner's choice.
        kind: of forget set.
        forget: the forget set, as ``CHOICE key=value …``.
    """

    method: str
    kind: str
    forget: str


class Leaderboard(ManyRuns[Entry]):
    """Every method on every forget set, and one ranking."""

    key = "leaderboard"

    def cells(self, config: Config, overrides: Sequence[str]) -> Iterator[Entry]:
        """Yield every method on every forget set; see :func:`compose_entries`."""
        return compose_entries(config.leaderboard, overrides)

    def finished(self, config: Config, cell: Entry, outcome: RunOutcome) -> None:
        """Write the row of a run that ended well, where rows are asked for (``leaderboard.rows=DIR``)."""
        if config.leaderboard.rows is None or outcome.error is not None:
            return
        place = Place(config.leaderboard.board, cell.method, cell.kind, cell.forget)
        try:
            row = row_in(folder_of(cell.config, cell.choices), place)
        except UserError as error:  # one result without KLoM, or a folder that was removed since, stops no other
            print(f"! no row: {error}", file=sys.stderr)
            return
        print(f"  row: {row.write(Path(config.leaderboard.rows).expanduser())}", file=sys.stderr)

    def folder_of(self, config: Config, cells: Sequence[Entry]) -> Path:
        """Return where the leaderboard lives."""
        return named_folder(config, "leaderboards", config.leaderboard.title, cells)

    def show(self, config: Config, outcomes: Sequence[tuple[Entry, RunOutcome]], folder: Path, command: str) -> Path:
        """Print the ranking and write the page."""
        found = [
            Outcome(
                method=entry.method,
                kind=entry.kind,
                forget=entry.forget,
                reference=is_reference(entry.config),
                metrics=result.metrics,
                epochs=result.epochs,
                error=result.error,
                n_models=entry.config.n_models,
            )
            for entry, result in outcomes
        ]
        print_leaderboard(found)
        return write_leaderboard(found, folder, title=config.leaderboard.title, command=command)


def compose_entries(board: LeaderboardConfig, overrides: Sequence[str]) -> Iterator[Entry]:
    """Yield every method on every forget set, composed.

    With ``settings``, a method uses the experiment ``SETTINGS/KIND/METHOD``, or else ``SETTINGS/METHOD``, where there
    is one; with ``checkpoints``, it is also evaluated after 1, 2, 4, … epochs. The board's own ``overrides`` hold for
    every run, unless the command line has others.

    Raises:
        UserError: a method, forget set or value does not exist.
    """
    shared = [STEPS, *board.overrides]
    shared += [text for text in overrides if not text.lstrip("+~").startswith(("experiment=", "leaderboard"))]
    settings = board.settings
    if settings is not None:
        check_settings(settings, [config_directory(), *further_folders()], "leaderboard.settings")
    where = {kind: (f"{settings}/{kind}", settings) for kind in board.forget_sets if settings is not None}
    with composer(config_directory(), further_folders()) as compose:
        for kind, texts in board.forget_sets.items():
            for forget in texts:
                for method in board.methods:
                    places = [f"{place}/{method}" for place in where.get(kind, ())]
                    found = [place for place in places if compose.has("experiment", place)]
                    own = [f"experiment={found[0]}" if found else f"unlearner={method}", *forget_overrides(forget)]
                    own.append("evaluation.report=false")
                    config, choices = compose([*own, *shared])[0]
                    if board.checkpoints and (several := early_epochs(config.unlearner.get("epochs"))):
                        own.append(f"unlearner.epochs=[{','.join(map(str, several))}]")
                        config = replace(config, unlearner={**config.unlearner, "epochs": several})
                    if board.rows is not None:
                        Recipe.of(dict(flat(identifying(plain(config)))), choices)  # refused before anything is run
                    yield Entry(f"{method} on {forget}", [*own, *shared], config, choices, method, kind, forget)


def early_epochs(epochs: Any) -> list[int]:
    """Return 1, 2, 4, … and the last of a number of epochs; nothing if there is no earlier one."""
    if not isinstance(epochs, int) or epochs < 2:
        return []
    return [2**power for power in range(epochs.bit_length()) if 2**power < epochs] + [epochs]
