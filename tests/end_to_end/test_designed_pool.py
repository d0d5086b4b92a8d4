"""A pool by design through the whole pipeline: it is trained, it grows, and its estimator predicts from it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.schema import register
from dmm_exp.console.progress import Console
from dmm_exp.ensembles.work import train_chunk
from dmm_exp.errors import UserError
from dmm_exp.executors import Local
from dmm_exp.pipeline import Context, Pipeline
from dmm_exp.store import Store

SMALL = [
    "unlearner=dm_direct",
    "forget=random",
    "forget.size=10",
    "training.epochs=1",
    "training.batch_size=512",
    "pool.size=24",
    "pool.held_out=4",
    "n_models=3",
    *(f"pool.designs.{name}.members=3" for name in ("part_answers", "level_set")),
    *("pool.designs.part_inputs.members=0",),
    "attribution.clusters=1",
    "attribution.iterations=5",
    "attribution.prior_examples=100",
    "attribution.prior_points=30",
    "pool.designs.class.members=4",
]


def pipeline_of(outputs, *overrides) -> Pipeline:
    """Return a checked pipeline, on the artifacts of a folder."""
    register()
    (config,) = check_overrides(config_directory(), ["experiment=quick", *overrides])
    console = Console(quiet=True)
    pipeline = Pipeline(Context(config, Store(outputs / "artifacts", console), Local(), console))
    pipeline.check()
    return pipeline


@pytest.fixture
def jobs(monkeypatch):
    """Jobs of training that were carried out."""
    done = []
    monkeypatch.setattr("dmm_exp.pipeline.models.train_chunk", lambda job: (done.append(job), train_chunk(job))[1])
    return done


def by_design(jobs, name):
    return [(job.start, job.stop) for job in jobs if job.role == f"design/{name}"]


def test_it_is_trained_once_and_grows(tmp_path, jobs):
    pipeline = pipeline_of(tmp_path, *SMALL)
    effect = pipeline.effects.of(pipeline.forget).tensors("effect")
    assert by_design(jobs, "class") == [(0, 4)]
    first = pipeline.models.designed("class")
    masks = first.stacked("masks")
    labels = pipeline.context.examples.labels[: masks.shape[1]]
    assert all(not masks[member][labels == member].any() for member in range(4))
    assert effect["effect"].isfinite().all()
    assert (effect["standard_error"] >= 0).all()

    jobs.clear()
    larger = pipeline_of(tmp_path, *SMALL, "pool.designs.class.members=6").models.designed("class")
    assert by_design(jobs, "class") == [(4, 6)]
    assert not by_design(jobs, "level_set")
    torch.testing.assert_close(larger.stacked("logits")[:4], first.stacked("logits"), atol=0, rtol=0)


def test_members_of_any_chunk_are_the_same(tmp_path):
    whole = pipeline_of(tmp_path / "a", *SMALL).models.designed("level_set").stacked("logits")
    cut = pipeline_of(tmp_path / "b", *SMALL, "model.chunk_size=2").models.designed("level_set").stacked("logits")
    torch.testing.assert_close(whole, cut, atol=1e-4, rtol=1e-4)


def test_a_few_oracles_correct_the_prediction_and_cost(tmp_path):
    alone = pipeline_of(tmp_path, *SMALL)
    helped = pipeline_of(tmp_path, *SMALL, "attribution.oracles=2")
    first, second = (one.effects.of(one.forget).tensors("effect") for one in (alone, helped))
    assert not torch.equal(first["effect"], second["effect"])
    assert (second["standard_error"] <= first["standard_error"] + 1e-6).all()


def test_a_pool_without_designs_is_refused_before_anything_is_trained(tmp_path, jobs):
    with pytest.raises(UserError, match=r"this pool has none; choose pool=groups, or attribution=empirical_bayes$"):
        pipeline_of(tmp_path, "pool=halves", "unlearner=dm_direct")
    pipeline_of(tmp_path, "pool=halves", "attribution=empirical_bayes", "unlearner=dm_direct")
    pipeline_of(tmp_path, "pool=halves", "unlearner=finetune")  # predicts nothing
    assert not jobs


def test_one_member_by_design_is_not_enough(tmp_path):
    none = [f"pool.designs.{name}.members=0" for name in ("part_answers", "part_inputs", "level_set")]
    with pytest.raises(UserError, match=r"at least two members .* and this pool has 1; choose pool=groups"):
        pipeline_of(tmp_path, *SMALL, *none, "pool.designs.class.members=1")


def test_what_is_learnt_must_fit_into_memory_before_anything_is_trained(tmp_path, jobs, monkeypatch):
    monkeypatch.setattr("dmm_exp.ensembles.memory.machine_memory", lambda: 1e5)
    with pytest.raises(UserError, match=r"^pool\.designs: GroupKriging of 10 members by design, 1,797 points"):
        pipeline_of(tmp_path, *SMALL)
    assert not jobs


def test_more_models_on_halves_make_other_designs(tmp_path, jobs):
    """They look at these models, of which there were fewer."""
    few = pipeline_of(tmp_path, *SMALL).models.designed("level_set").stacked("masks")
    jobs.clear()
    more = pipeline_of(tmp_path, *SMALL, "pool.size=30").models.designed("level_set").stacked("masks")
    assert by_design(jobs, "level_set") == [(0, 3)]
    assert not torch.equal(few, more)
    whole = pipeline_of(tmp_path / "whole", *SMALL, "pool.size=30").models.designed("level_set").stacked("masks")
    assert torch.equal(more, whole)


def users_of(folder, name, change=0):
    """Write a table of 90 rows of five users, and return how it is named."""
    labels = np.arange(90) % 2
    table = pd.DataFrame({"user": (np.arange(90) + change) % 5, "x": np.sin(np.arange(90)) + labels, "label": labels})
    table.to_csv(folder / name, index=False)
    return ["dataset=table", f"dataset.path={folder / name}", "dataset.formats.table.group_by=[user]"]


BY_USER = [
    *SMALL,
    "model=logistic",
    "pool.designs.user={_target_: dmm_exp.pools.WithoutGroup, members: 5, column: user}",
    "forget=group",
    "forget.column=user",
    "forget.value=3",
]
BY_USER.remove("forget.size=10")
BY_USER.remove("forget=random")


def test_members_are_trained_without_users_and_predict_what_forgetting_one_does(tmp_path, jobs):
    pipeline = pipeline_of(tmp_path, *BY_USER, *users_of(tmp_path, "rows.csv"))
    examples = pipeline.context.examples
    effect = pipeline.effects.of(pipeline.forget).tensors("effect")
    assert effect["effect"].isfinite().all()
    assert by_design(jobs, "user") == [(0, 5)]
    masks = pipeline.models.designed("user").stacked("masks")
    for member, mask in enumerate(masks):
        assert not any(mask[row] for row, user in enumerate(examples.columns["user"]) if user == str(member))
    assert pipeline.models.known.columns == examples.columns
    assert pipeline.forget.tolist() == [row for row, user in enumerate(examples.columns["user"]) if user == "3"]


def test_other_users_of_the_same_rows_are_another_design(tmp_path, jobs):
    first = pipeline_of(tmp_path, *BY_USER, *users_of(tmp_path, "rows.csv"))
    other = pipeline_of(tmp_path, *BY_USER, *users_of(tmp_path, "other.csv", change=1))
    one, two = (pipeline.models.designed("user").stacked("masks") for pipeline in (first, other))
    assert first.context.dataset.digest == other.context.dataset.digest
    assert not torch.equal(one, two)
    assert by_design(jobs, "user") == [(0, 5), (0, 5)]


def test_a_design_by_a_column_that_is_not_there_is_refused_before_anything_is_trained(tmp_path, jobs):
    with pytest.raises(UserError, match=r"^pool\.designs\.user\.column=users: expected one of 'user'"):
        pipeline_of(tmp_path, *BY_USER, "pool.designs.user.column=users", *users_of(tmp_path, "rows.csv"))
    assert not jobs
