"""Training of the last layers only: as they are, or from scratch. All other layers stay as they are.

CF-k and EU-k of Goel et al., "Towards Adversarial Evaluations for Inexact Machine Unlearning", arXiv 2201.06640.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dmm_exp.errors import UserError
from dmm_exp.unlearners.unlearner import FineTuning, Fit, descent


def layers_of(network: nn.Module) -> list[set[str]]:
    """Return the trained layers of a network in the order in which it defines them, each as the names of its modules.

    A layer begins with a module that has a weight of two or more dimensions (linear, convolution, recurrent); modules
    with vectors alone, such as BatchNorm, belong to the layer before them.
    """
    dimensions: dict[str, int] = {}
    for name, value in network.named_parameters():
        if value.requires_grad:
            module = name.rpartition(".")[0]
            dimensions[module] = max(value.ndim, dimensions.get(module, 0))
    layers: list[set[str]] = []
    for module, dimension in dimensions.items():
        if dimension > 1 or not layers:
            layers.append(set())
        layers[-1].add(module)
    return layers


def last_layers(network: nn.Module, count: int) -> set[str]:
    """Return the names of the modules in the last layers of a network.

    Raises:
        UserError: no layer would be left over.
    """
    layers = layers_of(network)
    if count >= len(layers):
        expected = f"at most {len(layers) - 1}" if len(layers) > 1 else "another method, such as finetune"
        raise UserError(
            f"unlearner.layers={count}: none of this network's trained layers ({len(layers)}) would stay as it is; "
            f"expected {expected}"
        )
    return set().union(*layers[-count:])


def inside(tensors: dict[str, Any], modules: set[str]) -> dict[str, Any]:
    """Return those tensors, by name, that some modules hold."""
    return {name: value for name, value in tensors.items() if name.rpartition(".")[0] in modules}


def keep_layers(self: Any, *, layers: int = 1, **optimisation: Any) -> None:
    """Keep the settings of a method that trains the last layers: an ``__init__``."""
    FineTuning.__init__(self, **optimisation)
    if layers < 1:
        raise UserError(f"unlearner.layers={layers}: expected at least 1")
    self.layers = layers


def freeze_the_rest(self: Any, fit: Fit) -> dict[str, Tensor]:
    """Leave all but the last layers out of training: a ``prepare``. No optimizer sees what has no gradient."""
    trained = inside(fit.ensemble.params, last_layers(fit.ensemble.skeleton, self.layers))
    for name, value in fit.ensemble.params.items():
        value.requires_grad_(name in trained)
    return {}


class CFk(FineTuning):
    """Descend on the retain set with the last layers; all others stay as they are (catastrophic forgetting, CF-k).

    A layer is a module with a weight of two or more dimensions and the BatchNorm behind it. An example counts as one
    whole gradient, though it takes less than that where layers are frozen.

    Args:
        layers: k, how many of the last layers are trained.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`. With ``batch_norm=train`` the running
            statistics of frozen layers follow the batches, too.

    Raises:
        UserError: the number is out of range, or (when it unlearns) no layer would stay as it is.
    """

    layers: int
    __init__ = keep_layers
    prepare = freeze_the_rest
    losses = descent


class EUk(FineTuning):
    """Train the last layers from scratch on the retain set; all others stay as they are (exact unlearning, EU-k).

    Every member gets new last layers, initialised by its own seed. An example counts as one whole gradient, as for
    :class:`CFk`.

    Args:
        layers: k, how many of the last layers are trained.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`.

    Raises:
        UserError: the number is out of range, or (when it unlearns) no layer would stay as it is.
    """

    layers: int
    __init__ = keep_layers
    losses = descent

    @torch.no_grad()
    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Initialise the last layers again, and leave all others out of training."""
        modules, untrained = last_layers(fit.ensemble.skeleton, self.layers), fit.task.untrained()
        for own, new in ((fit.ensemble.params, untrained.params), (fit.ensemble.stats, untrained.stats)):
            for name, value in inside(own, modules).items():
                value.copy_(new[name])
        return freeze_the_rest(self, fit)
