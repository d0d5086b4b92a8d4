"""Networks that cannot be stacked, and those that return more than logits in training: deleted from like any other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import blobs, trained
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from dmm_exp import prepare, train, unlearn
from dmm_exp.console import progress
from dmm_exp.deletion.fresh import Fresh
from dmm_exp.errors import UserError

WIDTH, CLASSES = 8, 3
DATA, UNSEEN = blobs(40, WIDTH, CLASSES), blobs(20, WIDTH, CLASSES, seed=5)
RECIPE: dict[str, Any] = {"epochs": 1, "batch_size": 20}
ALONE = "its members are trained one at a time"
MAIN = "this network returns a tuple in training: only its main output is trained"


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.layer, self.head = kind(4, 5, batch_first=True), nn.Linear(5, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(inputs.reshape(len(inputs), 2, 4))[0][:, -1])


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Any:
        hidden = self.layer(inputs)
        return self.head((hidden / 2 if hidden.abs().max() > 1000 else hidden).relu())


class Headed(Branching):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Any:
        hidden = self.layer(inputs).relu()
        return (self.head(hidden), self.second(hidden)) if self.training else self.head(hidden)


class Averaging(Branching):
    """Keeps a mean of what it sees in a buffer that nothing initialises but its construction."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, inputs: Tensor) -> Any:
        hidden = self.layer(inputs)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        return self.head((hidden - self.mean).relu())


NETWORKS = {
    "lstm": (lambda: Recurrent(nn.LSTM), ALONE),
    "gru": (lambda: Recurrent(nn.GRU), ALONE),
    "branching": (Branching, ALONE),
    "tuple": (Headed, MAIN),
}


@pytest.fixture(autouse=True)
def nothing_was_noted(monkeypatch):
    monkeypatch.setattr(progress, "_NOTED", set())


def notices(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.strip() for line in capsys.readouterr().err.splitlines() if line.strip().startswith("this network")]


def fitted(make: Any) -> nn.Module:
    torch.manual_seed(0)
    network = make().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        out = network(DATA[0])
        nn.functional.cross_entropy(out[0] if isinstance(out, tuple) else out, DATA[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_are_deleted_without_a_pool(name):
    make, _ = NETWORKS[name]
    network = fitted(make)
    before = network(DATA[0]).detach()
    for method in ("dmm epochs=2", "finetune epochs=1", "ssd alpha=2", "influence"):
        found = unlearn(network, DATA, [0, 5, 9], method=method, validation=UNSEEN, progress=False)
        after = found.model(DATA[0]).detach()
        assert after.isfinite().all()
        if method.startswith(("finetune", "influence")):
            assert not torch.equal(after, before)
    assert torch.equal(network(DATA[0]), before)


@pytest.mark.parametrize("name", ["gru", "tuple"])
def test_rows_are_deleted_with_a_pool_and_verified_after_one_line_of_notice(name, tmp_path, capsys):
    make, notice = NETWORKS[name]
    network = fitted(make)
    pool = prepare(network, DATA, RECIPE, tmp_path, size=40, validation=UNSEEN)
    found = unlearn(network, DATA, [0, 5, 9], pool=pool, verify=3, method="dmm epochs=1")
    assert found.verification["oracles"] == 3
    (line,) = notices(capsys)
    assert line.endswith(notice)


@pytest.mark.parametrize("name", ["lstm", "branching"])
def test_networks_are_retrained_for_a_verification_after_one_line_of_notice(name, capsys):
    make, notice = NETWORKS[name]
    options: dict[str, Any] = {"recipe": RECIPE, "verify": 3, "method": "finetune epochs=1", "validation": UNSEEN}
    found = unlearn(fitted(make), DATA, [0, 5, 9], **options)
    assert found.verification["oracles"] == 3
    (line,) = notices(capsys)
    assert line.endswith(notice)


def test_a_recipe_that_is_a_function_trains_heads_as_it_likes_and_never_stacks(capsys):
    seen = []

    def descend(model: nn.Module, dataset: Any, seed: int) -> nn.Module:
        inputs, labels = (torch.stack([torch.as_tensor(pair[part]) for pair in dataset]) for part in (0, 1))
        out = model(inputs)
        seen.append(type(out).__name__)
        sum(nn.functional.cross_entropy(one, labels) for one in (out if isinstance(out, tuple) else (out,))).backward()  # pyright: ignore
        with torch.no_grad():
            for value in model.parameters():
                value -= 0.5 * value.grad
        return model

    options: dict[str, Any] = {"recipe": descend, "verify": 3, "method": "finetune epochs=1", "validation": UNSEEN}
    for make in (Headed, lambda: Recurrent(nn.LSTM)):
        assert unlearn(fitted(make), DATA, [0, 5, 9], **options).verification["oracles"] == 3
    assert set(seen) == {"tuple", "Tensor"}
    assert len(notices(capsys)) == 2


def test_a_function_may_train_what_a_plain_step_does_not(tmp_path):
    class Targeted(Branching):
        targets: Tensor | None = None

        def forward(self, inputs: Tensor) -> Any:
            found = super().forward(inputs)
            return nn.functional.cross_entropy(found, self.targets) if self.training else found  # pyright: ignore

    def descend(model: Any, dataset: Any, seed: int) -> nn.Module:
        inputs, labels = (torch.stack([torch.as_tensor(pair[part]) for pair in dataset]) for part in (0, 1))
        model.targets = labels
        model(inputs).backward()
        with torch.no_grad():
            for value in model.parameters():
                value -= 0.5 * value.grad
        return model

    network = Targeted().eval()
    assert prepare(network, DATA, descend, tmp_path, size=40, progress=False).models == 80
    with pytest.raises(UserError, match="a step of training on 4 examples fails"):
        unlearn(network, DATA, [0], pool=tmp_path, recipe=descend, progress=False)


@pytest.mark.parametrize("recipe", [{"epochs": 3, "batch_size": 5, "optimizer": {"lr": 1e30}}])
def test_a_recipe_that_diverges_is_refused_in_a_sentence(recipe, tmp_path):
    network = trained(nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, CLASSES)), *DATA)
    with pytest.raises(UserError, match=r"^training diverged .*: lower the learning rate"):
        prepare(network, DATA, recipe, tmp_path, size=40, progress=False)


def test_a_network_that_cannot_be_trained_is_refused_before_anything_is_written(tmp_path):
    class Dictionary(Branching):
        def forward(self, inputs: Tensor) -> Any:
            found = super().forward(inputs)
            return {"first": found} if self.training else found

    network = Dictionary().eval()
    for call in (
        lambda: unlearn(network, DATA, [0], method="finetune epochs=1", progress=False),
        lambda: prepare(network, DATA, RECIPE, tmp_path, size=40, progress=False),
        lambda: train(network, DATA, RECIPE),
    ):
        with pytest.raises(UserError, match=r"^model: returns a dict in training; expected logits"):
            call()


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, nn.Identity(), torch.compile])
def test_a_fresh_network_keeps_nothing_of_the_given_one(wrap):
    network = trained(nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, CLASSES)), *DATA)
    wrap(network[0])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fresh = Fresh(network)
    torch.manual_seed(0)
    one, other = fresh(), fresh()
    for name, value in one.state_dict().items():
        assert not torch.equal(value, before[name])
        assert not torch.equal(value, other.state_dict()[name])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_that_are_computed_are_initialised_as_the_layer_does():
    layer = parametrizations.weight_norm(nn.Linear(WIDTH, 8))
    with torch.no_grad():
        layer.weight = torch.full_like(layer.weight, 7.0)
    torch.manual_seed(3)
    made = Fresh(layer)()
    torch.manual_seed(3)
    expected = nn.Linear(WIDTH, 8)
    torch.testing.assert_close(made.weight, expected.weight)
    torch.testing.assert_close(made.bias, expected.bias)


def test_attention_is_initialised_as_it_is_when_it_is_made():
    made = Fresh(trained(nn.Sequential(nn.Linear(WIDTH, CLASSES), nn.MultiheadAttention(3, 1)), *DATA, steps=0))()
    assert not made[1].out_proj.bias.any()  # pyright: ignore


class Partial(nn.Linear):
    def __init__(self) -> None:
        super().__init__(WIDTH, CLASSES)
        self.scale = nn.Parameter(torch.ones(CLASSES))

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(inputs) * self.scale


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Partial, "does not initialise 'scale'"),
        (lambda: nn.utils.weight_norm(nn.Linear(WIDTH, CLASSES)), "does not initialise 'weight_g'"),
        (lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, CLASSES)), "keeps numbers in its parametrization"),
        (Averaging, "training changes the buffer '0.mean'"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_would_be_left_of_the_given_network_in_a_fresh_one_is_refused(make, said, tmp_path):
    torch.manual_seed(0)
    network = trained(nn.Sequential(make()), *DATA)
    with pytest.raises(UserError, match=said) as refused:
        prepare(network, DATA, RECIPE, tmp_path, size=40, progress=False)
    assert "give factory=" in str(refused.value)
    assert unlearn(network, DATA, [0], method="finetune epochs=1", progress=False).forgotten == [0]


def test_a_buffer_that_forward_replaces_is_kept_with_the_network():
    network = fitted(Averaging)
    found = train(network, DATA, RECIPE)
    assert not torch.equal(found.mean, network.mean)  # pyright: ignore


def test_compiled_networks_are_carried_out_as_what_they_were_compiled_from():
    network = trained(nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, CLASSES)), *DATA)
    part = nn.Sequential(torch.compile(network[0], backend="eager"), *network[1:])
    plain = unlearn(network, DATA, [0, 1], method="finetune epochs=1", progress=False).model
    for compiled in (torch.compile(network, backend="eager"), part):
        found = unlearn(compiled, DATA, [0, 1], method="finetune epochs=1", progress=False).model  # pyright: ignore
        assert type(found) is type(compiled)
        for value, expected in zip(found.parameters(), plain.parameters(), strict=True):
            assert torch.equal(value, expected)


def test_a_network_in_torchscript_is_refused():
    with pytest.raises(UserError, match=r"TorchScript; expected the nn.Module"):
        unlearn(torch.jit.script(nn.Linear(WIDTH, CLASSES)), DATA, [0], progress=False)
