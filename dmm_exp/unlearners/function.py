"""Any function as an unlearner: it gets one network and three loaders, as in the NeurIPS 2023 competition."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dmm_exp.ensembles import member_seed
from dmm_exp.ensembles.seeds import global_numbers
from dmm_exp.errors import UserError, shown
from dmm_exp.unlearners.unlearner import Unlearner, UnlearningResult, UnlearningTask

SIGNATURE = "net, retain_loader, forget_loader, val_loader"


class Function(Unlearner):
    """Unlearning by ``function(net, retain_loader, forget_loader, val_loader)``, one member after another.

    The function changes the network in place, or returns one of the same architecture. Loaders yield pairs of inputs
    (float32, as the dataset stores them: the network normalises; int32 for words) and labels, on the network's device,
    the first two shuffled. Random numbers of torch, numpy and Python are seeded for each member. Every example that a
    loader yields counts as one gradient: what the function does with it is not known. The signature is that of the
    NeurIPS 2023 machine unlearning competition (Triantafillou et al., arXiv 2406.09073).

    Args:
        function: its name, ``module.function``, for messages.
        call: the function.
        batch_size: of all three loaders.
        arguments: further arguments of the function, by name.

    Raises:
        UserError: it does not take these arguments.
    """

    def __init__(
        self,
        *,
        function: str,
        call: Callable[..., nn.Module | None],
        batch_size: int = 64,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.function = function, call.func if isinstance(call, partial) else call
        self.batch_size, self.arguments = batch_size, dict(arguments or {})
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: expected at least 1")
        try:
            inspect.signature(self.function).bind(*SIGNATURE.split(), **self.arguments)
        except (TypeError, ValueError) as error:
            given = f" and {', '.join(self.arguments)}" if self.arguments else ""
            raise UserError(f"function={function}: expected a function of ({SIGNATURE}){given} ({error})") from error

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Call the function for every member of the task."""
        found = [self._one(task.alone(row)) for row in range(len(task.members))]
        seen = round(sum(yielded for _, yielded in found) / len(found))
        return UnlearningResult.of(task, [network for network, _ in found], seen)

    def _one(self, task: UnlearningTask) -> tuple[nn.Module, int]:
        """Return one member's network, and how many examples its loaders yielded."""
        (number,) = task.members
        examples, net = task.examples, task.originals.member(0)
        unseen = torch.arange(examples.n_train, examples.n_points)
        loaders = [self._loader(task, rows, rows is not unseen) for rows in (task.retain, task.forget, unseen)]
        with global_numbers(member_seed(task.seed, "unlearned", number, "noise")), torch.enable_grad():
            returned = self.function(net, *loaders, **self.arguments)
        return self._checked(net, returned, number).eval(), sum(loader.seen for loader in loaders)

    def _loader(self, task: UnlearningTask, rows: Tensor, shuffle: bool) -> _Counted:
        points = _Points(task.examples.inputs[rows], task.examples.labels[rows], task.originals.device)
        return _Counted(points, self.batch_size, shuffle, generator=task.generator(0), collate_fn=_as_it_is)  # type: ignore[arg-type]

    def _checked(self, net: nn.Module, returned: object, number: int) -> nn.Module:
        """Return the unlearned network, if it is one of the original's architecture and its numbers are finite."""
        found = net if returned is None else returned
        if not isinstance(found, nn.Module):
            raise UserError(f"function={self.name}: returned {shown(found)}; expected a network, or None")
        shapes, wanted = ({name: value.shape for name, value in one.state_dict().items()} for one in (found, net))
        if shapes != wanted:
            raise UserError(f"function={self.name}: returned a network of another architecture than it was given")
        if not all(torch.isfinite(value).all() for value in found.state_dict().values()):
            raise UserError(f"function={self.name}: weights of model {number} are not finite afterwards")
        for parameter, own in zip(found.parameters(), net.parameters(), strict=True):
            parameter.requires_grad_(own.requires_grad)
        return found


class _Points(Dataset[tuple[Tensor, Tensor]]):
    """Some points; a batch of them is read at once."""

    def __init__(self, inputs: Tensor, labels: Tensor, device: torch.device) -> None:
        self.inputs, self.labels, self.device = inputs, labels, device

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._seen(self.inputs[index]), self.labels[index].to(self.device)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self._seen(self.inputs[indices]), self.labels[indices].to(self.device)

    def _seen(self, inputs: Tensor) -> Tensor:
        return (inputs if inputs.dtype in (torch.int32, torch.int64) else inputs.float()).to(self.device)


class _Counted(DataLoader[tuple[Tensor, Tensor]]):
    """A loader that counts the examples that it yields."""

    seen: int = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        for inputs, labels in super().__iter__():
            self.seen += len(labels)
            yield inputs, labels


def _as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch
