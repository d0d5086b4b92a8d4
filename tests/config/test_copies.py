"""A copy of a configuration is what OmegaConf's own way of copying makes."""

import copy
from typing import Any

import pytest
from hydra.types import RunMode
from omegaconf import DictConfig, Node, OmegaConf

from dmm_exp.config.copies import copied
from dmm_exp.config.folders import config_directory
from dmm_exp.config.loader import config_loader


def composed() -> DictConfig:
    """Return a configuration with Hydra's own part: typed and untyped nodes, lists, interpolations, flags."""
    with config_loader(config_directory()) as loader:
        return loader.load_configuration("config", ["unlearner=scrub", "forget=random"], RunMode.RUN)


def facts(node: Any) -> Any:
    """Return all that a node is made of, but its parent."""
    state = {key: value for key, value in vars(node).items() if key != "_parent"}
    content = state.get("_content")
    if isinstance(content, dict):
        state["_content"] = {key: facts(value) for key, value in content.items()}
    elif isinstance(content, list):
        state["_content"] = [facts(value) for value in content]
    elif isinstance(content, Node):
        state["_content"] = facts(content)
    return type(node), state


def test_a_copy_is_made_of_the_same():
    config = composed()
    assert facts(copied(config)) == facts(copy.deepcopy(config)) == facts(config)


def test_a_change_of_a_copy_leaves_the_original_alone():
    config = composed()
    before, made = facts(copy.deepcopy(config)), copied(config)
    OmegaConf.set_struct(made, False)
    made.training.epochs = 99
    made.hydra.job.chdir = True
    made.new = {"list": [1]}
    made.pop("forget")
    OmegaConf.set_readonly(made.hydra, True)
    assert facts(config) == before


def test_parents_are_those_of_the_copy():
    made = copied(composed())

    def check(node: Any) -> None:
        content = vars(node).get("_content")
        inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
        for value in inner:
            assert value._get_parent() is node
            check(value)

    check(made)


@pytest.mark.parametrize("value", ["???", None, "${a}", {"x": 1}])
def test_a_container_that_holds_no_values_can_be_copied(value):
    config = OmegaConf.create({"a": {"x": 2}, "b": value})
    assert facts(copied(config)) == facts(config)
    assert OmegaConf.to_container(copied(config)) == OmegaConf.to_container(config)


def test_a_copied_part_has_no_parent():
    assert copied(composed().training)._get_parent() is None
