"""Which unlearners take no part in a ranking is known without making one, so also of those that a run refused."""

import pytest

from dmm_exp.config.parts import is_reference
from dmm_exp.config.schema import Config


@pytest.mark.parametrize(
    ("unlearner", "is_one"),
    [
        ({"_target_": "dmm_exp.unlearners.DoNothing"}, True),
        ({"_target_": "dmm_exp.unlearners.Scrub", "epochs": -1}, False),
        ({"_target_": "functools.partial"}, False),
    ],
)
def test_a_reference_is_known_by_its_class(unlearner, is_one):
    assert is_reference(Config(unlearner=unlearner)) is is_one
