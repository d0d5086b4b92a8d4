"""Every file in conf/ is exercised, and every mistake is one sentence that helps."""

import inspect
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_class

from dmm_exp.config.folders import config_directory
from dmm_exp.config.help import help_text
from dmm_exp.config.identity import run_name
from dmm_exp.config.instantiate import check_targets
from dmm_exp.config.loader import config_loader
from dmm_exp.config.loading import groups_of, options_of
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.ranges import check_ranges
from dmm_exp.config.schema import Config, plain, register
from dmm_exp.errors import UserError

CONF = Path(config_directory())
CHOICES = sorted(
    str(path.relative_to(CONF).with_suffix("")) for path in (*CONF.glob("*/*.yaml"), *CONF.glob("evaluation/*/*.yaml"))
)
NEEDS = {
    "forget/indices": ["forget.indices=rows.csv"],
    "forget/group": ["forget.column=user", "forget.value=17"],
    "unlearner/function": ["unlearner.function=dmm_exp.models.margin"],
}


def composed(*overrides):
    register()
    (config,) = check_overrides(config_directory(), overrides)
    check_ranges(config)
    check_targets(plain(config))
    return config


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if not choice.startswith("hydra/")])
def test_every_choice_composes_and_its_keys_are_what_its_class_takes(choice):
    group, _, name = choice.rpartition("/")
    composed(f"{group}={name}", *NEEDS.get(choice, []))


def test_the_trainer_of_the_preset_is_what_lightning_takes():
    """It is compared here alone: a run would import Lightning for it."""
    preset = yaml.safe_load((CONF / "trainer" / "default.yaml").read_text())
    target = preset.pop("_target_")
    parameters = inspect.signature(get_class(target)).parameters
    assert preset.keys() <= parameters.keys()
    get_class(target)(**preset)


@pytest.mark.parametrize("other", [{"devices": [[]]}, {"precison": 32}, {"_target_": "torch.nn.Linear"}])
def test_any_other_trainer_is_compared_with_its_class(other):
    preset = yaml.safe_load((CONF / "trainer" / "default.yaml").read_text())
    check_targets({"trainer": preset})
    with pytest.raises(UserError, match=r"^trainer"):
        check_targets({"trainer": preset | other})
    with pytest.raises(UserError, match=r"^unlearner\._target_=lightning.pytorch.Trainer: expected a class"):
        check_targets({"unlearner": preset})


def test_every_choice_begins_with_a_comment_that_says_what_it_is():
    for choice in CHOICES:
        assert (CONF / f"{choice}.yaml").read_text().startswith("# "), choice


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("unlearnr=dmm", "unlearnr=dmm: there is no key 'unlearnr'; did you mean 'unlearner'?"),
        ("unlearner=dm", "unlearner=dm: expected one of"),
        (
            "evaluation/klom=papr",
            "evaluation/klom=papr: expected one of default, easydub_v1, easydub_v2, paper; did you mean",
        ),
        ("unlearner.epoch=3", "did you mean 'unlearner.epochs'?"),
        ("seed=abc", "seed=abc: Value 'abc' of type 'str' could not be converted to Integer"),
        ("pool.size=ten", "pool.size=ten"),
        ("unlearner.epochs=abc", "unlearner.epochs=abc: expected a whole number"),
        ("unlearner.optimizer.lr=big", "unlearner.optimizer.lr=big: expected a finite number"),
        ("trainer.precison=16", "did you mean 'trainer.precision'?"),
        ("hparams_search.trials=3", "there is no key 'hparams_search.trials'"),
        ("forget=indices", "forget.indices has no value and needs one; give it as forget.indices=VALUE"),
        ("n_models=1", "n_models=1: expected a whole number of at least 2"),
        ("pool.alpha=0.7", "pool.alpha=0.7: with complementary members expected 1 - 1/k for a whole k"),
        (
            "pool.larger={size: 8, alpha: 0.4}",
            "pool.larger.alpha=0.4: expected a fraction between pool.alpha=0.5",
        ),
        ("pool.larger.size=602", "pool.larger.size=602: with complementary members"),
        ("pool.larger.size=4", "pool.larger.size=4: expected 0 for none, or at least 8"),
        ("pool.lds_alphas=[1.5]", "pool.lds_alphas=[1.5]: expected fractions"),
        ("pool.size=20", "pool.size=20: expected at least pool.held_out + 4"),
        ("model=null", "model=null: expected one of cnn, cnn_strided, embedding_bag, logistic, mlp"),
        ("scale=null", "scale=null: expected one of small, tiny; for none of them leave scale out"),
        ("hparams_search=null", "for none of them leave hparams_search out"),
        ("experiment=null", "for none of them leave experiment out"),
        ("experiment=quik", "did you mean 'quick'?"),
        ("+foo=3", "foo: there is no such key"),
        ("+unlearner.foo=3", "takes no 'foo'"),
        ("foo", "'foo' is not an override; expected key=value"),
        ("training.optimizer._target_=torch.optim.SDG", "cannot be imported"),
    ],
)
def test_mistakes_are_one_sentence_that_names_key_value_and_what_is_accepted(override, said):
    with pytest.raises(UserError) as error:
        composed(override)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_choice_within_a_group_is_checked_too():
    with pytest.raises(UserError, match="shrinkage=foo: expected one of james_stein, elementwise, none"):
        composed("attribution=debiased", "attribution.shrinkage=foo")


def test_a_sweep_is_composed_cell_by_cell():
    register()
    cells = list(check_overrides(config_directory(), ["unlearner=dmm,finetune", "seed=1,2,3"]))
    assert [(cell.seed, "retain_multiplier" in cell.unlearner) for cell in cells] == [
        *((seed, True) for seed in (1, 2, 3)),
        *((seed, False) for seed in (1, 2, 3)),
    ]


def test_of_a_key_that_a_sweep_has_twice_the_last_values_count_as_in_hydra():
    assert [cell.seed for cell in check_overrides(config_directory(), ["seed=1,2", "n_models=3", "seed=4,5"])] == [4, 5]


def test_groups_and_choices_are_those_that_hydra_knows():
    register()
    with config_loader(config_directory()) as loader:
        groups = list(groups_of(loader))
        assert {choice.rpartition("/")[0] for choice in CHOICES} <= set(groups)
        assert "experiment/fair/rum_high_mem" in groups
        for group in ("unlearner", "experiment", "experiment/fair/rum_high_mem", "no_such_group"):
            assert options_of(group, loader) == loader.get_group_options(group)


def test_help_shows_choices_and_the_keys_of_what_was_chosen():
    register()
    said = help_text(config_directory(), ["unlearner=scrub", "seed=7"])
    assert "\nforget: class, group, indices, " in said
    assert "\nhydra" not in said
    assert "\nseed: 7\n" in said
    assert "  _target_: dmm_exp.unlearners.Scrub\n" in said
    assert "outputs: outputs\n" in said
    with pytest.raises(UserError, match="did you mean 'scrub'"):
        help_text(config_directory(), ["unlearner=scrubb"])


@pytest.mark.parametrize("override", ["paths.outputs=/elsewhere", "logger=none", "executor=local", "dry_run=true"])
def test_where_a_run_happens_does_not_change_its_name(override):
    choices = {"dataset": "digits"}
    assert run_name(composed(override), choices) == run_name(composed(), choices)


@pytest.mark.parametrize(
    "override",
    ["seed=1", "n_models=50", "forget.fraction=0.04", "evaluation.klom.bins=19", "evaluation/klom=paper"],
)
def test_what_a_run_finds_changes_its_name(override):
    choices = {"dataset": "digits"}
    assert run_name(composed(override), choices) != run_name(composed(), choices)


def test_a_published_klom_is_chosen_by_its_name_and_single_options_change_it():
    paper = composed("evaluation/klom=paper").evaluation.klom
    assert (paper["bins"], paper["drop_maximum"], paper["renormalise"]) == (19, True, True)
    assert composed("evaluation/klom=paper", "evaluation.klom.bins=12").evaluation.klom == {**paper, "bins": 12}
    assert composed("evaluation/klom=easydub_v1").evaluation.klom["direction"] == "oracle_unlearned"
    assert composed("evaluation/klom=default") == composed()
    assert composed("evaluation/klom=paper").evaluation.mia == composed().evaluation.mia


def test_the_preset_of_easydub_measures_klom_as_easydub_does():
    assert "evaluation/klom=easydub_v2" in composed("experiment=easydub_cifar10").leaderboard.overrides


def test_keys_that_came_later_leave_the_names_of_earlier_runs_alone():
    now = composed("forget=class", "forget.label=3")
    earlier = plain(now)
    del earlier["forget"]["position"], earlier["evaluation"]["strong_ulira"]["position"]
    names = [run_name(config, {}) for config in (now, Config.of(earlier))]
    assert names[0] == names[1] != run_name(composed("forget=class", "forget.position=3"), {})


def test_infinite_numbers_and_options_of_what_has_none_are_refused():
    ssd = {"_target_": "dmm_exp.unlearners.SSD", "alpha": float("inf")}
    with pytest.raises(UserError, match="alpha=inf: expected a finite number"):
        check_targets({"unlearner": ssd})
    with pytest.raises(UserError, match="takes no 'epochs', it takes nothing"):
        check_targets({"unlearner": {"_target_": "dmm_exp.unlearners.DoNothing", "epochs": 1}})


@pytest.mark.parametrize(
    "text",
    ["# a note\n# @package _global_\nn_models: 3\n", "defaults:\n  - override /job: study\n", "seed: 3\n"],
)
def test_an_experiment_that_does_not_begin_with_its_package_is_told_so(tmp_path, text):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
    expected = "^experiment/mine.yaml: expected '# @package _global_' as its first line"
    with pytest.raises(UserError, match=expected):
        check_overrides(config_directory(), ["experiment=mine"], [str(tmp_path)])
