"""Measures the chunk size and the engine with which members train fastest, on the device where they will be trained."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from math import inf, isfinite
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmm_exp.config.schema import Plain
from dmm_exp.data import Examples
from dmm_exp.ensembles.chain import NOT_A_CHAIN, Layer, chain_of
from dmm_exp.ensembles.engine import ACCEPTED, AUTO, Engine
from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.fused_step import FusedStep, towards
from dmm_exp.ensembles.memory import does_not_fit, in_fitting_parts
from dmm_exp.ensembles.optimisation import replayable
from dmm_exp.ensembles.seeds import global_numbers, seed_torch
from dmm_exp.ensembles.steps import WARM_UP, CudaGraphs, Replayed
from dmm_exp.ensembles.work import model_factory, read_examples, recipe, uses_gpu
from dmm_exp.errors import UserError
from dmm_exp.files.reading import Json
from dmm_exp.store import Draft

CANDIDATES = (1, 2, 5, 10, 25, 50, 100, 200)
CLOSE = 1.05  # the smallest size within this factor of the fastest is chosen: small chunks can use more workers
LEAST_SECONDS, LEAST_STEPS = 0.1, 3  # of measurement for each candidate
HOPELESS = 1.5  # a size slower than the fastest by this factor, twice, ends the search
ROUNDS, MOST_ROUNDS = 2, 6  # in which sizes that may be the fastest are measured again in turn: others use the machine
SAME = 0.05  # largest relative difference between the losses of an engine and the plain engine after a few steps


@dataclass(frozen=True)
class MeasureJob:
    """Measure chunk sizes and engines, and write ``chunk_size.json``: the seconds of each, and what was chosen.

    Attributes:
        examples: folder of the dataset's artifact.
        model: configuration of the network.
        training: configuration of the recipe.
        trainer: configuration of the Lightning trainer, its engine included.
        size: the only chunk size to measure; None for all candidates.
        output: folder of the unfinished artifact.
    """

    examples: Path
    model: Plain
    training: Plain
    trainer: Plain
    size: int | None = None
    output: Path = Path()


def measure_chunk_size(job: MeasureJob) -> None:
    """Run a :class:`MeasureJob`."""
    examples = read_examples(job.examples)
    build = model_factory(job.model, examples)
    measured = Measurement(build, examples, job.training, job.trainer)
    results = list(measured.everything(job.size))
    Draft(job.output).write_json("chunk_size", chosen_among(results) | {"left out": measured.left_out})


def chosen_among(results: Sequence[tuple[Engine, Mapping[int, float]]]) -> Json:
    """Return the fastest engine, the best chunk size for it, and all measurements.

    Args:
        results: for every engine, the seconds for a step of one member, by chunk size; at least one.
    """
    engine, seconds = min(results, key=lambda result: min(result[1].values()))
    return {
        "chosen": fastest(seconds),
        "engine": asdict(replace(engine, measured=True)),
        "seconds": {str(size): value for size, value in seconds.items()},
        "measured": {one.words(): {str(size): value for size, value in found.items()} for one, found in results},
    }


def in_words(found: Json) -> str:
    """Return the result of a measurement in words."""
    chosen = found["seconds"][str(found["chosen"])]
    together = "members together are" if found["chosen"] > 1 else "member at a time is"
    alone = [seconds["1"] for seconds in found["measured"].values() if "1" in seconds]
    gain = f", {alone[0] / chosen:.1f} times as fast as one at a time" if found["chosen"] > 1 and alone else ""
    several = f" by {Engine(**found['engine']).words()}" if len(found["measured"]) > 1 else ""
    without = "".join(f"; left out: {words} ({reason})" for words, reason in found.get("left out", {}).items())
    time = f"{1000 * chosen:.2g} ms a step and member{gain}"
    return f"{found['chosen']} {together} fastest on this device{several} ({time}){without}"


def _alike(loss: float, right: float) -> bool:
    """Return whether two losses are equal up to rounding; where training diverges, neither is finite."""
    return abs(loss - right) <= SAME * abs(right) if isfinite(right) else not isfinite(loss)


def fastest(seconds: Mapping[int, float]) -> int:
    """Return the smallest chunk size that is nearly as fast per member as the fastest one."""
    limit = CLOSE * min(seconds.values())
    return min(size for size, value in seconds.items() if value <= limit)


def device_name(trainer: Plain) -> str:
    """Return the name of the GPU or the processor, for which a measurement is valid."""
    if uses_gpu(trainer):
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.processor() or platform.machine())}, {os.cpu_count()} cores"


class Measurement:
    """Times training steps of an architecture on the device that a trainer uses.

    Args:
        build: makes a network.
        examples: the dataset.
        training: configuration of the recipe.
        trainer: configuration of the Lightning trainer; its engine says which choices are open.

    Attributes:
        left_out: by engine in words, why it was not considered.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        examples: Examples,
        training: Plain,
        trainer: Plain,
    ) -> None:
        self.build, self.parts = build, recipe(training)
        self.device = torch.device("cuda" if uses_gpu(trainer) else "cpu")
        self.asked = Engine.of(trainer)
        self.mixed = str(trainer.get("precision", "32-true")).startswith("bf16")
        self.alone = trainer.get("strategy", "auto") == "auto" and trainer.get("accumulate_grad_batches", 1) == 1
        self.left_out: dict[str, str] = {}
        self.inputs, self.labels = examples.inputs[: examples.n_train], examples.labels[: examples.n_train]

    @cached_property
    def network(self) -> nn.Module:
        """A network that each member begins with: how fast members train does not depend on their numbers."""
        with torch.random.fork_rng(devices=[]):
            seed_torch(0)
            return self.build()

    def engines(self) -> list[Engine]:
        """Return the engines to measure, plain ones first; an engine that was asked for is the only one."""
        options = {
            "step": ("eager", "graph") if self._recordable() else ("eager",),
            "members": self._members(),
            "memory": ("rows", "channels_last") if self.inputs.ndim == 4 else ("rows",),
        }
        kept = {
            key: options[key] if getattr(self.asked, key) == AUTO else (getattr(self.asked, key),) for key in ACCEPTED
        }
        engines = [
            Engine(**dict(zip(kept, values, strict=True)))
            for values in product(*kept.values())
            if values[1] == "apart" or (values[2] != "channels_last" and values[:2] != ("graph", "fused"))
        ]
        on_host = self.device.type == "cpu" and self.asked.members == AUTO
        # on a CPU members run one after another, so that only channels last may be faster than the plain engine
        return [engine for engine in engines if not on_host or (engine.members != "apart") == (engine.memory == "rows")]

    def everything(self, size: int | None) -> Iterator[tuple[Engine, dict[int, float]]]:
        """Yield every engine that trains correctly, and its seconds for a step of one member, by chunk size.

        The first engine is the plain one, whose errors are raised. Errors of others are kept in ``left_out``.
        """
        right: list[float] = []
        for number, engine in enumerate(self.engines()):
            sizes = CANDIDATES if self.device.type == "cuda" or engine.members != "apart" else CANDIDATES[:1]
            try:
                losses = self.losses(engine)
                right = right or losses
                wrong = [pair for pair in zip(losses, right, strict=True) if not _alike(*pair)]
                if not wrong:
                    yield engine, self._of_size(engine, size) if size else self.seconds_per_member(engine, sizes)
                else:
                    loss, wanted = wrong[-1]
                    self.left_out[engine.words()] = f"its loss after a few steps is {loss:.4g} instead of {wanted:.4g}"
            except (UserError, RuntimeError) as error:
                if number == 0:
                    raise
                self.left_out[engine.words()] = str(error).splitlines()[0]

    def losses(self, engine: Engine) -> list[float]:
        """Return the losses of one member in the first and the last of a few steps, to compare engines.

        At the recipe's full learning rate the last loss may not be finite, although the recipe itself works, since it
        begins with a smaller rate.
        """
        with global_numbers(0):
            step = self._steps(engine, 1)
            found = [float(step()) for _ in range(WARM_UP + 2)]
        return [found[0], found[-1]]

    def seconds_per_member(self, engine: Engine, sizes: Sequence[int] = CANDIDATES) -> dict[int, float]:
        """Return the seconds of one training step, divided by the members that take it, for rising chunk sizes.

        The search ends at a size that does not fit into memory, that is impossible for the architecture (dropout), or
        that is far slower than the best size so far, also when both are measured again. Other programs can only make a
        measurement longer, so the shortest of several, taken in turn, counts. While a further one changes the choice,
        there is another.
        """
        found: dict[int, float] = {}

        def measure(size: int) -> None:
            found[size] = min(found.get(size, inf), self._seconds(engine, size) / size)

        for size in sizes:
            try:
                measure(size)
            except UserError:
                if size == sizes[0]:
                    raise
                break
            except (RuntimeError, MemoryError) as error:
                if size == sizes[0] or not does_not_fit(error):
                    raise
                break
            if found[size] > HOPELESS * min(found.values()):
                measure(size)
            if found[size] > HOPELESS * min(found.values()):
                break
        for number in range(MOST_ROUNDS if len(found) > 1 else 0):
            before, limit = fastest(found), HOPELESS * min(found.values())
            for size in [size for size, seconds in found.items() if seconds <= limit]:
                measure(size)
            if number + 1 >= ROUNDS and fastest(found) == before:
                break
        return found

    def _of_size(self, engine: Engine, size: int) -> dict[int, float]:
        """Return the seconds for a step of one member at one chunk size; a chunk that does not fit is halved."""
        parts = in_fitting_parts(lambda members: self._seconds(engine, len(members)), range(size))
        return {size: sum(parts) / size}

    def _seconds(self, engine: Engine, size: int) -> float:
        """Return the seconds of a step of ``size`` members: the shortest of several."""
        step = self._steps(engine, size)
        # Of one thread the time on the processor counts: what other programs take of it says nothing.
        clock = time.process_time if self.device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

        def timed() -> float:
            begun = clock()
            step()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            return clock() - begun

        for _ in range(WARM_UP + 1 if engine.step == "graph" else 1):
            step()
        times = [timed()]
        while len(times) < LEAST_STEPS or sum(times) < LEAST_SECONDS:
            times.append(timed())
        return min(times)

    def _steps(self, engine: Engine, size: int) -> Callable[[], Tensor]:
        """Return a function that takes a step of ``size`` members on fixed batches, and returns their mean loss."""
        ensemble = Ensemble.stack([self.network] * size).to(self.device).use(engine).train()
        options = (replayable(self.parts["optimizer"]) or {}) if engine.step == "graph" else {}
        optimizer = self.parts["optimizer"](ensemble.parameters(), **options)
        batch = min(self.parts["batch_size"], len(self.labels))
        orders = (torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(i)) for i in range(size))
        points = torch.stack([order[:batch] for order in orders])
        inputs, labels = (values[points].to(self.device) for values in (self.inputs, self.labels))
        if engine.members == "fused":
            fused = FusedStep(ensemble, self._layers(ensemble), optimizer)
            return lambda: fused(inputs, towards(labels)).mean()
        mean = torch.zeros((), device=self.device)

        def step(_: Tensor) -> int:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
                logits = ensemble(inputs).float()
            losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            (losses.sum() / batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            mean.copy_(losses.detach().mean())
            return batch

        taken = Replayed(step, CudaGraphs()) if engine.step == "graph" else step

        def once() -> Tensor:
            taken(points)
            return mean

        return once

    def _layers(self, ensemble: Ensemble) -> list[Layer]:
        """Return the layers of networks whose steps are fused.

        Raises:
            UserError: they cannot be.
        """
        layers = chain_of(ensemble, self.inputs.shape[1:])
        if not self._plain_host or layers is None:
            reason = NOT_A_CHAIN if layers is None else "needs a CPU, 32-true and a trainer without processes"
            raise UserError(f"engine.members=fused: {reason}; use engine.members=together, or auto")
        return layers

    @property
    def _plain_host(self) -> bool:
        """Whether the device, the precision and the trainer allow fused steps."""
        return self.device.type == "cpu" and not self.mixed and self.alone

    def _members(self) -> tuple[str, ...]:
        """Return how members may be trained, plainly first; of linear layers alone fused steps are always faster."""
        layers = chain_of(Ensemble.stack([self.network]), self.inputs.shape[1:]) if self._plain_host else None
        if layers is None:
            return "together", "apart"
        convolved = any(layer.convolution is not None for layer in layers)
        return ("together", "fused", "apart") if convolved else ("fused", "apart")

    def _recordable(self) -> bool:
        """Return whether steps of this recipe can be recorded on this device."""
        return self.device.type == "cuda" and self.alone and replayable(self.parts["optimizer"]) is not None
