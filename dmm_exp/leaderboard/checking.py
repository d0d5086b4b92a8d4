"""A row is made again and compared: what was typed into it by hand does not come out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmm_exp.config.ranges import check_config
from dmm_exp.config.rerun import accepted_alone
from dmm_exp.config.schema import plain
from dmm_exp.config.trust import check_names
from dmm_exp.console.tables import print_table, text_table
from dmm_exp.errors import UserError
from dmm_exp.leaderboard.making import Place, row_in
from dmm_exp.leaderboard.recipe import STEPS, check_places
from dmm_exp.leaderboard.rows import PARTS, Row
from dmm_exp.runs.run import run
from dmm_exp.store.temporary import temporary_folder

SAME = 1e-5  # relative: a row has six digits
FIELDS = ("id", "forget_digest", "points", "n_models", "seed", "reference", "contents")


@dataclass(frozen=True)
class Compared:
    """One value of a row, and of the same result made again.

    Attributes:
        name: of the value.
        row: what the row says.
        here: what came out; None where nothing did.
        verdict: ``same``, ``within its interval`` or ``differs``.
    """

    name: str
    row: object
    here: object
    verdict: str


def made_again(row: Row, places: Sequence[str], *, anew: bool = False) -> Row:
    """Return the row of the same run, done here; what is stored already is used.

    Only classes of ours and of what we build upon are accepted meanwhile.

    Args:
        row: of a run.
        places: overrides of the person's own: where results, data and workers are.
        anew: do it in an empty folder, which is removed afterwards.

    Raises:
        UserError: it cannot be made here.
    """
    check_places(places)
    with temporary_folder() as empty, accepted_alone():
        config, choices = row.recipe.composed(
            [STEPS, *places, "evaluation.report=false", *([f"paths.outputs={empty}"] if anew else [])]
        )
        check_names(plain(config))
        check_config(config)
        finished = run(config, choices, table=False)
        assert finished is not None
        return row_in(finished.folder, Place(row.board, row.method, row.kind, row.forget))


def compared(row: Row, here: Row) -> Iterator[Compared]:
    """Yield every value of two rows; see :func:`verdict`."""
    for name in FIELDS:
        own, other = getattr(row, name), getattr(here, name)
        yield Compared(name, own, other, "same" if own == other else "differs")
    for name in sorted(row.cost.keys() | here.cost.keys()):
        yield _numbers(f"cost/{name}", row.cost.get(name), here.cost.get(name), 0.0)
    for name in sorted(row.scores.keys() | here.scores.keys()):
        own, other = row.scores.get(name, {}), here.scores.get(name, {})
        half = half_interval(row, name)
        for part in (part for part in PARTS if part in own or part in other):
            yield _numbers(name if part == "value" else f"{name} ({part})", own.get(part), other.get(part), half)


def half_interval(row: Row, name: str) -> float:
    """Return half the length of a score's 95 % interval, 0 where it has none.

    KLoM in the other direction is taken to be as uncertain as in the first, and the sum of both twice as much.
    """
    kind, _, rest = name.partition("/")
    times, source = {"klom_reverse": (1, f"klom/{rest}"), "klom_sum": (2, f"klom/{rest}")}.get(kind, (1, name))
    own = row.scores.get(source, {})
    return times * (own["high"] - own["low"]) / 2 if "low" in own else 0.0


def _numbers(name: str, row: float | None, here: float | None, half: float) -> Compared:
    return Compared(name, row, here, verdict(row, here, half))


def verdict(row: float | None, here: float | None, half: float) -> str:
    """Say whether two numbers are the same (to a part in 100,000), or no further apart than half an interval.

    >>> verdict(2.5, 2.50001, 0.0), verdict(2.5, 2.6, 0.2), verdict(2.5, 2.6, 0.0), verdict(2.5, None, 0.2)
    ('same', 'within its interval', 'differs', 'differs')
    """
    if row is None or here is None:
        return "differs"
    apart = abs(row - here)
    if apart <= SAME * max(abs(row), abs(here)):
        return "same"
    return "within its interval" if apart <= half else "differs"


def check(path: Path, row: Row, places: Sequence[str], *, anew: bool, exact: bool, plan: bool) -> bool:
    """Make a row again, print what came out, and say whether it is what the row says.

    Args:
        path: of the row.
        row: itself.
        places: overrides of the person's own.
        anew: in an empty folder.
        exact: whether a number within its interval is not enough.
        plan: print the command, and do nothing.
    """
    if row.is_given:
        print(f"{path}: is of models that were made elsewhere, which cannot be made again here", file=sys.stderr)
        return False
    print(f"{path}:\n  {row.command}", flush=True)
    if plan:
        return True
    try:
        here = made_again(row, places, anew=anew)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    found = list(compared(row, here))
    accepted = ("same",) if exact else ("same", "within its interval")
    wrong = [one for one in found if one.verdict not in accepted]
    shown = [one for one in found if one.name.partition(" (")[0] in row.scores or one in wrong or "cost" in one.name]
    texts = [
        [one.name, _text(one.row), _text(one.here), one.verdict] for one in shown if "(" not in one.name or one in wrong
    ]
    print_table(text_table("", [["", "row", "here", ""], *texts], words=1))
    counts = {name: sum(one.verdict == name for one in found) for name in ("same", "within its interval", "differs")}
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    print(f"{'not reproduced' if wrong else 'reproduced'}: {len(found)} values, {said}")
    return not wrong


def _text(value: object) -> str:
    return "–" if value is None else str(value)
