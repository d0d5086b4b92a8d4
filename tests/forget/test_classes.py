"""Classes by name and by place: the class that was named, or one sentence; never another class."""

from __future__ import annotations

import pytest
import torch

from dmm_exp.data import Examples, Normalisation
from dmm_exp.errors import UserError
from dmm_exp.forget import OneClass, SubClass, class_index


def found(label, names, position=None):
    return names[class_index(label, names, "forget.label", position)]


@pytest.mark.parametrize(
    ("label", "names", "expected"),
    [
        (1, ["1", "2", "3"], "1"),
        (1, ["1.0", "2.0", "3.0"], "1.0"),
        (1.0, ["1.0", "2.0", "3.0"], "1.0"),
        (1.0, ["1", "2", "3"], "1"),
        (1, ["01", "02"], "01"),
        ("02", ["01", "02"], "02"),
        (1, ["1", "1.0"], "1"),
        (1.0, ["1", "1.0"], "1.0"),
        (2, ["10", "2", "9"], "2"),
        (-1, ["-1", "1"], "-1"),
        (7, ["sneaker", "bag", "7"], "7"),
        (1000000, ["1e6", "1e7"], "1e6"),
        (1, ["airplane", "automobile"], "automobile"),
        (0, ["n01443537", "n01629819"], "n01443537"),
        (0, ["class 0", "class 1"], "class 0"),
        (True, ["False", "True"], "True"),
        (False, ["True", "False"], "False"),
        (True, ["true", "false"], "true"),
        (1, ["True", "False"], "True"),
        ("a b", ["a b", "c"], "a b"),
    ],
)
def test_a_class_is_found_by_its_name_or_where_no_name_is_a_number_by_its_place(label, names, expected):
    assert found(label, names) == expected


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (0, ["1", "2", "3"]),
        (1, ["2", "9", "10"]),
        (1, ["sneaker", "bag", "7"]),
        (0, ["1.0", "2.0"]),
        (1, ["01", "001"]),
        (10**16, ["10000000000000001"]),
        (1, ["class 1", "class 2"]),
        (1, ["1st", "2nd"]),
        (0, ["digit-1", "digit-0"]),
        (True, ["no", "yes"]),
        (True, ["0", "1"]),
        (1, ["nan", "inf"]),
        (0.0, ["cat", "dog"]),
        ("0", ["cat", "dog"]),
        (2, ["cat", "dog"]),
        (-1, ["cat", "dog"]),
        ("cat", ["cat", "cat"]),
    ],
)
def test_a_label_that_names_no_class_is_refused_with_the_names(label, names):
    with pytest.raises(UserError) as error:
        found(label, names)
    text = str(error.value)
    assert text.startswith(f"forget.label={label}")
    assert ", ".join(names) in text
    assert "forget.position=PLACE" in text


def test_a_place_is_a_place_whatever_classes_are_called():
    assert found(None, ["1.0", "2.0", "3.0"], 1) == "2.0"
    assert found(None, ["10", "9", "2"], 2) == "2"
    assert found(None, ["cat", "dog"], 0) == "cat"


@pytest.mark.parametrize("position", [-1, 2, True, 0.5, "0"])
def test_a_place_that_there_is_not_is_refused(position):
    with pytest.raises(UserError, match=rf"^forget\.position={position}: expected 0 to 1, the places of cat, dog"):
        found(None, ["cat", "dog"], position)


def test_a_name_and_a_place_are_refused_together():
    for label in (0, 1, "cat", False):
        with pytest.raises(UserError, match=r"^forget\.position=1: forget\.label=.* is given, too"):
            found(label, ["cat", "dog"], 1)


def test_a_part_of_a_class_is_of_the_class_that_was_named():
    labels, numbers = torch.arange(60) % 3, Normalisation(1.0, [0.0], [1.0])
    inputs = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    corrupted = torch.zeros(60, dtype=torch.bool)
    examples = Examples(inputs, labels, 48, ["1.0", "2.0", "3.0"], numbers, corrupted)
    for selector in (OneClass(2), SubClass(2), OneClass(position=1), SubClass(position=1), OneClass("2.0")):
        assert set(labels[selector.select(examples)].tolist()) == {1}
    with pytest.raises(UserError, match=r"forget\.label=0"):
        SubClass(0).select(examples)
