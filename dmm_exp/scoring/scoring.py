"""Arrays in, a folder of results out: metrics, tables and a page as a run has them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dmm_exp.config.identity import MEMBERS
from dmm_exp.config.schema import EvaluationConfig, Plain
from dmm_exp.console.progress import Console
from dmm_exp.errors import UserError, storage_errors
from dmm_exp.evaluation.outputs import FEWEST_FOR_INTERVALS
from dmm_exp.evaluation.scored import Scored
from dmm_exp.files.writing import write_json, write_table
from dmm_exp.metrics import mia, split_half_floor
from dmm_exp.metrics.klom_floor import FEWEST_FOR_SPLIT
from dmm_exp.metrics.settings import klom_options_of
from dmm_exp.metrics.single import FEWEST_FOR_OUTSIDE
from dmm_exp.metrics.tow import GROUPS
from dmm_exp.runs.page import write_report
from dmm_exp.runs.result import RunResult
from dmm_exp.runs.words import narrative
from dmm_exp.scoring.given import Given
from dmm_exp.store.provenance import in_lines, versions
from dmm_exp.store.temporary import temporary_folder

SCORE = "score.json"


@dataclass(frozen=True)
class Scoring:
    """How models are scored.

    Attributes:
        given: the models.
        evaluation: settings of KLoM and of membership inference.
        klom: the choice of ``evaluation/klom``.
        seed: of the draws of membership inference.
    """

    given: Given
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    klom: str = "default"
    seed: int = 0

    def scored(self) -> Scored:
        """Return the scores."""
        labels = self.given.labels
        known = {} if labels is None else {"label": labels}
        attacks = self._attacks if self.given.has_attack else None
        return Scored(self.given.outputs(), self.given.groups, known, klom_options_of(self.evaluation), attacks)

    def _attacks(self) -> dict[str, np.ndarray]:
        """Return the score of membership inference on every member, by ensemble."""
        assert self.given.labels is not None
        labels, groups, options = self.given.labels, self.given.groups, self.evaluation.mia
        return {name: mia(logits, labels, groups, seed=self.seed, **options)
                for name, logits in self.given.ensembles.items()}  # fmt: skip

    def metrics(self, scored: Scored) -> dict[str, float]:
        """Return ``metrics.json``; with one ensemble of retrained models, its floor of KLoM by halves."""
        return {**scored.metrics(), **({} if "floor" in scored.outputs else self._floor_by_halves(scored))}

    def _floor_by_halves(self, scored: Scored) -> dict[str, float]:
        """Return the floor's 95th percentile of every group, and the one that was measured between halves."""
        found: dict[str, float] = {}
        for name, points in scored.points_of.items() if scored.members >= FEWEST_FOR_SPLIT else ():
            floor = split_half_floor(scored.outputs["oracle"].margins[:, points], **scored.klom_options)[0.95]
            found |= {f"klom_floor/{name}/p95": floor.at_full, f"klom_floor/{name}/p95_of_halves": floor.at_half}
        return found

    def notes(self, scored: Scored) -> list[str]:
        """Return sentences on what was taken as what, and on what is left out."""
        no_floor, few = "floor" not in scored.outputs, scored.members < FEWEST_FOR_SPLIT
        logits, missing = self.given.has_logits, [name for name in GROUPS if name not in scored.points_of]
        with_them = ", and with them tug-of-war and membership inference" if logits else ""
        no_intervals, no_shares = scored.members < FEWEST_FOR_INTERVALS, scored.members < FEWEST_FOR_OUTSIDE
        said = [
            (no_floor and few, f"There is no floor: estimating one takes {FEWEST_FOR_SPLIT} retrained models."),
            (no_floor and not few, "KLoM's floor is an estimate from halves of the retrained models, and other scores "
                                   "have none: there is no second ensemble of retrained models."),
            ("original" not in scored.outputs, "Doing nothing is left out: there are no originals."),
            (not logits, "Accuracies, tug-of-war and membership inference are left out: they need logits and labels."),
            (bool(missing), f"Scores on {' and '.join(missing)} points are left out{with_them}: there are none."),
            (no_intervals, f"Intervals and single networks are left out: they take {FEWEST_FOR_INTERVALS} models."),
            (no_shares and not no_intervals, "How many points a single network is outside on is left out: it takes "
                                             f"{FEWEST_FOR_OUTSIDE} models."),
        ]  # fmt: skip
        return [*self.given.notes, *(sentence for applies, sentence in said if applies)]


def result_of(scoring: Scoring, name: str, method: str, command: str, inputs: Plain) -> RunResult:
    """Return all that a page shows.

    Args:
        scoring: of the models.
        name: of the folder of results.
        method: what made the unlearned models.
        command: that was given.
        inputs: what was read, in plain values.
    """
    scored = scoring.scored()
    settings = {"klom": scoring.evaluation.klom, "mia": scoring.evaluation.mia}
    return RunResult(
        name=name,
        config={**inputs, "n_models": scored.members, "evaluation": settings, "seed": scoring.seed},
        choices={"unlearner": method, "evaluation/klom": scoring.klom},
        metrics=scoring.metrics(scored),
        points=scored.table_of_points(),
        margins={name: np.asarray(outputs.margins) for name, outputs in scored.outputs.items()},
        images=np.zeros((len(scored.groups), 0), np.float32),
        class_names=[],
        stages=[],
        provenance=in_lines(versions()) | {"command": command},
        history=pd.DataFrame(columns=["stage", "epoch", "loss"]),
        members=scored.table_of_members(),
        roc=scored.curves(),
        notes=scoring.notes(scored),
    )


def check_output(folder: Path) -> None:
    """Raise ``UserError`` unless results can be written to a folder: there is none, or it is empty."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"output={folder}: is there already; expected a new folder, or an empty one")
    above = next(place for place in folder.absolute().parents if os.path.lexists(place))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"output={folder}: {above} is no folder that can be written to; expected another place")


def write(result: RunResult, folder: Path, console: Console) -> None:
    """Write ``metrics.json``, tables, ``score.json`` and the page; the folder appears whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    folder = folder.absolute()  # "." has no name
    with storage_errors("output"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder.parent, ".score.") as place:
            made = place / folder.name
            made.mkdir()
            warnings = narrative(result).warnings
            write_json(made / "metrics.json", result.metrics)
            write_table(made / "points.parquet", result.points)
            assert result.members is not None
            write_table(made / MEMBERS, result.members)
            write_json(made / SCORE, {**result.config, "notes": list(result.notes), "warnings": warnings})
            write_report(result, made)
            os.replace(made, folder)
    for note in result.notes:
        console.note(note)
    for warning in warnings:
        console.warn(warning)
