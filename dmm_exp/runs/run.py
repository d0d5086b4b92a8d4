"""One run: its folder, its log, its status, its results."""

from __future__ import annotations

import gc
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmm_exp.config.identity import ARTIFACTS, CHOICES, CONTENTS, FORGET, MEMBERS, MODEL, contents, run_name
from dmm_exp.config.schema import Config, plain
from dmm_exp.errors import printable, storage_errors
from dmm_exp.files.digests import digest_of
from dmm_exp.files.reading import read_json
from dmm_exp.files.writing import write_json, write_table, write_tensors, write_text

if TYPE_CHECKING:
    from dmm_exp.console.progress import Console
    from dmm_exp.evaluation import Evaluation
    from dmm_exp.evaluation.attack import Attack
    from dmm_exp.pipeline import LastLearned, Pipeline
    from dmm_exp.pipeline.plan import PlannedStage
    from dmm_exp.runs.result import OtherRun, RunResult

    PipelineOf = Callable[[Config, Console], Pipeline]


@dataclass(frozen=True)
class FinishedRun:
    """Where a run's results are, and its headline numbers.

    Attributes:
        folder: the run's.
        metrics: ``metrics.json``.
        checkpoints: metrics by number of epochs, of an unlearner with several; the last are those of ``metrics``.
    """

    folder: Path
    metrics: dict[str, float]
    checkpoints: dict[int, dict[str, float]]


@storage_errors()
def run(
    config: Config, choices: Mapping[str, str], *, table: bool = True, learned: LastLearned | None = None
) -> FinishedRun | None:
    """Do one experiment; with ``dry_run`` print its plan and return None.

    With ``hparams_search`` the unlearner's settings are searched first.

    Args:
        config: the resolved configuration.
        choices: group → choice that it was composed of.
        table: whether to print the headline table on standard output.
        learned: what an estimator learnt last, for runs that share it.

    Raises:
        UserError: the configuration asks for what cannot be.
    """
    from dmm_exp.config.instantiate import check_targets
    from dmm_exp.config.ranges import check_ranges
    from dmm_exp.console.progress import Console
    from dmm_exp.search.assignment import composed_parts
    from dmm_exp.store import Store

    check_ranges(config)
    config = composed_parts(config)
    executor = _executor(config, choices)
    with _without_collections():
        from dmm_exp.console.tables import print_table
        from dmm_exp.evaluation.attack import Attack
        from dmm_exp.pipeline import Context, LastLearned, Pipeline
        from dmm_exp.pipeline.plan import planned
        from dmm_exp.runs.tables import headline

        check_targets(config)
    console = Console()
    store = Store(config.outputs / "artifacts", console, read_only=config.dry_run)
    learned = learned or LastLearned()

    def pipeline_of(config: Config, console: Console) -> Pipeline:
        return Pipeline(Context(config, store, executor, console), learned=learned)

    config = _assigned(_searched(config, choices, pipeline_of, console), pipeline_of, console)
    pipeline = pipeline_of(config, console)
    attack = Attack(pipeline)
    pipeline.check()
    attack.check()
    if config.dry_run:
        _print_plan([planned(stage) for stage in (*pipeline.stages(), *attack.stages())])
        return None
    folder = folder_of(config, choices)
    with _holding(folder, console):
        store.record_to(folder / ARTIFACTS)
        result = _run_in(folder, attack, choices, console)
    if table:
        print_table(headline(result))
    return FinishedRun(folder, result.metrics, result.checkpoints)


def folder_of(config: Config, choices: Mapping[str, str]) -> Path:
    """Return the folder of a run."""
    return config.outputs / "runs" / run_name(config, choices)


def _executor(config: Config, choices: Mapping[str, str]) -> Any:
    """Return what trains members; its workers import torch while this process does."""
    from dmm_exp.config.instantiate import check_targets
    from dmm_exp.executors import shared_executor

    check_targets(config.executor, "executor")
    executor = shared_executor(config.executor)
    if not config.dry_run and not is_finished(folder_of(config, choices)):
        executor.warm_up()
    return executor


@contextmanager
def _without_collections() -> Iterator[None]:
    """Keep Python's garbage collector from going through what is being imported, which holds none."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _searched(config: Config, choices: Mapping[str, str], pipeline_of: PipelineOf, console: Console) -> Config:
    """Return the configuration with the unlearner's best settings on ``forget_tuning``, and without the search."""
    if not config.hparams_search:
        return config
    from dmm_exp.config.folders import config_directory, further_folders
    from dmm_exp.config.instantiate import instantiate
    from dmm_exp.config.preflight import compose_forget_sets
    from dmm_exp.config.scale import scaled_part
    from dmm_exp.console.progress import Console
    from dmm_exp.search import search

    without = replace(config, hparams_search=None, forget_tuning=[])
    if config.dry_run:
        console.note("settings would be searched first; the plan is that of the settings as they are")
        return without
    folder, quiet = config_directory(), Console(quiet=True)
    tuning = compose_forget_sets(folder, config.forget_tuning)
    found = search(
        without,
        choices["unlearner"],
        instantiate(config.hparams_search),
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
    from dmm_exp.console.progress import Console
    from dmm_exp.search.assignment import assign, auto_parts

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
    from dmm_exp.config.instantiate import instantiate
    from dmm_exp.evaluation import Evaluation
    from dmm_exp.runs.words import narrative

    pipeline, config = attack.pipeline, attack.context.config
    tracker = instantiate(config.logger)
    _write_config(folder, config, choices, pipeline.context.examples.taken)
    tracker.start(folder.name, {**plain(config), "choices": dict(choices)}, folder)
    try:
        pipeline.make()
        evaluation = Evaluation(pipeline)
        result = _result(folder, evaluation, attack, choices, console)
        for warning in narrative(result).warnings:
            console.warn(warning)
        if config.evaluation.report:
            _report(result, folder, evaluation.artifact.digest, console)
            _write_model(folder, pipeline)
        tracker.finish(result)
    except BaseException as error:
        tracker.fail(f"{type(error).__name__}: {error}")
        raise
    if config.evaluation.report:
        console.note(f"report: {folder / 'report.html'}")
    return result


def _report(result: RunResult, folder: Path, evaluation: str, console: Console) -> None:
    """Write ``report.html``, unless it shows this very evaluation already."""
    from dmm_exp.report.figures import shown
    from dmm_exp.runs.page import REPORT, write_report

    others = [
        [run.name, run.method, {k: v for k, v in run.metrics.items() if "seconds" not in k}] for run in result.others
    ]
    shows = [evaluation, result.provenance.get("commit"), digest_of(others)]
    with console.stage("report", REPORT) as stage:
        stage.cached = shown(folder) == shows and (folder / REPORT).exists()
        if not stage.cached:
            write_report(result, folder, shows)


def _write_model(folder: Path, pipeline: Pipeline) -> None:
    """Write the first unlearned model as a state dict of its network; what only predicts answers has none."""
    first = pipeline.unlearned.some_members(0, 0, 1)
    named = {name: name.removeprefix(kind) for name in first for kind in ("params/", "stats/") if name.startswith(kind)}
    state = {own.removeprefix("network."): first[name][0] for name, own in named.items()}
    if state:
        write_tensors(folder / MODEL, state)


def _result(
    folder: Path, evaluation: Evaluation, attack: Attack, choices: Mapping[str, str], console: Console
) -> RunResult:
    """Write the metrics, the tables of points and members, and the forget set; collect what reports show."""
    from dmm_exp.runs.result import RunResult

    pipeline = evaluation.pipeline
    checkpoints = _checkpoints(folder, evaluation)
    metrics, points = evaluation.metrics, evaluation.points
    metrics |= _strong_attack(folder, attack, console)
    for stage in console.stages:
        metrics[f"seconds/{stage.name.replace(' ', '_')}"] = round(stage.seconds, 3)
        metrics[f"seconds/{stage.name.replace(' ', '_')}/cached"] = float(stage.cached)
    write_json(folder / "metrics.json", metrics)
    write_table(folder / "points.parquet", points)
    write_table(folder / MEMBERS, evaluation.members)
    write_json(folder / FORGET, pipeline.forget.tolist())
    return RunResult(
        name=folder.name,
        config=plain(pipeline.context.config),
        choices=dict(choices),
        metrics=metrics,
        points=points,
        margins={name: outputs.margins for name, outputs in evaluation.outputs.items()},
        images=pipeline.context.examples.inputs.numpy(),
        class_names=pipeline.context.examples.class_names,
        stages=list(console.stages),
        provenance=_provenance(),
        history=_history(pipeline),
        checkpoints=checkpoints,
        members=evaluation.members,
        roc=evaluation.roc,
        others=_others(folder, pipeline.context.config, choices, metrics),
    )


def _others(folder: Path, config: Config, choices: Mapping[str, str], metrics: Mapping[str, float]) -> list[OtherRun]:
    """Return the finished runs beside this one that answer the same question, the newest of each method."""
    from dmm_exp.compare.labels import method_of, newest, telling_keys
    from dmm_exp.compare.runs import Run, runs_beside
    from dmm_exp.runs.result import OtherRun

    own = Run.of(folder, plain(config), choices, metrics, finished=time.time())
    beside = runs_beside(own)
    names = [method_of(run, keys) for run, keys in zip([own, *beside], telling_keys([own, *beside]), strict=True)]
    methods = {run.folder: name for run, name in zip(beside, names[1:], strict=True) if name != names[0]}
    kept, _ = newest([run for run in beside if run.folder in methods], list(methods.values()))
    return [OtherRun(run.folder.name, methods[run.folder], run.metrics) for run in kept]


def _strong_attack(folder: Path, attack: Attack, console: Console) -> dict[str, float]:
    """Do the strong form of U-LiRA if it is asked for, write its tables, and return its metrics."""
    from dmm_exp.evaluation.strong_ulira import StrongUlira

    if not attack.is_configured:
        return {}
    found = StrongUlira(attack)
    write_table(folder / "ulira.parquet", found.examples)
    write_table(folder / "ulira_roc.parquet", found.roc)
    console.note(found.sentence)
    return found.metrics


def _checkpoints(folder: Path, evaluation: Evaluation) -> dict[int, dict[str, float]]:
    """Evaluate an unlearner with several numbers of epochs at each of them, and write ``checkpoints.csv``."""
    import pandas as pd

    from dmm_exp.evaluation import Evaluation

    pipeline, table = evaluation.pipeline, folder / "checkpoints.csv"
    if not pipeline.unlearners[-1].checkpoints:
        table.unlink(missing_ok=True)
        return {}
    found = {epoch: Evaluation(pipeline, epoch).metrics for epoch in pipeline.unlearners[-1].checkpoints}
    found[pipeline.unlearners[-1].epochs] = evaluation.metrics
    rows = [{"epoch": epoch, **metrics} for epoch, metrics in found.items()]
    write_text(table, pd.DataFrame(rows).to_csv(index=False))
    return found


def _history(pipeline: Pipeline) -> Any:
    """Return mean losses by stage and epoch, of what was trained for this run."""
    import pandas as pd

    rows = []
    for stage, artifact in (("originals", pipeline.models.originals), ("unlearning", pipeline.unlearned)):
        curves = [facts["history"] for facts in artifact.shard_facts()]
        rows += [
            {"stage": stage, "epoch": epoch + 1, "loss": sum(losses) / len(losses)}
            for epoch, losses in enumerate(zip(*curves, strict=True))
        ]
    return pd.DataFrame(rows, columns=["stage", "epoch", "loss"])


def _provenance() -> dict[str, str]:
    from dmm_exp.store.provenance import provenance

    facts = provenance()
    flat = {name: str(value) for name, value in facts.items() if value is not None and name != "packages"}
    return flat | facts["packages"] | {"command": shlex.join(["python", "-m", "dmm_exp", *sys.argv[1:]])}


def _write_config(folder: Path, config: Config, choices: Mapping[str, str], taken: Sequence[str] = ()) -> None:
    """Write the resolved configuration so that it can be run again as it was, and what data were taken as what."""
    from dmm_exp.config.rerun import text_of
    from dmm_exp.config.trust import needed

    trusted = [word for package in needed(plain(config)) for word in ("--trust", package)]
    again = shlex.join(["python", "-m", "dmm_exp", "--config-path", str(folder), *trusted])
    comments = "".join(f"# {printable(' '.join(line.split()))}\n" for line in (f"run it again: {again}", *taken))
    write_text(folder / "config.yaml", comments + text_of(plain(config), choices))
    write_json(folder / CHOICES, dict(choices))
    if named := contents(config):
        write_json(folder / CONTENTS, named)


def is_finished(folder: Path) -> bool:
    """Say whether a run's folder is that of a run that ended well."""
    try:
        return read_json(folder / "status.json")["state"] == "finished"
    except (OSError, ValueError, LookupError, TypeError):
        return False


@contextmanager
def _holding(folder: Path, console: Console) -> Iterator[None]:
    """Hold a run's folder: two processes with the same experiment take turns. Keeps ``status.json`` up to date."""
    from dmm_exp.store.lock import Lock

    def waiting(holder: str) -> None:
        console.note(f"waiting for {holder}, which is doing this very run")

    started = time.time()

    def status(state: str, **more: Any) -> None:
        write_json(folder / "status.json", {"state": state, "started": started, "updated": time.time(), **more})

    with Lock(folder / ".lock", waiting):
        console.log_to(folder / "run.log")
        try:
            status("running")
            yield
            status("finished")
        except KeyboardInterrupt:
            status("interrupted")
            raise
        except BaseException as error:
            status("failed", error=f"{type(error).__name__}: {error}")
            raise


def _print_plan(stages: list[PlannedStage]) -> None:
    from dmm_exp.console.tables import print_table, text_table

    rows = [["stage", "state", "models", "sample gradients"]]
    for stage in stages:
        state = "exists, would be reused" if stage.exists else "would be made"
        state += f", {stage.taken_over:,} models taken over" if stage.taken_over else ""
        todo = ("", "") if stage.exists else (f"{stage.models:,}", f"{stage.sample_gradients:.2g}")
        rows.append([stage.name.replace("_", " "), state, *todo])
    print_table(text_table("plan (nothing was made)", rows, words=2))


def resolved(config: Any) -> Config:
    """Return what Hydra composed, resolved and typed, within the bounds of ``scale``."""
    from omegaconf import OmegaConf

    from dmm_exp.config.scale import scaled

    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return Config.of(scaled({str(key): value for key, value in container.items()}))
