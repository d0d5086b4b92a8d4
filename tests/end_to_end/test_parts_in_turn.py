"""What the unlearner of each part gets to see, and what the whole comes to."""

import json
from dataclasses import replace

import pytest
import torch

from dmm_exp.errors import UserError
from dmm_exp.unlearners import Unlearner, UnlearningResult
from dmm_exp.unlearners.work import PartJob, unlearn_chunk

SEEN = []
GENTLE = "unlearner.optimizer.lr=0.001"
SMALL = [
    "attribution=debiased",
    "training.epochs=2",
    "training.batch_size=512",
    "pool.size=20",
    "pool.held_out=4",
    "pool.larger.size=0",
    "n_models=3",
]
TINY = [*SMALL, "forget=random", "forget.size=10"]


class Watching(Unlearner):
    """Remembers its tasks, and adds one to every parameter."""

    def unlearn(self, task):
        SEEN.append(task)
        ensemble = task.originals.copy()
        with torch.no_grad():
            for value in ensemble.parameters():
                value += 1
        return UnlearningResult(
            ensemble, ensemble.logits(task.examples.inputs), len(task.forget), [float(len(task.forget))]
        )


@pytest.fixture
def job(start, tmp_path, monkeypatch):
    """Return a job whose three parts only watch, on the artifacts of a small run."""
    jobs = []
    monkeypatch.setattr(
        "dmm_exp.pipeline.unlearning.unlearn_chunk", lambda job: (jobs.append(job), unlearn_chunk(job))[1]
    )
    start(tmp_path, *TINY, "unlearner=do_nothing")
    (tmp_path / "out").mkdir()
    SEEN.clear()
    points, watching = jobs[0].parts[0].points, {"_target_": f"{__name__}.Watching"}
    parts = tuple(PartJob(watching, chosen, None, None) for chosen in (points[:4], points[4:7], points[7:]))
    return replace(jobs[0], parts=parts, output=tmp_path / "out")


def test_earlier_parts_are_gone_and_later_ones_are_still_retained(job):
    unlearn_chunk(job)
    first, second, third = SEEN
    whole = set(first.forget.tolist()) | set(first.retain.tolist())
    assert set(second.retain.tolist()) == whole - {*job.parts[0].points, *job.parts[1].points}
    assert set(third.forget.tolist()) <= set(second.retain.tolist())
    assert set(third.retain.tolist()) == whole - {index for part in job.parts for index in part.points}
    assert [task.n_train for task in SEEN] == [len(whole), len(whole) - 4, len(whole) - 7]
    assert len({task.seed for task in SEEN}) == 3


def test_each_part_starts_where_the_one_before_ended(job):
    unlearn_chunk(job)
    name = next(iter(SEEN[0].originals.params))
    first, second, third = (task.originals.params[name] for task in SEEN)
    torch.testing.assert_close(second, first + 1)
    torch.testing.assert_close(third, first + 2)


def test_costs_and_losses_are_those_of_all_parts(job):
    unlearn_chunk(job)
    facts = json.loads(next(job.output.glob("shard-*.json")).read_text())["facts"]
    assert facts["sample_gradients"] == 10
    assert facts["history"] == [4.0, 3.0, 3.0]


def test_a_method_without_models_can_only_be_last(start, tmp_path):
    parts = ["refinement=rum", "refinement.low.unlearner=dm_direct"]
    with pytest.raises(UserError, match="returns predictions and no models; it can only be last"):
        start(tmp_path, *TINY, *parts)
    start(tmp_path, *TINY, "refinement=rum", "refinement.high.unlearner=dm_direct")


@pytest.fixture(scope="module")
def found(start, outputs):
    """Return a function that runs with a refinement, on the mix of memorization groups."""
    return lambda *overrides: start(outputs, *SMALL, "forget=rum_mix_mem", "unlearner=gradient_ascent", *overrides)


def same(first, second):
    """Whether two runs say the same of their models; splitting by memorization shares the cost of the pool."""
    names = [name for name in first.metrics if not name.startswith(("seconds", "cost/shared"))]
    return all(first.metrics[name] == second.metrics[name] for name in names)


def test_one_part_is_no_refinement(found):
    one = found("refinement=shuffle", "refinement.count=1")
    assert same(one, found())


def test_doing_nothing_in_every_part_is_doing_nothing(found):
    nothing = [f"refinement.{part}.unlearner=do_nothing" for part in ("low", "mid", "high")]
    assert same(found("refinement=rum", *nothing), found("unlearner=do_nothing"))


def test_the_cost_is_the_sum_over_parts(found):
    whole, refined = found(GENTLE), found("refinement=rum_f", GENTLE)
    assert refined.metrics["cost/unlearning"] == whole.metrics["cost/unlearning"]
    nothing = [f"refinement.{part}.unlearner=do_nothing" for part in ("low", "mid")]
    part = found("refinement=rum", *nothing, 'refinement.high.unlearner="gradient_ascent optimizer.lr=0.001"')
    assert 0 < part.metrics["cost/unlearning"] < 0.4 * whole.metrics["cost/unlearning"]
    assert not same(part, refined)


def test_order_and_assignment_matter(found):
    refined = found("refinement=rum_f", GENTLE)
    assert not same(refined, found("refinement=rum_f", "refinement.order=descending", GENTLE))
    assert not same(refined, found("refinement=shuffle", GENTLE))


def test_datamodel_matching_in_parts_ends_with_the_prediction_for_the_whole(found):
    refined = found("refinement=rum_f", "unlearner=dmm")
    whole = found("unlearner=dmm")
    assert refined.metrics["effect/r2/forget"] == whole.metrics["effect/r2/forget"]
    assert "effect/r2/forget" not in found("refinement=rum", "refinement.low.unlearner=dmm").metrics


def test_an_unlearner_is_chosen_for_each_part_and_what_was_chosen_is_kept(found, capsys):
    auto = found("refinement=rum_auto", 'refinement.candidates=[do_nothing,"finetune epochs=1"]', "unlearner=finetune")
    said = capsys.readouterr().err
    kept = (auto.folder / "config.yaml").read_text()
    for part in ("low", "mid", "high"):
        assert f"refinement.{part}.unlearner: " in said
    assert "auto" not in kept.replace("rum_auto", "").split("refinement:")[1].split("\nevaluation")[0]


def test_choosing_without_candidates_is_refused(found):
    with pytest.raises(UserError, match=r"refinement.candidates=\[\]"):
        found("refinement=rum_auto", "refinement.candidates=[]")


def test_oracles_are_matched_part_by_part(found):
    assert found("refinement=rum_f", "unlearner=oracle_matching").metrics["cost/ratio"] > 0
