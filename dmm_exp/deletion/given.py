"""The network and the data that a person hands over, checked, in the types of this package."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from dmm_exp.config.registered import register
from dmm_exp.config.schema import Node
from dmm_exp.data import Examples, Rows, content_hash
from dmm_exp.deletion.fresh import Fresh, uncompiled
from dmm_exp.deletion.rows import Data, dtype_of, examples_of, rows_of, with_classes
from dmm_exp.ensembles import Ensemble
from dmm_exp.ensembles.skeletons import copied
from dmm_exp.ensembles.work import evaluation_copy, model_factory
from dmm_exp.errors import REASON, UserError, explained, shown
from dmm_exp.models import Normalised
from dmm_exp.records.checkpoints import fill, uncompiled_name, weights_digest
from dmm_exp.records.pool import PROBED

FACTORY = "expected a function without arguments that makes an untrained network"
SAME, ALONE = 1e-5, 1e-2  # relative differences of answers: to the same batch twice, and to an example in a smaller one


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
        blank: training indices that are gone, and whose inputs are zeros now: nothing is computed from them.
        has_factory: whether untrained networks come from a function or class, and are no copies of the given network
            whose layers are initialised again.
    """

    ensemble: Ensemble
    examples: Examples
    network: Node
    restore: Callable[[nn.Module], nn.Module]
    rows: Callable[[Tensor], TorchDataset[Any]]
    weights: str
    is_exact: bool = True
    blank: tuple[int, ...] = ()
    has_factory: bool = True

    def build(self) -> nn.Module:
        """Return a freshly initialised network behind the normalisation."""
        return model_factory(self.network, self.examples)()

    @property
    def trained_classes(self) -> int:
        """Number of classes that have training rows."""
        return len(self.examples.labels[: self.examples.n_train].unique())

    @cached_property
    def answers(self) -> Tensor:
        """Logits ``[1, points, classes]`` of the given network on all points, computed once.

        Raises:
            UserError: some are not finite.
        """
        logits = evaluation_copy(self.ensemble.copy(), {}).logits(self.examples.inputs)
        if not logits.isfinite().all():
            raise UserError("model: some of its logits on train or validation are not finite; expected numbers")
        return logits

    def stacked(self, network: nn.Module) -> Ensemble:
        """Return a network like the given one as the one member of an ensemble, as its precision rounds it."""
        constants = vars(self.examples.normalisation)
        return Ensemble.stack([Normalised(_plain(network), **constants, input_shape=self.examples.input_shape)])

    def logits(self, network: nn.Module) -> Tensor:
        """Return the logits ``[1, points, classes]`` of a network like the given one, as its precision rounds it."""
        return self.stacked(network).logits(self.examples.inputs)

    def readable(self, rows: Rows) -> Rows:
        """Return those of some rows whose inputs are there."""
        is_blank = torch.isin(rows.indices, torch.tensor(self.blank, dtype=torch.long))
        return Rows(rows.indices[~is_blank], rows.n_train)

    def counts(self) -> dict[str, int]:
        """Return numbers of training examples, unseen ones and classes."""
        examples = self.examples
        unseen = examples.n_points - examples.n_train
        return {"train": examples.n_train, "unseen": unseen, "classes": examples.n_classes}

    def digest_of(self, rows: Rows) -> str:
        """Return the SHA-256 of the inputs and labels of some rows."""
        return content_hash(self.examples.inputs[rows.indices], self.examples.labels[rows.indices])

    def names_of(self, rows: Rows) -> list[str] | None:
        """Return the names of the files that some rows are; None where they are no files."""
        names = self.examples.names
        return None if names is None else [names[row] for row in rows.tolist()]

    def probe(self) -> Tensor:
        """Return the logits ``[1, examples, classes]`` of the network that seed 0 initialises, on a few examples."""
        return Ensemble.initialise(self.build, [0]).logits(self.examples.inputs[:PROBED])


def given(
    model: nn.Module | str | Path,
    train: Data,
    validation: Data | None = None,
    factory: Callable[[], nn.Module] | None = None,
    prefix: str | None = None,
) -> Given:
    """Check what a person hands over; the arguments are those of :func:`dmm_exp.unlearn`.

    Raises:
        UserError: something does not fit; see :func:`dmm_exp.unlearn`.
    """
    network = _network(model, factory, prefix)
    examples = examples_of(train, validation)

    def fresh(plain: nn.Module) -> Node:
        build = Fresh(plain) if factory is None else _fresh(factory, plain)
        name = register(f"network {architecture(plain)}", build)
        return {"_target_": "dmm_exp.config.registered.network", "name": name}

    return _checked(network, examples, fresh, rows_of(train, examples), factory is not None)


def given_by_configuration(config: Node, examples: Examples, checkpoint: Path, prefix: str | None) -> Given:
    """Check a network of a configuration (``model.network``) that is filled from a checkpoint, and its data.

    Args:
        config: of the network.
        examples: the data.
        checkpoint: the file.
        prefix: of the network's names in the file; None where only one fits.

    Raises:
        UserError: something does not fit.
    """
    network = model_factory(config, examples)().network
    fill(network, checkpoint, prefix, key="request.prefix")
    check_numbers(network)
    return _checked(network, examples, lambda _: dict(config), rows_of(examples, examples), True)


def _checked(
    network: nn.Module,
    examples: Examples,
    configuration: Callable[[nn.Module], Node],
    rows: Callable[[Tensor], TorchDataset[Any]],
    has_factory: bool,
) -> Given:
    """Return a network and its data, after checking that they fit each other.

    Args:
        network: as it was trained.
        examples: the data; its classes may not be named yet.
        configuration: from the network in float32 to that of a fresh one of its architecture.
        rows: see :class:`Given`.
        has_factory: see :class:`Given`.
    """
    plain = _plain(network)
    wrapped = Normalised(plain, **vars(examples.normalisation), input_shape=examples.input_shape)
    examples = with_classes(examples, _answer(wrapped, examples))
    if examples.words is not None:
        _check_words(wrapped, examples)
    numbers = network.state_dict().values()
    return Given(
        Ensemble.stack([wrapped]),
        examples,
        configuration(plain),
        restore=_like(network),
        rows=rows,
        weights=weights_digest(network),
        is_exact=all(value.dtype == torch.float32 for value in numbers if value.is_floating_point()),
        has_factory=has_factory,
    )


def _network(model: nn.Module | str | Path, factory: Callable[[], nn.Module] | None, prefix: str | None) -> nn.Module:
    """Return the trained network itself, or filled from a checkpoint, if its numbers are finite."""
    if factory is not None and (not callable(factory) or isinstance(factory, nn.Module)):
        raise UserError(f"factory is a {type(factory).__name__}; {FACTORY}")
    if isinstance(model, (str, Path)):
        if factory is None:
            raise UserError(f"model={model}: a checkpoint holds numbers only; expected factory= for the network")
        module = fill(_from_factory(factory), Path(model).expanduser(), prefix)
    elif not isinstance(model, nn.Module):
        raise UserError(f"model is a {type(model).__name__}; expected a torch.nn.Module, or the path of a checkpoint")
    elif prefix is not None:
        raise UserError(f"prefix={shown(prefix)}: is for names in a checkpoint; model is a network already")
    else:
        module = model
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
            raise UserError(f"model: '{name}' holds numbers that are NaN or infinite; expected finite numbers")


def _plain(network: nn.Module) -> nn.Module:
    """Return a copy of a network in float32 on the CPU, in eval mode; if all of it is frozen, nothing is."""
    if isinstance(network, torch.jit.ScriptModule):
        raise UserError(f"model: {type(network).__name__} is TorchScript; expected the nn.Module that it was made from")
    expected = "expected a network that copy.deepcopy can copy"
    with explained(f"model: {type(network).__name__} cannot be copied ({REASON}); {expected}"):
        plain = uncompiled(copied(network)).to("cpu", torch.float32).eval()
    frozen = not any(value.requires_grad for value in plain.parameters())
    return plain.requires_grad_() if frozen else plain


def _from_factory(factory: Callable[[], nn.Module]) -> nn.Module:
    with explained(f"factory raised {REASON}; {FACTORY}"):
        network = factory()
    if not isinstance(network, nn.Module):
        raise UserError(f"factory returned a {type(network).__name__}; expected a torch.nn.Module")
    return network


def _fresh(factory: Callable[[], nn.Module], network: nn.Module) -> Callable[[], nn.Module]:
    """Return a factory's networks in float32, if they are of the given one's architecture, and with what it froze.

    Raises:
        UserError: they are not; said at once.
    """

    def build() -> nn.Module:
        fresh, wanted = uncompiled(_from_factory(factory)).to("cpu", torch.float32), _shapes(network)
        if _shapes(fresh) != wanted:
            wrong = next(iter(dict(_shapes(fresh).items() ^ wanted.items())))
            raise UserError(f"factory makes another network than model ('{wrong}' differs); expected the same layers")
        trainable = {name: value.requires_grad for name, value in network.named_parameters()}
        for name, value in fresh.named_parameters():
            value.requires_grad_(trainable.get(name, True))
        return fresh

    with torch.random.fork_rng(devices=[]):
        build()
    return build


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


def _answer(network: nn.Module, examples: Examples) -> Tensor:
    """Return what the network answers on a few examples, ``[examples, classes]``, if each has one answer.

    A copy answers, with random numbers of its own, so that nothing else is changed.
    """
    network, inputs = copied(network), examples.inputs[:PROBED]
    with torch.random.fork_rng(devices=[]):
        found, repeated = _logits(network, inputs), _logits(network, inputs)
        if not _near(repeated, found, SAME):
            raise UserError(
                "model: answers the same inputs differently in two calls, although it is in eval mode; expected no "
                "randomness there, such as dropout that is always on, and nothing that changes from call to call"
            )
        half = (len(inputs) + 1) // 2
        if half < len(inputs) and not _near(_logits(network, inputs[:half]), found[:half], ALONE):
            raise UserError(
                "model: its answer to an example depends on the others in the batch, although it is in eval mode; "
                "expected a network that answers each example for itself (BatchNorm with running statistics, and no "
                "other statistics of a batch)"
            )
    return found


def _check_words(network: nn.Module, examples: Examples) -> None:
    """Raise ``UserError`` for a text with a number that the network has no word for."""
    largest = int(examples.inputs.amax(1).argmax())
    number = int(examples.inputs[largest].max())
    what = f"the largest number of a word is {number}, in point {largest}"
    sentence = f"train: {what}, and the network cannot be applied to it ({REASON}); expected words that it knows"
    with explained(sentence), torch.no_grad(), torch.random.fork_rng(devices=[]):
        copied(network)(examples.inputs[largest : largest + 1])


def _near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Return whether logits are the same, up to a part of the largest."""
    return bool(((one - other).abs() <= tolerance * (1 + other.abs().max())).all())


@torch.no_grad()
def _logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits ``[examples, classes]`` of some inputs, if the network gives such."""
    shape = list(inputs.shape)
    with explained(f"model: cannot be applied to inputs {shape} of train ({REASON}); expected data that fits it"):
        found = network(inputs)
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
