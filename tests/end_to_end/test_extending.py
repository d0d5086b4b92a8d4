"""More models of what exists already: only those that are missing are trained, and nothing else changes."""

import re

import pytest
import torch
from results_of_runs import without_seconds

from dmm_exp.pipeline import models, unlearning
from dmm_exp.store import Artifact

CHUNKS_OF_FOUR = ["model.chunk_size=4", "training.epochs=1", "training.batch_size=512", "pool.held_out=4"]
NO_LARGER_POOL = ["pool.larger.size=0", "attribution=debiased"]
LINE = re.compile(r"^✓ (\w+(?: oracles)?) .* {2,}(\S.*)$", re.MULTILINE)


def made_of_members(outputs):
    """Return the finished artifacts made of members, by (role, or kind; number of members)."""
    folders = [path for kind in ("ensemble", "unlearned") for path in (outputs / "artifacts" / kind).iterdir()]
    found = [Artifact(path, path.name, cached=True) for path in folders]
    return {(made.spec.config.get("role", made.spec.kind), made.members): made for made in found}


def assert_same_bytes(one, other):
    assert one.path.name == other.path.name
    assert one.stacked_names() == other.stacked_names()
    for name in one.stacked_names():
        ours, theirs = (made.stacked(name).contiguous().view(torch.uint8) for made in (one, other))
        assert torch.equal(ours, theirs), name


def endings(said):
    """Return how stages came by what they have, by stage, times aside."""
    return {name: re.sub(r" in [\d.]+ s$", "", ending) for name, ending in LINE.findall(said)}


@pytest.fixture
def trained(monkeypatch):
    """Return a list of (role, or what is done; member) of all that is trained in this process."""
    members = []

    def noting(function):
        def note(job):
            members.extend((getattr(job, "role", "unlearned"), member) for member in range(job.start, job.stop))
            function(job)

        return note

    monkeypatch.setattr(models, "train_chunk", noting(models.train_chunk))
    monkeypatch.setattr(unlearning, "unlearn_chunk", noting(unlearning.unlearn_chunk))
    return members


def test_a_larger_pool_is_the_smaller_one_and_what_is_missing_at_the_command_line(command, tmp_path):
    def said(outputs, size):
        small = ["experiment=quick", "evaluation.report=false", "executor=local", *CHUNKS_OF_FOUR, *NO_LARGER_POOL]
        overrides = [*small, "forget=random", "n_models=2", f"pool.size={size}", f"paths.outputs={outputs}"]
        done = command(*overrides, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return endings(done.stderr)

    assert said("twice", 8)["pool"] == "computed"
    extended = said("twice", 20)
    assert extended["pool"] == "8 taken over, 12 computed"
    assert extended["originals"] == "reused"
    assert said("once", 20)["pool"] == "computed"
    twice, once = (made_of_members(tmp_path / name)["subset", 20] for name in ("twice", "once"))
    assert (twice.taken_over, once.taken_over) == (8, 0)
    assert_same_bytes(twice, once)


def test_every_ensemble_of_a_run_is_extended_and_gives_byte_identical_metrics(start, tmp_path, trained):
    choices = [*CHUNKS_OF_FOUR, "forget=random", "unlearner=oracle_matching", "pool.size=8"]
    start(tmp_path / "twice", *choices, "n_models=4")
    before = set(trained)
    trained.clear()
    twice = start(tmp_path / "twice", *choices, "n_models=8")
    roles = ("original", "oracle", "floor_oracle", "target_oracle", "unlearned")
    assert before == {(role, member) for role in roles for member in range(4)}
    assert sorted(trained) == sorted((role, member) for role in roles for member in range(4, 8))
    once = start(tmp_path / "once", *choices, "n_models=8")
    assert without_seconds(twice.folder) == without_seconds(once.folder)
    found = made_of_members(tmp_path / "twice")
    for key, whole in made_of_members(tmp_path / "once").items():
        assert_same_bytes(found[key], whole)


def test_fewer_models_are_the_first_of_more(start, tmp_path, trained):
    choices = [*CHUNKS_OF_FOUR, "forget=random", "unlearner=oracle_matching"]
    start(tmp_path, *choices, "n_models=6")
    trained.clear()
    start(tmp_path, *choices, "n_models=3")
    assert trained == []
    found = made_of_members(tmp_path)
    for role in ("original", "oracle", "unlearned"):
        few, many = found[role, 3], found[role, 6]
        assert all(torch.equal(few.stacked(name), many.stacked(name)[:3]) for name in many.stacked_names())


def test_models_fine_tuned_on_held_out_points_are_extended_with_their_originals(start, tmp_path, trained):
    choices = [*CHUNKS_OF_FOUR, "forget.score=held_out_retraining", "unlearner=do_nothing"]
    start(tmp_path, *choices, "n_models=4")
    trained.clear()
    start(tmp_path, *choices, "n_models=6")
    assert [member for role, member in trained if role == "held_out"] == [4, 5]
    assert made_of_members(tmp_path)["held_out", 6].taken_over == 4


def test_the_cost_of_a_taken_over_pool_counts_all_its_members(start, tmp_path):
    choices = [*CHUNKS_OF_FOUR, *NO_LARGER_POOL, "forget=random", "n_models=2"]
    costs = [start(tmp_path, *choices, f"pool.size={size}").metrics["cost/attribution"] for size in (8, 20)]
    assert costs[1] == pytest.approx(costs[0] * 20 / 8)


def test_a_change_of_anything_else_takes_nothing_over(start, tmp_path, trained):
    choices = [*CHUNKS_OF_FOUR, "forget=random", "unlearner=do_nothing"]
    start(tmp_path, *choices, "n_models=2")
    for change in ("seed=1", "training.epochs=2", "model.network.hidden=[9]"):
        trained.clear()
        start(tmp_path, *choices, "n_models=3", change)
        assert sorted(member for role, member in trained if role == "original") == [0, 1, 2]


def test_a_plan_counts_only_what_is_missing(start, tmp_path, capsys):
    choices = [*CHUNKS_OF_FOUR, "forget=random", "unlearner=oracle_matching"]
    start(tmp_path, *choices, "n_models=4")
    capsys.readouterr()
    start(tmp_path, *choices, "n_models=9", "dry_run=true")
    rows = [line for line in capsys.readouterr().out.splitlines() if "4 models taken over" in line]
    stages = ["originals", "oracles", "floor oracles", "target oracles", "unlearned"]
    assert [row.split("  ")[0].strip() for row in rows] == stages
    assert all(re.search(r"over +5 ", row) for row in rows)
