"""Where results live: names of runs and keys of artifacts, computed without training anything.

python tests/end_to_end/addresses.py writes addresses.json anew, after a deliberate change that the changelog names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dmm_exp.config.folders import config_directory
from dmm_exp.config.identity import run_name
from dmm_exp.config.preflight import composer
from dmm_exp.config.schema import Config, ModelConfig, plain
from dmm_exp.console.progress import Console
from dmm_exp.data import Rows
from dmm_exp.deletion.deletion import Deletion
from dmm_exp.deletion.given import given
from dmm_exp.deletion.pool import pool_config
from dmm_exp.deletion.recipes import composed
from dmm_exp.evaluation import Evaluation
from dmm_exp.executors import Local
from dmm_exp.leaderboard.board import compose_entries
from dmm_exp.pipeline import Context, Models, Pipeline
from dmm_exp.store import Artifact, Draft, Spec
from dmm_exp.study.study import compose_cells_of

FILE = Path(__file__).with_name("addresses.json")
ONE_BY_ONE = ["model.chunk_size=1", "executor=local"]
SINGLES = ["pool=halves", "attribution=empirical_bayes"]  # which were the default
FIXED = [*SINGLES, *ONE_BY_ONE]
RUNS = {
    "default": [],
    "quick": ["experiment=quick"],
    "random, dmm by design": ["forget=random", *ONE_BY_ONE],
    "single effects": SINGLES,
    "quick, single effects": ["experiment=quick", *SINGLES],
    "random, dmm": ["forget=random", *FIXED],
    "random, finetune": ["forget=random", "unlearner=finetune", *FIXED],
    "random, oracle_matching": ["forget=random", "unlearner=oracle_matching", *FIXED],
    "random, dmm by trak": ["forget=random", "pool=halves", "attribution=trak", *ONE_BY_ONE],
    "random, dmm by ridge": ["forget=random", "pool=halves", "attribution=datamodel", *ONE_BY_ONE],
    "random in thirds": ["forget=random", "refinement=shuffle", *FIXED],
    "class, another seed": ["forget=class", "forget.label=3", "seed=5", *FIXED],
    "small convolutional networks": ["forget=random", "model=cnn", *FIXED],
}


@dataclass(frozen=True)
class Imagined(Artifact):
    """An artifact that is not there."""

    asked: Spec

    @property
    def spec(self) -> Spec:
        """What determines it."""
        return self.asked


class Keys:
    """A store in which everything is there and nothing has content: it writes down what was asked for."""

    root = Path("nowhere") / "artifacts"
    read_only = property(lambda self: True, lambda self, value: None)  # whatever a deletion wants

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def obtain(self, spec: Spec, make: Callable[[Draft], None], *, to_read: bool = True) -> Artifact:
        """Return the artifact that a spec would be."""
        role = spec.config.get("role")
        self.found[f"{spec.kind} {role}" if role else spec.kind] = spec.digest
        return self.find(spec)

    def find(self, spec: Spec) -> Artifact:
        """Return the same."""
        return Imagined(Path("nowhere") / spec.digest, spec.digest, True, spec)


def keys_of(config: Config) -> dict[str, str]:
    """Return the keys of a run's artifacts; where the forget set depends on scores, of those before it."""
    store = Keys()
    pipeline = Pipeline(Context(config, store, Local(), Console(quiet=True)))
    context, models = pipeline.context, pipeline.models
    _ = context.dataset, models.pool, _beside(models), models.originals
    if not pipeline.families:
        _ = pipeline.oracles, pipeline.floor_oracles, pipeline.unlearned, Evaluation(pipeline).artifact
    return store.found


def _beside(models: Models) -> list[Artifact]:
    """Return the models by design of a pool, or the larger ones of a pool that has none."""
    return [models.designed(name) for name in models.design_names] or [models.larger]


def deletion_keys(attribution: str) -> dict[str, str]:
    """Return the keys of what a deletion makes of a pool, for fixed numbers."""
    inputs, labels = torch.arange(240.0).reshape(60, 4) % 7, torch.arange(60) % 3
    network = torch.nn.Linear(4, 3)
    torch.nn.init.ones_(network.weight)
    torch.nn.init.zeros_(network.bias)
    known, store = given(network, (inputs, labels)), Keys()
    config = pool_config(known, plain(composed([]).training), 40, 0, attribution)
    config = replace(config, model=ModelConfig(1, {"_target_": "torch.nn.Linear"}))
    found = Deletion(known, True, config, store, Local(), Console(quiet=True))
    _ = found.context.dataset, found.models.pool, _beside(found.models), found.models.originals
    found.effects.of(Rows(torch.tensor([1, 5, 9]), 60))
    return store.found


def addresses() -> dict[str, Any]:
    """Return all of them, by what they are of."""
    with composer(config_directory(), []) as compose:
        runs = {name: compose(overrides)[0] for name, overrides in RUNS.items()}
        board = compose(["experiment=leaderboard_digits", "leaderboard.methods=[dmm,scrub,ssd]"])[0][0].leaderboard
        study = compose(["experiment=rum_digits"])[0][0].study
    study = replace(study, tables=dict(list(study.tables.items())[:1]), methods=study.methods[:2])
    entries = compose_entries(board, [])
    cells = compose_cells_of(study, [])
    return {
        "runs": {name: run_name(config, choices) for name, (config, choices) in runs.items()},
        "artifacts": {name: keys_of(config) for name, (config, _) in runs.items()},
        "leaderboard": {f"{e.method} on {e.forget}": run_name(e.config, e.choices) for e in entries},
        "study": {f"{c.table}, {c.row}, {c.column}": run_name(c.config, c.choices) for c in cells},
        "deletion": deletion_keys("empirical_bayes"),
        "deletion by design": deletion_keys("best"),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(addresses(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
