"""Speed of training many small models against one ``Trainer.fit`` per model, and whether they are the same models."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import Work
from benchmarks.timing import TABLE_HEAD, Speed, compare, processor_seconds
from dmm_exp.ensembles import Ensemble

MLPS, CNNS = 100, 20
REFERENCES = 2  # models that the reference trains in each pair
PAIRS, PROCESS_PAIRS = 5, 2
SHORT = 2  # epochs after which two ways may differ by no more than rounding
ROUNDING = 1e-4  # largest difference of logits then, whose size is about 20
SAME_ACCURACY = 0.03  # largest difference between the mean accuracies of two ways with shuffles of their own


def main() -> str:
    """Return the section of ``results.md``."""
    torch.set_num_threads(1)
    mlp, cnn = Work.of("mlp"), Work.of("cnn")
    rates = _product_rate(), _convolution_rate()
    mlps = _in_one_process(mlp, "MLPs", MLPS, 20)
    cnns = _in_one_process(cnn, "CNNs", CNNS, 2)
    alone = _process_per_model(cnn)
    return "\n".join(
        [
            "One thread, processor seconds, per model: digits, the whole training set, the recipe of "
            "`training=sgd_one_cycle`. Ours are trained in chunks of `model.chunk_size`; their milliseconds are "
            f"those of {MLPS} MLPs (chunks of {mlp.config.model.chunk_size}) and {CNNS} CNNs (chunks of "
            f"{cnn.config.model.chunk_size}). Models made with shuffles of their own are equally accurate, "
            f"within {SAME_ACCURACY:.0%}; [same_distribution](#same_distribution) looks closer.",
            "",
            TABLE_HEAD,
            *(speed.row for speed in (*mlps, *cnns, alone)),
            "",
            _import_seconds(),
            "",
            f"The limit, measured in the same run: a matrix product makes {rates[0]:.0f} GFLOP/s, a 3×3 convolution "
            f"{rates[1]:.0f}. {_reached('MLP', mlp, mlps[0], MLPS, max(rates))} "
            f"{_reached('CNN', cnn, cnns[0], CNNS, max(rates))}",
            "",
            *_agreement("mlp"),
            *_agreement("cnn"),
        ]
    )


def _in_one_process(work: Work, name: str, members: int, limit: float) -> list[Speed]:
    """Compare the engine with a Trainer per model, and with a bare loop per model."""
    ours = partial(work.engine, range(members), work.config.model.chunk_size)

    def each(train: Callable[[int], nn.Module]) -> Callable[[], list[nn.Module]]:
        return lambda: [train(seed) for seed in range(REFERENCES)]

    def same(networks: list[nn.Module], ensembles: list[Ensemble]) -> bool:
        return _as_accurate(work, float(work.accuracy(work.logits(networks)).mean()), ensembles)

    measure = partial(compare, same=same, share=REFERENCES / members, pairs=PAIRS)
    return [
        measure(f"{members} {name} against a `Trainer.fit` per model", each(work.lightning), ours, limit=limit),
        measure(f"{members} {name} against a bare loop per model, without DataLoader", each(work.loop), ours),
    ]


def _process_per_model(work: Work) -> Speed:
    """Compare the engine with processes that train a CNN each; theirs are the imports, too."""

    def ours() -> list[Ensemble]:
        return work.engine(range(CNNS), work.config.model.chunk_size)

    def reference() -> float:
        command = [sys.executable, "-m", "benchmarks.plain", "cnn", "0"]
        return float(subprocess.run(command, check=True, capture_output=True, text=True, env=_one_thread()).stdout)

    return compare(
        f"{CNNS} CNNs against a process per model",
        reference,
        ours,
        partial(_as_accurate, work),
        share=1 / CNNS,
        pairs=PROCESS_PAIRS,
        limit=5,
        clock=processor_seconds,
    )


def _as_accurate(work: Work, expected: float, ensembles: list[Ensemble]) -> bool:
    logits = torch.cat([ensemble.logits(work.examples.inputs) for ensemble in ensembles])
    return abs(expected - float(work.accuracy(logits).mean())) <= SAME_ACCURACY


def _import_seconds() -> str:
    start = processor_seconds()
    subprocess.run([sys.executable, "-c", "import benchmarks.plain"], check=True, env=_one_thread())
    return (
        f"Imports take a process {processor_seconds() - start:.1f} processor seconds: once for ours, and not counted; "
        "once a model where each has a process."
    )


def _one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _product_rate() -> float:
    """Return GFLOP/s of a matrix product of one thread."""
    left, right = torch.randn(2, 1024, 1024)
    return _rate(lambda: left @ right)


def _convolution_rate() -> float:
    """Return GFLOP/s of a 3×3 convolution of one thread."""
    images, kernels = torch.randn(32, 64, 32, 32), torch.randn(64, 64, 3, 3)
    return _rate(lambda: functional.conv2d(images, kernels, padding=1))


def _rate(work: Callable[[], Any]) -> float:
    operations, seconds = _operations(work), []
    for _ in range(15):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return operations / min(seconds) / 1e9


def _operations(work: Callable[[], Any]) -> int:
    """Return the floating-point operations of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _reached(name: str, work: Work, speed: Speed, members: int, rate: float) -> str:
    """Say what share of the limit the engine reaches."""
    network, n_train = work.fresh(0), work.examples.n_train
    inputs, labels = work.examples.inputs[:n_train], work.examples.labels[:n_train]
    epoch = _operations(lambda: functional.cross_entropy(network(inputs), labels).backward())
    operations = epoch * work.config.training.epochs / 1e9
    reached = operations * members / speed.seconds
    return (
        f"Training {'an' if name == 'MLP' else 'a'} {name} takes {operations:.2g} GFLOP, which is "
        f"{1e3 * operations / rate:.0f} ms at the faster of them; ours takes {1e3 * speed.seconds / members:.0f} ms "
        f"({reached:.1f} GFLOP/s, {reached / rate:.0%} of the limit)."
    )


def _agreement(model: str) -> list[str]:
    """Compare one member made three ways from one seed and one order: in a chunk, alone, by a Trainer.

    Raises:
        ArithmeticError: when they differ by more than rounding after ``SHORT`` epochs.
    """
    short, whole = Work.of(model, f"training.epochs={SHORT}"), Work.of(model)
    rounding, apart = _differences(short), _differences(whole)
    if max(rounding[:2]) > ROUNDING:
        raise ArithmeticError(f"model={model}: logits are {max(rounding[:2]):.2g} apart after {SHORT} epochs")
    return [
        f"* `{model}`, the same member from the same seed and order: after a recipe of {SHORT} epochs, logits with "
        f"chunk_size=1 and 50 differ by {rounding[0]:.1g} at most, those of a chunk and a `Trainer.fit` over the same "
        f"batches by {rounding[1]:.1g}; after {whole.config.training.epochs} epochs by {apart[0]:.1g} and "
        f"{apart[1]:.1g}. A `Trainer.fit` departs from itself as far as {apart[2]:.1g} when its first weights are "
        "multiplied by 1 + 10⁻⁷."
    ]


def _differences(work: Work) -> tuple[float, float, float]:
    """Return how far the logits of member 0 of a chunk are from those that it has alone, by a Trainer, and moved."""
    inputs = work.examples.inputs
    together = work.chunk(range(50))[0].logits(inputs)[0]
    alone, module = work.chunk(range(1))
    plain = work.logits([work.lightning_over(module, work.fresh(0))])[0]
    moved = work.logits([work.lightning_over(module, _moved(work.fresh(0)))])[0]

    def apart(one: Tensor, other: Tensor) -> float:
        return float((one - other).abs().max())

    return apart(together, alone.logits(inputs)[0]), apart(together, plain), apart(plain, moved)


@torch.no_grad()
def _moved(network: nn.Module) -> nn.Module:
    for value in network.parameters():
        value.mul_(1 + 1e-7)
    return network


if __name__ == "__main__":
    print(main())
