"""Requests to delete, one after another, against one joint request: does quality last, and is the notice in time?

    python scripts/stream_of_requests.py --requests 20 --rows 10 dataset=digits pool.size=1000

Each request starts from the networks as the one before left them (what :class:`dmm_exp.Ledger` does, on ``n_models``
networks at once); "joint" unlearns everything that is gone at one go from the originals. Both are compared with
``n_models`` networks retrained without everything that is gone. Options after those with dashes are overrides of the
configuration. Prints a table, and writes it as ``stream.csv`` with a picture into ``--folder``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.schema import Config
from dmm_exp.console.progress import Console
from dmm_exp.data import Rows
from dmm_exp.deletion.deletion import Deletion, Work
from dmm_exp.deletion.drift import Limits, drift_of
from dmm_exp.deletion.given import Given
from dmm_exp.deletion.quality import Change
from dmm_exp.deletion.recipes import composed
from dmm_exp.ensembles import member_seed
from dmm_exp.ensembles.work import model_factory, stored_ensemble
from dmm_exp.executors import shared_executor
from dmm_exp.metrics import accuracy, klom, margins
from dmm_exp.pipeline import Context, Pipeline
from dmm_exp.store import Store


def main() -> None:
    """Print one row a request."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=20, help="number of requests")
    parser.add_argument("--rows", type=int, default=10, help="rows of each, drawn at random")
    parser.add_argument("--every", type=int, default=1, help="compare with retrained networks after so many requests")
    parser.add_argument("--draw", type=int, default=0, help="seed of the draw of rows")
    parser.add_argument("--folder", type=Path, default=Path("outputs/stream"), help="where the table goes")
    parser.add_argument("overrides", nargs="*", help="of the configuration, such as unlearner=scrub")
    arguments = parser.parse_args()
    config = composed(["logger=none", *arguments.overrides])
    table = pd.DataFrame(stream(config, arguments.requests, arguments.rows, arguments.every, arguments.draw))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.folder / "stream.csv", index=False)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def stream(config: Config, requests: int, rows: int, every: int, draw: int) -> Iterator[dict[str, Any]]:
    """Yield a row of the table for every request that is compared."""
    console = Console()
    store = Store(Path(config.paths.outputs) / "artifacts", console)
    executor = shared_executor(config.executor)
    pipeline = Pipeline(Context(config, store, executor, console))
    examples, network = pipeline.context.examples, config.model.network
    members = range(config.n_models)
    originals = stored_ensemble(pipeline.models.originals.path, model_factory(network, examples), members)
    nothing: Any = None
    given = Given(originals, examples, network, restore=nothing, rows=nothing, weights="")
    deletion = Deletion(given, True, config, store, executor, console)
    origin = pipeline.models.originals.stacked("logits")
    order = torch.randperm(examples.n_train, generator=torch.Generator().manual_seed(draw))
    current, gone = originals, Rows(torch.zeros(0, dtype=torch.long), examples.n_train)
    for number in range(1, requests + 1):
        new = Rows(order[(number - 1) * rows : number * rows].sort().values, examples.n_train)
        gone = gone | new
        seed = config.seed if number == 1 else member_seed(config.seed, "unlearned", number, "subset")
        made, targets = Work(deletion, current, origin, new, gone, seed).carry_out(instantiate(config.unlearner))
        assert made.ensemble is not None
        current = made.ensemble
        drift = drift_of(Change(deletion, gone, origin, made.logits, targets))
        if number % every and number != requests:
            continue
        joint, _ = Work(deletion, originals, origin, gone, gone, config.seed).carry_out(instantiate(config.unlearner))
        points = {"_target_": "dmm_exp.forget.Points", "points": gone.tolist()}
        retrained = Pipeline(Context(replace(config, forget=points), store, executor, Console(quiet=True)))
        yield {
            "request": number,
            "gone": len(gone),
            **compared(retrained, {"stream": made.logits, "joint": joint.logits, "nothing": origin}, gone),
            **{f"drift/{name}": value for name, value in asdict(drift).items() if value is not None},
            "due": len(drift.due(Limits())) > 0,
        }


def compared(retrained: Pipeline, ensembles: Mapping[str, Tensor], gone: Rows) -> dict[str, float]:
    """Return 95th percentiles of KLoM on rows that are gone and on unseen points, and accuracies."""
    labels, n_train = retrained.context.examples.labels.numpy(), retrained.context.examples.n_train
    oracle = margins(retrained.oracles.stacked("logits"), labels)
    ensembles = {**ensembles, "floor": retrained.floor_oracles.stacked("logits")}
    found: dict[str, float] = {}
    for name, logits in ensembles.items():
        values = klom(margins(logits, labels), oracle)
        found[f"forget/{name}"] = float(np.quantile(values[gone.indices], 0.95))
        if name in ("stream", "floor"):
            found[f"val/{name}"] = float(np.quantile(values[n_train:], 0.95))
    found["accuracy"] = float(accuracy(ensembles["stream"], labels)[:, n_train:].mean())
    found["accuracy/floor"] = float(accuracy(ensembles["floor"], labels)[:, n_train:].mean())
    return found


if __name__ == "__main__":
    main()
