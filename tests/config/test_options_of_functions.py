"""Options of metrics, which are no class of their own, are compared with what the metric takes."""

import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import check_options_of, check_targets
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.ranges import check_ranges
from dmm_exp.errors import UserError
from dmm_exp.metrics import KlomOptions, check_attack


@pytest.mark.parametrize(
    ("options", "node", "said"),
    [
        (KlomOptions, {"bin": 3}, "it takes bins, .*; did you mean 'bins'"),
        (KlomOptions, {"bins": "many"}, "options.bins=many: expected"),
        (KlomOptions, {"clip": None}, "options.clip=None: expected"),
        (check_attack, {"largest": [1]}, "options.largest=.*: expected"),
        (check_attack, 3, "options=3: expected keys with values"),
    ],
)
def test_an_unknown_option_or_one_of_another_type_is_refused(options, node, said):
    with pytest.raises(UserError, match=said):
        check_options_of("options", node, options)


def test_the_options_of_a_metric_are_accepted():
    check_options_of("options", {"bins": 3, "clip": 1.0}, KlomOptions)
    check_options_of("options", {"feature": "entropy"}, check_attack)


@pytest.mark.parametrize("special", [{"_partial_": 1}, {"_recursive_": "x"}, {"_convert_": "some"}, {"_args_": 3}])
def test_keys_of_hydra_have_their_types(special):
    (key,) = special
    with pytest.raises(UserError, match=f"unlearner.{key}=.*: expected"):
        check_targets({"unlearner": {"_target_": "dmm_exp.unlearners.DoNothing", **special}})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        *((f"forget.seed={seed}", "expected a seed") for seed in (2**64, -(2**63) - 1, 10**30)),
        *((f"training.optimizer.lr={value}", "expected a finite number") for value in ("nan", "inf", "1e999")),
        ("+scores.held_out.augmentation.crop_paddin=1", r"augmentation\.crop_paddin.*did you mean 'crop_padding'"),
        ("+scores.held_out.epoch=1", r"scores\.held_out\.epoch: .*did you mean 'epochs'"),
        ("pool.lds_alphas=[[0.5]]", r"pool\.lds_alphas=.*: expected a list of a finite number"),
        ("convex.multiples=[[1],2]", r"convex\.multiples=.*: expected a list of a finite number"),
        ("study.seeds=[[0]]", r"study\.seeds=.*: expected a list of a whole number"),
        ("unlearner.epochs=[1,inf]", r"unlearner\.epochs\[1\]=inf: expected a finite number"),
    ],
)
def test_numbers_and_lists_that_types_of_the_configuration_let_pass_are_refused(override, said):
    with pytest.raises(UserError, match=said):
        check_ranges(*check_overrides(config_directory(), ["experiment=quick", "forget=random", override]))


@pytest.mark.parametrize("value", [3, 0.5, "none", True, [1.0], {}, {"size": 3}])
@pytest.mark.parametrize("key", ["normalisation", "decoding", "split", "corruption"])
def test_a_plain_value_is_no_object_of_ours(key, value):
    with pytest.raises(UserError, match=rf"dataset\.{key}=.*: expected"):
        check_targets({"dataset": {"_target_": "dmm_exp.data.Dataset", "formats": {}, key: value}})


def test_null_is_no_object_of_ours_where_one_is_needed():
    with pytest.raises(UserError, match=r"dataset\.corruption=None: expected"):
        check_targets({"dataset": {"_target_": "dmm_exp.data.Digits", "corruption": None}})
    check_targets({"dataset": {"_target_": "dmm_exp.data.Dataset", "formats": {}, "normalisation": None}})


def test_half_a_character_is_refused():
    (config,) = check_overrides(config_directory(), ["experiment=quick"])
    config.unlearner["schedule"] = "\ud800"
    with pytest.raises(UserError, match=r"unlearner\.schedule=.*: holds half a character"):
        check_ranges(config)
