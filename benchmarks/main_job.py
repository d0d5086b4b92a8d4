"""The main job, cold; another unlearner after it; and how long a command takes to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.processes import Cost, watch
from benchmarks.timing import processor_seconds

MAIN = ("unlearner=dmm", "forget=rum_high_mem")
OTHERS = ("finetune", "neggrad_plus", "scrub")
KEPT = ("pool", "larger_pool", "scores", "originals", "oracles", "floor_oracles")
WITHIN = ("attack",)  # stages that are part of another one, the evaluation
ROUNDS = 5
STARTS = {
    "`python -c pass`": (["-c", "pass"], None),
    "`import dmm_exp`": (["-c", "import dmm_exp"], 0.3),
    "`python -m dmm_exp --help`": (["-m", "dmm_exp", "--help"], 0.5),
    "`python -m dmm_exp unlearner=scurb`": (["-m", "dmm_exp", "unlearner=scurb"], 0.5),
    "`import torch`": (["-c", "import torch"], None),
    "`import lightning`": (["-c", "import lightning"], None),
}
REFUSED = {"`python -m dmm_exp unlearner=scurb`": 2}  # commands that end with another exit code than 0


def main() -> str:
    """Return the section of ``results.md``."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        cold, stages = _job(outputs, *MAIN)
        again = watch(_command(outputs, *MAIN))
        learning = _learning(outputs)
        later = {name: _job(outputs, f"unlearner={name}", MAIN[1]) for name in OTHERS}
    repeated = f"The same command again: {again.wall:.1f} s of wall time (wanted: at most 4)."
    return "\n".join([*_cold(cold, stages), "", repeated, "", learning, "", *_later(cold, later), "", *_starts()])


def _job(outputs: Path, *overrides: str) -> tuple[Cost, dict[str, tuple[float, bool]]]:
    """Run a job and return what it cost, and stage → (wall seconds, whether it was reused)."""
    before = set(outputs.glob("runs/*"))
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    cost = watch(_command(outputs, *overrides), environment)
    (folder,) = set(outputs.glob("runs/*")) - before
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    names = (name.removeprefix("seconds/").removesuffix("/cached") for name in metrics if name.endswith("/cached"))
    stages = [name for name in names if name not in WITHIN]
    return cost, {name: (metrics[f"seconds/{name}"], metrics[f"seconds/{name}/cached"] == 1) for name in stages}


def _command(outputs: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "dmm_exp", *overrides, f"paths.outputs={outputs}"]


def _cold(cost: Cost, stages: dict[str, tuple[float, bool]]) -> list[str]:
    """Return what the main job cost, and the table of its stages."""
    rest = cost.wall - sum(seconds for seconds, _ in stages.values())
    rows = [f"| {name.replace('_', ' ')} | {seconds:.1f} |" for name, (seconds, _) in stages.items()]
    return [
        f"`python -m dmm_exp {' '.join(MAIN)}` on an empty store, once: {cost.wall:.0f} s of wall time (wanted: at "
        f"most 60), {cost.cpu:.0f} processor seconds in all processes (wanted: at most 100), so that it got "
        f"{cost.cpu / cost.wall:.2f} cores; at most {cost.peak / 1e9:.2f} GB held at once, shared pages counted once "
        "(wanted: at most 1.6).",
        "",
        "| stage | wall seconds |\n|---|---|",
        *rows,
        f"| imports, the report and the rest | {rest:.1f} |",
    ]


def _learning(outputs: Path) -> str:
    """Return what the estimator takes to learn from the pool of the main job, and to predict one forget set."""
    from dmm_exp.config.folders import config_directory
    from dmm_exp.config.preflight import check_overrides
    from dmm_exp.console.progress import Console
    from dmm_exp.executors import shared_executor
    from dmm_exp.pipeline import Context, Pipeline
    from dmm_exp.store import Store

    (config,) = check_overrides(config_directory(), [*MAIN, f"paths.outputs={outputs}"])
    console = Console(quiet=True)
    context = Context(config, Store(config.outputs / "artifacts", console), shared_executor(config.executor), console)
    pipeline = Pipeline(context)
    evidence, estimator, seconds = pipeline.effects.source.evidence(pipeline.forget), pipeline.effects.estimator, []
    for _ in range(2):  # the first one allocates
        start = time.process_time()
        learned = estimator.learn(evidence)
        middle = time.process_time()
        learned.effect(pipeline.forget.indices)
        seconds.append((middle - start, time.process_time() - middle))
    learn, predict = map(min, zip(*seconds, strict=True))
    return (
        f"`{type(estimator).__name__}` learns from this pool in {learn:.1f} processor seconds (wanted: at most 10) and "
        f"predicts the effect of the forget set in {predict:.2f} (wanted: at most 1)."
    )


def _later(cold: Cost, later: dict[str, tuple[Cost, dict[str, tuple[float, bool]]]]) -> list[str]:
    """Return the table of other unlearners on the same forget set.

    Raises:
        ArithmeticError: one of them trained anew what was there.
    """
    rows = []
    for name, (cost, stages) in later.items():
        if anew := [stage for stage in KEPT if stage in stages and not stages[stage][1]]:
            raise ArithmeticError(f"unlearner={name} made {', '.join(anew)} anew")
        rows.append(
            f"| {name} | {cost.wall:.1f} | {cost.wall / cold.wall:.1%} | {cost.cpu:.1f} | {cost.cpu / cold.cpu:.1%} | "
            f"{stages['unlearning'][0]:.1f} |"
        )
    return [
        "Other unlearners after it, on the same forget set; nothing is trained again (wanted: at most 12 processor "
        "seconds).",
        "",
        "| unlearner | wall seconds | of the first run's | processor seconds | of the first run's | unlearning, wall |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def _starts() -> list[str]:
    """Return the table of how long commands take to start."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    for _ in range(ROUNDS + 1):
        for name, (arguments, _) in STARTS.items():
            wall, cpu = time.perf_counter(), processor_seconds()
            done = subprocess.run([sys.executable, *arguments], check=False, capture_output=True)
            if done.returncode != REFUSED.get(name, 0):
                raise ChildProcessError(f"{name} ended with {done.returncode}")
            times[name].append((time.perf_counter() - wall, processor_seconds() - cpu))
    rows = []
    for name, (_, limit) in STARTS.items():
        wall, cpu = (median(values) for values in zip(*times[name][1:], strict=True))
        wanted = "–" if limit is None else f"{limit:g}: {'yes' if cpu <= limit else 'NO'}"
        rows.append(f"| {name} | {cpu:.2f} | {wall:.2f} | {wanted} |")
    return [
        f"Whole processes, in turn, medians of {ROUNDS}; what is wanted is held against processor seconds.",
        "",
        "| command | processor seconds | wall seconds | wanted, at most |\n|---|---|---|---|",
        *rows,
    ]


if __name__ == "__main__":
    print(main())
