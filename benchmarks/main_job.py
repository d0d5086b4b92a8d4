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
    "`python -m dmm_exp --help`": (["-m", "dmm_exp", "--help"], 1.5),
    "`import torch`": (["-c", "import torch"], None),
    "`import lightning`": (["-c", "import lightning"], None),
}


def main() -> str:
    """Return the section of ``results.md``."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        cold, stages = _job(outputs, *MAIN)
        later = {name: _job(outputs, f"unlearner={name}", MAIN[1]) for name in OTHERS}
    return "\n".join([*_cold(cold, stages), "", *_later(cold, later), "", *_starts()])


def _job(outputs: Path, *overrides: str) -> tuple[Cost, dict[str, tuple[float, bool]]]:
    """Run a job and return what it cost, and stage → (wall seconds, whether it was reused)."""
    before = set(outputs.glob("runs/*"))
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    cost = watch([sys.executable, "-m", "dmm_exp", *overrides, f"paths.outputs={outputs}"], environment)
    (folder,) = set(outputs.glob("runs/*")) - before
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    names = (name.removeprefix("seconds/").removesuffix("/cached") for name in metrics if name.endswith("/cached"))
    stages = [name for name in names if name not in WITHIN]
    return cost, {name: (metrics[f"seconds/{name}"], metrics[f"seconds/{name}/cached"] == 1) for name in stages}


def _cold(cost: Cost, stages: dict[str, tuple[float, bool]]) -> list[str]:
    """Return what the main job cost, and the table of its stages."""
    rest = cost.wall - sum(seconds for seconds, _ in stages.values())
    rows = [f"| {name.replace('_', ' ')} | {seconds:.1f} |" for name, (seconds, _) in stages.items()]
    return [
        f"`python -m dmm_exp {' '.join(MAIN)}` on an empty store, once: {cost.wall:.0f} s of wall time (wanted: at "
        f"most 60), {cost.cpu:.0f} processor seconds in all processes, so that it got {cost.cpu / cost.wall:.2f} "
        f"cores; at most {cost.peak / 1e9:.2f} GB held at once, shared pages counted once (wanted: at most 2).",
        "",
        "| stage | wall seconds |\n|---|---|",
        *rows,
        f"| imports, the report and the rest | {rest:.1f} |",
    ]


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
        "Other unlearners after it, on the same forget set; nothing is trained anew (wanted: at most 10 % of the first "
        "run's time).",
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
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
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
