"""What a person hands over (a network, data, rows to delete), checked, and in this package's terms."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from dmm_exp.errors import UserError
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
    examples = examples_of(train, validation)
    plain = copy.deepcopy(network).to("cpu", torch.float32).eval()
    wrapped = Normalised(plain, **vars(examples.normalisation), input_shape=examples.input_shape)
    examples = _with_classes(examples, _answer(wrapped, examples))
    name = register(f"network {architecture(plain)}", factory if factory is not None else _again(plain))
    config = {"_target_": "dmm_exp.config.registered.network", "name": name}
    return Given(
        Ensemble.stack([wrapped]), examples, config, _like(network), _rows(train, examples), weights_digest(network)
    )


# ---------------------------------------------------------------------- networks


def _network(model: nn.Module | str | Path, factory: Callable[[], nn.Module] | None) -> nn.Module:
    """Return the trained network itself, or filled from a checkpoint, if its numbers are finite."""
    if isinstance(model, (str, Path)):
        if factory is None:
            raise UserError(
                f"model={model}: a checkpoint holds numbers only; expected factory=, which makes the network"
            )
        module = fill(_made(factory), Path(model))
    elif isinstance(model, nn.Module):
        module = model
    else:
        raise UserError(f"model is a {type(model).__name__}; expected a torch.nn.Module, or the path of a checkpoint")
    check_numbers(module)
    return module


def check_numbers(module: nn.Module) -> None:
    """Raise ``UserError`` for a network without parameters, or with numbers that are not finite."""
    values = [*module.named_parameters(), *module.named_buffers()]
    if not any(True for _ in module.parameters()):
        raise UserError(f"model: {type(module).__name__} has no parameters; expected a trained network")
    for name, value in values:
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(
                f"model: '{name}' holds numbers that are NaN or infinite; expected a network that trained well"
            )


def _made(factory: Callable[[], nn.Module]) -> nn.Module:
    made = factory()
    if not isinstance(made, nn.Module):
        raise UserError(f"factory returned a {type(made).__name__}; expected a torch.nn.Module")
    return made


def _again(network: nn.Module) -> Callable[[], nn.Module]:
    """Return a function that makes copies of a network with all layers initialised anew, as PyTorch does."""

    def build() -> nn.Module:
        fresh = copy.deepcopy(network)
        for name, layer in fresh.named_modules():
            reset: Any = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
            elif layer._parameters:
                raise UserError(
                    f"model: layer '{name or type(layer).__name__}' cannot be initialised anew (it has no "
                    "reset_parameters); give factory=, a function that makes an untrained network"
                )
        return fresh

    return build


def architecture(network: nn.Module) -> str:
    """Return a short name of an architecture: of its layers and the shapes of its tensors."""
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    text = f"{type(network).__module__}.{type(network).__qualname__}\n{network!r}\n{shapes}"
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
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(inputs) or found.shape[1] < 2:
        shape = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise UserError(f"model: gives {shape} for {len(inputs)} examples; expected logits [examples, classes]")
    if not found.isfinite().all():
        raise UserError("model: its logits on the first training examples are not finite; expected numbers")
    return found


# ---------------------------------------------------------------------- data


def examples_of(train: Data, validation: Data | None) -> Examples:
    """Return training and unseen points as :class:`Examples`; classes are counted from labels, for now.

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
    names = [str(label) for label in range(int(labels.max()) + 1)]
    return Examples(inputs, labels, len(parts[0][1]), names, RAW, torch.zeros(len(labels), dtype=torch.bool))


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
    if labels.ndim != 1 or inputs.ndim < 2 or len(inputs) != len(labels) or len(labels) == 0:
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
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        return torch.from_numpy(np.ascontiguousarray(value))
    except (TypeError, ValueError) as error:
        raise UserError(f"{what}: cannot be made into a tensor ({error}); expected numbers") from error


def _collected(data: TorchDataset[Any], key: str) -> tuple[Tensor, Tensor]:
    """Return all examples of a map-style dataset, each fetched once."""
    try:
        length = len(data)  # pyright: ignore[reportArgumentType]
        pairs = [data[index] for index in range(length)]
        inputs = [_tensor(pair[0], f"{key} inputs") for pair in pairs]
        labels = [int(pair[1]) for pair in pairs]
        return torch.stack(inputs), torch.tensor(labels, dtype=torch.long)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{key}: this dataset cannot be read ({reason_of(error)}); expected a length, and (input, label) for every "
            "index, all inputs of one shape"
        ) from error


def _with_classes(examples: Examples, answer: Tensor) -> Examples:
    """Return examples with as many classes as the network tells apart."""
    classes = answer.shape[1]
    if int(examples.labels.max()) >= classes:
        raise UserError(
            f"train: labels go up to {int(examples.labels.max())}, the network gives {classes} logits; expected labels "
            f"from 0 to {classes - 1}"
        )
    names = examples.class_names + [str(label) for label in range(len(examples.class_names), classes)]
    return Examples(
        examples.inputs, examples.labels, examples.n_train, names[:classes], examples.normalisation, examples.corrupted
    )


def _rows(train: Data, examples: Examples) -> Callable[[Tensor], TorchDataset[Any]]:
    """Return what gives a recipe that is a function its part of the training set: of the user's own kind of dataset."""
    if isinstance(train, TorchDataset):
        return lambda rows: Subset(train, rows.tolist())
    inputs, labels = examples.inputs, examples.labels
    return lambda rows: TensorDataset(inputs[rows], labels[rows])


def reason_of(error: BaseException) -> str:
    """Return an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


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
    values = _indices(forget)
    if values.numel() == 0:
        raise UserError("forget: is empty; expected at least one training index")
    if int(values.min()) < 0 or int(values.max()) >= n_train:
        wrong = values[(values < 0) | (values >= n_train)][0]
        raise UserError(f"forget: {int(wrong)} is out of range; expected indices from 0 to {n_train - 1}")
    chosen, counts = values.unique(return_counts=True)
    if (counts > 1).any():
        raise UserError(f"forget: {int(chosen[counts > 1][0])} is there more than once; expected distinct indices")
    again = set(chosen.tolist()) & set(gone)
    if again:
        raise UserError(f"forget: {min(again)} was deleted before; expected indices that are still there")
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


def _indices(forget: Any) -> Tensor:
    expected = "expected a list of whole numbers, the training indices to delete"
    if isinstance(forget, (str, bytes, Mapping)) or (not isinstance(forget, Tensor) and not hasattr(forget, "__len__")):
        raise UserError(f"forget is a {type(forget).__name__}; {expected}")
    if not isinstance(forget, Tensor) and len(forget) == 0:
        return torch.zeros(0, dtype=torch.long)
    try:
        values = forget.detach().cpu() if isinstance(forget, Tensor) else torch.from_numpy(np.asarray(forget))
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise UserError(f"forget cannot be read as numbers; {expected}") from error
    if values.dtype == torch.bool:
        raise UserError(f"forget is a mask; {expected}, such as mask.nonzero()")
    if values.is_floating_point() or values.is_complex() or values.ndim != 1:
        raise UserError(f"forget is {_dtype(values)} {list(values.shape)}; {expected}")
    return values.long()
