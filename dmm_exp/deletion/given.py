"""What a person hands over (a network and its data), checked, and in this package's terms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from dmm_exp.config.registered import register
from dmm_exp.data import Examples
from dmm_exp.deletion.checkpoints import fill, weights_digest
from dmm_exp.deletion.fresh import Fresh, uncompiled, uncompiled_name
from dmm_exp.deletion.rows import Data, dtype_of, examples_of, rows_of, with_classes
from dmm_exp.ensembles import Ensemble
from dmm_exp.ensembles.skeletons import copied
from dmm_exp.ensembles.work import model_factory
from dmm_exp.errors import UserError, reason_of
from dmm_exp.models import Normalised

PROBED = 8  # training examples on which two networks are compared


@dataclass(frozen=True)
class Given:
    """A trained network and its data.

    Attributes:
        ensemble: the network as the one member of an ensemble, in float32 on the CPU, behind the normalisation.
        examples: training points first, then those kept unseen, of which there may be none.
        network: configuration of a freshly initialised network of this architecture.
        restore: from a module like the ensemble's member to one like the network that was given.
        rows: from training indices to what a recipe that is a function gets.
        weights: digest of the tensors of the network that was given.
        is_exact: whether the network that was given is in float32 too, so that what is restored answers the very same.
        has_factory: whether untrained networks come from a function or class, and are no copies of the given network
            whose layers are initialised again.
    """

    ensemble: Ensemble
    examples: Examples
    network: dict[str, Any]
    restore: Callable[[nn.Module], nn.Module]
    rows: Callable[[Tensor], TorchDataset[Any]]
    weights: str
    is_exact: bool = True
    has_factory: bool = True

    def build(self) -> nn.Module:
        """Return a freshly initialised network behind the normalisation."""
        return model_factory(self.network, self.examples)()

    def logits(self, network: nn.Module) -> Tensor:
        """Return the logits ``[1, points, classes]`` of a network like the given one, as its precision rounds it."""
        constants = vars(self.examples.normalisation)
        wrapped = Normalised(_plain(network), **constants, input_shape=self.examples.input_shape)
        return Ensemble.stack([wrapped]).logits(self.examples.inputs)

    def probe(self) -> Tensor:
        """Return the logits ``[1, examples, classes]`` of the network that seed 0 initialises, on a few examples."""
        return Ensemble.initialise(self.build, [0]).logits(self.examples.inputs[:PROBED])


def given(
    model: nn.Module | str | Path,
    train: Data,
    validation: Data | None = None,
    factory: Callable[[], nn.Module] | None = None,
) -> Given:
    """Check what a person hands over; the arguments are those of :func:`dmm_exp.unlearn`.

    Raises:
        UserError: something does not fit; see :func:`dmm_exp.unlearn`.
    """
    network = _network(model, factory)
    plain = _plain(network)
    examples = examples_of(train, validation)
    wrapped = Normalised(plain, **vars(examples.normalisation), input_shape=examples.input_shape)
    examples = with_classes(examples, _answer(wrapped, examples))
    name = register(f"network {architecture(plain)}", again(plain) if factory is None else _fresh(factory, plain))
    config = {"_target_": "dmm_exp.config.registered.network", "name": name}
    numbers = network.state_dict().values()
    return Given(
        Ensemble.stack([wrapped]),
        examples,
        config,
        restore=_like(network),
        rows=rows_of(train, examples),
        weights=weights_digest(network),
        is_exact=all(value.dtype == torch.float32 for value in numbers if value.is_floating_point()),
        has_factory=factory is not None,
    )


def _network(model: nn.Module | str | Path, factory: Callable[[], nn.Module] | None) -> nn.Module:
    """Return the trained network itself, or filled from a checkpoint, if its numbers are finite."""
    if factory is not None and (not callable(factory) or isinstance(factory, nn.Module)):
        raise UserError(
            f"factory is a {type(factory).__name__}; expected a function without arguments that makes an untrained "
            "network"
        )
    if isinstance(model, (str, Path)):
        if factory is None:
            raise UserError(
                f"model={model}: a checkpoint holds numbers only; expected factory=, which makes the network"
            )
        module = fill(_made(factory), Path(model).expanduser())
    elif isinstance(model, nn.Module):
        module = model
    else:
        raise UserError(f"model is a {type(model).__name__}; expected a torch.nn.Module, or the path of a checkpoint")
    check_numbers(module)
    return module


def check_numbers(module: nn.Module) -> None:
    """Raise ``UserError`` for a network without parameters, or with numbers that are not finite."""
    if next(module.parameters(), None) is None:
        raise UserError(f"model: {type(module).__name__} has no parameters; expected a trained network")
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if nn.parameter.is_lazy(value) or value.is_meta:
            raise UserError(f"model: '{name}' holds no numbers yet; expected a trained network")
        if value.is_complex() or (isinstance(value, nn.Parameter) and not value.is_floating_point()):
            raise UserError(f"model: '{name}' is {dtype_of(value)}; expected floating-point numbers")
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(
                f"model: '{name}' holds numbers that are NaN or infinite; expected a network that trained well"
            )


def _plain(network: nn.Module) -> nn.Module:
    """Return a copy of a network in float32 on the CPU, in eval mode; if all of it is frozen, nothing is."""
    if isinstance(network, torch.jit.ScriptModule):
        raise UserError(f"model: {type(network).__name__} is TorchScript; expected the nn.Module that it was made from")
    try:
        plain = uncompiled(copied(network)).to("cpu", torch.float32).eval()
    except Exception as error:
        raise UserError(
            f"model: {type(network).__name__} cannot be copied ({reason_of(error)}); expected a network that "
            "copy.deepcopy can copy"
        ) from error
    frozen = not any(value.requires_grad for value in plain.parameters())
    return plain.requires_grad_() if frozen else plain


def _made(factory: Callable[[], nn.Module]) -> nn.Module:
    try:
        made = factory()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"factory raised {reason_of(error)}; expected a function without arguments that makes an untrained network"
        ) from error
    if not isinstance(made, nn.Module):
        raise UserError(f"factory returned a {type(made).__name__}; expected a torch.nn.Module")
    return made


def _fresh(factory: Callable[[], nn.Module], network: nn.Module) -> Callable[[], nn.Module]:
    """Return a factory's networks in float32, if they are of the given one's architecture, and with what it froze.

    Raises:
        UserError: they are not; said at once.
    """

    def build() -> nn.Module:
        made, wanted = uncompiled(_made(factory)).to("cpu", torch.float32), _shapes(network)
        if _shapes(made) != wanted:
            wrong = next(iter(dict(_shapes(made).items() ^ wanted.items())))
            raise UserError(f"factory makes another network than model ('{wrong}' differs); expected the same layers")
        trainable = {name: value.requires_grad for name, value in network.named_parameters()}
        for name, value in made.named_parameters():
            value.requires_grad_(trainable.get(name, True))
        return made

    with torch.random.fork_rng(devices=[]):
        build()
    return build


def again(network: nn.Module) -> Callable[[], nn.Module]:
    """Return a function that makes copies of a network with its layers initialised once more."""
    return Fresh(network)


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items() if isinstance(value, Tensor)}


def architecture(network: nn.Module) -> str:
    """Return a short name of an architecture: of its layers and the shapes of its tensors."""
    text = f"{type(network).__module__}.{type(network).__qualname__}\n{network!r}\n{_shapes(network)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _like(network: nn.Module) -> Callable[[nn.Module], nn.Module]:
    """Return what turns a member of the ensemble into a network of the given one's type, mode, devices and dtypes."""

    def restore(member: nn.Module) -> nn.Module:
        found, state = copied(network), member.network.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
        found.load_state_dict({name: state[uncompiled_name(name)] for name in found.state_dict()})
        return found

    return restore


@torch.no_grad()
def _answer(network: nn.Module, examples: Examples) -> Tensor:
    """Return what the network answers on a few examples, ``[examples, classes]``."""
    inputs = examples.inputs[:PROBED]
    try:
        found = network(inputs)
    except Exception as error:
        raise UserError(
            f"model: cannot be applied to inputs {list(inputs.shape)} of train ({reason_of(error)}); expected "
            "data that fits the network"
        ) from error
    if not isinstance(found, Tensor):
        raise UserError(f"model: gives a {type(found).__name__}; expected a tensor of logits [examples, classes]")
    if found.ndim != 2 or len(found) != len(inputs) or found.shape[1] < 2 or not found.is_floating_point():
        raise UserError(
            f"model: gives {dtype_of(found)} {list(found.shape)} for {len(inputs)} examples; expected logits "
            "[examples, classes] of two classes or more"
        )
    if not found.isfinite().all():
        raise UserError("model: its logits on the first training examples are not finite; expected numbers")
    if bool((found >= 0).all()) and torch.allclose(found.sum(1), torch.ones(len(found)), atol=1e-4):
        raise UserError("model: gives probabilities (they add up to 1); expected logits, as they are before softmax")
    return found
