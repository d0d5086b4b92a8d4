"""The strong form of U-LiRA: what it writes, what it reuses, and what it says of both ends of the scale."""

import numpy as np
import pandas as pd
import pytest
import torch

from dmm_exp.attribution import Evidence
from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.ranges import check_ranges
from dmm_exp.config.schema import register
from dmm_exp.console.progress import Console
from dmm_exp.data import Rows
from dmm_exp.errors import UserError
from dmm_exp.evaluation import attack
from dmm_exp.evaluation.strong_ulira import StrongUlira
from dmm_exp.executors import Local
from dmm_exp.pipeline import Context, Pipeline
from dmm_exp.store import Store

KEY = "evaluation.strong_ulira"
SMALL = [
    *("forget=random", "n_models=2", "pool.size=12", "pool.held_out=2", "pool.larger.size=0"),
    *("training.epochs=1", "training.batch_size=512", "model.network.hidden=[24]"),
    *("executor=local", "evaluation.report=false"),
    *(f"{KEY}.forget_sets=3", f"{KEY}.size=4", f"{KEY}.base_models=12"),
]
FINE_TUNED = ["unlearner=finetune", "unlearner.epochs=1"]
NAMES = {"accuracy", "accuracy_hardest", "auc", "tpr_at_1fpr", "tpr_at_0.1fpr"}


def attack_in(outputs, *overrides):
    """Return what is attacked; nothing is made before it is asked for."""
    register()
    (config,) = check_overrides(config_directory(), [*SMALL, *overrides])
    check_ranges(config)
    console = Console(quiet=True)
    pipeline = Pipeline(Context(config, Store(outputs / "artifacts", console), Local(), console))
    made = attack.Attack(pipeline)
    pipeline.check()
    made.check()
    return made


@pytest.fixture(scope="module")
def attacked(outputs):
    """Return a function that attacks a method, without the models that only other metrics need."""
    return lambda *overrides: StrongUlira(attack_in(outputs, *overrides))


def test_a_run_has_exactly_the_documented_metrics_and_tables(start, outputs):
    found = start(outputs, *SMALL, *FINE_TUNED)
    names = {f"{kind}/{name}" for kind in ("ulira_strong", "ulira_strong_original") for name in NAMES}
    assert {name for name in found.metrics if name.startswith("ulira_strong")} == names
    rates = pd.read_parquet(found.folder / "ulira_roc.parquet")
    assert np.trapezoid(rates["tpr"], rates["fpr"]) == pytest.approx(found.metrics["ulira_strong/auc"])
    rows = pd.read_parquet(found.folder / "ulira.parquet")
    assert rows["accuracy"].mean() == pytest.approx(found.metrics["ulira_strong/accuracy"])
    plain = start(outputs, *SMALL, *FINE_TUNED, f"{KEY}.forget_sets=0")
    assert not (plain.folder / "ulira.parquet").exists()
    others = {name for name in found.metrics if not name.startswith(("seconds", "ulira_strong"))}
    assert {name for name in plain.metrics if not name.startswith("seconds")} == others
    assert all(plain.metrics[name] == found.metrics[name] for name in others)


def test_there_is_a_row_for_every_example_of_every_set(attacked):
    rows = attacked(*FINE_TUNED).examples
    assert rows.groupby("forget_set")["point"].nunique().tolist() == [4] * 3
    assert rows["label"].nunique() == 1  # sets are drawn from one class
    assert (rows["n_in"] == 6).all()  # complementary pairs: half of the base models saw each example
    assert (rows["n_out"] == 6).all()


def test_doing_nothing_is_what_the_originals_score(attacked):
    found = attacked("unlearner=do_nothing").metrics
    for name in NAMES:
        assert found[f"ulira_strong/{name}"] == found[f"ulira_strong_original/{name}"]


def test_wrong_labels_are_told_after_doing_nothing_and_not_after_retraining(attacked):
    """No model answers a wrong label that it did not see, so doing nothing is always found out."""
    wrong = [*("dataset.corruption.fraction=0.03", "forget=mislabelled", f"{KEY}.drawn_from=forget", f"{KEY}.size=8")]
    trained = ["training.epochs=20", "training.batch_size=128", f"{KEY}.base_models=24", "model.network.hidden=[64]"]
    nothing, retrained = (attacked(*wrong, *trained, f"unlearner={name}") for name in ("do_nothing", "retrain"))
    assert nothing.metrics["ulira_strong/accuracy"] > 0.9
    assert 0.4 < retrained.metrics["ulira_strong/accuracy"] < 0.6
    assert retrained.metrics["ulira_strong_original/accuracy"] == nothing.metrics["ulira_strong/accuracy"]
    assert set(retrained.examples["point"]) <= set(retrained.attack.pipeline.forget.tolist())
    assert retrained.examples["memorization"].mean() > 0.3


@pytest.mark.parametrize(
    "overrides",
    [
        ("unlearner=dmm", "unlearner.epochs=1", "attribution=debiased"),
        ("unlearner=scrub", "unlearner.epochs=1"),
        ("unlearner=influence",),
        ("unlearner=ssd", "unlearner.alpha=1.5", f"{KEY}.forget_sets=1"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_other_kinds_of_methods_are_attacked_too(attacked, overrides):
    found = attacked(*overrides)
    nothing = attacked("unlearner=do_nothing").examples.iloc[: len(found.examples)]
    assert 0 <= found.metrics["ulira_strong/accuracy"] <= 1
    assert not np.allclose(found.examples["margin_in"], nothing["margin_in"], atol=1e-4)


@pytest.mark.parametrize("attribution", ["datamodel", "empirical_bayes", "best"])
def test_predictions_are_of_what_each_base_model_has_to_forget(outputs, attribution):
    made = attack_in(outputs, "unlearner=dm_direct", f"attribution={attribution}")
    points, bases = (torch.tensor([getattr(pair, name) for pair in made.pairs]) for name in ("chosen", "base"))
    rows, effects = torch.arange(len(points))[:, None], made.pair_effects.stacked("effect")
    expected = made.base_models.stacked("logits")[bases] - effects
    assert torch.equal(made.attacked.stacked("logits"), expected[rows, points])
    known = made.base_models.stacked("masks")[bases[:, None], points]
    assert (known.sum(1) > 0).all()
    if attribution == "datamodel":  # linear: the effect of a set is the sum of its examples' effects
        pool, examples = made.models.of_pool[: len(made.models.of_pool) - 2], made.context.examples
        rows = Rows(made.forget_sets.unique(), examples.n_train)
        evidence = Evidence(rows.groups(examples.n_points), rows.n_train, pool=pool)
        single = made.estimator.learn(evidence).predict(torch.eye(examples.n_train)[points[5]])
        torch.testing.assert_close(effects[5], (single * known[5, :, None, None]).sum(0), atol=1e-4, rtol=1e-3)


def test_effects_are_read_across_files(outputs, monkeypatch):
    made = attack_in(outputs, "unlearner=dm_direct", "attribution=datamodel")
    monkeypatch.setattr(attack, "EFFECTS_AT_ONCE", 10 * 17_970)
    elsewhere = attack_in(outputs, "unlearner=dm_direct", "attribution=datamodel", f"{KEY}.label=4").pair_effects
    assert len(elsewhere.layout) > 2
    whole = elsewhere.stacked("effect")
    assert torch.equal(elsewhere.rows("effect", 7, 23), whole[7:23])
    assert torch.equal(made.pair_effects.rows("effect", 3, 5), made.pair_effects.stacked("effect")[3:5])


def test_a_second_attack_reuses_everything(attacked, outputs):
    before = attacked(*FINE_TUNED)
    assert before.metrics
    again = attack_in(outputs, *FINE_TUNED)
    assert again.base_models.cached
    assert again.attacked.cached
    assert StrongUlira(again).artifact.cached


def test_more_forget_sets_leave_those_there_are_as_they_were(attacked):
    few = attacked(*FINE_TUNED).examples
    more = attacked(*FINE_TUNED, f"{KEY}.forget_sets=5").examples.iloc[: len(few)]
    assert more[["point", "n_in"]].equals(few[["point", "n_in"]])
    np.testing.assert_allclose(more["margin_in"], few["margin_in"], atol=1e-3)  # other chunks: equal up to rounding


def test_another_number_of_models_at_once_changes_nothing_but_rounding(attacked, tmp_path):
    method = ["unlearner=scrub", "unlearner.epochs=1"]
    few = StrongUlira(attack_in(tmp_path, *method, "model.chunk_size=15")).examples
    many = attacked(*method).examples
    assert few["point"].equals(many["point"])
    np.testing.assert_allclose(few["margin_in"], many["margin_in"], atol=1e-3)


def test_an_interrupted_attack_goes_on_where_it_stopped(tmp_path, monkeypatch):
    done, original = [], attack.unlearn_pairs

    def failing(job):
        if len(done) == 2 and job.shard not in done:
            done.append("interrupted")
            raise KeyboardInterrupt
        done.append(job.shard)
        original(job)

    monkeypatch.setattr(attack, "unlearn_pairs", failing)
    settings = ["unlearner=do_nothing", "model.chunk_size=10"]
    with pytest.raises(KeyboardInterrupt):
        assert attack_in(tmp_path, *settings).attacked
    made = attack_in(tmp_path, *settings)
    assert made.attacked.members == len(made.pairs)
    assert done == [0, 1, "interrupted", *range(2, -(-len(made.pairs) // 10))]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["unlearner=oracle_matching"], "OracleMatching would need models retrained without each set"),
        (["unlearner=dmm", "attribution=oracle"], "OracleEffect predicts the run's own forget set only"),
        (["refinement=shuffle"], "too small to be split; expected refinement=none"),
        ([f"{KEY}.base_models=4"], "4 base models leave only 1 that saw some example"),
        ([f"{KEY}.size=500"], "size=500: evaluation.strong_ulira.drawn_from=class has"),
        ([f"{KEY}.label=12"], "evaluation.strong_ulira.label=12: expected one of 0, 1, 2,"),
        ([f"{KEY}.drawn_from=all"], "drawn_from=all: expected class or forget"),
        ([f"{KEY}.size=0"], "size=0: expected a whole number of at least 1"),
    ],
)
def test_what_cannot_be_attacked_is_said_before_anything_is_made(tmp_path, overrides, said):
    with pytest.raises(UserError, match=said):
        attack_in(tmp_path / "none", *overrides)
    assert not (tmp_path / "none").exists()


def test_a_plan_lists_the_attack(start, tmp_path, capsys):
    assert start(tmp_path / "none", *SMALL, *FINE_TUNED, "dry_run=true") is None
    plan = capsys.readouterr().out
    assert "base models" in plan
    assert "attacked" in plan
    assert not (tmp_path / "none").exists()
