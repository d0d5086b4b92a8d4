"""What a person hands over (a network, data, rows to delete), checked, and in this package's terms."""

from __future__ import annotations

import copy
import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Subset, TensorDataset

from dmm_exp.config.registered import register
from dmm_exp.data import Dataset, Examples, Normalisation
from dmm_exp.deletion.checkpoints import fill, weights_digest
from dmm_exp.ensembles import Ensemble
from dmm_exp.ensembles.work import model_factory
from dmm_exp.errors import UserError, reason_of, shown
from dmm_exp.models import Normalised

Data = Any  # (inputs, labels), a map-style torch Dataset of such pairs, or a dataset of this package
RAW = Normalisation(1.0, [0.0], [1.0])  # a network of the user's own gets its inputs as they are
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
    """

    ensemble: Ensemble
    examples: Examples
    network: dict[str, Any]
    restore: Callable[[nn.Module], nn.Module]
    rows: Callable[[Tensor], TorchDataset[Any]]
    weights: str

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
    examples = _with_classes(examples, _answer(wrapped, examples))
    name = register(f"network {architecture(plain)}", _again(plain) if factory is None else _fresh(factory, plain))
    config = {"_target_": "dmm_exp.config.registered.network", "name": name}
    return Given(
        Ensemble.stack([wrapped]), examples, config, _like(network), _rows(train, examples), weights_digest(network)
    )


# ---------------------------------------------------------------------- networks


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
            raise UserError(f"model: '{name}' is {_dtype(value)}; expected floating-point numbers")
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(
                f"model: '{name}' holds numbers that are NaN or infinite; expected a network that trained well"
            )


def _plain(network: nn.Module) -> nn.Module:
    """Return a copy of a network in float32 on the CPU, in eval mode; if all of it is frozen, nothing is."""
    try:
        plain = copy.deepcopy(network).to("cpu", torch.float32).eval()
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
        made, wanted = _made(factory).to("cpu", torch.float32), _shapes(network)
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


def _again(network: nn.Module) -> Callable[[], nn.Module]:
    """Return a function that makes copies of a network with its layers initialised anew, as PyTorch does.

    A layer whose parameters are all frozen stays as it is.
    """

    def build() -> nn.Module:
        fresh = copy.deepcopy(network)
        for name, layer in fresh.named_modules():
            own = [value for value in layer._parameters.values() if value is not None]
            reset: Any = getattr(layer, "reset_parameters", getattr(layer, "_reset_parameters", None))
            if own and not any(value.requires_grad for value in own):
                continue
            if callable(reset):
                reset()
            elif own:
                raise UserError(
                    f"model: layer '{name or type(layer).__name__}' cannot be initialised anew (it has no "
                    "reset_parameters); give factory=, a function that makes an untrained network"
                )
        return fresh

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
        found = copy.deepcopy(network)
        found.load_state_dict(member.network.state_dict())  # pyright: ignore[reportAttributeAccessIssue]
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
            f"model: gives {_dtype(found)} {list(found.shape)} for {len(inputs)} examples; expected logits [examples, "
            "classes] of two classes or more"
        )
    if not found.isfinite().all():
        raise UserError("model: its logits on the first training examples are not finite; expected numbers")
    if bool((found >= 0).all()) and torch.allclose(found.sum(1), torch.ones(len(found)), atol=1e-4):
        raise UserError("model: gives probabilities (they add up to 1); expected logits, as they are before softmax")
    return found


# ---------------------------------------------------------------------- data


def examples_of(train: Data, validation: Data | None) -> Examples:
    """Return training and unseen points as :class:`Examples`; classes of raw tensors are not named yet.

    Raises:
        UserError: they are not what is expected.
    """
    if isinstance(train, Dataset):
        train = train.load()
    if isinstance(train, Examples):
        if validation is not None:
            raise UserError("validation: train is a dataset of this package, which has unseen points of its own")
        return train
    parts = [_tensors(train, "train")] + ([] if validation is None else [_tensors(validation, "validation")])
    if len(parts) == 2 and (parts[0][0].shape[1:], parts[0][0].dtype) != (parts[1][0].shape[1:], parts[1][0].dtype):
        shapes = [f"{list(inputs.shape[1:])} {str(inputs.dtype).removeprefix('torch.')}" for inputs, _ in parts]
        raise UserError(f"validation: its inputs are {shapes[1]}, those of train {shapes[0]}")
    inputs, labels = (torch.cat(both) for both in zip(*parts, strict=True))
    return Examples(inputs, labels, len(parts[0][1]), [], RAW, torch.zeros(len(labels), dtype=torch.bool))


def _tensors(data: Data, key: str) -> tuple[Tensor, Tensor]:
    """Return (inputs, labels) as float32 or uint8, and int64."""
    if isinstance(data, TensorDataset):
        data = data.tensors
    elif isinstance(data, TorchDataset):
        data = _collected(data, key)
    if not isinstance(data, Sequence) or isinstance(data, str) or len(data) != 2:
        raise UserError(
            f"{key} is a {type(data).__name__}; expected (inputs, labels), a map-style torch Dataset of such "
            "pairs, or a dataset of this package"
        )
    inputs, labels = _tensor(data[0], f"{key} inputs"), _tensor(data[1], f"{key} labels")
    if labels.ndim != 1 or inputs.ndim < 2 or len(inputs) != len(labels) or inputs.numel() == 0:
        raise UserError(
            f"{key}: inputs {list(inputs.shape)} and labels {list(labels.shape)}; expected [examples, ...] and "
            "[examples], at least one"
        )
    if labels.dtype not in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        raise UserError(f"{key}: labels are {_dtype(labels)}; expected whole numbers, one class for each example")
    if int(labels.min()) < 0:
        raise UserError(f"{key}: a label is {int(labels.min())}; expected classes from 0 on")
    if inputs.dtype != torch.uint8 and not inputs.is_floating_point():
        raise UserError(f"{key}: inputs are {_dtype(inputs)}; expected floating-point numbers or 8-bit images (uint8)")
    if inputs.is_floating_point():
        inputs = inputs.float()
        if not inputs.isfinite().all():
            raise UserError(f"{key}: an input is NaN or infinite; expected finite numbers")
    return inputs, labels.long()


def _tensor(value: Any, what: str) -> Tensor:
    """Return numbers as an ordinary tensor on the CPU."""
    try:
        if not isinstance(value, Tensor):
            return torch.from_numpy(np.require(value, requirements=["C", "W"]))
        if value.layout != torch.strided or value.is_quantized:
            raise TypeError(f"{value.layout}, {value.dtype}")
        return value.detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{what}: cannot be made into a tensor ({reason_of(error)}); expected numbers") from error


def _collected(data: TorchDataset[Any], key: str) -> tuple[Tensor, Tensor]:
    """Return all examples of a map-style dataset, each fetched once."""
    try:
        with torch.random.fork_rng(devices=[]):  # what a dataset draws (augmentation) is the same in every call
            torch.manual_seed(0)
            pairs = [data[index] for index in range(len(data))]  # pyright: ignore[reportArgumentType]
        inputs = [_tensor(pair[0], f"{key} inputs") for pair in pairs]
        labels = [operator.index(pair[1]) for pair in pairs]
        return torch.stack(inputs), torch.tensor(labels, dtype=torch.long)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{key}: this dataset cannot be read ({reason_of(error)}); expected a length, and (input, label) for every "
            "index, all inputs of one shape, labels being whole numbers"
        ) from error


def _with_classes(examples: Examples, answer: Tensor) -> Examples:
    """Return examples with as many classes as the network tells apart."""
    classes = answer.shape[1]
    largest = max(int(examples.labels.max()), len(examples.class_names) - 1)
    if largest >= classes:
        raise UserError(
            f"train: labels go up to {largest}, the network gives {classes} logits; expected labels from 0 to "
            f"{classes - 1}"
        )
    names = examples.class_names + [str(label) for label in range(len(examples.class_names), classes)]
    return replace(examples, class_names=names)


def _rows(train: Data, examples: Examples) -> Callable[[Tensor], TorchDataset[Any]]:
    """Return what gives a recipe that is a function its part of the training set, with inputs as the network gets them.

    A torch Dataset stays one of its kind, anything else becomes a TensorDataset.
    """
    if isinstance(train, TorchDataset):
        return lambda rows: Subset(train, rows.tolist())
    constants, inputs, labels = vars(examples.normalisation), examples.inputs, examples.labels
    as_given = Normalised(nn.Identity(), **constants, input_shape=examples.input_shape)
    return lambda rows: TensorDataset(as_given(inputs[rows]), labels[rows])


def _dtype(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


# ---------------------------------------------------------------------- rows to delete


def forget_rows(forget: Any, examples: Examples, *, whole_classes: bool = False, gone: Sequence[int] = ()) -> Tensor:
    """Return the sorted training indices that have to go.

    Args:
        forget: distinct whole numbers: a list, an array, a tensor.
        examples: the dataset.
        whole_classes: whether a class may lose its last example.
        gone: indices that went before; they cannot go again.

    Raises:
        UserError: the indices are no such thing.
    """
    n_train = examples.n_train
    numbers = sorted(_indices(forget))
    if not numbers:
        raise UserError("forget: is empty; expected at least one training index")
    for wrong in (numbers[0], numbers[-1]):
        if not 0 <= wrong < n_train:
            raise UserError(f"forget: {wrong} is out of range; expected indices from 0 to {n_train - 1}")
    twice = [one for one, other in pairwise(numbers) if one == other]
    if twice:
        raise UserError(f"forget: {twice[0]} is there more than once; expected distinct indices")
    again = set(numbers) & set(gone)
    if again:
        raise UserError(f"forget: {min(again)} was deleted before; expected indices that are still there")
    chosen = torch.tensor(numbers)
    kept = torch.ones(n_train, dtype=torch.bool)
    kept[list(gone)] = False
    before = torch.bincount(examples.labels[:n_train][kept], minlength=examples.n_classes)
    kept[chosen] = False
    if not kept.any():
        raise UserError("forget: is the whole training set; expected some of it to be retained")
    after = torch.bincount(examples.labels[:n_train][kept], minlength=examples.n_classes)
    vanished = ((before > 0) & (after == 0)).nonzero().squeeze(1)
    if len(vanished) and not whole_classes:
        name = examples.class_names[int(vanished[0])]
        raise UserError(f"forget: no example of class {name} would be left; pass whole_classes=True if that is meant")
    return chosen


def _indices(forget: Any) -> list[int]:
    expected = "expected a list of whole numbers, the training indices to delete"
    if isinstance(forget, (str, bytes, Mapping)) or not hasattr(forget, "__len__"):
        raise UserError(f"forget is a {type(forget).__name__}; {expected}")
    try:
        values = forget.detach().cpu().to_dense() if isinstance(forget, Tensor) else np.asarray(forget)
        numbers = values.tolist()
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise UserError(f"forget cannot be read as numbers ({reason_of(error)}); {expected}") from error
    if numbers == []:
        return []
    if values.ndim != 1:
        raise UserError(f"forget has the shape {list(values.shape)}; {expected}")
    if isinstance(numbers[0], bool):
        raise UserError(f"forget is a mask; {expected}, such as mask.nonzero()")
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool):
            raise UserError(f"forget holds '{shown(number)}' ({type(number).__name__}); {expected}")
    return numbers
