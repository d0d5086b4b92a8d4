"""Constants of normalisation fit the inputs, or are refused in one sentence."""

import pytest
from torch import nn

from dmm_exp.errors import UserError
from dmm_exp.models import Normalised


@pytest.mark.parametrize(
    ("scale", "mean", "std"),
    [(1, [0.0, 0.0], [1.0]), (1, [0.0, 0.0], [1.0, 1.0]), (1, [], []), (0, [0.0], [1.0]), (1, [0.0], [0.0])],
)
def test_constants_that_do_not_fit_are_refused(scale: float, mean: list[float], std: list[float]):
    with pytest.raises(UserError, match=r"dataset\.normalisation: .*each of the 3 channels"):
        Normalised(nn.Identity(), scale=scale, mean=mean, std=std, input_shape=(3, 8, 8))


@pytest.mark.parametrize("count", [1, 3])
def test_one_constant_or_one_for_each_channel_fits(count: int):
    Normalised(nn.Identity(), scale=255, mean=[0.0] * count, std=[1.0] * count, input_shape=(3, 8, 8))
