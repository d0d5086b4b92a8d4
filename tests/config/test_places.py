"""Where a class is needed, one is named, and of the right kind; files of configuration are of a readable size."""

from pathlib import Path

import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.config.loading import _is_damaged
from dmm_exp.config.places import PLACES, check_named
from dmm_exp.errors import UserError
from dmm_exp.files.reading import VALUES, YAML_BYTES, check_yaml, parse_yaml

OTHER = "fractions.Fraction"


def nested(path, value):
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize("path", PLACES)
def test_a_class_of_another_kind_is_refused_at_its_place(path):
    wanted = "with a method" if "." not in PLACES[path] else "that derives from"
    with pytest.raises(UserError, match=rf"{path}\._target_={OTHER}: expected a class {wanted}"):
        check_targets(nested(path, {"_target_": OTHER}))


@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize("node", [{}, {"size": 3}, "x", [], None])
def test_a_place_without_a_class_is_refused(path, node):
    with pytest.raises(UserError, match=rf"{path}=.*: names no class; expected {path}\._target_=CLASS"):
        check_named(nested(path, node))


@pytest.mark.parametrize("key", ["normalisation", "corruption", "split"])
def test_an_argument_that_is_an_object_of_ours_is_of_its_class(key):
    node = {"_target_": "dmm_exp.data.Dataset", "formats": {}, key: {"_target_": "dmm_exp.forget.Random", "size": 3}}
    with pytest.raises(UserError, match=rf"dataset\.{key}\._target_=dmm_exp\.forget\.Random: expected a class that"):
        check_targets({"dataset": node})


def test_a_class_that_cannot_be_made_is_one_sentence():
    with pytest.raises(UserError, match=r"fractions\.Fraction: cannot be made from these settings \(\w+Error: "):
        instantiate({"_target_": OTHER, "_args_": ["x"]})


def test_what_is_wrong_with_a_class_has_the_key_that_the_user_wrote():
    search = {"_target_": "dmm_exp.search.Optuna", "spaces": {}, "trials": 0}
    with pytest.raises(UserError, match=r"^hparams_search\.trials=0: expected at least 1$"):
        instantiate(search, "hparams_search")
    with pytest.raises(UserError, match=r"^job\.search\.trials=0: expected at least 1$"):
        instantiate({"_target_": "builtins.dict", "search": search}, "job")
    with pytest.raises(UserError, match=r"^recipe\.schedule\.peak=2: expected a fraction"):  # it says schedule.peak
        instantiate({"_target_": "dmm_exp.ensembles.schedules.OneCycle", "peak": 2}, "recipe.schedule")
    with pytest.raises(UserError, match=r"^trials=0: expected at least 1$"):
        instantiate(search)
    with pytest.raises(UserError, match=rf"^method: {OTHER}: cannot be made from these settings"):
        instantiate({"_target_": OTHER, "_args_": ["x"]}, "method")


@pytest.mark.parametrize("part", [True, 3, "finetune", []])
def test_a_part_of_a_refinement_that_is_none_is_refused(part):
    with pytest.raises(UserError, match=r"refinement\.high=.*: expected a part"):
        instantiate({"_target_": "dmm_exp.refinement.ByScore", "high": part})


# ---------------------------------------------------------------------- files


def repeated(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


TEXTS = [
    repeated(9),
    "a: &a [*a]",
    "a: &a {b: *a}",
    "a: &a\n  b: 1\n  <<: *a",
    "a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 1000) + "]",
    "a: " + "[" * 200 + "]" * 200,
]


@pytest.mark.parametrize("text", TEXTS)
def test_yaml_that_grows_without_bounds_is_refused_before_anything_is_made_of_it(text):
    for read in (check_yaml, parse_yaml):
        with pytest.raises(ValueError, match=r"values|characters|nested|merges"):
            read(text)


def test_what_is_repeated_within_the_limits_is_read():
    text = "a: &a [1, 2]\nb: *a\nc: &c {d: *a}\ne: [*c, *c]"
    check_yaml(text)
    assert parse_yaml(text)["e"] == [{"d": [1, 2]}] * 2
    check_yaml("a: &a {b: 1}\nc: {<<: *a}")
    assert VALUES * 16 == YAML_BYTES  # either limit is met by ordinary files at about the same size


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("words", [["unlearner=own", "dry_run=true"], ["--info", "config", "unlearner=own"]])
def test_a_configuration_of_ones_own_that_grows_without_bounds_is_one_sentence(tmp_path, command, text, words):
    (tmp_path / "unlearner").mkdir()
    (tmp_path / "unlearner" / "own.yaml").write_text(text)
    done = command(*words, "--config-dir", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "own.yaml: cannot be read as configuration (" in done.stderr


def test_no_file_of_the_package_is_taken_for_damaged():
    """An error in a user's file must not be blamed on one of these."""
    for path in Path(config_directory()).rglob("*.yaml"):
        assert not _is_damaged(path.read_bytes()), path
