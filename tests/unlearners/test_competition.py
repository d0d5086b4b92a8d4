"""Masked small gradients and convolution transpose: networks are disturbed by a rule, then fine-tuned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_tasks import full, loss, make, movement, originals, ready, same, sgd, task, tiny, unlearn
from torch import nn
from torch.nn import functional

from dmm_exp.ensembles import Ensemble, member_generator
from dmm_exp.errors import UserError
from dmm_exp.unlearners.competition import smallest

SETTINGS = {"epochs": 2, "batch_size": 16, "optimizer": sgd(lr=0.1, momentum=0.9), "schedule": None}
KERNELS = {"mlp": ["network.body.1.weight", "network.head.weight"], "cnn": ["network.body.0.weight"]}


def parted(some, row):
    """Return the part of the retain set whose gradient counts for a member, as large as the forget set."""
    generator = member_generator(some.seed, "unlearned", some.members[row], "subset")
    return some.retain[torch.randperm(len(some.retain), generator=generator)][: len(some.forget)]


def begun_by_hand(some, row, network, fraction):
    """Return one member after weights began anew, and the factors of its kernels' gradients, one weight at a time."""
    model, generator = some.originals.member(row), member_generator(0, "unlearned", some.members[row], "noise")
    for sign, points in ((1, parted(some, row)), (-1, some.forget)):
        inputs, labels = some.examples.inputs[points], some.examples.labels[points]
        (sign * functional.cross_entropy(model(inputs), labels)).backward()
    factors = {}
    for name in KERNELS[network]:
        weight = model.get_parameter(name)
        anew = set(weight.grad.abs().flatten().argsort()[: round(fraction * weight.numel())].tolist())
        drawn = torch.randn(weight.shape, generator=generator).flatten()
        outputs = weight.shape[0] * weight[0, 0].numel()
        for place in anew:
            weight.data.flatten()[place] = drawn[place] * (2 / outputs) ** 0.5
        factor = [1.0 if place in anew else 0.2 for place in range(weight.numel())]
        factors[name] = torch.tensor(factor).view_as(weight)
    model.zero_grad()
    return model, factors


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_msg_is_what_its_rule_gives_one_weight_at_a_time(network):
    some = tiny(network)
    fit, found = ready("msg", some, **SETTINGS), unlearn("msg", some, **SETTINGS, fraction=0.4, damping=0.2).ensemble
    for row in (0, 2):
        model, factors = begun_by_hand(some, row, network, 0.4)
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1, momentum=0.9)
        for epoch in range(2):
            for batch in fit.batches(epoch):
                optimizer.zero_grad()
                inputs, labels = some.examples.inputs[batch[row]], some.examples.labels[batch[row]]
                functional.cross_entropy(model(inputs), labels).backward()
                for name, factor in factors.items():
                    model.get_parameter(name).grad *= factor
                optimizer.step()
        for name, value in model.named_parameters():
            torch.testing.assert_close(found.params[name][row], value, atol=2e-4, rtol=1e-3, msg=name)


def test_the_smallest_share_is_chosen_for_every_member():
    values = torch.tensor([[4.0, 1.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]]).view(2, 2, 2)
    assert smallest(values, 0.5).flatten(1).tolist() == [[False, True, False, True], [True, True, False, False]]
    assert not smallest(values, 0.0).any()
    assert smallest(values, 1.0).all()


def test_msg_that_begins_nothing_anew_and_damps_nothing_is_finetuning():
    assert same(unlearn("msg", tiny(), **SETTINGS, fraction=0.0, damping=1.0), unlearn("finetune", tiny(), **SETTINGS))


def test_msg_that_damps_wholly_keeps_every_weight_of_a_kernel_that_did_not_begin_anew():
    some = tiny("cnn")
    after = unlearn("msg", some, **SETTINGS, fraction=0.25, damping=0.0).ensemble.params["network.body.0.weight"]
    kept = (after == some.originals.params["network.body.0.weight"]).flatten(1)
    assert (kept.sum(1) == 36 - 9).all()


def test_msg_forgets_more_the_more_begins_anew():
    before = originals(task())
    settings = {"epochs": 2, "optimizer": sgd(lr=0.02, momentum=0.9)}
    losses = [loss(full("msg", task(), **settings, fraction=share).logits, task().forget) for share in (0.0, 0.5)]
    assert losses[1] > 1.5 * max(losses[0], loss(before, task().forget))


def test_ct_is_finetuning_from_transposed_kernels():
    some = tiny("cnn")
    turned = some.originals.copy()
    for row in range(3):
        for output in range(4):
            kernel = some.originals.params["network.body.0.weight"].detach()[row, output, 0]
            rows = [[float(kernel[down, across]) for down in range(3)] for across in range(3)]
            turned.params["network.body.0.weight"].data[row, output, 0] = torch.tensor(rows)
    expected = unlearn("finetune", replace(some, originals=turned), **SETTINGS)
    assert same(unlearn("ct", some, **SETTINGS), expected)
    assert (movement(unlearn("ct", some, epochs=0), some) > 0.1).all()


def test_ct_of_kernels_that_are_their_own_transposes_changes_nothing():
    even = tiny("cnn").originals.copy()
    kernels = even.params["network.body.0.weight"].data
    kernels.copy_((kernels + kernels.mT) / 2)
    some = replace(tiny("cnn"), originals=even)
    assert (movement(unlearn("ct", some, epochs=0), some) == 0).all()


class Wide(nn.Sequential):
    def __init__(self, *layers) -> None:
        super().__init__(*layers, nn.Flatten(), nn.LazyLinear(10))


@pytest.mark.parametrize(
    "layers", [[], [nn.Conv2d(1, 2, (1, 3))], [nn.Conv2d(1, 2, 1)]], ids=["linear", "oblong", "one by one"]
)
def test_ct_says_what_it_needs(layers):
    network = Wide(*layers)
    network(torch.zeros(1, 1, 8, 8))
    with pytest.raises(UserError, match="unlearner=ct: transposes the kernels of convolutions"):
        unlearn("ct", replace(tiny(), originals=Ensemble.stack([network] * 3)))


def test_msg_says_what_it_needs():
    network = nn.Sequential(nn.Flatten(), nn.LayerNorm(64))
    with pytest.raises(UserError, match="unlearner=msg: begins again with parts of convolutions or linear layers"):
        unlearn("msg", replace(tiny(), originals=Ensemble.stack([network] * 3)))


@pytest.mark.parametrize("setting", [{"fraction": -0.1}, {"fraction": 1.1}, {"damping": -0.1}, {"damping": 2}], ids=str)
def test_shares_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match=r"unlearner\.fraction=.*expected numbers between 0 and 1"):
        make("msg", **setting)
