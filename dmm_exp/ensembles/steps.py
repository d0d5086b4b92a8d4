"""Training steps that are recorded once as a CUDA graph and then replayed.

With small batches on a GPU, the launch of kernels takes most of a step. A CUDA graph records the kernels once and
launches them all together. It records operations on memory, not Python: a step may depend only on its batch and on
tensors whose memory stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

WARM_UP = 3  # steps before the first recording, in which libraries choose algorithms and optimizers create their state

Step = Callable[[Tensor], int]


class Recorder(Protocol):
    """What records the operations of a function.

    Attributes:
        executes: whether operations also run while they are recorded.
    """

    executes: ClassVar[bool]

    def warm_up(self, function: Callable[[], int]) -> int:
        """Run a function without recording it, and return its result."""
        ...

    def record(self, function: Callable[[], int]) -> tuple[Callable[[], None], int]:
        """Return a function that replays the operations of ``function``, and the result of ``function``."""
        ...


class CudaGraphs:
    """CUDA graphs of one device that share their memory; only one of them runs at a time."""

    executes: ClassVar[bool] = False

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream = torch.cuda.Stream()

    def warm_up(self, function: Callable[[], int]) -> int:
        """Run a function on a stream other than the current one, as recording does."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            returned = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return returned

    def record(self, function: Callable[[], int]) -> tuple[Callable[[], None], int]:
        """Record a function as a CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            returned = function()
        self._pool = graph.pool()
        return graph.replay, returned


class Replayed:
    """Steps that are recorded once for every shape of a batch, and then replayed.

    Args:
        step: takes a batch and returns a number, which must be the same for all batches of one shape.
        recorder: records the step.
    """

    def __init__(self, step: Step, recorder: Recorder) -> None:
        self._step, self._recorder = step, recorder
        self._recorded: dict[torch.Size, tuple[Tensor, Callable[[], None], int]] = {}
        self._taken = 0

    def __call__(self, batch: Tensor) -> int:
        """Take a step; return the number that the step returned when it was recorded."""
        self._taken += 1
        if self._taken <= WARM_UP:
            return self._recorder.warm_up(lambda: self._step(batch))
        if batch.shape in self._recorded:
            place, replay, returned = self._recorded[batch.shape]
            place.copy_(batch)
            replay()
            return returned
        place = batch.clone()
        replay, returned = self._recorder.record(lambda: self._step(place))
        self._recorded[batch.shape] = place, replay, returned
        if not self._recorder.executes:
            replay()
        return returned
