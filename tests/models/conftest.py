"""Members of any architecture, trained together and one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from trainers import TRAINER

from dmm_exp.data import Examples, Normalisation
from dmm_exp.ensembles import AllBut, Ensemble, EnsembleTraining
from dmm_exp.ensembles.engine import Engine, TrainerFactory
from dmm_exp.ensembles.work import trainer_factory
from dmm_exp.models import Normalised


class InFloat64(nn.Module):
    """A network in float64.

    In float32, rounding now and then moves an activation across the corner of a rectifier, and from then on two runs
    differ; whether that happens depends on the processor.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs.double())


@pytest.fixture
def some_images() -> Callable[[int], Examples]:
    """Return random colour images of a size in five classes."""

    def made(size: int) -> Examples:
        generator = torch.Generator().manual_seed(0)
        return Examples(
            inputs=torch.randint(0, 256, (60, 3, size, size), dtype=torch.uint8, generator=generator),
            labels=torch.randint(0, 5, (60,), generator=generator),
            n_train=48,
            class_names=list("abcde"),
            normalisation=Normalisation(255, [0.5] * 3, [0.25] * 3),
            corrupted=torch.zeros(60, dtype=torch.bool),
        )

    return made


@pytest.fixture
def largest_difference(some_images) -> Callable[..., float]:
    """Train three members together and each alone; return their largest difference in units of 1e-5 + 1e-4 · value."""

    def found(network: Callable[..., nn.Module], size: int, engine: Engine, lr: float = 0.05) -> float:
        examples = some_images(size)
        together, worst = trained(network, examples, range(3), engine, lr).tensors(), 0.0
        for member in range(3):
            alone = trained(network, examples, range(member, member + 1), Engine(), lr).tensors()
            for name, value in together.items():
                allowed = 1e-5 + 1e-4 * alone[name][0].abs()
                worst = max(worst, float(((value[member] - alone[name][0]).abs() / allowed).max()))
        return worst

    return found


def trained(
    network: Callable[..., nn.Module], examples: Examples, members: range, engine: Engine, lr: float
) -> Ensemble:
    shape = examples.input_shape
    constants = vars(examples.normalisation)
    ensemble = Ensemble.initialise(
        lambda: Normalised(InFloat64(network(shape, 5)), **constants, input_shape=shape), members
    )
    training = EnsembleTraining(
        subsets=AllBut(48, ()).indices(members),
        epochs=2,
        batch_size=16,
        optimizer=partial(torch.optim.SGD, lr=lr, momentum=0.9),
        schedule=None,
    )
    training.attach(ensemble, examples, seed=0, role="original", members=members)
    training.fit(TrainerFactory(trainer_factory(TRAINER).make, engine))
    return ensemble.cpu()
