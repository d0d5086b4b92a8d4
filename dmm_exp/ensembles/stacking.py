"""Tests by one real step whether networks of an architecture can be trained stacked.

Stacked means that the operations of all members run together (``vmap``). Networks with operations that have no such
form, or that read single values, are trained one at a time. In both ways a network must become the same as when it is
trained as an ordinary module.
"""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dmm_exp.data import Examples
from dmm_exp.ensembles.engine import AUTO, Engine
from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.seeds import global_numbers
from dmm_exp.ensembles.skeletons import copied, detached, plain_tensors
from dmm_exp.errors import UserError, reason_of, shown

ROWS = 4  # number of examples in the step of each of two members
RATE = 0.01  # learning rate of that step
SAME = 0.01  # largest difference that counts as rounding, in multiples of the largest number
ZERO = 1e-6
TINY, MAGNIFIED = 1e-6, 30  # size of a change like rounding, and the accepted multiple of its effect
FAILS = "a step of training fails"

KNOWN = {  # part of a message of torch → its cause
    "data-dependent control flow": "it branches on values",
    "calling .item()": "it reads single values with .item()",
    "vmap: inplace arithmetic": "it writes into a tensor of its own in place",
    "dynamic shape": "shapes of its tensors depend on values",
    "generate_vmap_rule": "an autograd.Function of its own has no rule for vmap",
    "setup_context": "an autograd.Function of its own has no rule for vmap",
    "data pointer": "it looks into the memory of its tensors",
    "saved_tensors_hooks": "it computes parts once more in the backward pass",
}

StepResult = dict[str, Tensor]
_known: dict[Hashable, Stacking] = {}


@dataclass(frozen=True)
class Stacking:
    """How networks of an architecture can be trained.

    Attributes:
        reason: why they are not trained stacked, as a clause; None if they are.
        answers: whether they can be evaluated stacked; networks that draw random numbers only in training can.
        failure: why they cannot be trained at all, as a sentence; None if they can.
        returns: the type of what a network returns in training, where that is no tensor.
        changed: names of the buffers that a training step changes.
    """

    reason: str | None = None
    answers: bool = True
    failure: str | None = None
    returns: str | None = None
    changed: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise ``UserError`` when the networks cannot be trained."""
        if self.failure is not None:
            raise UserError(self.failure)

    def settled(self, size: int | str, engine: Engine) -> tuple[int | str, Engine]:
        """Return a chunk size and an engine that work for the networks; ``auto`` stays where it works.

        Raises:
            UserError: ``engine.members=together`` or ``fused`` was asked for, and they cannot be stacked.
        """
        if self.reason is None or (self.answers and size == AUTO):
            return size, engine
        if engine.members == "fused" or (engine.members == "together" and size != 1):
            accepted = "apart or auto" + (", or model.chunk_size=1" if engine.members == "together" else "")
            raise UserError(
                f"engine.members={engine.members}: this network cannot be trained stacked ({self.reason}); expected "
                f"{accepted}"
            )
        return 1, engine if self.answers else replace(engine, members="apart")

    def notice(self, one_at_a_time: bool) -> str | None:
        """Return a notice about the training of these networks, None if there is nothing to say.

        Args:
            one_at_a_time: whether members are trained one at a time because they cannot be stacked.
        """
        parts = []
        if one_at_a_time and self.reason is not None:
            parts.append(
                f"this network cannot be trained stacked ({self.reason}): its members are trained one at a time"
            )
        if self.returns is not None:
            parts.append(f"this network returns a {self.returns} in training: only its main output is trained")
        return "; ".join(parts) or None


def stacking_of(
    build: Callable[[], nn.Module], examples: Examples, device: torch.device, known_as: Hashable = None
) -> Stacking:
    """Return how networks can be trained; a process tests each architecture and shape of the data once.

    Args:
        build: makes a newly initialised network behind the normalisation.
        examples: the dataset.
        device: to train on.
        known_as: identifies these networks, so that none has to be built for a second call.
    """
    where = (examples.inputs.dtype, examples.input_shape, examples.n_classes, str(device))
    if known_as is not None and (*where, known_as) in _known:
        return _known[*where, known_as]
    with global_numbers(0), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        networks = [build(), build()]
        kind = (*where, fingerprint(networks[0]), not _own_numbers(networks))
        if kind not in _known:
            _known[kind] = _found(networks, examples, device)
    if known_as is not None:
        _known[*where, known_as] = _known[kind]
    return _known[kind]


def fingerprint(network: nn.Module) -> Hashable:
    """Return an identifier of an architecture: classes, shapes and settings of its layers."""
    simple = (bool, int, float, str, tuple, type(None))
    layers = [
        (name, type(layer), *((key, repr(value)) for key, value in vars(layer).items() if isinstance(value, simple)))
        for name, layer in network.named_modules()
    ]
    shapes = [(name, tuple(value.shape), value.dtype) for name, value in network.state_dict().items()]
    return tuple(layers), tuple(shapes), tuple(value.requires_grad for value in network.parameters())


def _own_numbers(networks: Sequence[nn.Module]) -> list[str]:
    """Return names of tensors that are neither parameters nor buffers and differ between two networks."""
    first, second = (
        {name: value for name, value in plain_tensors(network) if not isinstance(value, nn.Parameter)}
        for network in networks
    )
    return [name for name, value in first.items() if name in second and not torch.equal(value, second[name])]


def _found(networks: Sequence[nn.Module], examples: Examples, device: torch.device) -> Stacking:
    """Return how two networks can be trained; they are changed."""
    points = (torch.arange(len(networks) * ROWS) % examples.n_train).view(len(networks), ROWS)
    inputs, labels = (values[points].to(device) for values in (examples.inputs, examples.labels))
    networks = [network.to(device) for network in networks]
    together, before = Ensemble.stack(networks).to(device), detached(dict(networks[0].named_buffers()))
    apart = [together[row : row + 1] for row in range(len(networks))]
    trial = _Trial(networks)
    try:
        right = [trial.plain(network, *own) for network, *own in zip(networks, inputs, labels, strict=True)]
    except UserError as error:
        return Stacking(FAILS, False, str(error))
    except Exception as error:
        return Stacking(
            FAILS,
            False,
            f"model: a step of training on {ROWS} examples fails ({reason_of(error)}); expected a network that gives "
            "logits [examples, classes] in training, too",
        )
    changed = tuple(name for name, value in before.items() if not torch.equal(value, right[0][f"buffer '{name}'"]))
    wrong = trial.difference(right, apart, inputs, labels)
    if wrong is not None:
        return Stacking(FAILS, False, _failure(wrong, networks), trial.returns, changed)
    if trial.draws:
        answers = _answer_alike(together, apart, inputs)
        return Stacking("it draws random numbers in training", answers, None, trial.returns, changed)
    reason = trial.difference(right, [together], inputs, labels)
    return Stacking(reason and _short(reason), reason is None, None, trial.returns, changed)


class _Trial:
    """Takes steps of training, and compares the results.

    Args:
        networks: at the beginning of the steps.

    Attributes:
        returns: the type of what the network returns in training, where that is no tensor.
        draws: whether it draws random numbers in training.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.returns: str | None = None
        self.draws = False
        self._untouched = [copied(network) for network in networks]
        inner = getattr(networks[0], "network", None)
        if isinstance(inner, nn.Module):
            inner.register_forward_hook(self._look)

    def _look(self, _: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            self.returns = type(output).__name__

    def plain(self, network: nn.Module, inputs: Tensor, labels: Tensor) -> StepResult:
        """Return the result of a step of an ordinary module, which is changed."""
        with global_numbers(0):
            begun = _random_states(inputs.device)
            logits = network.train()(inputs)
            self.draws = self.draws or _random_states(inputs.device) != begun
            loss = _loss(logits, labels)
            loss.backward()
        trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
        found = {f"gradient of '{name}'": _gradient(value) for name, value in trained.items()}
        with torch.no_grad():
            for name, value in trained.items():
                value -= RATE * found[f"gradient of '{name}'"]
            found |= {f"buffer '{name}'": value.clone() for name, value in network.named_buffers()}
            return {**found, "loss": loss.detach(), "answers": network.eval()(inputs)}

    def difference(
        self, right: Sequence[StepResult], ensembles: Sequence[Ensemble], inputs: Tensor, labels: Tensor
    ) -> str | None:
        """Return how a step of all members in some ensembles differs, as a clause; None if it does not.

        Args:
            right: the result for each member as an ordinary module.
            ensembles: that hold the members, in order; they are changed.
            inputs: ``[members, examples, ...]``.
            labels: ``[members, examples]``.
        """
        try:
            found, row = [], 0
            for ensemble in ensembles:
                rows = slice(row, row := row + len(ensemble))
                found += _step(ensemble, inputs[rows], labels[rows])
        except Exception as error:
            return reason_of(error.__cause__ or error)
        if all(_difference(*pair, None) is None for pair in zip(right, found, strict=True)):
            return None
        rounded = [
            self.plain(_rounded(copied(one)), *own) for one, *own in zip(self._untouched, inputs, labels, strict=True)
        ]
        return next(filter(None, map(_difference, right, found, rounded)), None)


def _step(ensemble: Ensemble, inputs: Tensor, labels: Tensor) -> list[StepResult]:
    """Return the result of a step for each member of an ensemble, which is changed."""
    fresh = Ensemble.from_tensors(ensemble.skeleton, ensemble.tensors())
    with global_numbers(0):
        losses = [_loss(*own) for own in zip(fresh.train()(inputs), labels, strict=True)]
        torch.stack(losses).sum().backward()
    gradients = {name: _gradient(value) for name, value in fresh.params.items()}
    with torch.no_grad():
        for name, value in fresh.params.items():
            value -= RATE * gradients[name]
        fresh.member(0)  # its skeleton can still be copied
        stored = Ensemble.from_tensors(ensemble.skeleton, fresh.tensors())
        answers = stored.eval()(inputs)
    return [
        {f"gradient of '{name}'": value[row] for name, value in gradients.items()}
        | {f"buffer '{name}'": value[row] for name, value in fresh.stats.items()}
        | {"loss": loss.detach(), "answers": answers[row]}
        for row, loss in enumerate(losses)
    ]


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of one member.

    Raises:
        UserError: its outputs are not logits.
    """
    if logits.ndim != 2 or len(logits) != len(labels) or not logits.is_floating_point():
        raise UserError(
            f"model: gives {logits.dtype} {list(logits.shape)} for {len(labels)} examples in training; expected logits "
            "[examples, classes]"
        )
    return functional.cross_entropy(logits.float(), labels)


def _gradient(value: Tensor) -> Tensor:
    """Return the gradient of a parameter, zero where it has none.

    Raises:
        UserError: it is sparse.
    """
    if value.grad is None:
        return torch.zeros_like(value)
    if value.grad.layout != torch.strided:
        raise UserError("model: has sparse gradients (Embedding(sparse=True)); expected sparse=False")
    return value.grad


def _rounded(network: nn.Module) -> nn.Module:
    """Change the parameters of a network by as little as rounding does, and return it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            value *= 1 + TINY * torch.randn(value.shape, generator=generator).to(value.device)
    return network


def _difference(right: StepResult, found: StepResult, rounded: StepResult | None) -> str | None:
    """Return which value of a step differs, None if all are equal up to rounding.

    Args:
        right: the result for a member as an ordinary module.
        found: the result for the member in another way.
        rounded: the result for the module after a change like rounding, which some deep networks magnify.
    """
    gradients = [value.abs().max() for name, value in right.items() if name.startswith("gradient") and value.numel()]
    largest = torch.stack(gradients).max()
    for name, value in found.items():
        wanted = right.get(name)
        if wanted is None:  # a frozen parameter, which does not change
            continue
        if not value.is_floating_point():
            same = torch.equal(value, wanted)
        else:
            scale = largest if name.startswith("gradient") else wanted.abs().max() if wanted.numel() else 0.0
            magnified = 0.0 if rounded is None or not value.numel() else float((rounded[name] - wanted).abs().max())
            allowed = SAME * float(scale) + ZERO + MAGNIFIED * magnified
            same = torch.allclose(value, wanted, rtol=0, atol=allowed, equal_nan=True)
        if not same:
            return f"{name} differs"
    return None


def _failure(wrong: str, networks: Sequence[nn.Module]) -> str:
    """Return why networks that are trained by themselves are no ordinary ones, in a sentence."""
    if wrong.startswith("UserError: "):
        return wrong.removeprefix("UserError: ")
    own = _own_numbers(networks)
    kept = f"; the network keeps numbers in {', '.join(own[:3])}, which is no buffer" if own else ""
    return (
        f"model: networks with the same parameters and buffers are trained to different results ({wrong}{kept}); "
        "expected a network whose outputs depend on its parameters and buffers alone"
    )


def _answer_alike(together: Ensemble, apart: Sequence[Ensemble], inputs: Tensor) -> bool:
    """Return whether stacked members have the same outputs as apart, in eval mode."""
    try:
        with torch.no_grad():
            wanted = torch.cat([one.eval()(inputs[0], shared=True) for one in apart])
            found = together.eval()(inputs[0], shared=True)
        return torch.allclose(found, wanted, rtol=0, atol=SAME * float(wanted.abs().max()) + ZERO, equal_nan=True)
    except Exception:
        return False


def _random_states(device: torch.device) -> tuple[Any, ...]:
    """Return the states of the global random generators."""
    cuda = torch.cuda.get_rng_state(device).numpy().tobytes() if device.type == "cuda" else b""
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), cuda, random.getstate(), str(name), np.asarray(keys).tobytes(), rest


def _short(reason: str) -> str:
    """Return a reason in a few words; some of torch's messages are paragraphs."""
    missing = re.search(r"Batching rule not implemented for aten::(\w+)", reason)
    if missing:
        return f"{missing[1]} has no stacked form"
    return next((words for part, words in KNOWN.items() if part in reason), shown(reason))
