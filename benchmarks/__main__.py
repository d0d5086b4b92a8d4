"""Run benchmarks and write their sections of ``results.md``: ``python -m benchmarks [NAME ...]``; all, unless named."""

from __future__ import annotations

import datetime
import importlib
import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("results.md")
NAMES = (
    "klom",
    "klom_coverage",
    "training",
    "fused",
    "same_distribution",
    "resnet9",
    "workers",
    "scheduling",
    "main_job",
    "plans",
    "datamodels",
    "large_attribution",
    "trak_features",
    "chunk_memory",
    "scale",
    "request",
)
HEAD = """# Benchmarks

What `make bench` measured last (`make bench ARGS=klom` for one of them). A speed is a ratio of two ways that are run in
turn in one process, with a check that both give the same answer; its median over pairs is what counts, and milliseconds
belong to the machine.
"""


def main(names: list[str]) -> int:
    """Run the named benchmarks; a section that was not run stays as it is."""
    if unknown := [name for name in names if name not in NAMES]:
        print(f"There is no benchmark '{unknown[0]}'; expected {' or '.join(NAMES)}.", file=sys.stderr)
        return 2
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else HEAD
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    for name in names or NAMES:
        found = importlib.import_module(f"benchmarks.{name}").main()
        sections[name] = f"\n{_circumstances()}\n\n{found}\n\n"
        print(f"## {name}\n{sections[name]}", flush=True)
        body = "".join(f"## {known}\n{sections[known]}" for known in NAMES if known in sections)
        RESULTS.write_text(f"{HEAD}\n{body}".rstrip() + "\n", encoding="utf-8")
    return 0


def _circumstances() -> str:
    """Return date, machine and versions in one line."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "numpy", "scipy"))
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return (
        f"{datetime.date.today()}; {cores} shared {platform.machine()} CPU cores, load {load:.0f} at the end; "
        f"Python {platform.python_version()}, {packages}."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
