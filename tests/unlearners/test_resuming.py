"""Unlearning in chunks, through the store: interrupted and taken up again, it is what it would have been in one go."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tiny_tasks import (
    FINE_TUNING,
    METHODS,
    MLP,
    ON_CLASSES,
    ON_IMAGES,
    TRAINER,
    TRAINING,
    chunk,
    configured,
    everything,
    tiny,
    unlearn,
)

from dmm_exp.ensembles.work import run_shards
from dmm_exp.executors import Local
from dmm_exp.store import Artifact, Draft, Spec, Store
from dmm_exp.unlearners.work import PartJob, UnlearnJob, unlearn_chunk

APPLIED = [name for name in METHODS if name not in ON_IMAGES + ON_CLASSES]
TARGETS = {"dmm": "effect", "dm_direct": "effect", "oracle_matching": "oracles", "rewind": "early"}


class Silent:
    """Messages that nobody reads."""

    def warn(self, text: str) -> None:
        raise AssertionError(text)

    def note(self, text: str) -> None:
        raise AssertionError(text)


class Interrupted(Exception):
    """What stops the first attempt."""


@dataclass
class Counting(Local):
    """Runs jobs here, remembers which, and may stop after some."""

    stop_after: int | None = None
    done: list[int] = field(default_factory=list)

    def run(self, function, jobs):
        for job in jobs:
            if len(self.done) == self.stop_after:
                raise Interrupted
            function(job)
            self.done.append(job.shard)
            yield job


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Return the artifacts that unlearning starts from."""
    task, store = tiny(), Store(tmp_path_factory.mktemp("made"), Silent())
    logits = task.originals.logits(task.examples.inputs)
    originals = {"logits": logits, **task.originals.tensors()}

    def write_originals(draft: Draft) -> None:
        for shard, (start, stop) in enumerate([(0, 2), (2, 3)]):
            draft.write_shard(shard, {name: value[start:stop] for name, value in originals.items()}, {})

    return {
        "examples": store.obtain(Spec("examples"), task.examples.write),
        "originals": store.obtain(Spec("originals"), write_originals),
        "early": store.obtain(Spec("early"), lambda draft: draft.write_shard(0, task.early.tensors(), {})),
        "oracles": store.obtain(Spec("oracles"), lambda draft: draft.write_shard(0, {"logits": task.targets}, {})),
        "effect": store.obtain(
            Spec("effect"), lambda draft: draft.write_tensors("effect", {"effect": (logits - task.targets).mean(0)})
        ),
    }


def unlearned(
    root: Path, made: dict[str, Artifact], config: dict, executor: Counting, *, chunk_size: int = 1
) -> Artifact:
    """Return three unlearned models as an artifact of the store in ``root``."""
    target = TARGETS.get(next(name for name in METHODS if METHODS[name]["_target_"] == config["_target_"]))

    def write(draft: Draft) -> None:
        sources = {name: made[name].path if name == target else None for name in ("oracles", "effect", "early")}
        part = PartJob(config, tuple(range(20)), **sources)
        job = UnlearnJob(
            parts=(part,),
            **{name: made[name].path for name in ("examples", "originals")},
            model=MLP,
            training=TRAINING,
            trainer=TRAINER,
            seed=0,
        )
        run_shards(
            draft,
            unlearn_chunk,
            job,
            members=3,
            chunk_size=chunk_size,
            executor=executor,
            progress=lambda total: nullcontext(lambda done, loss=None: None),
        )

    return Store(root, Silent()).obtain(Spec("unlearned"), write)


def without_seconds(artifact: Artifact) -> list[dict]:
    return [{name: value for name, value in facts.items() if name != "seconds"} for facts in artifact.shard_facts()]


def settings(name: str) -> dict:
    return configured(name, epochs=[1, 2]) if name in FINE_TUNING else configured(name)


@pytest.mark.parametrize("name", APPLIED)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(name, made, tmp_path):
    first, second = Counting(stop_after=1), Counting()
    with pytest.raises(Interrupted):
        unlearned(tmp_path / "interrupted", made, settings(name), first)
    resumed = unlearned(tmp_path / "interrupted", made, settings(name), second)
    assert (first.done, second.done) == ([0], [1, 2])
    whole = unlearned(tmp_path / "whole", made, settings(name), Counting())
    assert resumed.stacked_names() == whole.stacked_names()
    for tensor in whole.stacked_names():
        assert torch.equal(resumed.stacked(tensor), whole.stacked(tensor)), tensor
    assert without_seconds(resumed) == without_seconds(whole)


@pytest.mark.parametrize("name", [name for name in APPLIED if TARGETS.get(name) != "effect"])
def test_chunks_in_the_store_are_what_the_method_makes_of_their_members(name, made, tmp_path):
    epochs = {"epochs": [1, 2]} if name in FINE_TUNING else {}
    expected = [unlearn(name, chunk(tiny(), *members), **epochs) for members in ((0, 2), (2, 3))]
    stored = unlearned(tmp_path, made, settings(name), Counting(), chunk_size=2)
    for key in everything(expected[0]):
        assert torch.equal(stored.stacked(key), torch.cat([everything(part)[key] for part in expected])), key
    for epoch in expected[0].checkpoints:
        parts = [everything(part.checkpoints[epoch]) for part in expected]
        for key in parts[0]:
            assert torch.equal(stored.stacked(f"epoch={epoch}/{key}"), torch.cat([part[key] for part in parts])), key
    for facts, part in zip(stored.shard_facts(), expected, strict=True):
        assert facts["members"] == len(part.logits)
        assert facts["sample_gradients"] == part.sample_gradients
        assert facts["gradients_by_epoch"] == {str(e): way.sample_gradients for e, way in part.checkpoints.items()}


def test_predicted_targets_are_each_originals_answers_without_the_effect(made, tmp_path):
    stored = unlearned(tmp_path, made, configured("dm_direct"), Counting())
    expected = made["originals"].stacked("logits") - made["effect"].tensors("effect")["effect"]
    assert torch.equal(stored.stacked("logits"), expected)
