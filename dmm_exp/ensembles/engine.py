"""Choices of how members are trained, which change the speed but not the result (up to rounding)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from dmm_exp.config.schema import Plain
from dmm_exp.errors import UserError

AUTO = "auto"
ACCEPTED = {
    "step": ("eager", "graph", "compiled", AUTO),
    "members": ("together", "fused", "apart", AUTO),
    "memory": ("rows", "channels_last", AUTO),
}


@dataclass(frozen=True)
class Engine:
    """How a chunk of members is trained.

    Attributes:
        step: ``eager`` runs one operation after another; ``graph`` records a step once as a CUDA graph and replays it;
            ``compiled`` lets ``torch.compile`` fuse the operations of the networks.
        members: ``together`` stacks the operations of all members (under ``vmap``; convolutions become grouped ones);
            ``fused`` also writes the products of a step out, without autograd, where :func:`chain_of` knows the network
            and the loss is plain cross-entropy (training from scratch) or that of matching, and is ``together`` in
            other unlearners and in evaluation; ``apart`` runs one ordinary network after another, on a GPU each on a
            stream of its own.
        memory: layout of images and convolutions of members that are ``apart``: ``rows`` or ``channels_last``.
        measured: whether the engine was chosen by measurement. Steps that cannot be recorded, for example because an
            optimizer keeps a counter on the host, then run eagerly, and those that cannot be fused are ``together``;
            for an engine that was asked for they are an error.

    ``auto`` is the fastest choice on the device by measurement, see :mod:`dmm_exp.ensembles.chunk_size`. Where nothing
    is measured, it is plain, and members are ``fused`` where they can be and no convolution is wide, else ``together``.

    Raises:
        UserError: a choice is unknown.
    """

    step: str = AUTO
    members: str = AUTO
    memory: str = AUTO
    measured: bool = False

    def __post_init__(self) -> None:
        for key, accepted in ACCEPTED.items():
            if getattr(self, key) not in accepted:
                raise UserError(f"engine.{key}={getattr(self, key)}: expected one of {', '.join(accepted)}")
        if self.members == "fused" and self.step not in ("eager", AUTO):
            raise UserError(f"engine.members=fused: expected engine.step=eager or auto, not {self.step}")
        if self.memory == "channels_last" and self.members in ("together", "fused"):
            raise UserError(
                "engine.memory=channels_last: needs engine.members=apart, since stacked convolutions "
                "have no such layout"
            )

    @classmethod
    def of(cls, trainer: Plain) -> Engine:
        """Return the engine in a job's configuration of the trainer."""
        return cls(**trainer.get("engine", {}))

    @property
    def open(self) -> bool:
        """Whether a choice is left to measurement."""
        return AUTO in asdict(self).values()

    def settled(self) -> Engine:
        """Return the engine with choices that work on every device in place of ``auto``.

        ``members`` stay ``auto`` where that is ``fused`` or ``together``, which only training can tell.
        """
        apart = self.members == AUTO and self.memory == "channels_last"
        together = self.members == AUTO and self.step not in ("eager", AUTO)
        return replace(
            self,
            step="eager" if self.step == AUTO else self.step,
            members="apart" if apart else "together" if together else self.members,
            memory="rows" if self.memory == AUTO else self.memory,
        )

    def words(self) -> str:
        """Return the choices in words."""
        return ", ".join(f"{key}={getattr(self, key)}" for key in ACCEPTED)


@dataclass(frozen=True)
class TrainerFactory:
    """Creates Lightning trainers, and holds the engine for them.

    Attributes:
        make: from options such as ``max_epochs`` to a trainer.
        engine: how chunks are trained.
    """

    make: Callable[..., Any]
    engine: Engine

    def __call__(self, **options: Any) -> Any:
        """Return a new trainer."""
        return self.make(**options)
