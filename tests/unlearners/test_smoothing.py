"""JiT: answers change less around the forget set, and nothing else is looked at."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest
from tiny_tasks import full, make, originals, ready, same, sgd, task, tiny, unlearn

from dmm_exp.data.counter import keys_of, normals
from dmm_exp.errors import UserError

STD, LOW, HIGH = 16 * 0.376, 0.0, 16.0  # of digits, as they are stored


def test_numbers_of_a_counter_are_normal_and_depend_on_member_step_and_point():
    seeds, points = torch.tensor([3, 5]), torch.arange(40).expand(2, -1)
    drawn = normals(seeds, 0, points, 25)
    assert drawn.shape == (2, 40, 25)
    assert kstest(drawn.flatten().numpy(), "norm").pvalue > 0.001
    assert drawn.unique().numel() > 1990
    assert torch.equal(normals(seeds[1:], torch.tensor(0), points[1:, 7:9], 25), drawn[1:, 7:9])
    assert not (normals(seeds, 1, points, 25) == drawn).all(2).any()
    assert keys_of(seeds, 0, points).unique().numel() == 80


def slope_by_hand(model, inputs, noise):
    """Return the mean of how much answers change over how much inputs do, one neighbour at a time."""
    found = []
    for one, draws in zip(inputs.float(), noise, strict=True):
        for draw in draws:
            there = (one + 0.4 * STD * draw.view_as(one)).clamp(LOW, HIGH)
            change = (model(one[None]) - model(there[None])).norm()
            found.append(change / ((there - one) / STD).norm())
    return torch.stack(found).mean()


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_jit_is_the_algorithm_of_its_paper(network):
    some = tiny(network)
    settings = {
        "epochs": 2,
        "batch_size": 7,
        "noise": 0.4,
        "neighbours": 3,
        "optimizer": sgd(lr=0.01),
        "schedule": None,
    }
    fit, result = ready("jit", some, **settings), unlearn("jit", some, **settings)
    for row in (0, 2):
        model = some.originals.member(row).eval()
        optimizer, step = torch.optim.SGD(model.parameters(), lr=0.01), 0
        for epoch in range(2):
            for batch in fit.batches(epoch):
                noise = normals(fit.kept["seeds"], step, batch, 3 * 64).view(3, -1, 3, 64)[row]
                optimizer.zero_grad()
                slope_by_hand(model, some.examples.inputs[batch[row]], noise).backward()
                optimizer.step()
                step += 1
        for name, value in model.named_parameters():
            torch.testing.assert_close(result.ensemble.params[name][row], value, atol=1e-4, rtol=1e-3, msg=name)
    assert result.sample_gradients == 2 * 20 * 4


def test_jit_flattens_the_network_around_the_forget_set():
    settings = {"epochs": 5, "optimizer": sgd(lr=0.1, momentum=0.9)}
    fit = ready("jit", task(), **settings)
    points = task().forget.expand(3, -1)
    before, result = fit.losses(points), full("jit", task(), **settings)
    fit.ensemble = result.ensemble
    assert (fit.losses(points) < 0.8 * before).all()
    assert not torch.equal(result.logits, originals(task()))


def test_jit_never_looks_at_the_retain_set_nor_at_a_label():
    inputs, labels = tiny().examples.inputs.clone(), (tiny().examples.labels + 1) % 10
    inputs[20:100:2] = inputs[20:100:2].flip(-1)  # in the same range
    other = unlearn("jit", replace(tiny(), examples=replace(tiny().examples, inputs=inputs, labels=labels)))
    assert torch.equal(other.logits[:, :20], unlearn("jit", tiny()).logits[:, :20])
    assert same(unlearn("jit", tiny()), unlearn("jit", tiny()))


@pytest.mark.parametrize("setting", [{"noise": 0.0}, {"neighbours": 0}], ids=str)
def test_numbers_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match=r"unlearner\.noise=.*expected a number above 0, and at least 1"):
        make("jit", **setting)
