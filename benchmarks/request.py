"""How long a request to delete rows takes where a pool is prepared: Fashion-MNIST, a pool of 1,000, a fresh program."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median

import torch
from torch import nn

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.schema import Config, register
from dmm_exp.data import Examples
from dmm_exp.deletion import Pool, prepare, train, unlearn
from dmm_exp.ensembles.work import model_factory

SIZE, EPOCHS = 1_000, 2  # what a request takes does not depend on how long the pool's models were trained
CHUNK = 25  # networks that are trained together
ROWS, LATER = 10, 7  # rows of a request; requests after the first one
PROGRAMS = 3  # fresh ones
WANTED_FIRST, WANTED = 1.0, 0.3  # seconds
DATA = (
    "dataset=fashion_mnist",
    "dataset.train_size=6000",
    "dataset.validation_size=2000",
    "model=cnn_strided",
    "model.network.channels=[16]",
    "model.network.strides=[4]",
)
NETWORK = "network.pt"  # beside the pool
IMPORTED_LATER = ("dmm_exp.unlearners.fit", "sklearn.svm")  # the first brings Lightning; by the first request


@dataclass(frozen=True)
class Times:
    """What the requests of one program took, the first one first.

    Attributes:
        wall: seconds.
        processor: seconds, of all threads.
    """

    wall: list[float]
    processor: list[float]


def main() -> str:
    """Return the section of ``results.md``."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pool = prepared(Path(folder))
        return said(pool, [_program(Path(folder)) for _ in range(PROGRAMS)])


def said(pool: Pool, programs: list[Times]) -> str:
    """Return what came out."""
    rows = []
    for name, most, some in (
        ("the first one of a program", WANTED_FIRST, slice(1)),
        ("each further one, other rows", WANTED, slice(1, None)),
    ):
        wall = median(seconds for times in programs for seconds in times.wall[some])
        processor = median(seconds for times in programs for seconds in times.processor[some])
        rows.append(f"| {name} | {wall:.2f} | {processor:.2f} | {most:g}: {'yes' if wall <= most else 'NO'} |")
    return "\n".join(
        [
            f"Requests to delete {ROWS} rows by `dmm` from a network of one convolution, 6,000 + 2,000 images of "
            f"Fashion-MNIST; a pool of {pool.size:,} models on halves ({pool.models:,} in all, `{pool.attribution}`), "
            f"prepared in {pool.seconds:.0f} s. Seconds without imports, one torch thread, medians of {PROGRAMS} fresh "
            "programs.",
            "",
            "| request | wall seconds | processor seconds | wanted, at most |\n|---|---|---|---|",
            *rows,
        ]
    )


def prepared(folder: Path, size: int = SIZE) -> Pool:
    """Train a network, and the pool of its recipe, in a folder; a pool that is there already is kept."""
    config, examples = _data()
    recipe = {"epochs": EPOCHS, "optimizer": {"lr": 0.1}}
    network = train(_network(config, examples), examples, recipe)
    torch.save(network.state_dict(), folder / NETWORK)
    return prepare(network, examples, recipe, folder / "pool", size=size, chunk_size=CHUNK, progress=False)


def _data() -> tuple[Config, Examples]:
    """Return the configuration and the images."""
    register()
    (config,) = check_overrides(config_directory(), list(DATA))
    return config, instantiate(config.dataset).load()


def _network(config: Config, examples: Examples) -> nn.Module:
    """Return an untrained network, as a person would hand it over."""
    return model_factory(config.model.network, examples)().network


def _program(folder: Path) -> Times:
    """Send requests from a fresh program."""
    command = [sys.executable, "-m", "benchmarks.request", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Times(**json.loads(done.stdout.splitlines()[-1]))


def requests(folder: Path) -> Times:
    """Be one program: open the pool, and send one request after another, each for other rows."""
    torch.set_num_threads(1)
    for name in IMPORTED_LATER:
        import_module(name)
    config, examples = _data()
    network = _network(config, examples)
    network.load_state_dict(torch.load(folder / NETWORK, weights_only=True))
    order = torch.randperm(examples.n_train, generator=torch.Generator().manual_seed(time.time_ns()))
    pool, times = Pool.open(folder / "pool"), Times([], [])
    for rows in order[: ROWS * (1 + LATER)].view(-1, ROWS).tolist():
        wall, processor = time.perf_counter(), time.process_time()
        unlearn(network, examples, rows, pool=pool, progress=False)
        times.wall.append(time.perf_counter() - wall)
        times.processor.append(time.process_time() - processor)
    return times


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(vars(requests(Path(sys.argv[1])))))
    else:
        print(main())
