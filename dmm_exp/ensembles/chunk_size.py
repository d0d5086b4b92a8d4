"""How many members of an architecture train fastest together: measured where they will be trained."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dmm_exp.data import Examples
from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.memory import does_not_fit
from dmm_exp.ensembles.work import evaluation_copy, model_factory, read_examples, recipe
from dmm_exp.errors import UserError
from dmm_exp.store import Draft

AUTO = "auto"
CANDIDATES = (1, 2, 5, 10, 25, 50, 100, 200)
CLOSE = 1.05  # the smallest size within this factor of the fastest is chosen: small chunks spread over more workers
LEAST_SECONDS, LEAST_STEPS = 0.1, 3  # for each candidate
HOPELESS = 1.5  # a size this much slower than the fastest so far ends the search


@dataclass(frozen=True)
class MeasureJob:
    """Measure chunk sizes and write ``chunk_size.json``: the seconds of each, and the one chosen.

    Attributes:
        examples: folder of the dataset's artifact.
        model: configuration of the network.
        training: configuration of the recipe.
        trainer: configuration of the Lightning trainer.
        output: folder of the artifact in the making.
    """

    examples: Path
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    trainer: Mapping[str, Any]
    output: Path = Path()


def measure_chunk_size(job: MeasureJob) -> None:
    """Do a :class:`MeasureJob`."""
    examples = read_examples(job.examples)
    seconds = seconds_per_member(model_factory(job.model, examples), examples, job.training, job.trainer)
    found = {"chosen": fastest(seconds), "seconds": {str(size): value for size, value in seconds.items()}}
    Draft(job.output).write_json("chunk_size", found)


def said_of(found: Mapping[str, Any]) -> str:
    """Return what was found, in words."""
    alone, chosen = found["seconds"]["1"], found["seconds"][str(found["chosen"])]
    together = "members together are" if found["chosen"] > 1 else "member at a time is"
    gain = f", {alone / chosen:.1f} times as fast as one at a time" if found["chosen"] > 1 else ""
    return f"{found['chosen']} {together} fastest on this device ({1000 * chosen:.2g} ms a step and member{gain})"


def fastest(seconds: Mapping[int, float]) -> int:
    """Return the smallest chunk size that is nearly as fast, per member, as the fastest."""
    limit = CLOSE * min(seconds.values())
    return min(size for size, value in seconds.items() if value <= limit)


def seconds_per_member(
    build: Callable[[], nn.Module],
    examples: Examples,
    training: Mapping[str, Any],
    trainer: Mapping[str, Any],
    sizes: Sequence[int] = CANDIDATES,
) -> dict[int, float]:
    """Return the median seconds of one training step, divided by the members that take it, for rising chunk sizes.

    It ends early at a size that does not fit into memory, that the architecture refuses (dropout), or that is far
    slower than the best so far.
    """
    found: dict[int, float] = {}
    for size in sizes:
        try:
            found[size] = _seconds(build, examples, training, trainer, size) / size
        except UserError:
            if size == 1:
                raise
            break
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not does_not_fit(error):
                raise
            break
        if found[size] > HOPELESS * min(found.values()):
            break
    return found


def device_name(trainer: Mapping[str, Any]) -> str:
    """Return what a measurement holds for: the GPU's name, or the processor's."""
    if trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.processor() or platform.machine())}, {os.cpu_count()} cores"


def _seconds(
    build: Callable[[], nn.Module],
    examples: Examples,
    training: Mapping[str, Any],
    trainer: Mapping[str, Any],
    size: int,
) -> float:
    """Return the median seconds of a step of ``size`` members."""
    ensemble = evaluation_copy(Ensemble.initialise(build, range(size)), trainer).train()
    parts = recipe(training)
    optimizer = parts["optimizer"](ensemble.parameters())
    batch = min(parts["batch_size"], examples.n_train)
    points = torch.stack([torch.randperm(examples.n_train)[:batch] for _ in range(size)])
    inputs, labels = (values[points].to(ensemble.device) for values in (examples.inputs, examples.labels))
    mixed = str(trainer.get("precision", "32-true")).startswith("bf16")

    def step() -> float:
        begun = time.perf_counter()
        with torch.autocast(ensemble.device.type, torch.bfloat16, enabled=mixed):
            logits = ensemble(inputs).float()
        functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if ensemble.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    step()
    times = [step()]
    while len(times) < LEAST_STEPS or sum(times) < LEAST_SECONDS:
        times.append(step())
    return median(times)
