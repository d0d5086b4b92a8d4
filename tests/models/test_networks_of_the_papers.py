"""ResNets, VGG-16, the vision transformer: their sizes, their formulas, and training many together."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from dmm_exp.attribution import TrakFactored
from dmm_exp.attribution.factored import factored_layers
from dmm_exp.ensembles import Ensemble
from dmm_exp.ensembles.engine import Engine
from dmm_exp.errors import UserError
from dmm_exp.models import VGG16, Normalised, ResNet, VisionTransformer
from dmm_exp.models.vit import sines_and_cosines

SMALL = {  # network and size of its images
    "resnet18": (partial(ResNet, width=2), 8),
    "resnet50": (partial(ResNet, depth=50, width=2), 16),
    "resnet18_imagenet": (partial(ResNet, stem="imagenet", width=2), 64),
    "vgg16_bn": (partial(VGG16, width=2), 32),
    "vit_tiny": (partial(VisionTransformer, width=8, depth=2, heads=2), 8),
}
EVERY = pytest.mark.parametrize("name", SMALL)


def size_of(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


@pytest.mark.parametrize(
    ("network", "classes", "expected"),
    [
        (ResNet, 10, 11_173_962),
        (partial(ResNet, depth=50), 10, 23_520_842),
        (partial(ResNet, depth=50), 100, 23_705_252),
        (partial(ResNet, stem="imagenet"), 1000, 11_689_512),
        (partial(ResNet, depth=34, stem="imagenet"), 1000, 21_797_672),
        (partial(ResNet, depth=50, stem="imagenet"), 1000, 25_557_032),
        (partial(ResNet, depth=101, stem="imagenet"), 1000, 44_549_160),
        (VGG16, 10, 14_728_266),
        (VisionTransformer, 10, 5_350_090),
    ],
)
def test_the_number_of_parameters_is_the_known_one(network, classes, expected):
    with torch.device("meta"):
        assert size_of(network((3, 64, 64), classes)) == expected


def test_the_convolutions_of_vgg_are_those_of_configuration_d():
    with torch.device("meta"):
        assert size_of(VGG16((3, 32, 32), 10).body) == 14_723_136


def test_the_transformer_has_the_parameters_of_its_formula():
    patches, block = 3 * 16 * 192 + 192, 12 * 192**2 + 13 * 192  # 4 + 8 width², biases, two normalisations
    assert size_of(VisionTransformer((3, 32, 32), 10)) == patches + 12 * block + 2 * 192 + 193 * 10


@EVERY
def test_features_are_what_the_last_layer_sees(name):
    build, size = SMALL[name]
    network, images = build((3, size, size), 5).eval(), torch.randn(2, 3, size, size)
    features = network.features(images)
    assert features.shape == (2, network.head.in_features)
    torch.testing.assert_close(network.head(features), network(images))


@pytest.mark.parametrize("size", [32, 64])
def test_vgg_takes_small_images_of_both_sizes(size):
    assert VGG16((3, size, size), 10, width=4).features(torch.randn(2, 3, size, size)).shape == (2, 32)


@pytest.mark.parametrize(("stem", "expected"), [("cifar", [32, 16, 8, 4]), ("imagenet", [8, 4, 2, 1])])
def test_the_stem_decides_how_small_the_maps_become(stem, expected):
    network, sizes = ResNet((3, 32, 32), 10, stem=stem, width=2), []
    for layer in network.body:
        if hasattr(layer, "residual"):
            layer.register_forward_hook(lambda layer, inputs, output: sizes.append(output.shape[-1]))
    network(torch.randn(2, 3, 32, 32))
    assert sizes == [size for size in expected for _ in range(2)]


def test_a_residual_block_is_its_formula():
    torch.manual_seed(0)
    network = ResNet((3, 8, 8), 5, width=2).eval()
    block = next(layer for layer in network.body if isinstance(getattr(layer, "shortcut", None), nn.Sequential))
    images = torch.randn(4, 2, 8, 8)
    state = dict(block.state_dict())

    def normalised(values, place):
        mean, variance, scale, shift = (
            state[f"{place}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (values - mean) / (variance + 1e-5).sqrt() * scale + shift

    first = normalised(functional.conv2d(images, state["residual.0.weight"], stride=2, padding=1), "residual.1")
    second = normalised(functional.conv2d(first.clamp(min=0), state["residual.3.weight"], padding=1), "residual.4")
    beside = normalised(functional.conv2d(images, state["shortcut.0.weight"], stride=2), "shortcut.1")
    torch.testing.assert_close(block(images), (second + beside).clamp(min=0))


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours = VisionTransformer((3, 8, 8), 5, width=8, depth=1, heads=2).blocks[0].attention[1]
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        for layer in (ours.inwards, ours.outwards):
            layer.bias.normal_()
        theirs.in_proj_weight.copy_(ours.inwards.weight)
        theirs.in_proj_bias.copy_(ours.inwards.bias)
        theirs.out_proj.load_state_dict(ours.outwards.state_dict())
    tokens = torch.randn(3, 7, 8)
    torch.testing.assert_close(ours(tokens), theirs(tokens, tokens, tokens)[0])


def test_every_position_of_a_patch_has_a_code_of_its_own():
    codes = sines_and_cosines(8, 8, 192, torch.device("cpu"))
    apart = torch.cdist(codes, codes) + torch.eye(64) * 9
    assert codes.shape == (64, 192)
    assert apart.min() > 0.5
    torch.testing.assert_close(codes.square().sum(1), torch.full((64,), 96.0))
    assert torch.equal(codes[0], torch.tensor([0.0, 1.0, 0.0, 1.0]).repeat_interleave(48))


def test_the_transformer_tells_where_a_patch_is():
    torch.manual_seed(0)
    network = VisionTransformer((1, 8, 8), 5, width=8, depth=1, heads=1)
    image = torch.randn(1, 1, 8, 8)
    assert not torch.allclose(network(image), network(image.roll(4, 3)), atol=1e-5)


@EVERY
def test_members_that_take_steps_together_are_those_that_take_them_alone(name):
    """In float64, since many layers of two channels each, normalised by a batch, magnify what is rounded."""
    build, size = SMALL[name]
    inputs = torch.randn(3, 3, 16, 3, size, size, dtype=torch.float64)
    labels = torch.randint(0, 5, (3, 3, 16))
    together = stepped(build, range(3), inputs, labels)
    for member in range(3):
        alone = stepped(build, range(member, member + 1), inputs[:, [member]], labels[:, [member]])
        for key, value in together.items():
            torch.testing.assert_close(value[member], alone[key][0], atol=1e-10, rtol=1e-8)


def stepped(build, seeds, inputs, labels):
    """Return the tensors of members after steps on ``inputs [steps, members, batch, ...]``."""
    ensemble = Ensemble.initialise(lambda: build(inputs.shape[3:], 5).double(), seeds).train()
    optimizer = torch.optim.SGD(ensemble.parameters(), lr=0.01, momentum=0.9)
    for batch, wanted in zip(inputs, labels, strict=True):
        losses = functional.cross_entropy(ensemble(batch).flatten(0, 1), wanted.flatten(), reduction="none")
        losses.view(wanted.shape).mean(1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return ensemble.tensors()


@pytest.mark.parametrize("engine", [Engine(), Engine("eager", "apart", "rows")], ids=["together", "apart"])
@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "vit_tiny"])
def test_members_trained_together_are_those_trained_one_by_one(name, engine, largest_difference):
    build, size = SMALL[name]
    assert largest_difference(build, size, engine, lr=0.01) < 1


@EVERY
def test_factored_projections_are_those_of_every_gradient(name, some_images):
    build, size = SMALL[name]
    torch.manual_seed(0)
    examples = some_images(size)
    shape = examples.input_shape
    model = Normalised(build(shape, 5), **vars(examples.normalisation), input_shape=shape).eval()
    estimator = TrakFactored(proj_dim=4)
    estimator.check(model)
    made = estimator.features(model, examples, 0)
    found, _ = made.train(torch.arange(2))
    for point in range(2):
        logits = model(examples.inputs[point : point + 1])
        functional.cross_entropy(logits, examples.labels[point : point + 1]).backward()
        projections = [made.factors[layer].matrix() @ gradient_of(layer) for _, layer in factored_layers(model)]
        torch.testing.assert_close(found[point], -torch.stack(projections).sum(0), atol=1e-4, rtol=1e-3)
        model.zero_grad()


def test_a_class_token_is_refused_by_factored_projections_in_one_line():
    model = VisionTransformer((3, 8, 8), 5, width=8, depth=1, heads=2)
    model.cls_token = nn.Parameter(torch.zeros(8))
    with pytest.raises(UserError, match=r"\(VisionTransformer with cls_token outside of its layers\).*=trak,") as error:
        TrakFactored().check(model)
    assert "\n" not in str(error.value)


def gradient_of(layer):
    """Return a layer's gradient in the order in which it is projected: biases beside weights, or after scales."""
    parts = [value.grad for value in (layer.weight, layer.bias) if value is not None]
    if isinstance(layer, nn.Linear | nn.Conv2d):
        return torch.cat([part.reshape(len(layer.weight), -1) for part in parts], 1).flatten()
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (partial(ResNet, (64,), 10), "model=resnet18 needs images"),
        (partial(ResNet, (3, 4, 4), 10), "at least 8×8"),
        (partial(ResNet, (3, 28, 28), 10, stem="imagenet"), "at least 32×32"),
        (partial(ResNet, (3, 32, 32), 10, width=0), "model.network.width=0: expected at least 1"),
        (partial(VGG16, (1, 28, 28), 10), "model=vgg16_bn needs images .* at least 32×32"),
        (partial(VisionTransformer, (1, 30, 30), 10), "model.network.patch=4: expected a divisor .* 30×30"),
        (partial(VisionTransformer, (3, 32, 32), 10, width=10), "model.network.width=10: expected a multiple"),
        (partial(VisionTransformer, (3, 32, 32), 10, heads=0), "model.network.heads=0: expected at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(build, said):
    with pytest.raises(UserError, match=said):
        build()


class Spatial(nn.Linear):
    """Gives maps where penultimate features are expected."""

    def features(self, inputs):
        return inputs[:, None]


@pytest.mark.parametrize(("network", "said"), [(nn.Linear, "has no method features"), (Spatial, "'batch', 1, 4")])
def test_networks_without_penultimate_features_are_told_apart(network, said):
    model = Ensemble.stack([Normalised(network(4, 2), scale=1, mean=[0.0], std=[1.0], input_shape=(4,))] * 2)
    assert model.logits(torch.randn(3, 4)).shape == (2, 3, 2)
    with pytest.raises(UserError, match=said):
        model.features(torch.randn(3, 4))
