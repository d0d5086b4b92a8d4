"""Rows of the leaderboard from the folders of finished runs, and of models that were scored."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dmm_exp.compare.runs import read_run
from dmm_exp.config.identity import ARTIFACTS, FORGET
from dmm_exp.errors import UserError, reason_of
from dmm_exp.files.digests import digest_of
from dmm_exp.files.reading import Json, check_parquet, read_json
from dmm_exp.leaderboard.recipe import Recipe
from dmm_exp.leaderboard.rows import (
    ELSEWHERE,
    FORMAT,
    RUN,
    Row,
    costs_of,
    forget_digest,
    row_of,
    scores_of,
)
from dmm_exp.store.manifest import read_manifest
from dmm_exp.store.spec import SHORT

SCORE = "score.json"  # which `dmm-exp score` writes, and runs do not have
_ID = re.compile("__([0-9a-f]{10})$")
_FACTS = ("dmm_exp", "commit", "python", "device")
_PACKAGES = ("torch", "numpy")


@dataclass(frozen=True)
class Place:
    """Where a result belongs on the leaderboard; what is None is what the run itself says.

    Attributes:
        board: such as ``digits``; the dataset's choice.
        method: its name on the board; the unlearner's choice, with its refinement.
        kind: of forget set; the choice of ``forget``.
        forget: the exact forget set in words; the choice with its settings.
    """

    board: str | None = None
    method: str | None = None
    kind: str | None = None
    forget: str | None = None


def row_in(folder: Path, place: Place) -> Row:
    """Return the row of a run's folder, or of a folder of results of ``dmm-exp score``.

    Raises:
        UserError: it is neither, is damaged or unfinished, or no row may say how it was made.
    """
    try:
        return _row_of_score(folder, place) if (folder / SCORE).is_file() else _row_of_run(folder, place)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: cannot be read as a finished run ({reason_of(error)})") from error


def _row_of_run(folder: Path, place: Place) -> Row:
    run = read_run(folder)
    found = _ID.search(folder.resolve().name)
    if found is None:
        raise UserError("is no folder with the name of a run, which ends in __ and ten digits")
    recipe = Recipe.of(run.settings, run.choices)
    own = {key.removeprefix("forget."): value for key, value in recipe.settings.items() if key.startswith("forget.")}
    words = [f"{key}={value}" for key, value in own.items()]
    refinement = run.choices.get("refinement", "none")
    method = run.choices["unlearner"] + ("" if refinement == "none" else f" + {refinement}")
    return _checked(
        board=place.board or run.choices["dataset"],
        method=place.method or method,
        kind=place.kind or run.choices["forget"],
        forget=place.forget or " ".join([run.choices["forget"], *words]),
        reference=recipe.reference,
        source=RUN,
        run=folder.resolve().name,
        id=found[1],
        forget_digest=forget_digest(read_json(folder / FORGET)),
        points=_points(folder),
        n_models=run.settings["n_models"],
        seed=run.settings["seed"],
        scores=scores_of(run.metrics),
        cost=costs_of(run.metrics),
        choices=dict(recipe.choices),
        settings=dict(recipe.settings),
        settings_from=run.choices.get("experiment", ""),
        contents=dict(run.contents),
        made_with=_made_with(folder),
        command=recipe.command,
    )


def _row_of_score(folder: Path, place: Place) -> Row:
    given = {"board": place.board, "method": place.method, "kind": place.kind, "forget": place.forget}
    for name, value in given.items():
        if value is None:
            raise UserError(f"--{name}: is missing; models that were made elsewhere do not say it")
    score, metrics = read_json(folder / SCORE), read_json(folder / "metrics.json")
    table = _table(folder, ["point", "group"])
    points = table.loc[table["group"] == "forget", "point"].tolist()
    return _checked(
        **given,
        reference=False,
        source=ELSEWHERE,
        run=folder.resolve().name,
        id=digest_of([score, metrics])[:10],
        forget_digest=forget_digest(points),
        points=_points(folder),
        n_models=score["n_models"],
        seed=score["seed"],
        scores=scores_of(metrics),
        cost={},
        choices={},
        settings={},
        settings_from="",
        contents={},
        made_with={},
        command=f"dmm-exp score unlearned=FILE … method={place.method}",
    )


def _checked(**found: Any) -> Row:
    """Return a row that is read as it was written."""
    return row_of({"format": FORMAT, **found})


def _points(folder: Path) -> dict[str, int]:
    """Return how many points each group has."""
    counts = Counter(_table(folder, ["group"])["group"])
    return {name: int(counts[name]) for name in ("forget", "retain", "val")}


def _table(folder: Path, columns: list[str]) -> pd.DataFrame:
    check_parquet(folder / "points.parquet")
    return pd.read_parquet(folder / "points.parquet", columns=columns)


def _made_with(folder: Path) -> dict[str, str]:
    """Return versions and device from the manifest of the run's evaluation; nothing where it is gone."""
    place = folder.resolve().parents[1] / "artifacts" / "evaluation"
    for digest in reversed(read_json(folder / ARTIFACTS)):
        try:
            return _facts(read_manifest(place / str(digest)[:SHORT]))
        except (OSError, ValueError):
            continue
    return {}


def _facts(manifest: Mapping[str, Any] | Json) -> dict[str, str]:
    own = {name: str(manifest[name]) for name in _FACTS if manifest.get(name)}
    return own | {name: str(manifest["packages"][name]) for name in _PACKAGES if name in manifest["packages"]}
