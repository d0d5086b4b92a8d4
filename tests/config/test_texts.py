"""Values that YAML reads as something else: where a key takes a text, the text is meant; elsewhere one sentence."""

import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.schema import plain
from dmm_exp.config.texts import value_of
from dmm_exp.errors import UserError

ODD = ["007", "1_000", "1e3", "1.50", "0x10", "true", "TRUE", "no", "on", "2021-01-01", "2021", "12:30", "[a]", "{a:1}"]


def composed(*overrides):
    (config,) = check_overrides(config_directory(), overrides)
    check_targets(plain(config))
    return config


@pytest.mark.parametrize("text", ODD)
def test_a_path_is_what_was_typed(text):
    config = composed("dataset=table", f"dataset.path={text}", "forget=indices", f"forget.indices={text}")
    assert instantiate(config.dataset).path == text
    assert instantiate(config.forget).indices == text


@pytest.mark.parametrize("text", ODD)
def test_a_folder_of_results_is_what_was_typed(text):
    if text[0] not in "[{":
        assert composed(f"paths.outputs={text}").paths.outputs == text


@pytest.mark.parametrize("text", ODD[:-3])
def test_the_name_of_a_class_is_what_was_typed(text):
    label = composed("forget=class", f"forget.label={text}").forget["label"]
    assert label == (2021 if text == "2021" else text)


def test_a_column_is_what_was_typed():
    for text in ("1", "no", "true", "1.5"):
        config = composed("dataset=table", "dataset.path=x.csv", f"dataset.formats.table.label={text}")
        assert instantiate(config.dataset["formats"]["table"]).label == text


def test_names_in_a_list_are_texts():
    config = composed("dataset=folder", "dataset.class_names=[1,2,no]", "dataset.path=x")
    assert instantiate(config.dataset).class_names == ["1", "2", "no"]


def test_each_value_of_a_sweep_is_what_was_typed():
    cells = check_overrides(config_directory(), ["forget=class", "forget.label=1_0,true,2"])
    assert [cell.forget["label"] for cell in cells] == ["1_0", "true", 2]


def test_numbers_stay_numbers():
    config = composed("seed=007", "n_models=1_000", "unlearner.optimizer.lr=1e-3", "unlearner.epochs=[1,2]")
    assert (config.seed, config.n_models) == (7, 1000)
    assert (config.unlearner["optimizer"]["lr"], config.unlearner["epochs"]) == (0.001, [1, 2])
    assert composed("dataset=table", "dataset.path=null").dataset["path"] is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=1e3", "seed=1e3: Value '1000.0'"),
        ("seed=0x10", "seed=0x10: Value '0x10'"),
        ("seed=no", "seed=no: Value 'no'"),
        ("seed=null", "seed=null: field 'seed' is not Optional"),
        ("paths.outputs=null", "paths.outputs=null: field 'paths.outputs' is not Optional"),
        ("unlearner.epochs=1e3", "unlearner.epochs=1000.0: expected a whole number"),
        ("forget.skip=no", "forget.skip=no: expected a whole number"),
        ("forget.skip=007.5", "forget.skip=007.5: expected a whole number"),
        ("unlearner.optimizer.lr=0x1", "unlearner.optimizer.lr=0x1: expected a finite number"),
    ],
)
def test_where_a_number_is_expected_another_text_is_one_sentence(override, said):
    with pytest.raises(UserError) as error:
        composed(override)
    assert said in str(error.value)


def test_in_a_file_a_text_that_yaml_reads_as_something_else_needs_quotes():
    table = {"_target_": "dmm_exp.data.formats.Table", "label": False}
    with pytest.raises(UserError, match="expected a text; a text that looks like something else stands in quotes"):
        check_targets({"dataset": table})


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("output=007", str, "007"),
        ("output=no", str, "no"),
        ("output=my [x] #1, größe", str, "my [x] #1, größe"),
        ("output=[x]", str, "[x]"),
        ("output=a: b", str | None, "a: b"),
        ("output='a \"b\"'", str, 'a "b"'),
        ("pool=null", str | None, None),
        ("recipe=no", bool, False),
        ("size=30", int, 30),
        ("budget=1e2", float | str | None, 100.0),
        ("budget=10%", float | str | None, "10%"),
        ("keep=[a,b]", list[str], ["a", "b"]),
    ],
)
def test_the_keys_of_a_request_follow_the_same_rule(text, hint, value):
    assert value_of(text, hint) == value


def test_a_key_of_a_request_without_a_value_is_refused():
    with pytest.raises(UserError, match="has no value"):
        value_of("request.output=", str)
