"""Networks that vmap carries, and those that it does not: each is trained as a plain loop trains it, or refused."""

from __future__ import annotations

import random
from collections import namedtuple
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from trainers import TRAINER

from dmm_exp.data import Examples, Normalisation
from dmm_exp.ensembles import AllBut, Ensemble, EnsembleTraining, member_seed
from dmm_exp.ensembles.engine import Engine, TrainerFactory
from dmm_exp.ensembles.schedules import Constant
from dmm_exp.ensembles.seeds import global_numbers
from dmm_exp.ensembles.stacking import Stacking, stacking_of
from dmm_exp.ensembles.work import trainer_factory
from dmm_exp.errors import UserError
from dmm_exp.models import Normalised

CPU = torch.device("cpu")
Both = namedtuple("Both", "main auxiliary")


class Recurrent(nn.Module):
    def __init__(self, kind: Any, packed: bool = False, **options: Any) -> None:
        super().__init__()
        self.layer, self.packed = kind(4, 5, batch_first=True, **options), packed
        self.head = nn.Linear(10 if options.get("bidirectional") else 5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        steps: Any = inputs.reshape(len(inputs), 2, 4)
        if self.packed:
            lengths = 1 + torch.arange(len(steps)) % 2
            steps = nn.utils.rnn.pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
        found, _ = self.layer(steps)
        if self.packed:
            found, _ = nn.utils.rnn.pad_packed_sequence(found, batch_first=True, total_length=2)
        return self.head(found[:, 0] + found[:, -1])


class Hidden(nn.Module):
    """A layer, something that a subclass does to its outputs, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def between(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, inputs: Tensor) -> Any:
        return self.head(self.between(self.layer(inputs)).relu())


class Branching(Hidden):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden / hidden.abs().max() if hidden.sum() > 0 else hidden


class Reading(Hidden):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden / (1 + abs(hidden.mean().item()))


class Listing(Hidden):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden / (1 + max(abs(value) for value in hidden.mean(0).tolist()))


class Selecting(Hidden):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden / (1 + hidden.masked_select(hidden > 0.1).numel())


class Assigning(Hidden):
    def between(self, hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        hidden[hidden > 0.5] = 0
        return hidden


class Filling(Hidden):
    def between(self, hidden: Tensor) -> Tensor:
        out = torch.zeros(len(hidden), 8)
        out[:, :4] = hidden[:, 4:]
        return out + hidden


class Checkpointed(Hidden):
    reentrant = False

    def forward(self, inputs: Tensor) -> Any:
        body = lambda values: self.head(self.layer(values).relu())  # noqa: E731
        first = functional.linear(inputs, self.layer.weight)  # so that what is checkpointed depends on parameters
        return checkpoint(body, first, use_reentrant=self.reentrant)


class Reentrant(Checkpointed):
    reentrant = True


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return 2 * values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return 2 * gradients[0]


class OwnFunction(Hidden):
    def between(self, hidden: Tensor) -> Tensor:
        return Doubling.apply(hidden)  # pyright: ignore[reportReturnType]


class ThroughNumpy(Hidden):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden + torch.from_numpy(np.tanh(hidden.detach().numpy()))


class Counting(Hidden):
    """Halves what it has been asked for an even number of times."""

    calls = 0

    def between(self, hidden: Tensor) -> Tensor:
        self.calls += 1
        return hidden / (1 + self.calls % 2) if self.training else hidden


class CountingBuffer(Hidden):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.calls += 1  # pyright: ignore
        return hidden / (1 + self.calls)  # pyright: ignore


class Averaging(Hidden):
    """Puts a new tensor in the place of its buffer, rather than changing it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * hidden.detach().mean(0)
        return hidden * (1 + self.mean)


class Remembering(Hidden):
    """Averages like :class:`Averaging`, but not in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(8)

    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * hidden.detach().mean(0)
        return hidden * (1 + self.mean)


class OwnNoise(Hidden):
    """Keeps random numbers of its initialisation that are no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = torch.randn(8, 8)

    def between(self, hidden: Tensor) -> Tensor:
        return hidden @ self.projection


class Recording(Hidden):
    """Keeps its last hidden layer, with its graph, for whoever wants to look at it."""

    def between(self, hidden: Tensor) -> Tensor:
        self.last = hidden
        return hidden


class Dropping(Hidden):
    def between(self, hidden: Tensor) -> Tensor:
        return functional.dropout(hidden, 0.3, training=self.training)


class Noisy(Hidden):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden + torch.rand(hidden.shape) if self.training else hidden


class Skipping(Hidden):
    """Leaves a layer out at random, by Python's and numpy's numbers (stochastic depth)."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * (random.random() + np.random.random()) if self.training else hidden


class Auxiliary(Hidden):
    def __init__(self, pack: Any) -> None:
        super().__init__()
        self.second, self.pack = nn.Linear(8, 3), pack

    def forward(self, inputs: Tensor) -> Any:
        hidden = self.layer(inputs).relu()
        return self.pack(self.head(hidden), self.second(hidden)) if self.training else self.head(hidden)


class Tokens(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.layer, self.head = nn.Embedding(20, 6, **options), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(inputs.abs().mul(4).long().clamp(0, 19)).mean(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(inputs.reshape(len(inputs), 2, 4)).mean(1))


def layers(*between: nn.Module, first: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(first or nn.Linear(8, 8), *between, nn.ReLU(), nn.Linear(8, 3))


def parametrised(wrap: Any) -> nn.Module:
    return layers(first=wrap(nn.Linear(8, 8)))


STACKED = {
    "layers": layers,
    "in place": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)),
    "batch norm": lambda: layers(nn.BatchNorm1d(8)),
    "batch norm by batches": lambda: layers(nn.BatchNorm1d(8, track_running_stats=False)),
    "attention": Attention,
    "tokens": Tokens,
    "weight norm": lambda: parametrised(parametrizations.weight_norm),
    "counting buffer": CountingBuffer,
    "tuple": lambda: Auxiliary(lambda main, other: (main, other)),
    "list": lambda: Auxiliary(lambda main, other: [main, other]),
    "named tuple": lambda: Auxiliary(Both),
    "dict with logits": lambda: Auxiliary(lambda main, other: {"auxiliary": other, "logits": main}),
    "dict with out": lambda: Auxiliary(lambda main, other: {"out": main, "auxiliary": other}),
}
APART = {
    "rnn": lambda: Recurrent(nn.RNN),
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "lstm both ways": lambda: Recurrent(nn.LSTM, bidirectional=True),
    "packed lstm": lambda: Recurrent(nn.LSTM, packed=True),
    "branching": Branching,
    "reading": Reading,
    "listing": Listing,
    "selecting": Selecting,
    "assigning": Assigning,
    "filling": Filling,
    "checkpointed": Checkpointed,
    "reentrant": Reentrant,
    "own function": OwnFunction,
    "through numpy": ThroughNumpy,
    "averaging": Averaging,
    "spectral norm": lambda: parametrised(parametrizations.spectral_norm),
    "cumulative batch norm": lambda: layers(nn.BatchNorm1d(8, momentum=None)),
}
RANDOM = {"dropping": Dropping, "noisy": Noisy, "skipping": Skipping, "dropout": lambda: layers(nn.Dropout(0.3))}
EITHER = {
    "bounded tokens": lambda: Tokens(max_norm=1.0),
    "counting": Counting,
    "recording": Recording,
    "old weight norm": lambda: parametrised(nn.utils.weight_norm),
    "orthogonal": lambda: parametrised(parametrizations.orthogonal),
}
WORKING = STACKED | APART | RANDOM | EITHER


@pytest.fixture(scope="module")
def examples() -> Examples:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 3
    inputs = torch.randn(40, 8, generator=generator) + labels[:, None]
    return Examples(inputs, labels, 36, ["a", "b", "c"], Normalisation(1.0, [0.0], [1.0]), labels < 0)


def building(make: Any, examples: Examples) -> Any:
    def build() -> nn.Module:
        return Normalised(make(), **vars(examples.normalisation), input_shape=examples.input_shape)

    return build


def found(make: Any, examples: Examples) -> Stacking:
    return stacking_of(building(make, examples), examples, CPU)


def trained(ensemble: Ensemble, examples: Examples, members: range, engine: Engine) -> EnsembleTraining:
    """Train members by SGD for two epochs."""
    module = EnsembleTraining(
        subsets=AllBut(examples.n_train, ()).indices(members),
        epochs=2,
        batch_size=12,
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        schedule=Constant(),
    )
    module.attach(ensemble, examples, seed=0, role="original", members=members)
    make = trainer_factory(TRAINER)
    module.fit(TrainerFactory(make.make, engine))
    return module


def plainly_trained(network: nn.Module, module: EnsembleTraining, row: int, examples: Examples) -> nn.Module:
    """Train one ordinary module in a plain loop over the same batches."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    with global_numbers(member_seed(0, "original", module.members[row], "noise")):
        for epoch in range(2):
            for batch in module.batches(epoch):
                optimizer.zero_grad()
                out = network.train()(examples.inputs[batch[row]])
                functional.cross_entropy(out, examples.labels[batch[row]]).backward()
                optimizer.step()
    return network.eval()


@pytest.mark.parametrize("name", WORKING)
@pytest.mark.filterwarnings("ignore")
def test_members_become_what_a_plain_loop_makes_of_them(name, examples):
    build = building(WORKING[name], examples)
    with global_numbers(1):
        networks = [build(), build()]
    size, engine = stacking_of(build, examples, CPU).settled(2, Engine(step="eager", memory="rows"))
    answers = []
    for members in [range(2)] if size == 2 else [range(1), range(1, 2)]:
        ensemble = Ensemble.stack([networks[member] for member in members])
        module = trained(ensemble, examples, members, engine)
        stored = Ensemble.from_tensors(Ensemble.stack(networks).skeleton, ensemble.tensors())
        answers += stored.use(engine).logits(examples.inputs)
        for row, member in enumerate(members):
            plain = plainly_trained(networks[member], module, row, examples)
            with torch.no_grad():
                expected = plain(examples.inputs)
                torch.testing.assert_close(answers[member], expected, atol=1e-4, rtol=1e-3)
                torch.testing.assert_close(stored.member(row)(examples.inputs), expected, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(answers[0], answers[1])


@pytest.mark.parametrize("name", APART)
def test_what_cannot_be_stacked_is_trained_one_at_a_time(name, examples):
    stacking = found(APART[name], examples)
    assert stacking.reason is not None
    assert stacking.failure is None
    assert stacking.settled(50, Engine())[0] == stacking.settled("auto", Engine())[0] == 1
    assert stacking.settled(50, Engine())[1].members == "apart"
    assert f"({stacking.reason}): its members are trained one at a time" in str(stacking.notice(True))
    with pytest.raises(UserError, match=r"^engine\.members=together: this network cannot be trained stacked"):
        stacking.settled(50, Engine(members="together"))


@pytest.mark.parametrize("name", STACKED)
def test_what_can_be_stacked_is(name, examples):
    stacking = found(STACKED[name], examples)
    assert stacking.reason is None
    assert stacking.settled(50, Engine()) == (50, Engine())


@pytest.mark.parametrize("name", RANDOM)
def test_networks_that_draw_random_numbers_are_trained_one_at_a_time_and_evaluated_stacked(name, examples):
    stacking = found(RANDOM[name], examples)
    assert (stacking.reason, stacking.answers) == ("it draws random numbers in training", True)
    assert stacking.settled(50, Engine()) == (1, Engine())
    assert stacking.settled("auto", Engine()) == ("auto", Engine())  # measuring finds that one at a time works


@pytest.mark.parametrize("name", ["tuple", "list", "named tuple", "dict with logits"])
def test_auxiliary_heads_are_said_not_to_be_trained(name, examples):
    notice = found(STACKED[name], examples).notice(False)
    assert notice is not None
    assert notice.endswith("in training: only its main output is trained")


class Unsaid(Hidden):
    def forward(self, inputs: Tensor) -> Any:
        return {"first": self.head(inputs)} if self.training else self.head(inputs)


class Failing(Hidden):
    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            raise KeyError("targets")
        return hidden


class Mean(Hidden):
    def forward(self, inputs: Tensor) -> Any:
        return self.head(inputs).mean() if self.training else self.head(inputs)


class Cut(Hidden):
    def forward(self, inputs: Tensor) -> Any:
        return self.head(inputs).detach()


REFUSED = {
    "sparse gradients": (lambda: Tokens(sparse=True), "sparse gradients"),
    "numbers that are no buffer": (OwnNoise, r"keeps numbers in network\.projection, which is no buffer"),
    "statistics that are no buffer": (Remembering, "depend on its parameters and buffers alone"),
    "a dict of something": (Unsaid, "returns a dict in training"),
    "an error in training": (Failing, "a step of training on 4 examples fails .KeyError"),
    "no logits in training": (Mean, r"gives torch.float32 \[\] for 4 examples in training"),
    "no gradient": (Cut, "a step of training on 4 examples fails .RuntimeError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_in_a_sentence(name, examples):
    make, sentence = REFUSED[name]
    with pytest.raises(UserError, match=sentence):
        found(make, examples).check()


def test_a_step_leaves_global_random_numbers_alone(examples):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    found(lambda: nn.Sequential(nn.Linear(8, 3), nn.Dropout(0.1)), examples)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def test_an_architecture_is_tried_once(examples, monkeypatch):
    counted = []

    class Counted(Hidden):
        def between(self, hidden: Tensor) -> Tensor:
            counted.append(len(hidden))
            return hidden

    found(Counted, examples)
    before = len(counted)
    assert before > 0
    found(Counted, examples)
    assert len(counted) == before


def test_a_network_that_magnifies_rounding_is_stacked_all_the_same(examples):
    class Magnifying(Hidden):
        def between(self, hidden: Tensor) -> Tensor:
            return (1e5 * hidden).sin()

    assert found(Magnifying, examples).reason is None
