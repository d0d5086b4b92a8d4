"""Our loader composes what Hydra's own does, with what several compositions share merged once."""

from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import OmegaConf

from dmm_exp.config.files import limited_files
from dmm_exp.config.folders import config_directory
from dmm_exp.config.loader import config_loader
from dmm_exp.config.preflight import composer

LINES = [
    ["seed=1"],
    ["unlearner=scrub", "forget=random", "forget.seed=3"],
    ["unlearner=scrub", "forget=class"],
    ["unlearner=dmm", "forget=class", "evaluation/klom=paper"],
    ["experiment=quick", "unlearner=finetune"],
    ["experiment=fair/random/scrub", "forget=random"],
    ["experiment=fair/random/dmm", "forget=random"],
    ["experiment=fair/random/dmm", "forget=class", "unlearner.epochs=3"],
    ["unlearner=scrub", "forget=random", "forget.seed=3", "hydra.job.name=other"],
]
REPLACED = ["model.network._target_=dmm_exp.models.MLP"]


def test_all_that_is_composed_in_turn_is_what_hydra_composes_alone():
    with config_loader(config_directory()) as loader:
        found = [loader.load_configuration("config", line, RunMode.RUN) for line in [*LINES, *reversed(LINES)]]
        with limited_files():
            for config, line in zip(found, [*LINES, *reversed(LINES)], strict=True):
                alone = ConfigLoaderImpl(create_config_search_path(config_directory()))
                expected = alone.load_configuration("config", line, RunMode.RUN)
                for each in (config, expected):
                    OmegaConf.set_struct(each, False)
                    each.pop("hydra")
                assert OmegaConf.to_yaml(config) == OmegaConf.to_yaml(expected)
                assert OmegaConf.get_type(config, "training") is OmegaConf.get_type(expected, "training")


@pytest.mark.parametrize(
    "line", [*LINES, ["unlearner=scrub,dmm", "seed=1,2"], ["model.network._target_=dmm_exp.models.MLP"]]
)
def test_without_hydras_own_part_the_rest_is_the_same(line):
    with composer(config_directory()) as compose:
        assert compose(line) == compose.to_start(line)
        assert compose(line) == compose.to_start(line)


def test_what_a_file_sets_of_hydra_is_left_out_alone(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /hydra/launcher: joblib\nseed: 3\nhydra: {sweep: {dir: here}}\n"
    )
    with composer(config_directory(), [str(tmp_path)]) as compose:
        assert compose(["experiment=mine"]) == compose.to_start(["experiment=mine"])
        assert compose(["experiment=mine"])[0][0].seed == 3


def test_what_is_returned_may_be_changed():
    with config_loader(config_directory()) as loader:
        first = loader.load_configuration("config", LINES[1], RunMode.RUN)
        first.forget.seed = 99
        assert loader.load_configuration("config", LINES[1], RunMode.RUN).forget.seed == 3
        assert loader.load_configuration("config", [*LINES[1], "seed=2"], RunMode.RUN).forget.seed == 3


def test_a_list_that_names_another_choice_follows_it(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "paired").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /paired: for_${scale}\n  - _self_\n"
    )
    for name, seed in (("tiny", 5), ("small", 7)):
        (tmp_path / "paired" / f"for_{name}.yaml").write_text(f"# @package _global_\nseed: {seed}\n")
    with composer(config_directory(), [str(tmp_path)]) as compose:
        seeds = [compose(["experiment=mine", f"scale={name}"])[0][0].seed for name in ("tiny", "small", "tiny")]
    assert seeds == [5, 7, 5]


@pytest.mark.parametrize("choice", ["seed: 1\nn_models: 7\n", "seed: 1\nn_models: 9\n"])
def test_each_composer_reads_the_files_as_they_are(tmp_path: Path, choice: str):
    (tmp_path / "experiment").mkdir()
    for text in ("seed: 3\n", choice):
        (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
        with composer(config_directory(), [str(tmp_path)]) as compose:
            config, _ = compose(["experiment=mine"])[0]
    assert config.seed == 1
    assert f"n_models: {config.n_models}" in choice


def test_inside_a_body_that_looks_in_the_same_folders_the_loader_is_the_same(tmp_path: Path):
    with config_loader(config_directory(), [str(tmp_path)]) as outer:
        with config_loader(config_directory(), [str(tmp_path)]) as inner:
            assert inner is outer
        with config_loader(config_directory()) as other:
            assert other is not outer
        with config_loader(config_directory(), [str(tmp_path)]) as again:
            assert again is outer
    with config_loader(config_directory(), [str(tmp_path)]) as later:
        assert later is not outer
