"""One run: an experiment from its configuration to its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from dmm_exp.config.folders import config_directory, further_folders
from dmm_exp.config.identity import ARTIFACTS
from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.config.parts import auto_parts, composed_parts
from dmm_exp.config.preflight import compose_forget_sets
from dmm_exp.config.ranges import check_ranges
from dmm_exp.config.scale import scaled_part
from dmm_exp.config.schema import Config, plain
from dmm_exp.console.progress import Console
from dmm_exp.console.tables import print_table, text_table
from dmm_exp.errors import storage_errors
from dmm_exp.evaluation import Evaluation
from dmm_exp.evaluation.attack import Attack
from dmm_exp.evaluation.audits import Audits
from dmm_exp.executors import shared_executor
from dmm_exp.pipeline import Context, Pipeline, Shared
from dmm_exp.pipeline.plan import PlannedStage, planned
from dmm_exp.runs.audits import audit_data
from dmm_exp.runs.folder import folder_of, held, write_config
from dmm_exp.runs.job import FinishedRun, Job, JobRequest
from dmm_exp.runs.outcome import collected, write_model, write_page
from dmm_exp.runs.result import RunResult
from dmm_exp.runs.tables import headline_data, numbers_table
from dmm_exp.runs.words import narrative
from dmm_exp.search import search
from dmm_exp.search.assignment import assign
from dmm_exp.store import Store

PipelineOf = Callable[[Config, Console], Pipeline]


class Run(Job):
    """One experiment."""

    def do(self, request: JobRequest) -> FinishedRun | None:
        """Do it, or print its plan; see :func:`run`."""
        return run(request.config, request.choices, table=request.table, shared=request.shared)


@storage_errors()
def run(
    config: Config, choices: Mapping[str, str], *, table: bool = True, shared: Shared | None = None
) -> FinishedRun | None:
    """Do one experiment; with ``dry_run`` print its plan and return None.

    With ``hparams_search`` the unlearner's settings are searched first.

    Args:
        config: the resolved configuration.
        choices: group → choice that it was composed of.
        table: whether to print the headline table on standard output.
        shared: with other runs of this process.

    Raises:
        UserError: the configuration asks for what cannot be.
    """
    check_ranges(config)
    config = composed_parts(config)
    check_targets(config)
    console, shared = Console(), shared or Shared()
    store = Store(config.outputs / "artifacts", console, read_only=config.dry_run)
    executor = shared_executor(config.executor)

    def pipeline_of(config: Config, console: Console) -> Pipeline:
        return Pipeline(Context(config, store, executor, console, shared=shared))

    config = _assigned(_searched(config, choices, pipeline_of, console), pipeline_of, console)
    pipeline = pipeline_of(config, console)
    attack, audits = Attack(pipeline), Audits(pipeline)
    for part in (pipeline, attack, audits):
        part.check()
    if config.dry_run:
        _print_plan([planned(stage) for stage in (*pipeline.stages(), *attack.stages(), *audits.stages())])
        return None
    folder = folder_of(config, choices)
    with held(folder, console):
        store.record_to(folder / ARTIFACTS)
        result = _run_in(folder, attack, choices, console)
    for data in (headline_data(result), audit_data(result)) if table else ():
        if data is not None:
            print_table(numbers_table(data))
    return FinishedRun(folder, result.metrics, result.checkpoints)


def _searched(config: Config, choices: Mapping[str, str], pipeline_of: PipelineOf, console: Console) -> Config:
    """Return the configuration with the unlearner's best settings on ``forget_tuning``, and without the search."""
    if not config.hparams_search:
        return config
    without = replace(config, hparams_search=None, forget_tuning=[])
    if config.dry_run:
        console.note("settings would be searched first; the plan is that of the settings as they are")
        return without
    folder, quiet = config_directory(), Console(quiet=True)
    tuning = compose_forget_sets(folder, config.forget_tuning)
    found = search(
        without,
        choices["unlearner"],
        instantiate(config.hparams_search, "hparams_search"),
        {text: scaled_part("forget", forget, config) for text, forget in tuning.items()},
        lambda changed: pipeline_of(changed, quiet),
        console,
        Path(next(iter(further_folders()), folder)),
    )
    console.note(f"best of {len(found.trials)} settings: {found.best.settings} ({abs(found.best.value):.3f})")
    console.note(f"settings: {found.table}; trials: {found.folder / 'trials.csv'}")
    return replace(without, unlearner=found.unlearner)


def _assigned(config: Config, pipeline_of: PipelineOf, console: Console) -> Config:
    """Return the configuration with an unlearner for every part that left the choice to us."""
    if not auto_parts(config):
        return config
    if config.dry_run:
        console.note("the parts' unlearners would be chosen first; the plan is that of the run's own unlearner")
        own = {name: {"unlearner": None} for name in auto_parts(config)}
        return replace(config, refinement={**config.refinement, **own})
    quiet = Console(quiet=True)
    found, _ = assign(config, lambda changed: pipeline_of(changed, quiet), console)
    return found


def _run_in(folder: Path, attack: Attack, choices: Mapping[str, str], console: Console) -> RunResult:
    pipeline, config = attack.pipeline, attack.context.config
    tracker = instantiate(config.logger, "logger")
    write_config(folder, config, choices, pipeline.context.examples.taken)
    tracker.start(folder.name, {**plain(config), "choices": dict(choices)}, folder)
    try:
        pipeline.make()
        evaluation = Evaluation(pipeline)
        result = collected(folder, evaluation, attack, choices, console)
        for warning in narrative(result).warnings:
            console.warn(warning)
        if config.evaluation.report:
            write_page(result, folder, evaluation.artifact.digest, console)
            write_model(folder, pipeline)
        tracker.finish(result)
    except BaseException as error:
        tracker.fail(f"{type(error).__name__}: {error}")
        raise
    if config.evaluation.report:
        console.note(f"report: {folder / 'report.html'}")
    return result


def _print_plan(stages: list[PlannedStage]) -> None:
    rows = [["stage", "state", "models", "sample gradients"]]
    for stage in stages:
        state = "exists, would be reused" if stage.exists else "would be made"
        state += f", {stage.taken_over:,} models taken over" if stage.taken_over else ""
        todo = ("", "") if stage.exists else (f"{stage.models:,}", f"{stage.sample_gradients:.2g}")
        rows.append([stage.name.replace("_", " "), state, *todo])
    print_table(text_table("plan (nothing was made)", rows, words=2))
