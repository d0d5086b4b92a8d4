"""What a finished pipeline leaves in a run's folder: metrics, tables, a model, and the page."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dmm_exp.compare.labels import method_of, newest, telling_keys
from dmm_exp.compare.runs import Run, runs_beside
from dmm_exp.config.identity import FORGET, MEMBERS, MODEL
from dmm_exp.config.schema import Config, plain
from dmm_exp.console.progress import Console
from dmm_exp.evaluation import Evaluation
from dmm_exp.evaluation.attack import Attack
from dmm_exp.evaluation.audits import Audits
from dmm_exp.evaluation.strong_ulira import StrongUlira
from dmm_exp.files.digests import digest_of
from dmm_exp.files.writing import write_json, write_table, write_tensors, write_text
from dmm_exp.pipeline import Pipeline
from dmm_exp.report.figures import shown
from dmm_exp.runs.page import REPORT, write_report
from dmm_exp.runs.result import OtherRun, RunResult
from dmm_exp.store.provenance import in_lines, provenance


def collected(
    folder: Path, evaluation: Evaluation, attack: Attack, choices: Mapping[str, str], console: Console
) -> RunResult:
    """Write the metrics, the tables of points and members, and the forget set; collect what reports show."""
    pipeline = evaluation.pipeline
    checkpoints = _checkpoints(folder, evaluation)
    metrics, points = evaluation.metrics, evaluation.points
    metrics |= _strong_attack(folder, attack, console)
    metrics |= Audits(pipeline).metrics
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
        provenance=in_lines(provenance()) | {"command": shlex.join(["python", "-m", "dmm_exp", *sys.argv[1:]])},
        history=_history(pipeline),
        checkpoints=checkpoints,
        members=evaluation.members,
        roc=evaluation.roc,
        others=_others(folder, pipeline.context.config, choices, metrics),
    )


def write_page(result: RunResult, folder: Path, evaluation: str, console: Console) -> None:
    """Write ``report.html``, unless it shows this very evaluation already."""
    others = [
        [run.name, run.method, {k: v for k, v in run.metrics.items() if "seconds" not in k}] for run in result.others
    ]
    shows = [evaluation, result.provenance.get("commit"), digest_of(others)]
    with console.stage("report", REPORT) as stage:
        stage.cached = shown(folder) == shows and (folder / REPORT).exists()
        if not stage.cached:
            write_report(result, folder, shows)


def write_model(folder: Path, pipeline: Pipeline) -> None:
    """Write the first unlearned model as a state dict of its network; what only predicts answers has none."""
    first = pipeline.unlearned.some_members(0, 0, 1)
    named = {name: name.removeprefix(kind) for name in first for kind in ("params/", "stats/") if name.startswith(kind)}
    state = {own.removeprefix("network."): first[name][0] for name, own in named.items()}
    if state:
        write_tensors(folder / MODEL, state)


def _others(folder: Path, config: Config, choices: Mapping[str, str], metrics: Mapping[str, float]) -> list[OtherRun]:
    """Return the finished runs beside this one that answer the same question, the newest of each method."""
    own = Run.of(folder, plain(config), choices, metrics, finished=time.time())
    beside = runs_beside(own)
    names = [method_of(run, keys) for run, keys in zip([own, *beside], telling_keys([own, *beside]), strict=True)]
    methods = {run.folder: name for run, name in zip(beside, names[1:], strict=True) if name != names[0]}
    kept, _ = newest([run for run in beside if run.folder in methods], list(methods.values()))
    return [OtherRun(run.folder.name, methods[run.folder], run.metrics) for run in kept]


def _strong_attack(folder: Path, attack: Attack, console: Console) -> dict[str, float]:
    """Do the strong form of U-LiRA if it is asked for, write its tables, and return its metrics."""
    if not attack.is_configured:
        return {}
    found = StrongUlira(attack)
    write_table(folder / "ulira.parquet", found.examples)
    write_table(folder / "ulira_roc.parquet", found.roc)
    console.note(found.sentence)
    return found.metrics


def _checkpoints(folder: Path, evaluation: Evaluation) -> dict[int, dict[str, float]]:
    """Evaluate an unlearner with several numbers of epochs at each of them, and write ``checkpoints.csv``."""
    pipeline, table = evaluation.pipeline, folder / "checkpoints.csv"
    if not pipeline.unlearners[-1].checkpoints:
        table.unlink(missing_ok=True)
        return {}
    found = {epoch: Evaluation(pipeline, epoch).metrics for epoch in pipeline.unlearners[-1].checkpoints}
    found[pipeline.unlearners[-1].epochs] = evaluation.metrics
    rows = [{"epoch": epoch, **metrics} for epoch, metrics in found.items()]
    write_text(table, pd.DataFrame(rows).to_csv(index=False))
    return found


def _history(pipeline: Pipeline) -> pd.DataFrame:
    """Return mean losses by stage and epoch, of what was trained for this run."""
    rows = []
    for stage, artifact in (("originals", pipeline.models.originals), ("unlearning", pipeline.unlearned)):
        curves = [facts["history"] for facts in artifact.shard_facts()]
        rows += [
            {"stage": stage, "epoch": epoch + 1, "loss": sum(losses) / len(losses)}
            for epoch, losses in enumerate(zip(*curves, strict=True))
        ]
    return pd.DataFrame(rows, columns=["stage", "epoch", "loss"])
