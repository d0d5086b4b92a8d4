"""Speed of training ResNet-9 on CIFAR-shaped images on one GPU: engines, batches, processes; in under eight minutes.

On a machine without a CUDA device it says so; ``measure(SMALL)`` takes the same steps on a CPU, as its test does.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from statistics import median
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import PlainModule
from benchmarks.timing import TABLE_HEAD, compare
from dmm_exp.data import Examples, Normalisation
from dmm_exp.ensembles import Ensemble, EnsembleTraining
from dmm_exp.ensembles.chunk_size import CANDIDATES, Measurement, chosen_among
from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.work import model_factory, recipe, trainer_factory
from dmm_exp.errors import UserError
from dmm_exp.executors.processes import START, Processes

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]
PAPER = 2.09e15  # operations of a model: 24 epochs of 50,000 images at 1.74 GFLOP (the datamodels recipe)

Measured = list[tuple[Engine, dict[int, float]]]


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        images: that a model is trained on.
        batches: sizes to measure.
        sizes: of chunks, at most.
        width: of the network; the paper's is 64.
        epochs: of a whole training.
        pairs: of whole trainings.
        processes: that share the device.
        seconds: of steps in each of them.
        precision: of the trainer.
    """

    images: int = 25_600
    batches: tuple[int, ...] = (256, 512)
    sizes: tuple[int, ...] = CANDIDATES[:6]
    width: int = 64
    epochs: int = 2
    pairs: int = 2
    processes: tuple[int, ...] = (2, 4)
    seconds: float = 2.0
    precision: str = "bf16-mixed"


SMALL = Scale(
    images=48,
    batches=(16,),
    sizes=(1, 2),
    width=4,
    epochs=1,
    pairs=1,
    processes=(2,),
    seconds=0.1,
    precision="32-true",
)


def main() -> str:
    """Return the section of ``results.md``."""
    if not torch.cuda.is_available():
        return (
            "Not measured: this machine has no CUDA device. `python -m benchmarks resnet9` on one that has takes less "
            "than eight minutes; the same code is tested on a CPU at small size."
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return measure(Scale())


def measure(scale: Scale) -> str:
    """Return the section of ``results.md`` for one scale, on a GPU if there is one."""
    rate = product_rate(scale.precision)
    lines = [
        f"{device()}, {scale.precision}; {scale.images:,} random images of 3×32×32 as uint8. A bf16 matrix product "
        f"makes {rate / 1e12:.3g} TFLOP/s here. A step is forward, backward and SGD with momentum.",
    ]
    measured = {}
    for batch in scale.batches:
        measured[batch] = measurements(scale, batch)
        lines += ["", *_engines(scale, batch, measured[batch], rate)]
    lines += ["", *_against_lightning(scale, measured[scale.batches[-1]], rate)]
    return "\n".join(lines)


def _engines(scale: Scale, batch: int, measured: Measured, rate: float) -> list[str]:
    """Return a table of all engines and chunk sizes at one size of batches, and of processes beside one another."""
    chosen = chosen_among(measured)
    operations = operations_of_an_image(scale.width) * batch
    sizes = [size for size in scale.sizes if any(size in seconds for _, seconds in measured)]
    lines = [
        f"Batch {batch}: images a second, by members in a chunk.",
        "",
        f"| engine | {' | '.join(map(str, sizes))} |",
        f"|---|{'---|' * len(sizes)}",
    ]
    for engine, seconds in measured:
        cells = (f"{batch / seconds[size]:,.0f}" if size in seconds else "–" for size in sizes)
        lines.append(f"| {engine.words()} | {' | '.join(cells)} |")
    best = min(chosen["seconds"].values())
    lines += [
        "",
        f"Fastest: {Engine(**chosen['engine']).words()}, {chosen['chosen']} members; {operations / best / rate:.0%} of "
        "the matrix product's rate.",
    ]
    for count in scale.processes:
        share = beside_one_another(scale, batch, Engine(**chosen["engine"]), chosen["chosen"], count)
        lines.append(f"{count} processes of it on the device make {batch / share:,.0f} images a second together.")
    return lines


def measurements(scale: Scale, batch: int) -> Measured:
    """Return the seconds of a step and member of all engines, by chunk size.

    Raises:
        ArithmeticError: after a few steps an engine's loss is not the plain one's.
    """
    found, right = [], None
    for engine in everything(scale, batch):
        one = measurement(scale, batch, engine)
        try:
            loss = one.losses(engine)[-1]
        except UserError as error:  # nothing to compile with
            print(error)
            continue
        right = loss if right is None else right
        if abs(loss - right) > 0.05 * abs(right):
            raise ArithmeticError(f"{engine.words()}: loss {loss:.4f} after a few steps, {right:.4f} plainly")
        found.append((engine, one.seconds_per_member(engine, scale.sizes)))
    return found


def everything(scale: Scale, batch: int) -> list[Engine]:
    """Return all engines of this device; at the first size of batches compiled members, too: that takes a minute."""
    compiled = [Engine("compiled", "apart", "channels_last")] * (batch == scale.batches[0])
    return [*measurement(scale, batch, Engine()).engines(), *compiled]


def measurement(scale: Scale, batch: int, engine: Engine) -> Measurement:
    """Return what times steps of an engine."""
    images = examples(scale)
    trainer = {"accelerator": "auto", "precision": scale.precision, "engine": vars(engine)}
    return Measurement(model_factory(network(scale), images), images, training(scale, batch), trainer)


def beside_one_another(scale: Scale, batch: int, engine: Engine, size: int, count: int) -> float:
    """Return the seconds of a step and member when several processes share the device."""
    Processes().warm_up()  # imports once what they need; a GPU's context cannot be forked, and is not made there
    context = multiprocessing.get_context(START)
    barrier, results = context.Barrier(count), context.Queue()
    workers = [
        context.Process(target=_worker, args=(scale, batch, engine, size, barrier, results)) for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    seconds = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    return max(seconds) / count


def _worker(scale: Scale, batch: int, engine: Engine, size: int, barrier: Barrier, results: Any) -> None:
    torch.set_num_threads(1)
    one = measurement(scale, batch, engine)
    step = one._steps(engine, size)
    for _ in range(6):
        step()
    _wait()
    barrier.wait(timeout=300)
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < scale.seconds:
        step()
        _wait()
        steps += 1
    results.put((time.perf_counter() - begun) / steps / size)


def _against_lightning(scale: Scale, measured: Measured, rate: float) -> list[str]:
    """Compare whole trainings with those by a Trainer and a DataLoader for each model, and by stacked members."""
    batch, images = scale.batches[-1], examples(scale)
    found = chosen_among([(engine, seconds) for engine, seconds in measured if engine.step != "compiled"])
    size, engine = found["chosen"], Engine(**found["engine"])
    build = model_factory(network(scale), images)

    def by(engine: Engine, size: int) -> Callable[[], float]:
        return lambda: _accuracy(images, _fit(scale, batch, images, build, engine, size))

    def lightning() -> float:
        model = Ensemble.initialise(build, [0]).member(0).train()
        on_gpu = torch.cuda.is_available()
        data = TensorDataset(images.inputs, images.labels)
        loader = DataLoader(data, batch_size=batch, shuffle=True, num_workers=int(on_gpu), pin_memory=on_gpu)
        trainer_factory(trainer(scale, Engine()))(max_epochs=scale.epochs).fit(
            PlainModule(model, recipe(training(scale, batch))), loader
        )
        return _accuracy(images, Ensemble.stack([model.cpu()]))

    check = partial(_close, scale=scale)
    timed = partial(compare, same=check, share=1 / size, pairs=scale.pairs, clock=time.perf_counter)
    name = f"{size} ResNet-9, {scale.epochs} epochs, batch {batch}"
    speeds = [timed(f"{name}: a Trainer with a worker DataLoader each", lightning, by(engine, size), limit=10)]
    stacked = Engine("eager", "together", "rows")
    speeds.append(
        compare(
            f"{name}: stacked (grouped convolutions), step by step",
            by(stacked, size),
            by(engine, size),
            check,
            pairs=scale.pairs,
            limit=1.5,
            clock=time.perf_counter,
        )
    )
    reached = operations_of_an_image(scale.width) * scale.images * scale.epochs * size / speeds[0].seconds
    return [
        TABLE_HEAD,
        *(speed.row for speed in speeds),
        "",
        f"Whole trainings, evaluation and start included, by {engine.words()}: {reached / rate:.0%} of the matrix "
        f"product's rate (wanted: 35 %); 100 models of the paper's recipe would take "
        f"{100 * PAPER / reached / 3600:.2g} hours.",
    ]


def _fit(scale: Scale, batch: int, images: Examples, build: Any, engine: Engine, size: int) -> Ensemble:
    ensemble = Ensemble.initialise(build, range(size))
    subsets = torch.arange(images.n_train).expand(size, -1)
    module = EnsembleTraining(subsets=subsets, **recipe(training(scale, batch)))
    module.attach(ensemble, images, seed=0, role="original", members=range(size))
    module.fit(trainer_factory(trainer(scale, engine)))
    return ensemble


def _accuracy(images: Examples, ensemble: Ensemble) -> float:
    """Return the share of right answers on the first images, of all members."""
    labels = images.labels[:1000]
    found = ensemble.to("cuda" if torch.cuda.is_available() else "cpu").logits(images.inputs[:1000])
    return float((found.argmax(2) == labels).float().mean())


def _close(one: float, other: float, scale: Scale) -> bool:
    return abs(one - other) < (0.1 if scale.images > 1000 else 1)  # a handful of images say nothing


def product_rate(precision: str) -> float:
    """Return the operations a second of a large matrix product."""
    on_gpu = torch.cuda.is_available()
    size, kind = (8192, torch.bfloat16) if on_gpu and precision == "bf16-mixed" else (512, torch.float32)
    left, right = torch.randn(2, size, size, device="cuda" if on_gpu else "cpu", dtype=kind)
    seconds = [_seconds(lambda: left @ right) for _ in range(12)]
    return 2 * size**3 / median(seconds[2:])


def operations_of_an_image(width: int) -> float:
    """Return the floating-point operations of one image's forward and backward pass."""
    model = model_factory({"_target_": "dmm_exp.models.ResNet9", "width": width}, examples(SMALL))()
    with FlopCounterMode(display=False) as counter:
        functional.cross_entropy(model(torch.zeros(2, 3, 32, 32)), torch.zeros(2, dtype=torch.long)).backward()
    return counter.get_total_flops() / 2


def _seconds(work: Callable[[], Any]) -> float:
    _wait()
    begun = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - begun


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> str:
    """Return what is measured on."""
    return f"One {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "A CPU"


def examples(scale: Scale) -> Examples:
    """Return random images in ten classes, each with a brightness of its own, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (scale.images,), generator=generator)
    noise = torch.randint(0, 128, (scale.images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Examples(
        inputs=noise + (labels * 12).to(torch.uint8).view(-1, 1, 1, 1),
        labels=labels,
        n_train=scale.images,
        class_names=[str(label) for label in range(10)],
        normalisation=Normalisation(255, MEAN, STD),
        corrupted=torch.zeros(scale.images, dtype=torch.bool),
    )


def network(scale: Scale) -> dict[str, Any]:
    """Return the configuration of the network."""
    return {"_target_": "dmm_exp.models.ResNet9", "width": scale.width}


def training(scale: Scale, batch: int) -> dict[str, Any]:
    """Return the recipe of the datamodels paper, shortened."""
    optimizer = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.2, "momentum": 0.9, "weight_decay": 5e-4}
    schedule = {"_target_": "dmm_exp.ensembles.schedules.OneCycle"}
    return {"epochs": scale.epochs, "batch_size": batch, "optimizer": optimizer, "schedule": schedule}


def trainer(scale: Scale, engine: Engine) -> dict[str, Any]:
    """Return the configuration of a quiet trainer."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return {
        "_target_": "lightning.pytorch.Trainer",
        "accelerator": "auto",
        "devices": 1,
        "precision": scale.precision,
        "engine": vars(engine),
        **quiet,
    }


if __name__ == "__main__":
    print(main())
