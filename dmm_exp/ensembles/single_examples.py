"""Gradients of single examples: of a batch together (``vmap``) where that works, and one by one otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import grad, vmap

from dmm_exp.errors import UserError, reason_of

NamedGradients = dict[str, Tensor]

SAME = 1e-3  # largest difference between both ways that counts as rounding, in multiples of the largest number


class ExampleGradients:
    """Computes the gradients of an output of single examples, ``[examples, ...]`` for every parameter.

    The first call compares both ways on a few examples. If the results differ, gradients are computed one by one.

    Args:
        output: from parameters and one row of each tensor of a batch to the output ``[]``.
        params: by name.
        who: the option that needs gradients, for error messages, such as ``unlearner=ssd``.
        stacked: computes the gradients of a batch together; ``vmap`` of ``grad`` by default.

    Raises:
        UserError: in a call, if the network cannot compute gradients of single examples.
    """

    def __init__(
        self,
        output: Callable[..., Tensor],
        params: Mapping[str, Tensor],
        who: str,
        stacked: Callable[..., NamedGradients] | None = None,
    ) -> None:
        self._output, self._who = output, who
        self._params = {name: value.detach().requires_grad_() for name, value in params.items()}
        self._stacked = stacked or self._by_vmap
        self._together: bool | None = None

    def __call__(self, *batch: Tensor) -> NamedGradients:
        """Return the gradients of the examples of a batch, by parameter."""
        if self._together is None:
            self._together = self._agree(*(values[:2] for values in batch))
        return self._stacked(*batch) if self._together else self._one_after_another(*batch)

    def _by_vmap(self, *batch: Tensor) -> NamedGradients:
        params = {name: value.detach() for name, value in self._params.items()}
        return vmap(grad(self._output), in_dims=(None, *[0] * len(batch)))(params, *batch)

    def _one_after_another(self, *batch: Tensor) -> NamedGradients:
        rows = [self._of_one(*row) for row in zip(*batch, strict=True)]
        return {name: torch.stack([row[name] for row in rows]) for name in self._params}

    def _of_one(self, *row: Tensor) -> NamedGradients:
        with torch.enable_grad():
            output = self._output(self._params, *row)
            found = torch.autograd.grad(output, list(self._params.values()), allow_unused=True)
        parts = zip(self._params.items(), found, strict=True)
        return {name: torch.zeros_like(value) if gradient is None else gradient for (name, value), gradient in parts}

    def _agree(self, *batch: Tensor) -> bool:
        """Return whether the gradients of a few examples are the same both ways."""
        try:
            wanted = self._one_after_another(*batch)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self._who}: takes gradients of single examples, which fails for this network ({reason_of(error)}); "
                "expected a network that can be applied to one example, or another choice"
            ) from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings about slow operations under vmap
                found = self._stacked(*batch)
        except Exception:
            return False
        largest = max(float(value.abs().max()) for value in wanted.values() if value.numel())
        return all(torch.allclose(found[name], wanted[name], rtol=0, atol=SAME * largest) for name in wanted)
