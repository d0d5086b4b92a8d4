"""Fused steps train the members that autograd trains, where they know the network; elsewhere they are left alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from dmm_exp.data import Augmentation, Digits, Examples, Normalisation
from dmm_exp.ensembles import Ensemble, EnsembleTraining, RandomSubsets, member_seed
from dmm_exp.ensembles.chunk_size import Measurement
from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.products import Products, chain_of
from dmm_exp.ensembles.schedules import Cosine, OneCycle
from dmm_exp.ensembles.trajectory import Trajectory
from dmm_exp.ensembles.work import model_factory, trainer_factory
from dmm_exp.errors import UserError

TRAINER = {
    "_target_": "lightning.pytorch.Trainer",
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
MLP = {"_target_": "dmm_exp.models.MLP", "hidden": [12]}
CONSTANT = "dmm_exp.ensembles.schedules.Constant"
MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ROUNDING = 2e-4  # of logits after two epochs, whose size is about 10


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
}
UNKNOWN = [OwnForward, Tied, Frozen, Hooked, Replaced, Unflattened, EndsActive, Normed]
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


def train(
    members_are: str,
    digits: Examples,
    network=MLP,
    members=range(3),
    trainer=None,
    kind: type[EnsembleTraining] = EnsembleTraining,
    **options,
):
    """Return an ensemble that was trained in one way, and the module that did it."""
    seeds = [member_seed(0, "original", member, "initialisation") for member in members]
    ensemble = Ensemble.initialise(model_factory(network, digits), seeds)
    subsets = RandomSubsets(digits.n_train, 0.1, 0, complementary=False).indices(members)
    recipe = {"epochs": 2, "batch_size": 32, "optimizer": MOMENTUM, "schedule": None, **options}
    module = kind(subsets=subsets, **recipe)
    module.attach(ensemble, digits, seed=0, role="original", members=members)
    engine = {"step": "eager", "members": members_are, "memory": "rows"}
    module.fit(trainer_factory({**TRAINER, **(trainer or {}), "engine": engine}))
    return ensemble, module


def assert_same(digits: Examples, **options: Any) -> None:
    (fused, quick), (plain, slow) = (train(way, digits, **options) for way in ("fused", "together"))
    assert quick.at_once
    assert not slow.at_once
    torch.testing.assert_close(fused.logits(digits.inputs), plain.logits(digits.inputs), atol=ROUNDING, rtol=1e-3)
    for name, value in plain.params.items():
        torch.testing.assert_close(fused.params[name], value, atol=ROUNDING, rtol=1e-3)
        assert fused.params[name].grad is None
    assert quick.history() == pytest.approx(slow.history(), rel=1e-4)
    assert quick.sample_gradients == slow.sample_gradients


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("members", [1, 3])
def test_networks_become_what_autograd_makes_of_them(network, members, digits):
    assert_same(digits, network=NETWORKS[network], members=range(members))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_take_the_steps_that_they_take_with_autograd(optimizer, digits):
    assert_same(digits, network=NETWORKS["mlp"], optimizer=OPTIMIZERS[optimizer])


@pytest.mark.parametrize("name", OPTIONS)
def test_options_do_what_they_do_with_autograd(name, digits):
    options, trainer = OPTIONS[name]
    assert_same(digits, trainer=trainer, **options)
    changed, usual = (train("fused", digits, **these)[0] for these in ({**options, "trainer": trainer}, {}))
    assert not torch.allclose(changed.logits(digits.inputs), usual.logits(digits.inputs), atol=0.01)


def test_the_trajectory_is_the_one_with_autograd(digits):
    found = []
    for way in ("fused", "together"):
        trajectory = Trajectory(3, digits.n_train)
        train(way, digits, trajectory=trajectory)
        found.append(trajectory.mean())
    for name, value in found[1].items():
        torch.testing.assert_close(found[0][name], value, atol=1e-4, rtol=1e-4, equal_nan=True)


def test_a_member_does_not_depend_on_the_chunk_it_is_trained_in(digits):
    whole = train("fused", digits, members=range(4))[0].logits(digits.inputs)
    parts = [train("fused", digits, members=members)[0].logits(digits.inputs) for members in (range(1), range(1, 4))]
    torch.testing.assert_close(torch.cat(parts), whole, atol=ROUNDING, rtol=1e-3)


@pytest.mark.parametrize("sizes", [(20, 7, 30, 7, 30), (30, 20, 7)], ids=str)
def test_batches_may_grow_and_shrink(sizes, digits):
    ensemble = Ensemble.initialise(model_factory(NETWORKS["gelu"], digits), range(2))
    products = Products(ensemble, chain_of(ensemble, digits.input_shape) or [])
    for size in sizes:
        inputs = digits.inputs[torch.arange(2 * size).view(2, size)]
        torch.testing.assert_close(products.forward(inputs).mT, ensemble(inputs), atol=1e-5, rtol=1e-4)


def test_the_same_training_twice_is_the_same_to_the_bit(digits):
    first, second = (train("fused", digits)[0].logits(digits.inputs) for _ in range(2))
    assert torch.equal(first, second)


def test_rows_of_numbers_need_no_flatten(digits):
    rows = replace(digits, inputs=digits.inputs.flatten(1))
    assert_same(rows, network={"_target_": f"{__name__}.Rows"})


@pytest.mark.parametrize("kind", UNKNOWN)
def test_networks_that_are_no_plain_chain_are_refused_or_left_to_autograd(kind, digits):
    network = {"_target_": f"{__name__}.{kind.__name__}"}
    ensemble = Ensemble.initialise(model_factory(network, digits), range(2))
    assert chain_of(ensemble, digits.input_shape) is None
    with pytest.raises(UserError, match=r"^engine\.members=fused: this network is no plain chain"):
        train("fused", digits, network)
    (by_default, module), (plain, _) = (train(way, digits, network) for way in ("auto", "together"))
    assert not module.at_once
    assert torch.equal(by_default.logits(digits.inputs), plain.logits(digits.inputs))


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"accumulate_grad_batches": 2}, "needs one process"),
        ({"max_steps": 3}, "needs one process"),
        ({"precision": "bf16-mixed"}, "not in trainer.precision=bf16-mixed"),
    ],
    ids=str,
)
def test_trainers_that_need_autograd_are_refused_or_have_it(trainer, said, digits):
    with pytest.raises(UserError, match=said):
        train("fused", digits, trainer=trainer)
    (by_default, module), (plain, _) = (train(way, digits, trainer=trainer) for way in ("auto", "together"))
    assert not module.at_once
    assert torch.equal(by_default.logits(digits.inputs), plain.logits(digits.inputs))


def test_a_loss_of_ones_own_is_left_to_autograd(digits):
    class Doubled(EnsembleTraining):
        def losses(self, indices):
            return 2 * super().losses(indices)

    found = [train(way, digits, kind=Doubled) for way in ("auto", "together")]
    assert not any(module.at_once for _, module in found)
    assert torch.equal(*(ensemble.logits(digits.inputs) for ensemble, _ in found))


def test_auto_fuses_what_it_can(digits):
    assert train("auto", digits)[1].at_once


def test_fused_steps_are_eager_ones():
    with pytest.raises(UserError, match=r"engine\.members=fused: expected engine\.step=eager or auto, not graph"):
        Engine(step="graph", members="fused")
    assert Engine(step="graph").settled().members == "together"


def test_a_chunk_size_is_measured_with_fused_steps(digits):
    optimizer = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
    recipe = {"epochs": 1, "batch_size": 32, "optimizer": optimizer, "schedule": {"_target_": CONSTANT}}
    for network, members in ((MLP, "fused"), ({"_target_": "dmm_exp.models.CNN", "channels": [4]}, "together")):
        measured = Measurement(model_factory(network, digits), digits, recipe, {"accelerator": "cpu"})
        first, *_ = measured.engines()
        assert first.members == members
        losses = [measured.losses(engine) for engine in (first, Engine("eager", "together", "rows"))]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
