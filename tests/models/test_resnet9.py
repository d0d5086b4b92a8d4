"""The network of the datamodels paper: its size, its formula, and training many together."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dmm_exp.ensembles.engine import Engine
from dmm_exp.errors import UserError
from dmm_exp.models import ResNet9


@pytest.mark.parametrize(("batch_norm", "expected"), [(True, 2_274_880), (False, 2_273_536)])
def test_the_number_of_parameters_is_the_papers(batch_norm, expected):
    network = ResNet9((3, 32, 32), 10, batch_norm=batch_norm)
    assert sum(value.numel() for value in network.parameters()) == expected


def transcribed(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """The network as a formula: convolutions, batch statistics, rectifiers, maxima."""
    convolutions = iter([name for name, value in state.items() if value.ndim == 4])

    def block(images: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        name = next(convolutions)
        norm = name.replace("0.weight", "1")
        found = functional.conv2d(images, state[name], stride=stride, padding=padding)
        mean, variance = found.mean((0, 2, 3), keepdim=True), found.var((0, 2, 3), keepdim=True, unbiased=False)
        scale, shift = (state[f"{norm}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        return ((found - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)

    images = block(block(images), stride=2, padding=2)
    images = images + block(block(images))
    images = functional.max_pool2d(block(images), 2)
    images = images + block(block(images))
    return 0.2 * block(images, padding=0).amax((2, 3)) @ state["head.weight"].T


def test_the_network_equals_its_formula():
    torch.manual_seed(0)
    network, images = ResNet9((3, 32, 32), 10), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn_like(value))
        found = network.train()(images)
        expected = transcribed(dict(network.named_parameters()), images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("engine", [Engine(), Engine("eager", "apart", "channels_last")], ids=["together", "apart"])
def test_members_trained_together_are_those_trained_one_by_one(engine, largest_difference):
    assert largest_difference(partial(ResNet9, width=4), size=12, engine=engine) < 1


def test_features_are_what_the_last_layer_sees():
    network, images = ResNet9((1, 16, 16), 3, width=8).eval(), torch.randn(2, 1, 16, 16)
    assert network.features(images).shape == (2, 16)
    torch.testing.assert_close(0.2 * network.head(network.features(images)), network(images))


@pytest.mark.parametrize("shape", [(64,), (3, 8, 8)], ids=str)
def test_what_is_no_image_or_too_small_is_refused(shape):
    with pytest.raises(UserError, match="at least 12×12"):
        ResNet9(shape, 10)
