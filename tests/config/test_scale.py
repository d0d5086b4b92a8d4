"""``scale`` bounds whatever an experiment consists of, and changes nothing else."""

from dataclasses import replace

import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.identity import run_name
from dmm_exp.config.parts import composed_parts
from dmm_exp.config.preflight import check_overrides, compose_cells
from dmm_exp.config.ranges import check_ranges
from dmm_exp.config.scale import scaled, scaled_part
from dmm_exp.config.schema import plain, register
from dmm_exp.errors import UserError
from dmm_exp.leaderboard.board import compose_entries
from dmm_exp.study.study import compose_cells_of


def composed(*overrides):
    register()
    (config,) = check_overrides(config_directory(), overrides)
    check_ranges(config)
    return config


def test_larger_values_become_the_bound_and_smaller_ones_stay():
    tiny = composed("scale=tiny", "training.epochs=1")
    assert (tiny.n_models, tiny.pool.size, tiny.pool.larger.size) == (4, 32, 0)
    assert composed("scale=tiny", "pool=halves").pool.larger.size == 8
    assert {design["members"] for design in tiny.pool.designs.values()} == {8}
    assert tiny.training.epochs == 1
    assert tiny.model.network["hidden"] == [32, 32]
    assert tiny.forget["size"] == 12  # null, a share of the training set, would depend on its size
    assert tiny.forget["fraction"] == composed().forget["fraction"]


def test_quick_bounds_designs_where_there_are_any():
    quick = composed("experiment=quick")
    assert {design["members"] for design in quick.pool.designs.values()} == {6}
    assert composed("experiment=quick", "pool=halves").pool.designs is None
    raised = composed("experiment=quick", "scale.pool.designs.each.members=9", "pool.designs.class.members=7")
    assert sorted(design["members"] for design in raised.pool.designs.values()) == [7, 9, 9, 9]
    assert composed("experiment=quick", "scale=tiny").training.epochs == 2


def test_nothing_is_bounded_without_a_scale():
    config = composed("n_models=1000", "pool.size=100000")
    assert config.scale is None
    assert scaled(plain(config)) == plain(config)


def test_all_there_is_and_auto_are_bounded():
    tiny = composed("scale=tiny", "dataset=cifar10", "model=resnet18")
    assert (tiny.dataset["train_size"], tiny.model.chunk_size) == (200, 4)
    assert tiny.model.network == {
        "_target_": "dmm_exp.models.ResNet",
        "depth": 18,
        "stem": "cifar",
        "width": 12,
    }


def test_a_bound_is_raised_by_its_name_and_by_nothing_else():
    assert composed("scale=tiny", "pool.size=100").pool.size == 32
    assert composed("scale=tiny", "scale.pool.size=60").pool.size == 60
    assert composed("scale=tiny", "pool.size=10", "scale.pool.size=60").pool.size == 10


def test_numbers_of_epochs_to_stop_at_stay_distinct():
    config = composed("scale=tiny", "unlearner=finetune", "unlearner.epochs=[1,2,4,8]")
    assert config.unlearner["epochs"] == [1, 2]


def test_to_bound_twice_is_to_bound_once():
    config = composed("scale=small", "dataset=cifar10", "model=resnet9", "unlearner=scrub")
    assert scaled(plain(config)) == plain(config)


@pytest.mark.parametrize("scale", ["tiny", "small"])
@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet9", "resnet50", "vgg16_bn", "vit_tiny", "logistic"])
def test_every_network_of_ours_can_be_made_smaller(scale, model):
    full, less = composed(f"model={model}").model.network, composed(f"model={model}", f"scale={scale}")
    assert set(less.model.network) == set(full)


def test_a_network_without_a_width_is_one_sentence_and_can_be_kept():
    foreign = ["model=logistic", "model.network._target_=torch.nn.Linear", "~model.network.hidden", "scale=tiny"]
    with pytest.raises(UserError) as error:
        composed(*foreign)
    assert str(error.value) == (
        "scale: torch.nn.Linear has no model.network.width or hidden or channels to make smaller; choose "
        "another network, or keep this one's size with scale.model.network=null"
    )
    assert composed(*foreign, "scale.model.network=null").n_models == 4


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("scale=tny", "did you mean 'tiny'"),
        ("scale.pool.size=ten", "scale.pool.size=ten: expected a number"),
        ("scale.pool.sise=3", "did you mean 'scale.pool.size'"),
        ("+scale.model.network._target_=3", "dmm_exp.models.MLP is no number that could be smaller"),
    ],
)
def test_mistakes_are_one_sentence(override, said):
    with pytest.raises(UserError) as error:
        composed(*(["scale=tiny"] * (override != "scale=tny")), override)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_study_s_own_settings_do_not_undo_it():
    study = composed("experiment=rum_fashion").study
    study = replace(study, methods=["salun"], tables={"entanglement": study.tables["entanglement"]})
    cells = list(compose_cells_of(study, ["scale=tiny"]))
    assert len(cells) == 3
    for cell in cells:
        sizes = [cell.config.n_models, cell.config.pool.size, cell.config.training.epochs]
        assert sizes == [4, 32, 2]  # the study says 10, 600 and 20
        assert cell.config.dataset["train_size"] == 200
        assert cell.config.unlearner["epochs"] <= 2
        assert "scale=tiny" in cell.overrides


def test_a_leaderboard_s_own_settings_do_not_undo_it():
    board = composed("experiment=dmm_cifar10").leaderboard
    board = replace(board, methods=["dmm", "bad_teacher"], forget_sets={"random": ["random size=1000"]})
    tuned, untuned = compose_entries(board, ["scale=tiny", "dataset.subset_seed=3"])
    assert tuned.config.pool.size == untuned.config.pool.size == 32
    assert tuned.config.forget["size"] == 12
    assert tuned.config.unlearner["epochs"] == [1, 2]
    assert tuned.config.unlearner["retain_multiplier"] == 5  # experiment=literature/dmm
    assert tuned.config.dataset["subset_seed"] == 3
    assert untuned.overrides[0] == "unlearner=bad_teacher"


def test_parts_and_forget_sets_composed_on_their_own_are_bounded():
    config = composed("scale=tiny", "refinement=rum", "refinement.high.unlearner=literature/salun")
    parts = composed_parts(config).refinement
    assert (parts["mid"]["unlearner"]["epochs"], parts["high"]["unlearner"]["epochs"]) == (2, 2)
    assert scaled_part("forget", {"size": 3000, "label": 2}, config) == {"size": 12, "label": 2}
    assert scaled_part("forget", {"size": 3000}, composed()) == {"size": 3000}


def test_a_run_s_name_tells_its_scale_and_its_identity_is_what_was_bounded():
    register()
    ((tiny, choices),) = compose_cells(config_directory(), ["scale=tiny"])
    name = run_name(tiny, choices)
    assert name.startswith("digits-mlp-rum_high_mem-dmm-tiny__")
    assert run_name(replace(tiny, scale=None), choices) == name
    assert run_name(*compose_cells(config_directory(), [])[0]).rpartition("__")[2] != name.rpartition("__")[2]
