"""Convolutions with strides in place of pooling."""

import pytest
import torch

from dmm_exp.errors import UserError
from dmm_exp.models import CNN


@pytest.mark.parametrize(
    ("strides", "kernels", "features"),
    [([4, 2], [4, 3], 32 * 4 * 4), ([2, 2], [3, 3], 32 * 7 * 7), ([1, 3], [3, 3], 32 * 9 * 9)],
)
def test_strides_take_the_place_of_pooling(strides, kernels, features):
    network = CNN((1, 28, 28), 10, channels=[16, 32], strides=strides)
    convolutions = [layer for layer in network.body if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.kernel_size[0] for layer in convolutions] == kernels
    assert [layer.stride[0] for layer in convolutions] == strides
    assert not any(isinstance(layer, torch.nn.MaxPool2d) for layer in network.body)
    assert network.features(torch.zeros(2, 1, 28, 28)).shape == (2, features)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("side", [8, 9, 29, 31])
def test_sides_need_not_be_multiples(side):
    assert CNN((3, side, side), 5, channels=[4, 6], strides=[4, 2])(torch.zeros(2, 3, side, side)).shape == (2, 5)


@pytest.mark.parametrize(("strides", "said"), [([2], "for each of"), ([2, 0], "at least 1"), ([8, 8], "are smaller")])
def test_strides_that_do_not_fit_are_refused(strides, said):
    with pytest.raises(UserError, match=said):
        CNN((1, 28, 28), 10, channels=[16, 32], strides=strides)
