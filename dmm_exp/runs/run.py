"""One run: an experiment from its configuration to its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmm_exp.config.folders import config_directory, further_folders
from dmm_exp.config.identity import ARTIFACTS, identified
from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.config.parts import auto_parts, composed_parts
from dmm_exp.config.preflight import compose_forget_sets
from dmm_exp.config.ranges import check_config
from dmm_exp.config.scale import scaled_part
from dmm_exp.config.schema import Config, plain
from dmm_exp.console.progress import Console
from dmm_exp.console.tables import print_table
from dmm_exp.errors import storage_errors
from dmm_exp.evaluation import Evaluation
from dmm_exp.evaluation.attack import Attack
from dmm_exp.evaluation.audits import Audits
from dmm_exp.executors import shared_executor
from dmm_exp.files.digests import digest_of
from dmm_exp.pipeline import Context, Pipeline, Shared
from dmm_exp.pipeline.plan import planned
from dmm_exp.runs.aside import Aside
from dmm_exp.runs.audits import audit_data
from dmm_exp.runs.folder import folder_of, held, is_finished, write_config
from dmm_exp.runs.job import FinishedRun, Job, JobRequest
from dmm_exp.runs.outcome import collected, write_model, write_page
from dmm_exp.runs.plan import RunPlan, Totals, command, print_stages, print_totals, workers_of
from dmm_exp.runs.result import RunResult
from dmm_exp.runs.tables import headline_data, numbers_table
from dmm_exp.runs.words import narrative
from dmm_exp.search import search
from dmm_exp.search.assignment import assign
from dmm_exp.store import PlanningStore, Store

PipelineOf = Callable[[Config, Console], Pipeline]


class Run(Job):
    """One experiment."""

    def do(self, request: JobRequest) -> FinishedRun | None:
        """Do it, or print its plan; see :func:`run`."""
        config, choices, shared = request.config, request.choices, request.shared
        if config.dry_run and request.plans is not None:
            request.plans.add(request.overrides, config, choices)
            return None
        return run(config, choices, table=request.table, shared=shared, overrides=request.overrides)


@storage_errors()
def run(
    config: Config,
    choices: Mapping[str, str],
    *,
    table: bool = True,
    shared: Shared | None = None,
    overrides: Sequence[str] | None = None,
) -> FinishedRun | None:
    """Do one experiment; with ``dry_run`` print its plan and return None.

    With ``hparams_search`` the unlearner's settings are searched first.

    Args:
        config: the resolved configuration.
        choices: group → choice that it was composed of.
        table: whether to print the headline table on standard output.
        shared: with other runs of this process.
        overrides: of the command line, which a plan repeats; None for a run that has none.

    Raises:
        UserError: the configuration asks for what cannot be.
    """
    config, console = composed_parts(config), Console()
    check_config(config)
    if config.dry_run:
        _print_plan(Planner(console, shared).plan(config, choices), overrides)
        return None
    store = Store(_artifacts(config), console)
    pipeline = _pipeline(config, choices, console, shared or Shared(), store)
    attack, audits = Attack(pipeline), Audits(pipeline)
    for part in (pipeline, attack, audits):
        part.check()
    folder = folder_of(pipeline.context.config, choices)  # with the settings that a search found
    with held(folder, console):
        store.record_to(folder / ARTIFACTS)
        result = _run_in(folder, attack, choices, console)
    for data in (headline_data(result), audit_data(result)) if table else ():
        if data is not None:
            print_table(numbers_table(data))
    return FinishedRun(folder, result.metrics, result.checkpoints)


class Planner:
    """Plans runs, which share what is known of the store, and checks those once that differ in seed or forget set.

    Args:
        console: where notes go.
        shared: with other runs of this process.
    """

    def __init__(self, console: Console, shared: Shared | None) -> None:
        self._console, self._shared = console, replace(shared or Shared(), made={})
        self._stores: dict[Path, PlanningStore] = {}
        self._unlearners: dict[str, dict[str, Any]] = {}
        self._checked: set[str] = set()

    def plan(self, config: Config, choices: Mapping[str, str]) -> RunPlan:
        """Return what a run would do; nothing is made.

        Raises:
            UserError: the configuration asks for what cannot be.
        """
        store = self._stores.setdefault(config.outputs, PlanningStore(_artifacts(config), self._console))
        store.missing.clear()
        known = self._unlearners.setdefault(digest_of(config.scale), {})
        asked = replace(composed_parts(config, known), dry_run=True)
        identity = identified(asked)
        kind = digest_of({key: value for key, value in identity.items() if key not in ("seed", "forget")})
        is_new = kind not in self._checked
        if is_new:
            check_targets(asked)
        pipeline = _pipeline(asked, choices, self._console, self._shared, store)
        parts = (pipeline, Attack(pipeline), Audits(pipeline))
        for part in parts if is_new else ():
            part.check()
        self._checked.add(kind)
        if (config := pipeline.context.config) is not asked:  # a search, or a choice of parts, that comes first
            identity = identified(config)
        stages = [planned(stage, identity, store) for part in parts for stage in part.stages()]
        workers, folder = workers_of(config, pipeline.context.executor), folder_of(config, choices, identity)
        return RunPlan(config, identity, folder, is_finished(folder), stages, pipeline.models.chunks.pace, workers)


class Plans:
    """The plan of many runs: the command line of each, and what all need together.

    Args:
        shared: by the runs.
    """

    def __init__(self, shared: Shared | None = None) -> None:
        self._planner, self._totals = Planner(Console(quiet=True), shared), Totals()
        self._last: RunPlan | None = None

    def add(self, overrides: Sequence[str], config: Config, choices: Mapping[str, str]) -> None:
        """Print a run's command line, and add what it needs that no run before it needed.

        Args:
            overrides: of the run.
            config: what they compose to, checked.
            choices: group → choice.

        Raises:
            UserError: the configuration asks for what cannot be.
        """
        self._last = self._planner.plan(config, choices)
        print(f"{command(overrides)}{'  # finished before' if self._last.finished else ''}")
        self._totals.add(self._last)

    def finish(self) -> None:
        """Print what all runs need together, if there were any."""
        if self._last is not None:
            print_stages(self._totals)
            print_totals(self._totals, self._last)


def _artifacts(config: Config) -> Path:
    return config.outputs / "artifacts"


def _pipeline(config: Config, choices: Mapping[str, str], console: Console, shared: Shared, store: Store) -> Pipeline:
    """Return the pipeline of a configuration, whose settings are searched first where that is asked for."""
    executor = shared_executor(config.executor)

    def pipeline_of(config: Config, console: Console) -> Pipeline:
        return Pipeline(Context(config, store, executor, console, shared=shared))

    config = _assigned(_searched(config, choices, pipeline_of, console), pipeline_of, console)
    return pipeline_of(config, console)


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
    tracker = Aside(instantiate(config.logger, "logger"), console.warn)
    write_config(folder, config, choices, pipeline.context.examples.taken)
    tracker.start(folder.name, {**plain(config), "choices": dict(choices)}, folder)
    console.report_to(tracker)
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


def _print_plan(plan: RunPlan, overrides: Sequence[str] | None) -> None:
    totals = Totals()
    totals.add(plan)
    print_stages(totals)
    if overrides is not None:
        print(f"command: {command(overrides)}")
    print_totals(totals, plan)
    print(plan.folder)
