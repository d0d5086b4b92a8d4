"""What every key is to a result: which there are that do not identify it, and that names follow what is marked."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from functools import cache, reduce
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from dmm_exp.config.folders import config_directory
from dmm_exp.config.identity import does_not_identify, identified, identifying, run_name
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.schema import MARKS, Config, marks, plain
from dmm_exp.executors import Local
from dmm_exp.metrics import KlomOptions
from dmm_exp.pipeline import Context
from dmm_exp.search.search import _records

DO_NOT_IDENTIFY = {
    "presentation": [
        "dry_run", "evaluation.report", "logger", "trainer.logger", "trainer.enable_checkpointing",
        "trainer.enable_progress_bar", "trainer.enable_model_summary", "dataset.package",
    ],
    "place": [
        "model.chunk_size", "dataset.decoding.keep_in", "trainer.accelerator", "trainer.devices", "trainer.num_nodes",
        "engine", "executor", "paths",
    ],
    "job": ["job", "hparams_search", "scale", "forget_tuning", "leaderboard", "study", "convex"],
}  # fmt: skip
FILES = ["dataset.path", "dataset.formats.*.groups", "forget.indices"]
LATER = [
    "dataset.train_skip", "dataset.validation_skip", "unlearner.margin_weight", "dataset.formats.npz.axes",
    "dataset.formats.table.keep", "dataset.formats.folder.group_by", "dataset.formats.npz.group_by",
    "dataset.formats.table.group_by", "dataset.formats.table.text", "evaluation.strong_ulira.position",
    "forget.position", "forget.column", "forget.header", "attribution.oracles", "pool.designs", "refinement.each",
    "evaluation.klom.floor_everywhere", "evaluation.audits",
]  # fmt: skip
OPTIONS = {"evaluation.klom": KlomOptions}  # of functions
UNMARKED = [key for keys in DO_NOT_IDENTIFY.values() for key in keys]
TUNING = {"random seed=9": {"_target_": "dmm_exp.forget.Random", "size": 5, "fraction": None, "seed": 9}}


@cache
def default() -> Config:
    """Return the default configuration."""
    (config,) = check_overrides(config_directory(), [])
    return config


def leaves(node: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every value that holds no further keys."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*before, str(name)))
        else:
            yield (*before, str(name))


def with_value(node: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return plain configuration with another value at a path, which is made where it is not there."""
    first, *rest = path
    inner = with_value(node.get(first) or {}, tuple(rest), value) if rest else value
    return {**node, first: inner}


def without(node: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Return plain configuration without what is at a path."""
    first, *rest = path
    if not rest:
        return {name: value for name, value in node.items() if name != first}
    return {**node, first: without(node.get(first) or {}, tuple(rest))}


def at(node: Any, path: tuple[str, ...]) -> Any:
    """Return the value at a path."""
    for name in path:
        node = node[name]
    return node


def changed(value: Any) -> Any:
    """Return another value of the same kind; something for nothing."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, list):
        return [*value, 1]
    if isinstance(value, Mapping):
        return {**value, "more": {} if value == {} else 1}
    return f"{value or ''}x"


def path_of(key: str) -> tuple[str, ...]:
    """Return the path of a marked key; what is a pattern stands for any name."""
    return tuple(key.replace("*", "folder").split("."))


def name_of(config: Config | dict[str, Any]) -> str:
    """Return the name of a run."""
    return run_name(config if isinstance(config, Config) else Config.of(config), {})


def records_of(config: Config | dict[str, Any]) -> str:
    """Return the name of the folder of what a search remembers, wherever it lies."""
    return _records(config if isinstance(config, Config) else Config.of(config), "scrub", TUNING).parent.name


def is_marked(path: tuple[str, ...]) -> bool:
    """Say whether a key does not identify a result, by the list above."""
    return any(f"{'.'.join(path)}.".startswith(f"{key}.") for key in UNMARKED)


def test_the_keys_that_are_marked_are_these_and_no_others():
    expected = {key: mark for mark, keys in DO_NOT_IDENTIFY.items() for key in keys}
    expected |= dict.fromkeys(FILES, "file") | dict.fromkeys(LATER, "later")
    assert marks() == expected
    assert set(marks().values()) == set(MARKS)


@cache
def written() -> tuple[set[str], set[tuple[str, str]]]:
    """Return the dotted keys of the files in conf/, and every class of theirs by the dotted key of its node."""
    keys, classes = set(), set()
    root = Path(config_directory())
    for file in (*root.glob("*/*.yaml"), *root.glob("evaluation/*/*.yaml")):
        groups = file.parent.relative_to(root).parts
        content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        content.pop("defaults", None)
        everywhere = "# @package _global_" in file.read_text()
        placed = content if everywhere else reduce(lambda inner, group: {group: inner}, reversed(groups), content)
        for path in leaves(placed):
            keys |= {".".join(path[:depth]) for depth in range(1, len(path) + 1)}
            if path[-1] == "_target_":
                classes.add((".".join(path[:-1]), str(at(placed, path))))
    return keys, classes


def is_argument(key: str) -> bool:
    """Say whether a class that stands in conf/ takes a key of its node, or a function whose options a node holds."""
    node, _, name = key.rpartition(".")
    if node in OPTIONS:
        return name in get_type_hints(OPTIONS[node])
    targets = {target for place, target in written()[1] if fnmatch(place, node)}
    return any(name in inspect.signature(get_object(target)).parameters for target in targets)


@pytest.mark.parametrize("key", marks())
def test_every_marked_key_exists(key: str):
    declared = {".".join(path[:depth]) for path in leaves(plain(Config())) for depth in range(1, len(path) + 1)}
    assert key in declared or (is_argument(key) and any(fnmatch(known, key) for known in written()[0]))


@pytest.mark.parametrize("path", list(leaves(plain(default()))), ids=".".join)
def test_a_key_that_is_not_marked_changes_a_run_s_name_and_a_marked_one_does_not(path: tuple[str, ...]):
    before = plain(default())
    after = with_value(before, path, changed(at(before, path)))
    assert (name_of(after) == name_of(before)) is is_marked(path)
    assert does_not_identify(".".join(path)) is is_marked(path)
    if is_marked(path):
        assert records_of(after) == records_of(before)


@pytest.mark.parametrize("key", UNMARKED)
@pytest.mark.parametrize("value", [None, "x", 3])
def test_a_marked_key_within_a_node_identifies_nothing(key: str, value: Any):
    whole = with_value(plain(default()), path_of(key), value)
    assert identifying(whole) == identifying(without(whole, path_of(key)))
    assert does_not_identify(key)
    assert does_not_identify(f"{key}.further")


@pytest.mark.parametrize("key", LATER)
def test_a_key_that_came_later_leaves_the_name_while_it_is_null(key: str):
    null, given = (with_value(plain(default()), path_of(key), value) for value in (None, 3))
    assert name_of(null) == name_of(without(null, path_of(key)))
    assert name_of(given) != name_of(null)
    assert not does_not_identify(key)


@pytest.mark.parametrize("key", FILES)
def test_a_file_counts_by_its_content(key: str, tmp_path: Path):
    names = []
    for place, text in (("first.csv", "1\n"), ("second.csv", "1\n"), ("third.csv", "2\n")):
        (tmp_path / place).write_text(text)
        names.append(name_of(with_value(plain(default()), path_of(key), str(tmp_path / place))))
    assert names[0] == names[1] != names[2]


def test_what_a_trainer_adds_to_keys_of_artifacts_is_what_is_not_marked():
    marked = {key.split(".")[1]: "x" for key in UNMARKED if key.startswith("trainer.")}
    given = {"_target_": "lightning.pytorch.Trainer", "precision": "bf16-mixed", "gradient_clip_val": 1.0}
    nothing: Any = None
    context = Context(replace(default(), trainer={**marked, **given}), nothing, Local(), nothing)
    assert context.trainer_identity == given
    assert identified(context.config)["trainer"] == given


@pytest.mark.parametrize(
    "override",
    [
        "evaluation.report=false", "engine.step=eager", "trainer.accelerator=cpu", "model.chunk_size=3",
        "executor=local", "logger=none", "paths.outputs=elsewhere", "dry_run=true", "hparams_search=grid",
    ],
)  # fmt: skip
def test_how_and_where_it_runs_leaves_names_of_runs_and_records_of_searches(override: str):
    (config,) = check_overrides(config_directory(), [override])
    assert name_of(config) == name_of(default())
    assert records_of(config) == records_of(default())
    assert plain(config) != plain(default())
