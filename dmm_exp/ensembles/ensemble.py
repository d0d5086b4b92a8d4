"""An ensemble: models of one architecture with their parameters stacked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.seeds import seed_torch
from dmm_exp.ensembles.skeletons import Mounted, set_mode, skeleton_of, with_tensors
from dmm_exp.errors import UserError, reason_of

VALUES_AT_ONCE = 400_000  # members × points × input size of one evaluation on a CPU, so that it fits into the cache
STREAMS = 8  # largest number of members that run at the same time on a GPU, where they run apart


class Ensemble(nn.Module):
    """Members of one architecture; ``params[name]`` and ``stats[name]`` have shape ``[members, ...]``.

    One member runs as an ordinary model; several run together under :func:`torch.func.vmap`, or one after another,
    depending on the engine.

    Args:
        skeleton: a module of the architecture, on the meta device; it holds no numbers.
        params: stacked parameters by the skeleton's names.
        stats: stacked buffers (running statistics of BatchNorm, ...).
    """

    def __init__(self, skeleton: nn.Module, params: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._skeleton = (skeleton,)  # in a tuple, so that it does not become a submodule
        self.freeze_batch_norm = False  # in train mode, normalise with BatchNorm's statistics and do not change them
        self.engine = Engine().settled()
        self._checked = False  # whether members that run apart are known to draw no random numbers
        self._own: list[Mounted] = []  # a network for each member that is trained apart, created when needed
        for name, value in params.items():
            self.register_parameter(_mangled(name), nn.Parameter(column_major(value.detach())))
        for name, value in stats.items():
            self.register_buffer(_mangled(name), value.detach().clone())

    @classmethod
    def initialise(cls, build: Callable[[], nn.Module], seeds: Iterable[int]) -> Ensemble:
        """Make one member for each seed; ``build()`` may use torch's global generator, which is seeded and restored.

        Raises:
            UserError: there are no seeds.
        """
        members = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                seed_torch(seed)
                members.append(build())
        return cls.stack(members)

    @classmethod
    def stack(cls, modules: Sequence[nn.Module]) -> Ensemble:
        """Make an ensemble of separate modules of one architecture; their tensors are copied.

        Frozen parameters (``requires_grad`` is False) count as statistics, since they are not trained.
        """
        if not modules:
            raise UserError("an ensemble needs at least one member")
        params = [{n: value for n, value in module.named_parameters() if value.requires_grad} for module in modules]
        frozen = [{n: value for n, value in module.named_parameters() if not value.requires_grad} for module in modules]
        stats = [fixed | dict(module.named_buffers()) for fixed, module in zip(frozen, modules, strict=True)]
        return cls(
            skeleton_of(modules[0]),
            {name: torch.stack([member[name].detach() for member in params]) for name in params[0]},
            {name: torch.stack([member[name].detach() for member in stats]) for name in stats[0]},
        )

    @property
    def skeleton(self) -> nn.Module:
        """The architecture, on the meta device."""
        return self._skeleton[0]

    @property
    def params(self) -> dict[str, nn.Parameter]:
        """Stacked parameters by the architecture's names."""
        return {_unmangled(name): value for name, value in self._parameters.items() if value is not None}

    @property
    def stats(self) -> dict[str, Tensor]:
        """Stacked buffers by the architecture's names."""
        return {_unmangled(name): value for name, value in self._buffers.items() if value is not None}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def __len__(self) -> int:
        return len(next(self.parameters()))

    def __getitem__(self, members: slice) -> Ensemble:
        """Return some members as an ensemble of their own; tensors are copied."""
        params = {name: value[members].clone() for name, value in self.params.items()}
        stats = {name: value[members] for name, value in self.stats.items()}
        return Ensemble(self.skeleton, params, stats).use(self.engine)

    def use(self, engine: Engine) -> Self:
        """Set the engine (settled), and return the ensemble; numbers stay, their memory layout may change."""
        self.engine = engine.settled()
        for value in self.parameters() if self.engine.memory == "channels_last" else ():
            if value.ndim == 5:  # stacked convolutions
                value.data = value.data.movedim(2, -1).contiguous().movedim(-1, 2)
        return self

    def copy(self) -> Ensemble:
        """Return an ensemble that shares no memory with this one."""
        return self[:]

    def member(self, index: int) -> nn.Module:
        """Return one member as an ordinary module, in eval mode; its tensors are copies."""
        stacked = {**self.params, **self.stats}

        def own(name: str, _: Tensor) -> Tensor:
            return stacked[name][index].detach().clone(memory_format=torch.contiguous_format)

        return with_tensors(self.skeleton, own).eval()

    def forward(
        self,
        inputs: Tensor,
        *,
        shared: bool = False,
        method: str | None = None,
        params: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the members' outputs ``[members, batch, ...]`` in the current mode (train or eval).

        Args:
            inputs: ``[members, batch, ...]``, or ``[batch, ...]`` when ``shared`` by all members.
            shared: whether all members see the same inputs.
            method: name of the module's method to call instead of ``forward``, for example ``features``.
            params: stacked parameters to use in place of the ensemble's own.

        Raises:
            UserError: the architecture draws random numbers (dropout) and several members run together.
        """
        set_mode(self.skeleton, self.training, self.freeze_batch_norm)
        module = self.skeleton if method is None else _Method(self.skeleton, method)
        prefix = "" if method is None else "module."
        params = {prefix + name: value for name, value in (self.params if params is None else params).items()}
        stats = {prefix + name: value for name, value in self.stats.items()}
        if len(self) == 1 or self.engine.members == "apart":
            return self._apart(module, params, stats, inputs, shared)
        try:
            return self._carried_out(_together)(module, params, stats, inputs, shared)
        except RuntimeError as error:
            if "randomness" in str(error):
                raise UserError(self._draws_random_numbers) from error
            if is_of_stacking(error):
                raise UserError(
                    f"model.chunk_size={len(self)}: this network cannot run stacked with others ({reason_of(error)}); "
                    "expected engine.members=apart, or auto"
                ) from error
            raise

    def _apart(
        self, module: nn.Module, params: dict[str, Tensor], stats: dict[str, Tensor], inputs: Tensor, shared: bool
    ) -> Tensor:
        """Return the outputs of members that run one after another, on a GPU each on a stream of its own."""
        run, images = self._by_member(module), inputs.ndim == (4 if shared else 5)
        names, values = [*params, *stats], [_rows(value) for value in (*params.values(), *stats.values())]
        outputs, drawn = [], self._random_states()
        with _Branches(self.device, len(self)) as branches:
            for member in range(len(self)):
                own = inputs if shared else inputs[member]
                with branches.of(member, own):
                    if images and self.engine.memory == "channels_last":
                        own = own.contiguous(memory_format=torch.channels_last)
                    tensors = {name: value[member] for name, value in zip(names, values, strict=True)}
                    outputs.append(run(member, tensors, own))
        if any(not torch.equal(*states) for states in zip(drawn, self._random_states(), strict=True)):
            raise UserError(self._draws_random_numbers)
        self._checked = self._checked or self.training
        return torch.stack(branches.joined(outputs))

    def _by_member(self, module: nn.Module) -> Callable[[int, dict[str, Tensor], Tensor], Tensor]:
        """Return the function from a member's number, tensors and inputs to its outputs.

        With gradients, each member has a network of its own; see :class:`Mounted`.
        """
        if module is self.skeleton and torch.is_grad_enabled() and self.engine.step != "compiled":
            return self._by_own_network
        run = self._carried_out(_alone)
        return lambda _, tensors, inputs: run(module, tensors, inputs)

    def _by_own_network(self, member: int, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the outputs of a member's own network; in training, buffers that it replaces are stored."""
        if not self._own:
            self._own = [Mounted(self.skeleton) for _ in range(len(self))]
        own = self._own[member]
        set_mode(own.module, self.training, self.freeze_batch_norm)
        outputs = own(tensors, inputs)
        for name, value in own.replaced(tensors, self.stats).items() if self.training else ():
            stacked = self.stats[name].clone()  # the old tensor may be needed for gradients
            stacked[member] = value
            self._buffers[_mangled(name)] = stacked
        return outputs

    def _random_states(self) -> list[Tensor]:
        """Return the states of the global generators; empty unless several members take their first step."""
        if self._checked or not self.training or len(self) == 1:
            return []
        return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [])

    @property
    def _draws_random_numbers(self) -> str:
        return (
            f"model.chunk_size={len(self)}: this architecture draws random numbers while training (dropout), "
            "which members trained together cannot do independently; use model.chunk_size=1"
        )

    def _carried_out(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return a function as it is, or compiled if the engine says so in training."""
        return _compiled(function) if self.training and self.engine.step == "compiled" else function

    def logits(self, inputs: Tensor) -> Tensor:
        """Return float32 logits ``[members, points, classes]`` on the CPU, in eval mode.

        Args:
            inputs: ``[points, ...]``, raw as the dataset stores them.
        """
        return self._evaluate(inputs, None)

    def features(self, inputs: Tensor) -> Tensor:
        """Return float32 penultimate features ``[members, points, width]`` on the CPU, in eval mode."""
        return self._evaluate(inputs, "features")

    @torch.no_grad()
    def _evaluate(self, inputs: Tensor, method: str | None) -> Tensor:
        training = self.training
        self.eval()
        fitting = VALUES_AT_ONCE // (len(self) * inputs[0].numel())
        at_once = max(8, fitting) if self.device.type == "cpu" else 4096
        try:
            parts = [
                self(block.to(self.device), shared=True, method=method).float().cpu() for block in inputs.split(at_once)
            ]
        finally:
            self.train(training)
        return torch.cat(parts, dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """Return all stacked tensors by names that can be stored: ``params/NAME`` and ``stats/NAME``."""
        params = {f"params/{name}": value.detach() for name, value in self.params.items()}
        return params | {f"stats/{name}": value for name, value in self.stats.items()}

    @classmethod
    def from_tensors(cls, skeleton: nn.Module, tensors: Mapping[str, Tensor]) -> Ensemble:
        """Make an ensemble of what :meth:`tensors` returned; other names are ignored."""
        kinds = ("params", "stats")
        params, stats = ({n.split("/", 1)[1]: t for n, t in tensors.items() if n.startswith(f"{k}/")} for k in kinds)
        return cls(skeleton, params, stats)

    def save(self, path: Path) -> None:
        """Write the ensemble as safetensors."""
        from safetensors.torch import save_file

        save_file({name: value.cpu().contiguous() for name, value in self.tensors().items()}, path)

    @classmethod
    def load(cls, path: Path, build: Callable[[], nn.Module]) -> Ensemble:
        """Read what :meth:`save` wrote; ``build()`` makes a module of the architecture."""
        from safetensors.torch import load_file

        return cls.from_tensors(skeleton_of(build()), load_file(path))


def is_of_stacking(error: RuntimeError) -> bool:
    """Return whether an error says that an operation has no form for several members or examples at once."""
    return "vmap" in str(error) or "Batching rule" in str(error)


class _Method(nn.Module):
    """A module whose forward is another method of the module it wraps."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module = module
        self.method = method

    def forward(self, inputs: Tensor) -> Tensor:
        return getattr(self.module, self.method)(inputs)


def _together(
    module: nn.Module, params: dict[str, Tensor], stats: dict[str, Tensor], inputs: Tensor, shared: bool
) -> Tensor:
    """Return the members' outputs under ``vmap``."""

    def one(params: dict[str, Tensor], stats: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(module, (params, stats), (inputs,))

    return vmap(one, in_dims=(0, 0, None if shared else 0), randomness="error")(params, stats, inputs)


def _alone(module: nn.Module, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """Return the outputs of one member."""
    return functional_call(module, tensors, (inputs,))


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function compiled, once in a process for every architecture and shape of a batch."""
    from torch._dynamo.exc import BackendCompilerFailed

    compiled = torch.compile(function, dynamic=False)

    def run(*arguments: object) -> Tensor:
        try:
            return compiled(*arguments)
        except BackendCompilerFailed as error:
            reason = str(error.inner_exception).strip().splitlines()[0]
            raise UserError(
                f"engine.step=compiled: this network cannot be compiled ({reason}); use engine.step=eager"
            ) from error

    return run


class _Branches:
    """CUDA streams on which members run at the same time on a GPU; there are none on other devices.

    They wait for the current stream, and the current stream waits for them at the end.
    """

    def __init__(self, device: torch.device, count: int) -> None:
        self._streams = _side_streams(device, min(count, STREAMS)) if device.type == "cuda" and count > 1 else []

    def __enter__(self) -> _Branches:
        for stream in self._streams:
            stream.wait_stream(torch.cuda.current_stream())
        return self

    def of(self, member: int, read: Tensor) -> AbstractContextManager[object]:
        """Return the context in which a member runs, which reads a tensor of the current stream."""
        if not self._streams:
            return nullcontext()
        stream = self._streams[member % len(self._streams)]
        read.record_stream(stream)
        return torch.cuda.stream(stream)

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            torch.cuda.current_stream().wait_stream(stream)

    def joined(self, outputs: list[Tensor]) -> list[Tensor]:
        """Return outputs of the streams, for use on the current stream."""
        for output in outputs if self._streams else ():
            output.record_stream(torch.cuda.current_stream())
        return outputs


@cache
def _side_streams(device: torch.device, count: int) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(device) for _ in range(count)]


def _rows(value: Tensor) -> Sequence[Tensor]:
    """Return every member's part of a stacked tensor; that of a single member may be changed in place."""
    return [value.squeeze(0)] if len(value) == 1 else value.unbind(0)


def column_major(value: Tensor) -> Tensor:
    """Return stacked matrices in the memory layout of their gradients, which saves a copy in every step."""
    if value.ndim == 3:
        return value.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
    return value.clone(memory_format=torch.contiguous_format)


def _mangled(name: str) -> str:
    return name.replace(".", "/")


def _unmangled(name: str) -> str:
    return name.replace("/", ".")
