"""Fused steps train the members that autograd trains, where they know the network; elsewhere they are refused.

What training makes of a member is compared in double precision. In float32 a ReLU whose input is within rounding of
zero may let a gradient pass in one order of summing and not in another, and training magnifies that.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from trainers import TRAINER

from dmm_exp.data import Augmentation, Digits, Examples, Normalisation
from dmm_exp.ensembles import (
    AllBut,
    Ensemble,
    EnsembleModule,
    EnsembleTraining,
    RandomSubsets,
    fused_step,
    member_seed,
)
from dmm_exp.ensembles.chain import chain_of
from dmm_exp.ensembles.chunk_size import Measurement
from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.products import Memory, Pooling, Products
from dmm_exp.ensembles.schedules import Cosine, OneCycle
from dmm_exp.ensembles.seeds import Role
from dmm_exp.ensembles.stacking import Stacking
from dmm_exp.ensembles.subsets import Designed, Only, Subsets
from dmm_exp.ensembles.trajectory import Trajectory
from dmm_exp.ensembles.work import TrainJob, model_factory, train_chunk, trainer_factory
from dmm_exp.errors import UserError
from dmm_exp.models import Normalised
from dmm_exp.store import Artifact, Draft, Spec, Store

MLP = {"_target_": "dmm_exp.models.MLP", "hidden": [12]}
CNN = {"_target_": "dmm_exp.models.CNN", "channels": [2, 3]}
CONSTANT = "dmm_exp.ensembles.schedules.Constant"
MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ROUNDING = 1e-11  # of parameters in double precision


class Chain(nn.Sequential):
    """Linear layers with an activation after each but the last."""

    def __init__(self, input_shape, n_classes, hidden=(), activation="ReLU", bias=True, options=None) -> None:
        widths, layers = [64, *hidden], []
        for number, width in enumerate(hidden):
            layers += [nn.Linear(widths[number], width, bias=bias)]
            layers += [] if activation is None else [getattr(nn, activation)(**(options or {}))]
        super().__init__(nn.Flatten(), nn.Sequential(*layers), nn.Linear(widths[-1], n_classes, bias=bias))


class OwnForward(Chain):
    """Does more than its layers say."""

    def forward(self, input):
        return 2 * super().forward(input)


class Tied(nn.Sequential):
    """The same layer twice."""

    def __init__(self, input_shape, n_classes) -> None:
        twice = nn.Linear(64, 64)
        super().__init__(nn.Flatten(), twice, nn.ReLU(), twice, nn.ReLU(), nn.Linear(64, n_classes))


class Frozen(Chain):
    """Its first layer stays as it is."""

    def __init__(self, input_shape, n_classes) -> None:
        super().__init__(input_shape, n_classes, [8])
        next(self.parameters()).requires_grad_(False)


def doubled(layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return 2 * output


class Hooked(Chain):
    """A hook changes what a layer returns."""

    def __init__(self, input_shape, n_classes) -> None:
        super().__init__(input_shape, n_classes, [8])
        self[1].register_forward_hook(doubled)


class Replaced(Chain):
    """The forward of one layer is another."""

    def __init__(self, input_shape, n_classes) -> None:
        super().__init__(input_shape, n_classes, [8])
        self[0].forward = lambda input: input.flatten(1).sin()


class Unflattened(nn.Sequential):
    """A linear layer over the last dimension of images."""

    def __init__(self, input_shape, n_classes) -> None:
        super().__init__(nn.Linear(8, 2), nn.Flatten(), nn.Linear(16, n_classes))


class EndsActive(nn.Sequential):
    """Logits that cannot be negative."""

    def __init__(self, input_shape, n_classes) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, n_classes), nn.ReLU())


class Normed(nn.Sequential):
    """BatchNorm among linear layers."""

    def __init__(self, input_shape, n_classes) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, n_classes))


class Rows(nn.Sequential):
    """Linear layers over rows of numbers."""

    def __init__(self, input_shape, n_classes) -> None:
        super().__init__(nn.Linear(input_shape[0], 9), nn.ReLU(), nn.Linear(9, n_classes))


class Layered(nn.Sequential):
    """Layers by their names and arguments, and a linear layer over what they give."""

    def __init__(self, input_shape, n_classes, layers) -> None:
        body = nn.Sequential(*(getattr(nn, name)(*arguments) for name, *arguments in layers), nn.Flatten())
        width = body(torch.zeros(1, *input_shape)).shape[1]
        super().__init__(body, nn.Linear(width, n_classes))


class TiedKernel(nn.Sequential):
    """The same convolution twice."""

    def __init__(self, input_shape, n_classes) -> None:
        twice = nn.Conv2d(1, 1, 3, padding=1)
        super().__init__(twice, nn.ReLU(), twice, nn.Flatten(), nn.Linear(64, n_classes))


class HookedPooling(Layered):
    """A hook changes what the pooling returns."""

    def __init__(self, input_shape, n_classes) -> None:
        super().__init__(input_shape, n_classes, [["Conv2d", 1, 2, 3], ["MaxPool2d", 2]])
        self[0][1].register_forward_hook(doubled)


class EndsConvolved(nn.Sequential):
    """Its logits are what a convolution gives."""

    def __init__(self, input_shape, n_classes) -> None:
        super().__init__(nn.Conv2d(1, n_classes, 8), nn.Flatten())


def layered(*layers: list[Any]) -> dict[str, Any]:
    return {"_target_": f"{__name__}.Layered", "layers": list(layers)}


def chain(**options: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.Chain", **options}


NETWORKS = {
    "mlp": {"_target_": "dmm_exp.models.MLP", "hidden": [12, 9]},
    "logistic": {"_target_": "dmm_exp.models.MLP", "hidden": []},
    "logistic without bias": chain(bias=False),
    "one wide": chain(hidden=[40]),
    "deep tanh": chain(hidden=[11, 12, 13, 14], activation="Tanh"),
    "tanh without bias": chain(hidden=[5], activation="Tanh", bias=False),
    "gelu": chain(hidden=[12, 7], activation="GELU"),
    "gelu by tanh": chain(hidden=[12], activation="GELU", options={"approximate": "tanh"}),
    "relu without bias": chain(hidden=[3, 30], bias=False),
    "linear": chain(hidden=[6], activation=None),
    "cnn": CNN,
    "strided cnn": {"_target_": "dmm_exp.models.CNN", "channels": [2, 3], "strides": [2, 3]},
    "convolution alone": layered(["Conv2d", 1, 2, 3]),
    "kernel and steps that are not square": layered(["Conv2d", 1, 3, (3, 2), (2, 1), (0, 1)], ["Tanh"]),
    "steps that leave a rest": layered(["Conv2d", 1, 3, 2, 3], ["ReLU"], ["Conv2d", 3, 2, 2, 2, 1]),
    "wide border": layered(["Conv2d", 1, 2, 3, 1, 4], ["GELU"], ["Conv2d", 2, 3, 1], ["ReLU"]),
    "three convolutions": layered(
        *(["Conv2d", 1, 2, 3, 1, 1], ["Tanh"], ["Conv2d", 2, 3, 3, 1, 1], ["Conv2d", 3, 2, 3], ["ReLU"])
    ),
    "pooling with a rest": layered(["Conv2d", 1, 3, 2], ["ReLU"], ["MaxPool2d", 2], ["Conv2d", 3, 2, 2], ["GELU"]),
    "pooling that overlaps": layered(["Conv2d", 1, 3, 3, 1, 1], ["MaxPool2d", 3, 2, 1], ["Tanh"], ["Conv2d", 3, 2, 2]),
    "pooling with holes": layered(["Conv2d", 1, 3, 3], ["Tanh"], ["MaxPool2d", 2, 1, 0, 2], ["Conv2d", 3, 2, 2]),
    "pooling over the edge": layered(["Conv2d", 1, 3, 2], ["GELU"], ["MaxPool2d", 2, 2, 0, 1, False, True]),
    "hidden layer after images": layered(["Conv2d", 1, 2, 3], ["ReLU"], ["Flatten"], ["Linear", 72, 7], ["Tanh"]),
    "activation after flattening": layered(["Conv2d", 1, 2, 3], ["MaxPool2d", 2], ["Flatten"], ["GELU"]),
}
REFUSED = {
    "groups": layered(["Conv2d", 1, 2, 3], ["Conv2d", 2, 2, 3, 1, 0, 1, 2]),
    "holes": layered(["Conv2d", 1, 2, 3, 1, 0, 2]),
    "border of copies": layered(["Conv2d", 1, 2, 3, 1, 1, 1, 1, True, "circular"]),
    "border by a name": layered(["Conv2d", 1, 2, 3, 1, "same"]),
    "two poolings": layered(["Conv2d", 1, 2, 3], ["MaxPool2d", 2], ["ReLU"], ["MaxPool2d", 2]),
    "two activations": layered(["Conv2d", 1, 2, 3], ["ReLU"], ["Tanh"]),
    "pooling first": layered(["MaxPool2d", 2], ["Conv2d", 1, 2, 3]),
    "mean pooling": layered(["Conv2d", 1, 2, 3], ["AvgPool2d", 2]),
    "batch norm": {"_target_": "dmm_exp.models.CNN", "channels": [2], "batch_norm": True},
    "no bias in batch norm": layered(["Conv2d", 1, 2, 3], ["BatchNorm2d", 2, 1e-5, 0.1, False, False]),
    "dropout": layered(["Conv2d", 1, 2, 3], ["Dropout", 0.1]),
    "another activation": layered(["Conv2d", 1, 2, 3], ["ELU"]),
}
UNKNOWN = {
    kind.__name__: {"_target_": f"{__name__}.{kind.__name__}"}
    for kind in (
        *(OwnForward, Tied, Frozen, Hooked, Replaced, Unflattened, EndsActive, Normed),
        *(TiedKernel, HookedPooling, EndsConvolved),
    )
} | REFUSED
OPTIMIZERS = {
    "plain": partial(torch.optim.SGD, lr=0.1),
    "plain with decay": partial(torch.optim.SGD, lr=0.1, weight_decay=0.01),
    "momentum": MOMENTUM,
    "decay": partial(MOMENTUM, weight_decay=0.01),
    "dampening": partial(MOMENTUM, weight_decay=0.01, dampening=0.3),
    "nesterov": partial(MOMENTUM, weight_decay=0.01, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.01),
}
OPTIONS = {
    "clipped": ({"clip_norm": 0.5}, {}),
    "clipped by the trainer": ({}, {"gradient_clip_val": 0.02, "gradient_clip_algorithm": "value"}),
    "smoothed": ({"label_smoothing": 0.2}, {}),
    "augmented": ({"augmentation": Augmentation(crop_padding=1, cutout=2)}, {}),
    "scheduled": ({"schedule": OneCycle(), "epochs": 3}, {}),
    "uneven batches": ({"batch_size": 33, "schedule": Cosine()}, {}),
    "batches of one": ({"batch_size": 1, "epochs": 1}, {}),
}


@pytest.fixture(scope="module")
def digits() -> Examples:
    return Digits(Normalisation(16, [0.305], [0.376])).load()


@pytest.fixture
def in_double(monkeypatch):
    """Train in double precision."""

    def normalise(network: Normalised, inputs):
        return inputs.double() * network.slope[0] + network.offset[0]

    def answer(module: EnsembleModule, inputs):
        module._taken += inputs.shape[1]
        return module.ensemble(inputs)

    monkeypatch.setattr(Normalised, "normalise", normalise)
    monkeypatch.setattr(EnsembleModule, "answer", answer)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def train(
    members_are: str,
    digits: Examples,
    network=MLP,
    members=range(3),
    trainer=None,
    kind: type[EnsembleTraining] = EnsembleTraining,
    subsets: Subsets | None = None,
    role: Role = "original",
    measured: bool = False,
    **options,
):
    """Return an ensemble that was trained in one way, and the module that did it."""
    seeds = [member_seed(0, role, member, "initialisation") for member in members]
    ensemble = Ensemble.initialise(model_factory(network, digits), seeds)
    subsets = subsets or RandomSubsets(digits.n_train, 0.1, 0, complementary=False)
    recipe = {"epochs": 2, "batch_size": 32, "optimizer": MOMENTUM, "schedule": None, **options}
    module = kind(subsets=subsets.indices(members), **recipe)
    module.attach(ensemble, digits, seed=0, role=role, members=members)
    engine = {"step": "eager", "members": members_are, "memory": "rows", "measured": measured}
    module.fit(trainer_factory({**TRAINER, **(trainer or {}), "engine": engine}))
    return ensemble, module


def assert_same(digits: Examples, **options: Any) -> None:
    (fused, quick), (plain, slow) = (train(way, digits, **options) for way in ("fused", "together"))
    assert quick.fused
    assert not slow.fused
    for name, value in plain.params.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(fused.params[name], value, atol=ROUNDING, rtol=0)
        assert fused.params[name].grad is None
    assert quick.history() == pytest.approx(slow.history(), rel=1e-11)
    assert quick.sample_gradients == slow.sample_gradients


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("members", [1, 3])
def test_networks_become_what_autograd_makes_of_them(network, members, digits, in_double):
    assert_same(digits, network=NETWORKS[network], members=range(members))


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_take_the_steps_that_they_take_with_autograd(optimizer, network, digits, in_double):
    assert_same(digits, network=NETWORKS[network], optimizer=OPTIMIZERS[optimizer])


@pytest.mark.parametrize("at_once", [1, fused_step.VALUES_AT_ONCE])
@pytest.mark.parametrize("network", [MLP, CNN], ids=["mlp", "cnn"])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_do_what_they_do_with_autograd(name, network, at_once, digits, in_double, monkeypatch):
    monkeypatch.setattr(fused_step, "VALUES_AT_ONCE", at_once)
    options, trainer = OPTIONS[name]
    assert_same(digits, network=network, trainer=trainer, **options)
    changed, usual = (
        train("fused", digits, network=network, **these)[0] for these in ({**options, "trainer": trainer}, {})
    )
    assert not torch.allclose(changed.logits(digits.inputs), usual.logits(digits.inputs), atol=0.01)


@pytest.mark.parametrize("at_once", [1, fused_step.VALUES_AT_ONCE])
@pytest.mark.parametrize("network", [MLP, CNN], ids=["mlp", "cnn"])
def test_the_trajectory_is_the_one_with_autograd(network, at_once, digits, in_double, monkeypatch):
    monkeypatch.setattr(fused_step, "VALUES_AT_ONCE", at_once)
    found = []
    for way in ("fused", "together"):
        trajectory = Trajectory(3, digits.n_train)
        train(way, digits, network=network, trajectory=trajectory)
        found.append(trajectory.mean())
    for name, value in found[1].items():
        torch.testing.assert_close(found[0][name], value, atol=1e-4, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_convolutions_may_be_trained_some_members_after_others(optimizer, at_once, digits, in_double, monkeypatch):
    whole, _ = train("fused", digits, network=CNN, members=range(4), optimizer=OPTIMIZERS[optimizer])
    (values,) = {group.products.memory.values for group in groups(digits, 1)}
    monkeypatch.setattr(fused_step, "VALUES_AT_ONCE", at_once * values)
    assert len(groups(digits, 4)) == -(-4 // at_once)
    parts, _ = train("fused", digits, network=CNN, members=range(4), optimizer=OPTIMIZERS[optimizer])
    for name, value in whole.params.items():
        torch.testing.assert_close(parts.params[name], value, atol=ROUNDING, rtol=0)


def groups(digits, members: int) -> list[Any]:
    """Return the groups of members of small convolutional networks that take their steps at the same time."""
    ensemble = Ensemble.initialise(model_factory(CNN, digits), range(members))
    layers = chain_of(ensemble, digits.input_shape) or []
    step = fused_step.FusedStep(ensemble, layers, MOMENTUM(ensemble.parameters()))
    points = torch.arange(32 * members).view(members, 32)
    step(digits.inputs[points], fused_step.towards(digits.labels[points]))
    return step._groups


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_member_does_not_depend_on_the_chunk_it_is_trained_in(optimizer, network, digits, in_double):
    options = {"network": NETWORKS[network], "optimizer": OPTIMIZERS[optimizer]}
    whole = train("fused", digits, members=range(4), **options)[0].params
    parts = [train("fused", digits, members=part, **options)[0].params for part in (range(1), range(1, 4))]
    for name, value in whole.items():
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), value, atol=ROUNDING, rtol=0)


N_TRAIN = 1438
SUBSETS: dict[str, tuple[Role, Subsets]] = {
    "all": ("original", AllBut(N_TRAIN, [])),
    "all but 50": ("oracle", AllBut(N_TRAIN, range(100, 150))),
    "halves": ("subset", RandomSubsets(N_TRAIN, 0.5, 0, complementary=True)),
    "three quarters": ("subset", RandomSubsets(N_TRAIN, 0.75, 0, complementary=True)),
    "fewer than a batch": ("subset", RandomSubsets(N_TRAIN, 0.01, 0, complementary=False)),
    "one point": ("subset", RandomSubsets(N_TRAIN, 1e-9, 0, complementary=False)),
    "one more than a batch": ("oracle", Only(range(33))),
    "two sizes of batches": ("oracle", Only(range(95))),
}
RECIPES = {
    "plain": {"optimizer": OPTIMIZERS["plain"]},
    "momentum": {},
    "decay": {"optimizer": OPTIMIZERS["decay"]},
    "one cycle": {"optimizer": partial(MOMENTUM, lr=0.2), "schedule": OneCycle(0.25, 0.1, 0.0), "epochs": 3},
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("subsets", SUBSETS)
def test_subsets_are_learnt_as_with_autograd(subsets, recipe, digits, in_double):
    assert digits.n_train == N_TRAIN
    role, points = SUBSETS[subsets]
    assert_same(digits, network=NETWORKS["mlp"], role=role, subsets=points, **RECIPES[recipe])


@pytest.mark.parametrize("subsets", ["fewer than a batch", "one more than a batch", "two sizes of batches"])
def test_subsets_are_learnt_by_convolutions_as_with_autograd(subsets, digits, in_double):
    role, points = SUBSETS[subsets]
    assert_same(digits, network=CNN, role=role, subsets=points)


class Silent:
    def warn(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...


@pytest.mark.parametrize("network", [MLP, CNN], ids=["mlp", "cnn"])
def test_a_chunk_of_subsets_of_several_sizes_is_the_one_with_autograd(network, tmp_path, digits, in_double):
    store = Store(tmp_path, Silent())
    dataset = store.obtain(Spec("dataset", {}, {}), digits.write)
    masks = torch.arange(N_TRAIN).expand(5, -1) < torch.tensor([719, 5, 1388, 719, 33]).unsqueeze(1)
    design = store.obtain(Spec("design", {}, {}), lambda draft: draft.write_tensors("masks", {"masks": masks}))
    training = {
        "epochs": 2,
        "batch_size": 32,
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0.9},
        "schedule": {"_target_": "dmm_exp.ensembles.schedules.OneCycle"},
    }

    def trained(way: str) -> Artifact:
        def make(draft: Draft) -> None:
            draft.layout([[0, 5]])
            train_chunk(
                TrainJob(
                    examples=dataset.path,
                    model=network,
                    training=training,
                    trainer={**TRAINER, "engine": {"members": way}},
                    seed=0,
                    role="subset",
                    subsets=Designed(design.path),
                    keep=("parameters", "trajectory"),
                    output=draft.path,
                    stop=5,
                )
            )

        return store.obtain(Spec("ensemble", {"way": way}, {}), make)

    fused, plain = trained("fused"), trained("together")
    for name in plain.stacked_names():
        rounding = ROUNDING if name.startswith("params/") else 1e-5  # logits are stored in float32
        torch.testing.assert_close(fused.stacked(name), plain.stacked(name), atol=rounding, rtol=1e-6, equal_nan=True)
    assert torch.equal(fused.stacked("masks"), masks)


@pytest.mark.parametrize("network", [MLP, CNN], ids=["mlp", "cnn"])
def test_first_steps_in_float32_differ_by_rounding_alone(network, digits):
    found = [train(way, digits, network=network, epochs=1, batch_size=64)[0] for way in ("fused", "together")]
    for name, value in found[1].params.items():
        torch.testing.assert_close(found[0].params[name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("network", ["gelu", "cnn", "wide border"])
@pytest.mark.parametrize("sizes", [(20, 7, 30, 7, 30), (30, 20, 7)], ids=str)
def test_batches_may_grow_and_shrink(sizes, network, digits):
    ensemble = Ensemble.initialise(model_factory(NETWORKS[network], digits), range(2))
    products = Products(ensemble, chain_of(ensemble, digits.input_shape) or [])
    for size in sizes:
        inputs = digits.inputs[torch.arange(2 * size).view(2, size)]
        torch.testing.assert_close(products.forward(inputs).mT, ensemble(inputs), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((2,), (4, 4)), ((2,), (5, 7)), ((3, 1, 1), (4, 5)), ((2, 2, 0, 1, False, True), (5, 3)), ((2, 3), (7, 8))],
    ids=str,
)
def test_gradients_go_to_the_first_of_equal_maxima(sizes, shape):
    pool, generator = nn.MaxPool2d(*sizes), torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 3, (2, 3, *shape, 5), generator=generator).float()
    own = Pooling(Memory(), "", inputs, pool)
    own.forward()
    images = inputs.flatten(0, 1).movedim(-1, 1).contiguous().requires_grad_()
    pooled = pool(images)
    assert torch.equal(own.outputs.flatten(0, 1).movedim(-1, 1), pooled)
    errors = torch.randn(own.outputs.shape, generator=generator)
    pooled.backward(errors.flatten(0, 1).movedim(-1, 1))
    torch.testing.assert_close(own.backward(errors).flatten(0, 1).movedim(-1, 1), images.grad)


@pytest.mark.parametrize("value", [0, 16])
@pytest.mark.parametrize("network", ["cnn", "pooling with a rest"])
def test_images_without_a_pattern_are_learnt_as_with_autograd(network, value, digits, in_double):
    plain = replace(digits, inputs=torch.full_like(digits.inputs, value))
    assert_same(plain, network=NETWORKS[network])


@pytest.mark.parametrize("shape", [(4, 4, 4), (1, 16, 4), (2, 4, 8)], ids=str)
def test_images_have_any_shape(shape, digits, in_double):
    images = replace(digits, inputs=digits.inputs.view(-1, *shape))
    layers = [["Conv2d", shape[0], 3, 3, 1, 1], ["ReLU"], ["MaxPool2d", 2], ["Conv2d", 3, 2, 2], ["ReLU"]]
    assert_same(images, network=layered(*layers))


@pytest.mark.parametrize("network", [MLP, CNN], ids=["mlp", "cnn"])
def test_the_same_training_twice_is_the_same_to_the_bit(network, digits):
    first, second = (train("fused", digits, network=network)[0].logits(digits.inputs) for _ in range(2))
    assert torch.equal(first, second)


def test_rows_of_numbers_need_no_flatten(digits, in_double):
    rows = replace(digits, inputs=digits.inputs.flatten(1))
    assert_same(rows, network={"_target_": f"{__name__}.Rows"})


@pytest.mark.parametrize("kind", UNKNOWN)
def test_networks_that_are_no_plain_chain_are_refused(kind, digits):
    network = UNKNOWN[kind]
    ensemble = Ensemble.initialise(model_factory(network, digits), range(2))
    assert chain_of(ensemble, digits.input_shape) is None
    with pytest.raises(UserError, match=r"^engine\.members=fused: this network is no plain chain"):
        train("fused", digits, network)


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"accumulate_grad_batches": 2}, "needs one process"),
        ({"max_steps": 3}, "needs one process"),
        ({"limit_train_batches": 1}, "needs one process"),
        ({"limit_train_batches": 0.5}, "needs one process"),
        ({"overfit_batches": 2}, "needs one process"),
        ({"precision": "bf16-mixed"}, "not in trainer.precision=bf16-mixed"),
    ],
    ids=str,
)
def test_trainers_that_need_autograd_are_refused(trainer, said, digits):
    with pytest.raises(UserError, match=said):
        train("fused", digits, trainer=trainer)


def test_a_loss_of_ones_own_is_refused(digits):
    class Doubled(EnsembleTraining):
        def losses(self, indices):
            return 2 * super().losses(indices)

    with pytest.raises(UserError, match=r"^engine\.members=fused: Doubled takes steps of its own"):
        train("fused", digits, kind=Doubled)


WIDE = CNN | {"channels": [65]}


@pytest.mark.parametrize(
    "kind",
    [{}, {"trainer": {"max_steps": 10**6}}, {"network": {"_target_": f"{__name__}.Normed"}}, {"network": WIDE}],
    ids=["can be", "trainer", "network", "wide"],
)
def test_by_default_steps_are_fused_where_they_can_be(digits, kind):
    (by_default, module), (same, _) = (train(way, digits, **kind) for way in ("auto", "together" if kind else "fused"))
    assert module.fused == (not kind)
    assert torch.equal(by_default.logits(digits.inputs), same.logits(digits.inputs))
    assert Engine().settled() == Engine("eager", "auto", "rows")


def test_steps_that_were_measured_to_be_best_fused_are_plain_where_they_cannot_be(digits):
    assert not train("fused", digits, trainer={"max_steps": 10**6}, measured=True)[1].fused


def test_fused_steps_are_eager_ones():
    with pytest.raises(UserError, match=r"engine\.members=fused: expected engine\.step=eager or auto, not graph"):
        Engine(step="graph", members="fused")
    assert Engine(step="graph").settled().members == "together"


def test_a_chunk_size_is_measured_with_fused_steps_where_they_are_asked_for(digits):
    optimizer = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
    recipe = {"epochs": 1, "batch_size": 32, "optimizer": optimizer, "schedule": {"_target_": CONSTANT}}

    def measurement(network, members: str) -> Measurement:
        trainer = {"accelerator": "cpu", "engine": {"members": members}}
        return Measurement(model_factory(network, digits), digits, recipe, trainer)

    asked = measurement(MLP, "fused")
    (fused,) = asked.engines()
    assert fused.members == "fused"
    normed = CNN | {"batch_norm": True}
    found = [{engine.members for engine in measurement(net, "auto").engines()} for net in (MLP, CNN, normed)]
    assert found[0] >= {"fused"}
    assert found[1:] == [{"together", "fused", "apart"}, {"together", "apart"}]
    assert asked.losses(fused) == pytest.approx(asked.losses(Engine("eager", "together", "rows")), rel=1e-4)
    convolutions = measurement(CNN, "fused")
    assert convolutions.losses(fused) == pytest.approx(
        convolutions.losses(Engine("eager", "together", "rows")), rel=1e-4
    )
    assert [set(seconds) for _, seconds in convolutions.everything(2)] == [{2}]
    with pytest.raises(UserError, match=r"^engine\.members=fused: this network is no plain chain"):
        list(measurement(CNN | {"batch_norm": True}, "fused").everything(1))


def test_networks_that_cannot_be_stacked_are_refused():
    with pytest.raises(UserError, match=r"^engine\.members=fused: .*; expected apart or auto$"):
        Stacking(reason="it draws random numbers").settled(50, Engine(members="fused"))
