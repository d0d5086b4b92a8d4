"""Networks of timm by name: with a stand-in for the package, which asks for torchvision and is not installed here."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from dmm_exp.ensembles import Ensemble
from dmm_exp.errors import UserError
from dmm_exp.models import Normalised, TimmModel


class Net(nn.Module):
    """What timm's networks have in common, as its documentation describes them."""

    def __init__(self, num_classes: int, in_chans: int, width: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_chans, width, 3, stride=4), nn.BatchNorm2d(width), nn.Dropout(dropout))
        self.fc = nn.Linear(width, num_classes)

    def forward_features(self, inputs):
        if inputs.shape[-1] < 8:
            raise AssertionError("Input height (4) doesn't match\nmodel (8).")
        return self.stem(inputs)

    def forward_head(self, maps, pre_logits=False):
        pooled = maps.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, inputs):
        return self.forward_head(self.forward_features(inputs))


@pytest.fixture
def timm(monkeypatch):
    module = ModuleType("timm")
    module.is_model = lambda name: name == "resnet26"
    module.list_models = lambda: ["resnet26", "vit_tiny_patch16_224"]
    module.create_model = lambda name, pretrained, **settings: Net(**settings)
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.mark.usefixtures("timm")
def test_features_are_what_the_head_sees():
    network = TimmModel((1, 16, 16), 5, "resnet26", {"width": 6}).eval()
    images = torch.randn(2, 1, 16, 16)
    assert network.features(images).shape == (2, 6)
    torch.testing.assert_close(network.network.fc(network.features(images)), network(images))


@pytest.mark.usefixtures("timm")
def test_a_seed_alone_makes_a_network_and_trying_it_leaves_no_trace():
    one, other = (Ensemble.initialise(lambda: TimmModel((1, 16, 16), 5, "resnet26"), [3]) for _ in range(2))
    torch.manual_seed(3)
    plain = Net(5, 1)
    for key, value in one.tensors().items():
        assert torch.equal(value, other.tensors()[key])
        assert torch.equal(value[0], plain.state_dict()[key.partition("/network.")[2]])
    assert TimmModel((1, 16, 16), 5, "resnet26").network.training


@pytest.mark.usefixtures("timm")
def test_members_give_their_features_together():
    def build():
        network = TimmModel((1, 16, 16), 5, "resnet26")
        return Normalised(network, scale=1, mean=[0.0], std=[1.0], input_shape=(1, 16, 16))

    ensemble, images = Ensemble.initialise(build, range(3)), torch.randn(7, 1, 16, 16)
    for member, features in enumerate(ensemble.features(images)):
        with torch.no_grad():
            torch.testing.assert_close(features, ensemble.member(member).features(images))


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("shape", "name", "options", "said"),
    [
        ((1, 16, 16), "resnet62", {}, "model.network.name=resnet62: .* did you mean 'resnet26'"),
        ((1, 16, 16), "resnet26", {"wide": 3}, r"options=\{'wide': 3\}: .* unexpected keyword argument 'wide'"),
        ((1, 4, 4), "resnet26", {}, r"does not take images \[1, 4, 4\] .*doesn't match model"),
        ((16,), "resnet26", {}, "model=timm needs images"),
    ],
)
def test_what_does_not_fit_is_one_sentence(shape, name, options, said):
    with pytest.raises(UserError, match=said):
        TimmModel(shape, 5, name, options)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'dmm_exp\[timm\]'"):
        TimmModel((1, 16, 16), 5, "resnet26")
