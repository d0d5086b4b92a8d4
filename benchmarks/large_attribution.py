"""Group kriging with 50,000 training rows and 2,000 models, whose logits are on disk: time, and memory at its peak."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dmm_exp.attribution import Evidence, GroupKriging, SubsetModels
from dmm_exp.ensembles import RandomSubsets
from dmm_exp.pools import Known, WithoutClass, WithoutLevelSet, WithoutPart, answers_alike
from dmm_exp.store import Stacked
from dmm_exp.store.stacked import Piece

N_TRAIN, POINTS, CLASSES = 50_000, 51_000, 10
HALVES, ORIGINALS, SHARD = 1_100, 20, 100
DESIGNS = {"class": WithoutClass(100), "part": WithoutPart(300), "level": WithoutLevelSet(500)}
FORGET = 500
GIB = 1 << 30


def main() -> str:
    """Return the section of ``results.md``."""
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.large_attribution"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    found = json.loads(output.splitlines()[-1])
    members = sum(len(design) for design in DESIGNS.values())
    return "\n".join(
        [
            f"`GroupKriging` at its default settings, n = {N_TRAIN:,} rows, {POINTS:,} points, {CLASSES} classes, "
            f"{HALVES:,} models on halves, {members:,} by design, {ORIGINALS} originals. Numbers are random: only time "
            f"and memory mean something. The forget set has {FORGET} rows. Memory is what no file stands for, of the "
            "whole process.",
            "",
            "| | seconds | processor seconds | largest memory, GiB |",
            "|---|---|---|---|",
            *(f"| {name} | {wall:,.0f} | {cpu:,.0f} | {memory / GIB:.2f} |" for name, wall, cpu, memory in found),
        ]
    )


def _run() -> None:
    """Learn and predict in this process; print what it took as the last line."""
    found: list[tuple[str, float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        evidence = _evidence(Path(folder))
        with _measured("learn", found):
            learned = GroupKriging().learn(evidence)
        with _measured("predict a set", found):
            learned.effect(torch.arange(FORGET))
    print(json.dumps(found))


def _evidence(folder: Path) -> Evidence:
    """Return models whose answers are noise, and depend on their class's share."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (POINTS,), generator=draw)
    halves = RandomSubsets(N_TRAIN, 0.5, 0, complementary=True).masks(range(HALVES))
    memorization = torch.rand(N_TRAIN, generator=draw) ** 4
    margins = torch.randn(HALVES, POINTS, generator=draw)
    inputs = torch.randn(POINTS, 64, generator=draw)
    known = Known(N_TRAIN, labels, memorization, answers_alike(margins, halves), inputs)
    masks = torch.cat([design.masks(name, 0, known) for name, design in DESIGNS.items()])
    pool = SubsetModels(halves, _stored(folder / "halves", halves, labels, draw), 2, labels)
    by_design = SubsetModels(masks, _stored(folder / "designs", masks, labels, draw), labels=labels)
    originals = _answers(torch.ones(ORIGINALS, N_TRAIN, dtype=torch.bool), labels, draw)
    groups = torch.zeros(POINTS, dtype=torch.long)
    return Evidence(
        groups, N_TRAIN, pool=pool, designs=lambda: by_design, known=lambda: known, originals=originals.float()
    )


def _stored(folder: Path, masks: Tensor, labels: Tensor, draw: torch.Generator) -> Stacked:
    """Return logits of models as a pool keeps them: 16 bits, some members in a file."""
    folder.mkdir()
    pieces = []
    for number, part in enumerate(masks.split(SHARD)):
        path = folder / f"{number}.safetensors"
        save_file({"logits": _answers(part, labels, draw)}, path)
        pieces.append(Piece(path, 0, len(part)))
    return Stacked("logits", pieces)


def _answers(masks: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
    """Return logits ``[models, points, classes]`` float16."""
    logits = torch.randn(len(masks), POINTS, CLASSES, generator=draw)
    for label in range(CLASSES):
        share = masks[:, labels[:N_TRAIN] == label].float().mean(1)
        logits[:, labels == label, label] += 6 * share[:, None]
    return logits.half()


@contextmanager
def _measured(name: str, found: list[tuple[str, float, float, float]]) -> Iterator[None]:
    """Append a name, seconds, processor seconds and the largest anonymous memory of what happens inside."""
    largest, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line)
            largest[0] = max(largest[0], 1024 * int(line.split()[1]))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wall, cpu = time.perf_counter(), _processor_seconds()
    yield
    found.append((name, time.perf_counter() - wall, _processor_seconds() - cpu, largest[0]))
    ended.set()
    watcher.join()


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    _run()
