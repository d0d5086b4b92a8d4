"""Our loader composes what Hydra's own does, with what several compositions share merged once."""

import shutil
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode
from omegaconf import OmegaConf

from dmm_exp.config import loader as loaders
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


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the configuration that stands for this package's own."""
    folder = shutil.copytree(config_directory(), tmp_path / "conf")
    monkeypatch.setattr(loaders, "config_directory", lambda: str(folder))
    monkeypatch.setattr(loaders, "_own", {})
    return folder


def test_a_process_that_composes_again_has_read_its_own_files_and_keeps_no_command_line(own: Path):
    with config_loader(str(own)) as first:
        config = first.load_configuration("config", LINES[1], RunMode.RUN)
        assert first._composed
    with config_loader(str(own)) as second:
        assert second is first
        assert not second._composed
        assert second.load_configuration("config", LINES[1], RunMode.RUN) == config


@pytest.mark.parametrize("path", ["config.yaml", "forget/random.yaml"])
def test_a_file_that_was_edited_is_read_again(own: Path, path: str):
    key, value = {"config.yaml": ("n_models", 77), "forget/random.yaml": ("forget.seed", 78)}[path]
    with composer(str(own)) as compose:
        compose(["forget=random"])
    text = (own / path).read_text()
    old = next(line for line in text.splitlines() if line.startswith(f"{key.rpartition('.')[2]}:"))
    (own / path).write_text(text.replace(old, f"{old.partition(':')[0]}: {value}"))
    with composer(str(own)) as compose:
        config = compose(["forget=random"])[0][0]
    assert value in (config.n_models, config.forget["seed"])


def test_a_choice_that_a_program_stores_meanwhile_is_known(own: Path, monkeypatch: pytest.MonkeyPatch):
    with composer(str(own)) as compose:
        assert not compose.has("forget", "stored")
    monkeypatch.setitem(ConfigStore.instance().repo, "forget", {})
    ConfigStore.instance().store("stored", {"_target_": "dmm_exp.forget.Random", "size": 3}, group="forget")
    with composer(str(own)) as compose:
        assert compose.has("forget", "stored")
        assert compose(["forget=stored"])[0][0].forget["size"] == 3


def test_who_composed_very_much_begins_again(own: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loaders, "KNOWN", 2)
    with config_loader(str(own)) as first, composer(str(own)) as compose:
        compose(["seed=1", "n_models=2", "forget=random"])
    with config_loader(str(own)) as second:
        assert second is not first


def test_what_is_composed_a_third_time_is_merged_no_more(own: Path, monkeypatch: pytest.MonkeyPatch):
    merged, merge = [], loaders._merge
    monkeypatch.setattr(loaders, "_merge", lambda *a: merged.append(a[1].config_path) or merge(*a))
    found, counts = [], []
    for seed in (1, 2, 3):
        with config_loader(str(own)) as loader:
            found.append(loader.load_configuration("config", ["forget=random", f"seed={seed}"], RunMode.RUN))
        counts.append(len(merged))
    assert 0 < counts[0] < counts[1] == counts[2]
    assert [config.seed for config in found] == [1, 2, 3]
    for config in found:
        config.seed = 0
    assert found[0].forget == found[1].forget == found[2].forget
