"""The plan of an experiment: which stages exist, and what the others would cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dmm_exp.config.schema import Plain
from dmm_exp.files.digests import digest_of
from dmm_exp.pipeline.context import Context
from dmm_exp.store import Missing, PlanningStore

RETRAINED = ("oracles", "floor_oracles", "target_oracles")  # stages that no method changes
METHOD = ("unlearner", "attribution", "evaluation")

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
        models: number of models it makes.
        sample_gradients: gradient evaluations of single examples for making all of them, as far as known before.
        bytes: that all of them take on disk.
    """

    name: str
    make: Callable[[], Any]
    models: int = 0
    sample_gradients: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a plan.

    Attributes:
        name: of the stage.
        exists: whether it would be reused.
        models: number of models it makes.
        sample_gradients: gradient evaluations of single examples for making them.
        taken_over: number of further models, which another artifact already has.
        bytes: that these models take on disk.
        identity: equal for stages of several experiments that are one artifact; empty where it exists.
    """

    name: str
    exists: bool
    models: int
    sample_gradients: int
    taken_over: int = 0
    bytes: int = 0
    identity: str = ""


def planned(stage: Stage, identity: Plain, store: PlanningStore) -> PlannedStage:
    """Return the cost of a stage, of which nothing is computed.

    Args:
        stage: of an experiment whose artifacts are in the store.
        identity: what identifies the experiment's result.
        store: for plans; it remembers what earlier stages of this experiment lack.
    """
    before, readable = set(store.missing), True
    try:
        stage.make()
    except Missing:  # its address depends on the content of what does not exist
        readable = False
    own = {digest: missing for digest, missing in store.missing.items() if _is_of(missing, stage)}
    new = {digest: missing for digest, missing in store.missing.items() if digest not in before}
    found = {digest: missing for digest, missing in own.items() if digest in new} or own or (new if readable else {})
    if readable and not found:
        return PlannedStage(stage.name, True, stage.models, stage.sample_gradients)
    relative = next((missing.relative for missing in found.values()), None)
    taken_over = min(relative.members, stage.models) if relative else 0
    share = (stage.models - taken_over) / stage.models if stage.models else 1.0
    return PlannedStage(
        stage.name,
        False,
        stage.models - taken_over,
        round(stage.sample_gradients * share),
        taken_over,
        round(stage.bytes * share),
        digest_of(list(found)) if found else _expected(stage.name, identity),
    )


def _is_of(missing: Missing, stage: Stage) -> bool:
    return missing.spec.config.get("role", missing.spec.kind) == MADE_AS.get(stage.name, stage.name)


def _expected(name: str, identity: Plain) -> str:
    """Return the identity of a stage whose artifact has no address yet, since what it is made from does not exist."""
    left_out = METHOD if name in RETRAINED else ()
    return digest_of([name, {key: value for key, value in identity.items() if key not in left_out}])


def training(
    context: Context, name: str, make: Callable[[], Any], members: int, share: float = 1.0, *, size: int = 0
) -> Stage:
    """Return a stage that trains members from scratch, each on a share of the training set.

    Args:
        context: of the experiment.
        name: of the stage.
        make: computes it.
        members: that it trains.
        share: of the training set that each is trained on.
        size: bytes of a member on disk.
    """
    epochs, n_train = context.config.training.epochs, context.examples.n_train
    return Stage(name, make, members, round(members * epochs * share * n_train), members * size)
