"""Gradients of single examples, and products with curvature, of networks that cannot be stacked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dmm_exp.attribution.trak import MARGIN, TrakFeatures
from dmm_exp.data import Examples, Normalisation
from dmm_exp.ensembles import Ensemble
from dmm_exp.errors import UserError
from dmm_exp.models import Normalised, margin
from dmm_exp.unlearners.dampening import squared_gradients
from dmm_exp.unlearners.influence import _gauss_newton

CLASSES = 3


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.layer, self.head = kind(4, 3, batch_first=True), nn.Linear(3, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(inputs.reshape(len(inputs), 2, 4))[0][:, -1])


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 4), nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Any:
        return self.head(self.layer(inputs).tanh())


class Branching(Hidden):
    def forward(self, inputs: Tensor) -> Any:
        hidden = self.layer(inputs)
        return self.head(hidden if hidden.sum() > 0 else hidden.tanh())


class Checkpointed(Hidden):
    def forward(self, inputs: Tensor) -> Any:
        return checkpoint(lambda values: self.head(values.tanh()), self.layer(inputs), use_reentrant=False)


class Squeezing(Hidden):
    def forward(self, inputs: Tensor) -> Any:
        return self.head(self.layer(inputs).tanh()[..., None].squeeze())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        steps = inputs.reshape(len(inputs), 2, 4)
        return self.head(self.layer(steps, steps, steps, need_weights=False)[0].mean(1))


NETWORKS = {
    "layers": Hidden,
    "rnn": lambda: Recurrent(nn.RNN),
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "branching": Branching,
    "checkpointed": Checkpointed,
    "squeezing": Squeezing,
    "attention": Attention,
}


@pytest.fixture(scope="module")
def examples() -> Examples:
    inputs, labels = torch.randn(9, 8, generator=torch.Generator().manual_seed(0)), torch.arange(9) % CLASSES
    return Examples(inputs, labels, 9, ["a", "b", "c"], Normalisation(1.0, [0.0], [1.0]), labels < 0)


def made(name: str, examples: Examples) -> nn.Module:
    torch.manual_seed(1)
    return Normalised(NETWORKS[name](), **vars(examples.normalisation), input_shape=(8,)).eval()


def gradient(output: Tensor, network: nn.Module) -> Tensor:
    found = torch.autograd.grad(output, list(network.parameters()), allow_unused=True)
    parts = zip(found, network.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in parts])


@pytest.mark.parametrize("name", NETWORKS)
def test_squared_gradients_are_the_sum_over_single_examples(name, examples):
    network = made(name, examples)
    found = squared_gradients(Ensemble.stack([network]), 0, examples, torch.arange(9))
    rows = zip(examples.inputs, examples.labels, strict=True)
    expected = sum(gradient(functional.cross_entropy(network(x[None]), y[None]), network).square() for x, y in rows)
    torch.testing.assert_close(torch.cat([value.flatten() for value in found.values()]), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_trak_takes_the_gradients_of_single_examples(name, examples):
    network = made(name, examples)
    features = TrakFeatures(network, examples, 0, 4, 0)
    batch = examples.inputs, examples.labels, torch.tensor([MARGIN, 0, 1] * 3)
    found = torch.cat([value.flatten(1) for value in features.gradients(*batch).values()], dim=1)
    for row, (x, label, number) in enumerate(zip(*batch, strict=True)):
        logits = network(x[None])[0]
        output = margin(logits, label) if number == MARGIN else logits[number]
        torch.testing.assert_close(found[row], gradient(output, network), atol=1e-6, rtol=1e-4)
    assert features.train(torch.arange(9))[0].shape == (9, 4)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "checkpointed"])
def test_a_product_with_the_curvature_is_that_of_the_whole_matrix(name, examples):
    network = made(name, examples)
    ensemble = Ensemble.stack([network]).eval()
    vector = {n: torch.randn(v.shape, generator=torch.Generator().manual_seed(2)) for n, v in ensemble.params.items()}
    found = _gauss_newton(lambda params: ensemble(examples.inputs[None], params=params), ensemble, vector)
    flat, expected = torch.cat([value[0].flatten() for value in vector.values()]), 0
    for logits in network(examples.inputs):
        jacobian = torch.stack(
            [
                torch.cat(
                    [g.flatten() for g in torch.autograd.grad(logit, list(network.parameters()), retain_graph=True)]
                )
                for logit in logits
            ]
        )
        chances = logits.softmax(0).detach()
        expected = expected + jacobian.T @ ((chances.diag() - chances.outer(chances)) @ (jacobian @ flat))
    torch.testing.assert_close(
        torch.cat([value[0].flatten() for value in found.values()]), expected, atol=1e-5, rtol=1e-3
    )


def test_a_network_that_takes_no_single_example_is_refused_in_a_sentence(examples):
    network = nn.Sequential(nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, CLASSES)).eval()
    for call in (
        lambda: squared_gradients(Ensemble.stack([network]), 0, examples, torch.arange(9)),
        lambda: TrakFeatures(network, examples, 0, 4, 0).train(torch.arange(9)),
    ):
        with pytest.raises(UserError, match="takes gradients of single examples, which fails for this network"):
            call()
