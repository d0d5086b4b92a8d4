"""What it costs in quality to predict without a pool: one table for several forget sets.

    python scripts/without_a_pool.py --forget "random size=50 seed=7" "rum_high_mem size=50" pool.size=1000 n_models=100

``n_models`` originals are unlearned and compared with as many retrained networks. With a pool, effects come from the
configuration's estimator; without one each comes from the gradients of a single original, as
:func:`dmm_exp.unlearn` predicts without a recipe: originals in turn predict for ``--share`` of them each. Methods
that need no prediction stand beside. Options after those with dashes are overrides of the configuration.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.preflight import compose_forget_sets, compose_unlearner
from dmm_exp.config.schema import Config
from dmm_exp.console.progress import Console
from dmm_exp.deletion.deletion import Deletion, Work, pool_free_attribution
from dmm_exp.deletion.given import Given
from dmm_exp.deletion.recipes import composed
from dmm_exp.ensembles import Ensemble
from dmm_exp.ensembles.work import model_factory, stored_ensemble
from dmm_exp.executors import shared_executor
from dmm_exp.metrics import accuracy, klom, klom_intervals, margins
from dmm_exp.pipeline import Context, Pipeline
from dmm_exp.store import Store

METHODS = ("dmm", "ssd", "scrub", "finetune", "neggrad_plus")


def main() -> None:
    """Print one row for every forget set and method."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--forget", nargs="+", required=True, help="forget sets, such as 'random size=50'")
    parser.add_argument("--share", type=int, default=20, help="originals that one of them predicts for")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="beside dmm without a pool")
    parser.add_argument("--file", type=Path, default=Path("outputs/without_a_pool.csv"), help="where the table goes")
    arguments, overrides = parser.parse_known_args()
    config = composed(["logger=none", *overrides])
    rows = []
    for text, forget in compose_forget_sets(config_directory(), arguments.forget).items():
        found = compared(replace(config, forget=forget), arguments.methods, arguments.share)
        rows += [{"forget": text, **row} for row in found]
    table = pd.DataFrame(rows)
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.file, index=False)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def compared(config: Config, methods: list[str], share: int) -> Iterator[dict[str, Any]]:
    """Yield a row for every method on one forget set."""
    console = Console(quiet=True)
    store, executor = (
        Store(Path(config.paths.outputs) / "artifacts", console),
        shared_executor(config.executor),
    )
    pipeline = Pipeline(Context(config, store, executor, console))
    logits = {
        "floor": pipeline.floor_oracles.stacked("logits"),
        "do nothing": pipeline.models.originals.stacked("logits"),
    }
    logits["dmm, no pool"] = without(pipeline, share)
    for method in methods:
        settings = compose_unlearner(config_directory(), method)
        logits[method] = Pipeline(
            Context(replace(config, unlearner=settings), store, executor, console)
        ).unlearned.stacked("logits")
    labels, n_train = pipeline.context.examples.labels.numpy(), pipeline.context.examples.n_train
    oracle, gone = margins(pipeline.oracles.stacked("logits"), labels), pipeline.forget.indices.numpy()
    for method, answers in logits.items():
        own = margins(answers, labels)
        low, high = klom_intervals(own[:, gone], oracle[:, gone], quantiles=(0.95,))[0.95]
        yield {
            "method": method,
            "forget p95": float(np.quantile(klom(own[:, gone], oracle[:, gone]), 0.95)),
            "low": low,
            "high": high,
            "val p95": float(np.quantile(klom(own[:, n_train:], oracle[:, n_train:]), 0.95)),
            "accuracy": float(accuracy(answers, labels)[:, n_train:].mean()),
        }


def without(pipeline: Pipeline, share: int) -> Tensor:
    """Return logits of all originals, unlearned with predictions from a few originals' own gradients."""
    config, examples = pipeline.context.config, pipeline.context.examples
    network, parts = config.model.network, []
    for start in range(0, config.n_models, share):
        members = range(start, min(start + share, config.n_models))
        ensemble = stored_ensemble(pipeline.models.originals.path, model_factory(network, examples), members)
        deletion = alone(pipeline, ensemble)
        origin = pipeline.models.originals.stacked("logits")[members.start : members.stop]
        work = Work(deletion, ensemble, origin, pipeline.forget, pipeline.forget, config.seed + start)
        made, _ = work.carry_out(instantiate(compose_unlearner(config_directory(), "dmm")))
        parts.append(made.logits)
    return torch.cat(parts)


def alone(pipeline: Pipeline, ensemble: Ensemble) -> Deletion:
    """Return what predicts effects from the first member of an ensemble alone."""
    network, examples = pipeline.context.config.model.network, pipeline.context.examples
    nothing: Any = None
    given = Given(ensemble[:1], examples, network, restore=nothing, rows=nothing, weights="")
    config = replace(pipeline.context.config, attribution=pool_free_attribution(given), n_models=1)
    return Deletion(given, False, config, pipeline.context.store, pipeline.context.executor, pipeline.context.console)


if __name__ == "__main__":
    main()
