"""How long it takes to say what a leaderboard or a study would do, before anything is made."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from statistics import median

from benchmarks.timing import processor_seconds

EXPERIMENTS = ("leaderboard_digits", "rum_digits")
ROUNDS = 3
WANTED = 10  # seconds


def main() -> str:
    """Return the section of ``results.md``."""
    rows = []
    for experiment in EXPERIMENTS:
        found = [_plan(experiment) for _ in range(ROUNDS)]
        wall, cpu = (median(values) for values in list(zip(*found, strict=True))[:2])
        rows.append(f"| {experiment} | {found[0][2]} | {wall:.1f} | {cpu:.1f} | {'yes' if wall <= WANTED else 'NO'} |")
    return "\n".join(
        [
            f"`python -m dmm_exp experiment=NAME dry_run=true`, whole processes on an empty store, medians of {ROUNDS} "
            f"(wanted: at most {WANTED} s of wall time).",
            "",
            "| experiment | runs | wall seconds | processor seconds | as wanted |\n|---|---|---|---|---|",
            *rows,
        ]
    )


def _plan(experiment: str) -> tuple[float, float, int]:
    """Return wall and processor seconds of a plan, and its number of runs."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"experiment={experiment}", "dry_run=true", f"paths.outputs={folder}"]
        wall, cpu = time.perf_counter(), processor_seconds()
        done = subprocess.run([sys.executable, "-m", "dmm_exp", *words], check=True, capture_output=True, text=True)
    runs = sum(line.startswith("python -m dmm_exp ") for line in done.stdout.splitlines())
    return time.perf_counter() - wall, processor_seconds() - cpu, runs


if __name__ == "__main__":
    print(main())
