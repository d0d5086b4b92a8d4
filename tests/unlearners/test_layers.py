"""CF-k and EU-k: the last layers are trained, as they are or from scratch, and every other number stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import NETWORKS, Tied
from tiny_tasks import full, loss, make, ready, same, sgd, task, tiny, unlearn, usual
from torch import nn
from torch.nn import functional

from dmm_exp.errors import UserError
from dmm_exp.models import CNN, MLP
from dmm_exp.unlearners.layers import layers_of

BOTH = pytest.mark.parametrize("name", ["cf_k", "eu_k"])


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (MLP([4], 2, [3, 3]), [{"body.1"}, {"body.3"}, {"head"}]),
        (CNN([1, 8, 8], 2, [2, 3], batch_norm=True), [{"body.0", "body.1"}, {"body.4", "body.5"}, {"head"}]),
        (nn.Sequential(nn.LSTM(2, 3), nn.LayerNorm(3), nn.Linear(3, 2)), [{"0", "1"}, {"2"}]),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), [{"0"}, {"1"}]),
        (Tied(4, 2), [{"first", "second"}, {"head"}]),
    ],
    ids=["mlp", "cnn", "recurrent", "vectors first", "tied"],
)
def test_layers_are_the_modules_with_a_matrix_and_what_follows_them(network, expected):
    assert layers_of(network) == expected


@pytest.mark.parametrize("build", NETWORKS)
def test_every_trained_tensor_is_in_one_layer(build):
    network = build(6, 3)
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    parts = [{name for name in trained if name.rpartition(".")[0] in layer} for layer in layers_of(network)]
    assert set().union(*parts) == trained
    assert sum(map(len, parts)) == len(trained)


@BOTH
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_only_the_last_layer_changes(name, network):
    before, after = tiny(network).originals.tensors(), usual(name, network).ensemble.tensors()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == {"params/network.head.weight", "params/network.head.bias"}


def by_hand(name, task, row, settings):
    """Return one member as an ordinary loop trains its last layer: the others' numbers are not in the optimizer."""
    fit, model = ready(name, task, **settings), task.originals.member(row)
    if name == "eu_k":
        model.network.head.load_state_dict(task.untrained().member(row).network.head.state_dict())
    optimizer = torch.optim.SGD(model.network.head.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for epoch in range(2):
        for batch in fit.batches(epoch):
            optimizer.zero_grad()
            functional.cross_entropy(
                model(task.examples.inputs[batch[row]]), task.examples.labels[batch[row]]
            ).backward()
            optimizer.step()
    return model


@BOTH
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_the_last_layer_is_trained_as_an_ordinary_loop_trains_it(name, network):
    some = tiny(network)
    settings = {"epochs": 2, "batch_size": 16, "optimizer": sgd(lr=0.1, momentum=0.9, weight_decay=0.01)}
    found = unlearn(name, some, **settings).ensemble
    for row in (0, 2):
        for key, value in by_hand(name, some, row, settings).named_parameters():
            torch.testing.assert_close(found.params[key][row], value, atol=1e-5, rtol=1e-4)


def test_fine_tuning_two_layers_moves_two_layers_and_one_of_them_as_far_as_it_would_alone():
    deep = replace(task(), originals=type(task().originals).initialise(lambda: deeper(task()), range(3)))
    result = full("cf_k", deep, layers=2).ensemble
    changed = {key for key, value in result.params.items() if not torch.equal(value, deep.originals.params[key])}
    assert changed == {"network.body.3.weight", "network.body.3.bias", "network.head.weight", "network.head.bias"}


def deeper(some):
    network = some.build()
    network.network = MLP(some.examples.inputs.shape[1:], 10, [8, 8])
    return network


def test_training_the_last_layer_from_scratch_forgets_where_it_stood():
    """Whatever the original's head is, the result is the same."""
    ensemble = tiny().originals.copy()
    with torch.no_grad():
        ensemble.params["network.head.weight"].mul_(-3)
    assert same(unlearn("eu_k", replace(tiny(), originals=ensemble)), usual("eu_k"))
    assert not same(unlearn("cf_k", replace(tiny(), originals=ensemble)), usual("cf_k"))


def test_training_the_last_layer_from_scratch_learns_the_retain_set():
    untrained, after = (full("eu_k", task(), epochs=n, optimizer=sgd(lr=0.1, momentum=0.9)).logits for n in (0, 3))
    assert loss(untrained, task().retain) > 1.5
    assert loss(after, task().retain) < 0.5


@BOTH
def test_an_epoch_is_a_pass_over_the_retain_set(name):
    rows = torch.cat(list(ready(name, task()).batches(0)), dim=1)
    assert torch.equal(rows.sort().values, task().retain.expand(3, -1))


@BOTH
def test_where_no_layer_would_stay_as_it_is_a_sentence_says_so(name):
    with pytest.raises(UserError, match=r"layers=2: none of this network's trained layers \(2\).*expected at most 1"):
        unlearn(name, tiny(), layers=2)
    linear = replace(
        tiny(), originals=type(tiny().originals).stack([nn.Sequential(nn.Flatten(), nn.Linear(64, 10))] * 3)
    )
    with pytest.raises(UserError, match=r"trained layers \(1\) would stay as it is; expected another method"):
        unlearn(name, linear)


@BOTH
def test_no_layers_are_refused(name):
    with pytest.raises(UserError, match=r"unlearner\.layers=0: expected at least 1"):
        make(name, layers=0)
