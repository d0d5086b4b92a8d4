"""Compare memorization as the pool estimates it with direct paired estimates, at the same α and at full size.

python scripts/check_memorization.py [overrides]

For 20 examples of varied memorization, 200 random halves of the training set are each trained with and without the
example, same seeds: the mean difference in the probability of its label is the quantity that memorization estimates, at
the same size. The same with the whole training set in place of halves is the leave-one-out effect at full size.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.schema import Config, plain, register
from dmm_exp.console.progress import Console
from dmm_exp.console.tables import print_table
from dmm_exp.data import Examples
from dmm_exp.ensembles import Ensemble, EnsembleTraining, RandomSubsets, member_seed
from dmm_exp.ensembles.work import model_factory, recipe, trainer_factory
from dmm_exp.executors import shared_executor
from dmm_exp.pipeline import Context, Pipeline
from dmm_exp.store import Store

EXAMPLES, REPETITIONS, CHUNK = 20, 200, 100
BASE_SEED = 1_000  # of the halves and of their models: other ones than the pool's


@dataclass(frozen=True)
class Paired:
    """Mean differences between training with and without each example, with their standard errors, ``[examples]``."""

    mean: np.ndarray
    error: np.ndarray


def main(overrides: list[str]) -> int:
    """Print the comparison and return 1 if fewer than 18 of 20 estimates agree within two standard errors."""
    register()
    (config,) = check_overrides(config_directory(), overrides)
    console = Console()
    store = Store(Path(config.paths.outputs).absolute() / "artifacts", console)
    pipeline = Pipeline(Context(config, store, shared_executor(config.executor), console))
    scores = pipeline.scores.family("memorization").table("scores")
    order = np.argsort(-scores["memorization"].to_numpy(), kind="stable")
    chosen = order[np.unique(np.geomspace(1, len(order) // 2, EXAMPLES + 8).astype(int) - 1)[:EXAMPLES]]
    estimate, error = (scores[name].to_numpy()[chosen] for name in ("memorization", "memorization_se"))
    half, full = (paired(config, pipeline.context.examples, chosen, size, console) for size in ("half", "full"))

    agree = np.abs(estimate - half.mean) <= 2 * np.hypot(error, half.error)
    table = Table("example", "memorization (pool)", "paired, half", "within 2 se", "leave one out, full size")
    for row, point in enumerate(chosen):
        direct = [f"{found.mean[row]:.3f} ± {2 * found.error[row]:.3f}" for found in (half, full)]
        own = f"{estimate[row]:.3f} ± {2 * error[row]:.3f}"
        table.add_row(str(point), own, direct[0], "yes" if agree[row] else "NO", direct[1])
    print_table(table)
    slope = float((estimate @ full.mean) / (estimate @ estimate))
    print(f"{agree.sum()} of {len(chosen)} within two standard errors")
    print(f"leave-one-out at full size is {slope:.2f} times memorization (least squares through 0), correlation "
          f"{np.corrcoef(estimate, full.mean)[0, 1]:.3f}")  # fmt: skip
    return int(agree.sum() < 18)


def paired(config: Config, examples: Examples, chosen: np.ndarray, size: str, console: Console) -> Paired:
    """Train with and without each example and compare the probability of its label.

    The subset as drawn has the example or has it not; only the other case is trained for each example.
    """
    drawn, flipped = np.empty((2, len(chosen), REPETITIONS))
    inside = np.empty((len(chosen), REPETITIONS), dtype=bool)
    with console.progress(f"{size} size", REPETITIONS * (len(chosen) + 1)) as advance:
        for start in range(0, REPETITIONS, CHUNK):
            members, columns = range(start, start + CHUNK), slice(start, start + CHUNK)
            masks = torch.ones(CHUNK, examples.n_train, dtype=torch.bool)
            if size == "half":
                masks = RandomSubsets(examples.n_train, 0.5, BASE_SEED, complementary=False).masks(members)
            inside[:, columns] = masks[:, chosen].T
            drawn[:, columns] = _probabilities(config, examples, masks, members, chosen)
            advance(CHUNK)
            for row, point in enumerate(chosen.tolist()):
                other = masks.clone()
                other[:, point] = ~other[:, point]
                flipped[row, columns] = _probabilities(config, examples, other, members, np.array([point]))[0]
                advance(CHUNK)
    difference = np.where(inside, drawn - flipped, flipped - drawn)
    return Paired(difference.mean(1), difference.std(1, ddof=1) / np.sqrt(REPETITIONS))


def _probabilities(config: Config, examples: Examples, masks: Tensor, members: range, points: np.ndarray) -> np.ndarray:
    """Return the probability that models trained on masked examples give to points' labels, ``[points, members]``."""
    values = np.empty((len(points), len(masks)))
    counts = masks.sum(1)
    for count in counts.unique().tolist():  # members that are trained together see equally many examples
        rows = (counts == count).nonzero().squeeze(1)
        which = [members[row] for row in rows.tolist()]
        seeds = (member_seed(BASE_SEED, "subset", member, "initialisation") for member in which)
        ensemble = Ensemble.initialise(model_factory(config.model.network, examples), seeds)
        subsets = torch.stack([masks[row].nonzero().squeeze(1) for row in rows.tolist()])
        module = EnsembleTraining(subsets=subsets, **recipe(plain(config.training)))
        module.attach(ensemble, examples, seed=BASE_SEED, role="subset", members=which)
        module.fit(trainer_factory(config.trainer))
        probabilities = ensemble.logits(examples.inputs[points]).softmax(2)
        labels = examples.labels[points].expand(len(rows), -1)[..., None]
        values[:, rows.numpy()] = probabilities.gather(2, labels).squeeze(2).T.numpy()
    return values


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
