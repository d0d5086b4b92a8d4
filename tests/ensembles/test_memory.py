"""Chunks that do not fit are made in halves, and members come out as they would have together."""

import pytest
import torch
from trainers import TRAINER

from dmm_exp.data import Digits, Normalisation
from dmm_exp.ensembles import AllBut
from dmm_exp.ensembles import work as work_module
from dmm_exp.ensembles.memory import in_fitting_parts
from dmm_exp.ensembles.work import ChunkResult, ShardJob, TrainJob, make_chunk, train_chunk
from dmm_exp.errors import UserError
from dmm_exp.store import Artifact, Draft, Spec
from dmm_exp.store.store import Store


def room_for(limit: int, error: Exception):
    def make(members: range) -> list[int]:
        if len(members) > limit:
            raise error
        return list(members)

    return make


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
@pytest.mark.parametrize(("limit", "parts"), [(7, 1), (4, 2), (2, 4), (1, 7)])
def test_members_are_made_in_order_in_parts_that_fit(capsys, error, limit, parts):
    made = in_fitting_parts(room_for(limit, error), range(10, 17))
    assert [member for part in made for member in part] == list(range(10, 17))
    assert len(made) == parts
    assert capsys.readouterr().err.count("do not fit into memory") == parts - 1


def test_a_single_member_that_does_not_fit_is_said_in_one_sentence():
    with pytest.raises(UserError, match="not even one model"):
        in_fitting_parts(room_for(0, MemoryError()), range(3))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        in_fitting_parts(room_for(0, RuntimeError("shapes do not match")), range(3))


TRAINING = {
    "epochs": 2,
    "batch_size": 64,
    "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1},
    "schedule": {"_target_": "dmm_exp.ensembles.schedules.Constant"},
}


class Silent:
    def warn(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...


def test_a_chunk_in_parts_is_the_chunk(tmp_path, monkeypatch):
    store = Store(tmp_path, Silent())
    examples = Digits(Normalisation(16, [0.305], [0.376])).load()
    dataset = store.obtain(Spec("dataset", {}, {}), examples.write)

    def trained(name: str) -> Artifact:
        def make(draft: Draft) -> None:
            draft.layout([[0, 5]])
            train_chunk(
                TrainJob(
                    examples=dataset.path,
                    model={"_target_": "dmm_exp.models.MLP", "hidden": [8]},
                    training=TRAINING,
                    trainer=TRAINER,
                    seed=0,
                    role="original",
                    subsets=AllBut(examples.n_train, ()),
                    output=draft.path,
                    stop=5,
                )
            )

        return store.obtain(Spec("ensemble", {"name": name}, {}), make)

    whole = trained("whole")
    train = work_module._train

    def cramped(job, examples, members):
        if len(members) > 3:
            raise MemoryError
        return train(job, examples, members)

    monkeypatch.setattr(work_module, "_train", cramped)
    parts = trained("parts")
    for name in whole.stacked_names():
        torch.testing.assert_close(parts.stacked(name), whole.stacked(name), rtol=1e-4, atol=1e-4)
    (facts,), (expected) = parts.shard_facts(), whole.shard_facts()[0]
    assert facts["members"] == expected["members"] == 5
    assert facts["sample_gradients"] == expected["sample_gradients"]
    assert facts["history"] == pytest.approx(expected["history"], rel=1e-4)


@pytest.mark.parametrize(("logit", "loss"), [(float("nan"), 1.0), (0.0, float("inf"))])
def test_a_training_run_that_diverges_is_said_in_a_sentence_and_writes_nothing(logit, loss, tmp_path):
    result = ChunkResult({"logits": torch.full((1, 4, 3), logit)}, [0.5, loss], 10)
    with pytest.raises(UserError, match="training diverged"):
        make_chunk(ShardJob(output=tmp_path, shard=0, start=0, stop=1), lambda members: result)
    assert not list(tmp_path.iterdir())
