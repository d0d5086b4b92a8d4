"""A leaderboard: many methods on many forget sets, each an ordinary run, ending in one ranking."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmm_exp.config.identity import many_runs_digest
from dmm_exp.config.schema import Config, LeaderboardConfig, plain
from dmm_exp.errors import UserError
from dmm_exp.runs.batch import begin
from dmm_exp.runs.run import run

if TYPE_CHECKING:
    from dmm_exp.leaderboard.ranking import Outcome
    from dmm_exp.pipeline import LastLearned


@dataclass(frozen=True)
class Entry:
    """One method on one forget set.

    Attributes:
        method: the unlearner's choice.
        kind: of forget set.
        forget: the forget set, as ``CHOICE key=value …``.
        overrides: the command line that does the same run alone.
        config: what these overrides compose to.
        choices: group → choice.
    """

    method: str
    kind: str
    forget: str
    overrides: list[str]
    config: Config
    choices: dict[str, str]


def run_leaderboard(config: Config, overrides: Sequence[str]) -> Path:
    """Do every run of a leaderboard that is not there yet, print the ranking, and return its folder.

    Args:
        config: the resolved configuration; ``config.leaderboard`` says what to compare.
        overrides: of the command line; those that are not about the leaderboard hold for every run.

    Raises:
        UserError: one of the runs could not start, or all of them failed.
    """
    from dmm_exp.console.progress import Console
    from dmm_exp.console.tables import print_table
    from dmm_exp.leaderboard.page import write_leaderboard
    from dmm_exp.leaderboard.tables import leaderboard_table
    from dmm_exp.pipeline import LastLearned

    begin(overrides)
    board = config.leaderboard
    sets = sum(len(texts) for texts in board.forget_sets.values())
    with Console().progress("configurations", sets * len(board.methods)) as advance:
        entries = []
        for entry in compose_entries(board, overrides):
            entries.append(entry)
            advance(1)
    if config.dry_run:
        print("\n".join(shlex.join(["python", "-m", "dmm_exp", *entry.overrides]) for entry in entries))
        return _folder(config, entries)
    outcomes, learned = [], LastLearned()
    for number, entry in enumerate(entries, 1):
        print(f"\n[{number}/{len(entries)}] {entry.method} on {entry.forget}", file=sys.stderr)
        outcomes.append(_outcome(entry, learned))
    if all(outcome.error is not None for outcome in outcomes):
        raise UserError(f"leaderboard: all {len(outcomes)} runs failed; the first said: {outcomes[0].error}")
    print_table(leaderboard_table(outcomes))
    folder = _folder(config, entries)
    command = shlex.join(["python", "-m", "dmm_exp", *overrides])
    page = write_leaderboard(outcomes, folder, title=board.title, command=command)
    print(f"  leaderboard: {page}", file=sys.stderr)
    return folder


def compose_entries(board: LeaderboardConfig, overrides: Sequence[str]) -> Iterator[Entry]:
    """Yield every method on every forget set, composed and checked.

    With ``settings``, a method uses the experiment ``SETTINGS/KIND/METHOD``, or else ``SETTINGS/METHOD``, where there
    is one; with ``checkpoints``, it is also evaluated after 1, 2, 4, … epochs. The board's own ``overrides`` hold for
    every run, unless the command line has others.

    Raises:
        UserError: a method, forget set or value does not exist.
    """
    from dmm_exp.config.folders import config_directory, further_folders
    from dmm_exp.config.instantiate import check_targets
    from dmm_exp.config.preflight import composer, forget_overrides, has_choice
    from dmm_exp.config.ranges import check_ranges

    folder, more = config_directory(), further_folders()
    shared = list(board.overrides)
    shared += [text for text in overrides if not text.lstrip("+~").startswith(("experiment=", "leaderboard"))]
    settings = board.settings
    where = {kind: (f"{settings}/{kind}", settings) for kind in board.forget_sets if settings is not None}
    with composer(folder, more) as compose:
        for kind, texts in board.forget_sets.items():
            for forget in texts:
                for method in board.methods:
                    places = [f"{place}/{method}" for place in where.get(kind, ())]
                    found = [place for place in places if has_choice(folder, "experiment", place, more)]
                    own = [f"experiment={found[0]}" if found else f"unlearner={method}", *forget_overrides(forget)]
                    own.append("evaluation.report=false")
                    config, choices = compose([*own, *shared])[0]
                    if board.checkpoints and (several := early_epochs(config.unlearner.get("epochs"))):
                        own.append(f"unlearner.epochs=[{','.join(map(str, several))}]")
                        config = replace(config, unlearner={**config.unlearner, "epochs": several})
                    check_ranges(config)
                    check_targets(plain(config))
                    yield Entry(method, kind, forget, [*own, *shared], config, choices)


def early_epochs(epochs: Any) -> list[int]:
    """Return 1, 2, 4, … and the last of a number of epochs; nothing if there is no earlier one."""
    if not isinstance(epochs, int) or epochs < 2:
        return []
    return [2**power for power in range(epochs.bit_length()) if 2**power < epochs] + [epochs]


def _outcome(entry: Entry, learned: LastLearned) -> Outcome:
    """Do a run, and return what the ranking needs to know of it."""
    from dmm_exp.config.instantiate import instantiate
    from dmm_exp.leaderboard.ranking import Outcome

    reference = instantiate(entry.config.unlearner).reference
    outcome = Outcome(entry.method, entry.kind, entry.forget, reference)
    try:
        finished = run(entry.config, entry.choices, table=False, learned=learned)
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return replace(outcome, error=str(error) or type(error).__name__)
    assert finished is not None
    return replace(outcome, metrics=finished.metrics, epochs=finished.checkpoints)


def _folder(config: Config, entries: Sequence[Entry]) -> Path:
    """Return where a leaderboard lives: the same one always lands in the same place."""
    outputs = Path(config.paths.outputs).expanduser().absolute()
    name = "".join(letter if letter.isalnum() else "_" for letter in config.leaderboard.title.lower())
    return (
        outputs
        / "leaderboards"
        / f"{name}__{many_runs_digest([(entry.overrides, entry.config) for entry in entries])[:10]}"
    )
