"""The plan of an experiment: which stages exist, and what the others would cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dmm_exp.pipeline.context import Context
from dmm_exp.store import Missing

MADE_AS = {  # stage → the role of its models, or the kind of its artifact
    "pool": "subset",
    "larger": "larger",
    "originals": "original",
    "early_originals": "original",
    "oracles": "oracle",
    "floor_oracles": "floor_oracle",
    "target_oracles": "target_oracle",
    "few_oracles": "few_oracle",
    "unlearned": "unlearned",
    "base_models": "base",
    "attacked": "attacked",
}


@dataclass(frozen=True)
class Stage:
    """A stage of an experiment.

    Attributes:
        name: of the stage.
        make: computes it, if it does not exist.
        models: number of models it trains.
        sample_gradients: gradient evaluations of single examples for training them from scratch.
    """

    name: str
    make: Callable[[], Any]
    models: int = 0
    sample_gradients: int = 0


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a plan.

    Attributes:
        name: of the stage.
        exists: whether it would be reused.
        models: number of models it trains.
        sample_gradients: gradient evaluations of single examples for training them from scratch.
        taken_over: number of further models, which another artifact already has.
    """

    name: str
    exists: bool
    models: int
    sample_gradients: int
    taken_over: int = 0


def planned(stage: Stage) -> PlannedStage:
    """Return the cost of a stage; the store is read-only, so that nothing is computed."""
    try:
        stage.make()
    except Missing as missing:
        own = missing.spec.config.get("role", missing.spec.kind) == MADE_AS.get(stage.name, stage.name)
        taken_over = min(missing.relative.members, stage.models) if own and missing.relative else 0
        todo = stage.models - taken_over
        gradients = round(stage.sample_gradients * todo / max(1, stage.models))
        return PlannedStage(stage.name, False, todo, gradients, taken_over)
    return PlannedStage(stage.name, True, stage.models, stage.sample_gradients)


def training(context: Context, name: str, make: Callable[[], Any], members: int, share: float = 1.0) -> Stage:
    """Return a stage that trains members from scratch, each on a share of the training set."""
    epochs, n_train = context.config.training.epochs, context.examples.n_train
    return Stage(name, make, members, round(members * epochs * share * n_train))
