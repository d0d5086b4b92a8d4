"""A convex experiment: exact solutions of every setting, all methods compared with them, tables and a page."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from dmm_exp import __version__
from dmm_exp.config.convex import SEEDS, ConvexConfig, SettingConfig, settings_of
from dmm_exp.config.instantiate import check_targets
from dmm_exp.config.ranges import check_ranges
from dmm_exp.config.schema import Config, plain
from dmm_exp.console.progress import Console
from dmm_exp.convex.methods import METHODS, make_task, run_method
from dmm_exp.convex.page import print_convex, write_page
from dmm_exp.convex.problems import Loss, make_problem
from dmm_exp.convex.rates import facts_of, floors_of, spectra_of, summary_of
from dmm_exp.errors import UserError
from dmm_exp.files.digests import digest_of
from dmm_exp.files.reading import Json, check_parquet, read_json
from dmm_exp.files.writing import write_json, write_table, write_text
from dmm_exp.runs.job import Job, JobRequest

LEADING = ["setting", "method", "schedule", "multiple", "distance", "excess", "reached", "gradients_to_1e-6"]


@dataclass(frozen=True)
class SettingResult:
    """The results in one setting.

    Attributes:
        name: of the setting.
        facts: the quantities that theory uses.
        methods: one row for each method and schedule.
        floors: one row for each step size of SGD.
        spectra: cumulative shares by eigenvalue.
        curves: one row for each method, schedule, record and seed.
    """

    name: str
    facts: dict[str, float]
    methods: list[Json]
    floors: list[dict[str, float]]
    spectra: list[Json]
    curves: pd.DataFrame


class Convex(Job):
    """The job of a convex experiment."""

    key = "convex"

    def do(self, request: JobRequest) -> Path:
        """Compute every missing setting; see :func:`run_convex`."""
        if request.config.convex.loss is None:
            raise UserError("job=convex: convex.loss has no value; expected an experiment such as convex_ridge")
        return run_convex(request.config, request.overrides)


def run_convex(config: Config, overrides: Sequence[str]) -> Path:
    """Compute every missing setting, print the table, and return the experiment's folder.

    With ``dry_run`` the settings are listed and nothing is computed.

    Args:
        config: the resolved configuration, with the experiment in ``config.convex``.
        overrides: of the command line.

    Raises:
        UserError: a value is out of range.
    """
    check_ranges(config)
    check_targets(config.convex, "convex")
    convex, console, folder = config.convex, Console(), _folder(config)
    settings = settings_of(convex)
    if config.dry_run:
        for name, setting in settings.items():
            print(f"{name}: {', '.join(f'{key}={value}' for key, value in asdict(setting).items())}")
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    results: list[SettingResult] = []
    for name, setting in settings.items():
        with console.stage("setting", name) as stage:
            path = folder / "settings" / name
            found = _kept(path, name)
            stage.cached = found is not None
            if found is None:
                _keep(path, compute(name, setting, convex, config.seed))
                found = _kept(path, name)
            assert found is not None
            results.append(found)
    _write(results, folder, convex, shlex.join(["python", "-m", "dmm_exp", *overrides]))
    return folder


def compute(name: str, setting: SettingConfig, convex: ConvexConfig, seed: int) -> SettingResult:
    """Draw a setting's problems, solve them, and run every method.

    Args:
        name: of the setting.
        setting: the setting.
        convex: the configuration ``convex``.
        seed: of the configuration, from which the seeds of all problems follow.
    """
    shown = range(SEEDS * seed, SEEDS * seed + convex.repeats)
    tuned = range(SEEDS * seed + SEEDS // 2, SEEDS * seed + SEEDS // 2 + convex.tuning_repeats)
    task, tuning = (
        make_task(make_problem(setting, cast(Loss, convex.loss), seeds), seeds, convex.pool) for seeds in (shown, tuned)
    )
    found = [one for method in METHODS for one in run_method(method, task, tuning, convex)]
    curves = [
        pd.DataFrame(
            {
                "setting": name,
                "method": one.method,
                "schedule": one.schedule,
                "step": np.repeat(one.at, len(shown)),
                "gradients": np.repeat(one.at * one.descent.samples, len(shown)),
                "seed": np.tile(shown, len(one.at)),
                "distance": one.distance.ravel(),
                "excess": one.excess.ravel(),
            }
        )
        for one in found
    ]
    steps = max(100, convex.passes * len(task.problem.retained) // convex.batch)
    return SettingResult(
        name,
        facts_of(task),
        [summary_of(task, one) for one in found],
        floors_of(task, convex.batch, steps),
        spectra_of(task),
        pd.concat(curves, ignore_index=True),
    )


def _keep(path: Path, result: SettingResult) -> None:
    """Write a setting's results; the JSON file is written last and shows that both files are complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path.with_suffix(".parquet"), result.curves)
    kept = {key: getattr(result, key) for key in ("facts", "methods", "floors", "spectra")}
    write_json(path.with_suffix(".json"), _without_nan(kept))


def _kept(path: Path, name: str) -> SettingResult | None:
    """Return a setting that an earlier experiment finished, even if that experiment was interrupted."""
    try:
        kept = read_json(path.with_suffix(".json"))
        check_parquet(path.with_suffix(".parquet"))
        curves = pd.read_parquet(path.with_suffix(".parquet"))
        rows = [{key: np.nan if value is None else value for key, value in row.items()} for row in kept["methods"]]
        return SettingResult(name, kept["facts"], rows, kept["floors"], kept["spectra"], curves)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _without_nan(value: Any) -> Any:
    """Return plain containers with None in place of NaN and infinities."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _write(results: Sequence[SettingResult], folder: Path, convex: ConvexConfig, command: str) -> None:
    """Write tables, figures and the page, and print the headline table."""
    rows = [{"setting": result.name, **result.facts, **row} for result in results for row in result.methods]
    table = pd.DataFrame(rows)
    table = table.reindex(columns=[*LEADING, *(column for column in table if column not in LEADING)])
    floors = pd.DataFrame([{"setting": result.name, **row} for result in results for row in result.floors])
    write_table(folder / "table.parquet", table)
    write_text(folder / "table.csv", table.to_csv(index=False))
    write_text(folder / "floors.csv", floors.to_csv(index=False))
    curves = pd.concat([result.curves for result in results], ignore_index=True)
    write_table(folder / "curves.parquet", curves)
    spectra = {result.name: result.spectra for result in results}
    page = write_page(folder, convex.title, command, convex.repeats, table, floors, spectra, curves)
    print_convex(table)
    print(f"  page: {page}", file=sys.stderr)


def _folder(config: Config) -> Path:
    """Return the folder of an experiment, which depends on its configuration alone."""
    outputs = config.outputs
    identity = digest_of({"convex": plain(config.convex), "seed": config.seed, "package": __version__})
    return outputs / "convex" / f"{config.convex.loss}__{identity[:10]}"
