"""Peak memory of training a chunk of members, beside the formula of ``docs/performance.md``."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmm_exp.data import Examples, Normalisation
from dmm_exp.ensembles import Ensemble
from dmm_exp.ensembles.training import EnsembleTraining
from dmm_exp.ensembles.work import trainer_factory
from dmm_exp.models import CNN, MLP

FEW, MANY = 2, 10  # members of the two chunks whose difference is taken
BATCH, STEPS, CLASSES = 128, 4, 10
WORKING = 3  # times its largest tensor is what a step needs beside: found on these cases, not derived
MIB = 1 << 20
TRAINER = {
    "_target_": "lightning.pytorch.Trainer",
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@dataclass(frozen=True)
class Case:
    """A network, its input, and an optimizer with so many values of state for each parameter."""

    network: type[nn.Module]
    options: dict[str, Any]
    input_shape: tuple[int, ...]
    optimizer: partial[torch.optim.Optimizer]
    states: int

    def build(self) -> nn.Module:
        """Return a fresh network."""
        return self.network(self.input_shape, CLASSES, **self.options)


CASES = {
    "MLP 784-1024-1024-10, SGD with momentum": Case(
        MLP, {"hidden": [1024, 1024]}, (1, 28, 28), partial(torch.optim.SGD, lr=0.01, momentum=0.9), 1
    ),
    "MLP 784-1024-1024-10, Adam": Case(
        MLP, {"hidden": [1024, 1024]}, (1, 28, 28), partial(torch.optim.Adam, lr=0.001), 2
    ),
    "CNN 32-64 with BatchNorm on 3×32×32, SGD with momentum": Case(
        CNN,
        {"channels": [32, 64], "batch_norm": True},
        (3, 32, 32),
        partial(torch.optim.SGD, lr=0.01, momentum=0.9),
        1,
    ),
}


def main() -> str:
    """Return the section of ``results.md``."""
    return "\n".join(
        [
            f"Peak resident memory of a process that trains {FEW} and {MANY} members on batches of {BATCH}, on a CPU "
            "with one thread; their difference, for each member, beside the formula of `docs/performance.md`.",
            "",
            f"| chunk | parameters, gradients, state | activations | {WORKING} × largest tensor | formula | measured | "
            "measured ÷ formula |",
            "|---|---|---|---|---|---|---|",
            *(_row(name, case) for name, case in CASES.items()),
            "",
            f"The process without members (Python, torch, Lightning): {_peak('') / MIB:.0f} MiB.",
        ]
    )


def _row(name: str, case: Case) -> str:
    parameters = [4 * value.numel() for value in case.build().parameters()]
    kept = kept_bytes(case.build(), case.input_shape)
    parts = [sum(parameters) * (2 + case.states), sum(kept), WORKING * max(*parameters, *kept)]
    measured = (_peak(name, MANY) - _peak(name, FEW)) / (MANY - FEW)
    cells = [f"{value / MIB:.1f} MiB" for value in (*parts, sum(parts), measured)]
    return f"| {name} | {' | '.join(cells)} | {measured / sum(parts):.2f} |"


def kept_bytes(network: nn.Module, input_shape: tuple[int, ...]) -> list[int]:
    """Return the bytes of every tensor that one member's forward pass keeps for its backward; nothing is computed."""
    network = network.to("meta")
    own = {value.untyped_storage()._cdata for value in network.state_dict(keep_vars=True).values()}
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        if value.untyped_storage()._cdata not in own:
            kept[value.untyped_storage()._cdata] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        network(torch.empty(BATCH, *input_shape, device="meta"))
    return [value.untyped_storage().nbytes() for value in kept.values()]


def _peak(*arguments: object) -> int:
    """Return the peak resident bytes of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.chunk_memory", *map(str, arguments)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _train(case: Case, members: int) -> None:
    """Train a chunk for a few steps."""
    points = BATCH * STEPS
    examples = Examples(
        inputs=torch.rand(points, *case.input_shape),
        labels=torch.randint(CLASSES, (points,)),
        n_train=points,
        class_names=[str(number) for number in range(CLASSES)],
        normalisation=Normalisation(1.0, [0.0], [1.0]),
        corrupted=torch.zeros(points, dtype=torch.bool),
    )
    module = EnsembleTraining(
        subsets=torch.arange(points).repeat(members, 1),
        epochs=1,
        batch_size=BATCH,
        optimizer=case.optimizer,
        schedule=None,
    )
    ensemble = Ensemble.initialise(case.build, range(members))
    module.attach(ensemble, examples, seed=0, role="original", members=range(members))
    module.fit(trainer_factory(TRAINER))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(main())
    else:
        torch.set_num_threads(1)
        import lightning.pytorch  # noqa: F401  (so that it counts where nothing is trained)

        if sys.argv[1]:
            _train(CASES[sys.argv[1]], int(sys.argv[2]))
        status = Path("/proc/self/status").read_text(encoding="utf-8")  # getrusage's peak is inherited from the parent
        print(1024 * int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, flags=re.MULTILINE)[0]))
