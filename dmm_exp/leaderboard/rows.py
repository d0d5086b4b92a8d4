"""A row of the leaderboard: a small JSON file with one result, read as what a stranger may have written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from dmm_exp.config.schema import Plain
from dmm_exp.errors import UserError, did_you_mean, shown
from dmm_exp.files.digests import digest_of
from dmm_exp.files.reading import parse_json, read_bytes
from dmm_exp.files.writing import write_text
from dmm_exp.leaderboard.recipe import Recipe
from dmm_exp.metrics.tow import GROUPS
from dmm_exp.report.figures import FIGURES

FORMAT = 1  # raised when the same file means something else
LARGEST = 16_384  # bytes of a row that is read; one that is written has about 3,000
DIGITS = 6  # significant, of every number
RUN, ELSEWHERE = "run", "elsewhere"
KLOM = ("klom", "klom_reverse", "klom_sum")
SCORES = {  # name in metrics.json → the same of retrained models, the floor
    **{f"{name}/{group}/p95": f"{name}_floor/{group}/p95" for name in KLOM for group in GROUPS},
    "tow": "tow_floor",
    "tow_mia": "tow_mia_floor",
    "ulira/accuracy": "ulira_floor/accuracy",
    "mia/unlearned": "mia/floor",
    **{f"accuracy/unlearned/{group}": f"accuracy/floor/{group}" for group in GROUPS},
}
COSTS = ("cost/unlearning", "cost/ratio", "cost/own", "cost/shared", "cost/shared_per_request", "cost/attribution")
NEEDED = [f"klom/{group}/p95" for group in GROUPS]  # what methods are ranked by
PARTS = ("value", "low", "high", "floor")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+ -]{0,59}", re.ASCII)
_FORGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=, -]{0,99}", re.ASCII)
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", re.ASCII)
_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,249}", re.ASCII)
_ID, _DIGEST = re.compile("[0-9a-f]{10}"), re.compile("[0-9a-f]{16}")
_FACT = re.compile(r"[\w .,+()/®-]{1,99}")
_FROM = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*", re.ASCII)


@dataclass(frozen=True)
class Row:
    """One method on one forget set of one board.

    Attributes:
        board: what is asked of all methods: data, network, number of models.
        method: its name on the board.
        kind: of the forget set.
        forget: the exact forget set in words (``random seed=1``).
        reference: whether the method takes no part in the ranking.
        source: a run, which can be made again, or models that were made elsewhere.
        recipe: how it is made; empty for models made elsewhere.
        settings_from: the experiment that has these settings, ``""`` for none.
        run: the name of the run's folder.
        id: of what identifies the run's result.
        contents: dotted key → digest of the file or folder that the run read.
        forget_digest: of the list of points to forget.
        points: how many points are in each group.
        n_models: of each kind.
        seed: of the run.
        scores: name in :data:`SCORES` → ``value``, and ``low``, ``high``, ``floor`` where they are known.
        cost: name in :data:`COSTS`, without ``cost/`` → number; see docs/results.md for their units.
        made_with: versions and device, as far as they are known.
        command: what was typed, or what stands for the recipe.
    """

    board: str
    method: str
    kind: str
    forget: str
    reference: bool
    source: Literal["run", "elsewhere"]
    run: str
    id: str
    forget_digest: str
    points: Mapping[str, int]
    n_models: int
    seed: int
    scores: Mapping[str, Mapping[str, float]]
    command: str
    cost: Mapping[str, float] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    settings_from: str = ""
    contents: Mapping[str, str] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        """Where the row is in the folder of all rows: ``BOARD/METHOD/FORGET.json``."""
        return Path(self.board, _slug(self.method), f"{_slug(self.forget)}.json")

    @property
    def question(self) -> Plain:
        """What rows of one board share."""
        return {"n_models": self.n_models, "seed": self.seed, **({} if self.is_given else self.recipe.task)}

    @property
    def is_given(self) -> bool:
        """Whether its models were made elsewhere."""
        return self.source == ELSEWHERE

    def metrics(self) -> dict[str, float]:
        """Return values, the ends of their intervals and floors by their names in ``metrics.json``, and costs."""
        values = {
            name if part == "value" else f"{name}_{part}": found[part]
            for name, found in self.scores.items()
            for part in ("value", "low", "high")
            if part in found
        }
        floors = {SCORES[name]: found["floor"] for name, found in self.scores.items() if "floor" in found}
        return {**values, **floors, **{f"cost/{name}": value for name, value in self.cost.items()}}

    def text(self) -> str:
        """Return the row as it is written: keys are sorted, and the same result is the same text."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "recipe"}
        whole = {**own, "format": FORMAT, "choices": self.recipe.choices, "settings": self.recipe.settings}
        lines = ",\n".join(f"  {json.dumps(key)}: {_written(key, whole[key])}" for key in sorted(whole))
        return f"{{\n{lines}\n}}\n"

    def write(self, folder: Path) -> Path:
        """Write the row into the folder of all rows, and return its path."""
        path = folder / self.place
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.text())
        return path


def rounded(value: float) -> float:
    """Return a number with as many digits as a row has."""
    return float(f"{value:.{DIGITS}g}")


def scores_of(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the scores of a row from ``metrics.json``."""
    found = {}
    for name, floor in SCORES.items():
        parts = dict(zip(PARTS, (name, f"{name}_low", f"{name}_high", floor), strict=True))
        if name in metrics:
            found[name] = {part: rounded(metrics[key]) for part, key in parts.items() if key in metrics}
    return found


def costs_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the costs of a row from ``metrics.json``."""
    return {name.removeprefix("cost/"): rounded(metrics[name]) for name in COSTS if name in metrics}


def forget_digest(points: Sequence[int]) -> str:
    """Return what tells a forget set from others."""
    return digest_of(list(points))[:16]


def read_rows(folder: Path) -> list[Row]:
    """Return all rows of a folder, in the order of their paths; a page that was made there is passed over.

    Raises:
        UserError: there are none, one is damaged or in a wrong place, or rows of one board do not belong together.
    """
    found = folder.rglob("*.json")
    paths = sorted(path for path in found if path.name != FIGURES and not path.name.startswith("."))
    if not paths:
        raise UserError(
            f"{folder}: holds no row; expected BOARD/METHOD/FORGET.json, as leaderboard.rows=DIR writes them"
        )
    rows = {path: read_row(path) for path in paths}
    for path, row in rows.items():
        if path != folder / row.place:
            raise UserError(f"{path}: is the row of {row.place.as_posix()}; expected it there")
    _check_together(rows)
    return list(rows.values())


def read_row(path: Path) -> Row:
    """Return a row.

    Raises:
        UserError: it cannot be read, or is not what a row is.
    """
    try:
        found = parse_json(read_bytes(path, LARGEST).decode("utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as a row of the leaderboard ({reason})") from error
    try:
        return row_of(found)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def row_of(found: Any) -> Row:
    """Return a row from its plain values.

    Raises:
        UserError: a field is missing, unknown, or not what a row has there.
    """
    if not isinstance(found, dict):
        raise UserError("expected the fields of a row, such as board and method")
    if type(found.get("format")) is not int or found["format"] != FORMAT:
        raise UserError(f"format={shown(found.get('format'))}: expected {FORMAT}, which this version reads")
    for name in found:
        if name not in _FIELDS:
            raise UserError(f"{shown(name)}: no row has such a field{did_you_mean(name, _FIELDS)}")
    for name, (is_right, expected) in _FIELDS.items():
        if name not in found:
            raise UserError(f"{name}: is missing; every row has it")
        if not is_right(found[name]):
            raise UserError(f"{name}={shown(json.dumps(found[name]))}: expected {expected}")
    own = {name: value for name, value in found.items() if name not in ("format", "choices", "settings")}
    row = Row(**own, recipe=Recipe(found["choices"], found["settings"]))
    _check_scores(row.scores)
    _check_source(row)
    return row


def _check_source(row: Row) -> None:
    """Check that a row says what its parts say. Raises ``UserError``."""
    choices, settings = row.recipe.choices, row.recipe.settings
    if row.is_given:
        if choices or settings:
            raise UserError("source=elsewhere: such models have no choices and settings; expected {} for both")
        return
    for group in ("dataset", "model", "forget", "unlearner"):
        if group not in choices:
            raise UserError(f"choices: {group} is missing; every row of a run has it")
    if row.command != row.recipe.command:
        raise UserError(f"command={shown(row.command)}: is not that of choices and settings, {row.recipe.command}")
    for key, value in (("seed", row.seed), ("n_models", row.n_models)):
        if key in settings and settings[key] != value:
            raise UserError(f"{key}={value}: settings say {shown(settings[key])}; expected the same")


def _check_scores(scores: Mapping[str, Mapping[str, float]]) -> None:
    for name in NEEDED:
        if name not in scores:
            raise UserError(f"scores: {name} is missing; methods are ranked by it")
    for name, parts in scores.items():
        if not _is_numbers(parts, PARTS) or "value" not in parts:
            said = shown(json.dumps(parts))
            raise UserError(f"scores: {name}={said}: expected value and, where known, low, high and floor, as numbers")
        if ("low" in parts) != ("high" in parts) or parts.get("low", 0) > parts.get("high", 0):
            raise UserError(f"scores: {name}: expected low and high, the lower end first, or neither")


def _check_together(rows: Mapping[Path, Row]) -> None:
    """Check that rows of one board answer one question. Raises ``UserError``."""
    first: dict[Any, tuple[Path, Row]] = {}
    for path, row in rows.items():
        _compare(first.setdefault(row.board, (path, row)), (path, row))
        if not row.is_given:
            _compare(first.setdefault((row.board, RUN), (path, row)), (path, row))
        known, other = first.setdefault((row.board, row.kind, row.forget), (path, row))
        if (other.forget_digest, dict(other.points)) != (row.forget_digest, dict(row.points)):
            raise UserError(f"{path}: '{row.forget}' is another forget set than in {known}; expected the same points")
        known, other = first.setdefault((row.board, row.method), (path, row))
        if other.reference != row.reference:
            raise UserError(f"{path}: reference={json.dumps(row.reference)}, and not in {known}; expected one of both")


def _compare(known: tuple[Path, Row], own: tuple[Path, Row]) -> None:
    one, two = known[1].question, own[1].question
    shared = one.keys() & two.keys() if known[1].is_given or own[1].is_given else one.keys() | two.keys()
    for key in sorted(shared):
        if one.get(key) != two.get(key):
            here, there = (shown(question.get(key, "left out")) for question in (two, one))
            expected = "rows of one board differ in method and forget set alone"
            raise UserError(f"{own[0]}: {key} is {here}, and {there} in {known[0]}; {expected}")


def _slug(text: str) -> str:
    """Return a text as the name of a file."""
    return re.sub("[^A-Za-z0-9_]+", "-", text).strip("-")


def _written(key: str, value: Any) -> str:
    """Return a field as JSON: nested ones in a line for each name."""
    if isinstance(value, Mapping) and key in ("scores", "settings", "choices"):
        inside = [f"    {json.dumps(name)}: {_json(value[name])}" for name in sorted(value)]
        return "{\n" + ",\n".join(inside) + "\n  }" if inside else "{}"
    return _json(value)


def _json(value: Any) -> str:
    plain = {**value} if isinstance(value, Mapping) else value
    return json.dumps(plain, sort_keys=True, allow_nan=False, ensure_ascii=False)


def _is_numbers(value: object, names: Sequence[str]) -> bool:
    return isinstance(value, dict) and all(name in names and _is_number(one) for name, one in value.items())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 10**12


def _matches(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _texts(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    def is_right(value: object) -> bool:
        return isinstance(value, dict) and len(value) < 50 and all(map(_matches(pattern), (*value, *value.values())))

    return is_right


def _is_settings(value: object) -> bool:
    return isinstance(value, dict) and len(value) < 200


def _is_points(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == set(GROUPS) and all(map(_is_count, value.values()))


def _is_contents(value: object) -> bool:
    is_digest = _matches(re.compile(r"[0-9a-f]{64}(\.[A-Za-z0-9]{1,9})?"))
    return (
        isinstance(value, dict) and all(isinstance(key, str) for key in value) and all(map(is_digest, value.values()))
    )


def _is_command(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) < 5000 and value.isprintable()


_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {  # name → (whether a value is right, what is expected)
    "format": (lambda value: value == FORMAT, f"{FORMAT}"),
    "board": (_matches(_SLUG), "letters, digits, _ and -"),
    "method": (_matches(_NAME), "a name of at most 60 letters, digits and signs of .+_-"),
    "kind": (_matches(_SLUG), "letters, digits, _ and -"),
    "forget": (_matches(_FORGET), "a forget set as CHOICE key=value, in at most 100 letters"),
    "reference": (lambda value: isinstance(value, bool), "true or false"),
    "source": (lambda value: value in (RUN, ELSEWHERE), f"{RUN} or {ELSEWHERE}"),
    "run": (_matches(_RUN), "the name of a run's folder"),
    "id": (_matches(_ID), "ten hexadecimal digits, with which the name of a run's folder ends"),
    "forget_digest": (_matches(_DIGEST), "sixteen hexadecimal digits"),
    "points": (_is_points, f"a number of points for each of {', '.join(GROUPS)}"),
    "n_models": (_is_count, "a whole number"),
    "seed": (_is_count, "a whole number"),
    "scores": (lambda value: isinstance(value, dict) and value.keys() <= SCORES.keys(), f"scores such as {NEEDED[0]}"),
    "cost": (
        lambda value: _is_numbers(value, [name.removeprefix("cost/") for name in COSTS]),
        f"numbers by {', '.join(name.removeprefix('cost/') for name in COSTS)}",
    ),
    "choices": (_is_settings, "group → choice"),
    "settings": (_is_settings, "key → value"),
    "settings_from": (lambda value: value == "" or _matches(_FROM)(value), "the name of an experiment, or nothing"),
    "contents": (_is_contents, "key → digest of a file"),
    "made_with": (_texts(_FACT), "name → version"),
    "command": (_is_command, "one line"),
}  # fmt: skip
