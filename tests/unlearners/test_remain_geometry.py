"""SFR-on: weighted ascent in salient weights, and descent on the retain set after it."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_tasks import entropies, full, loss, make, originals, ready, sgd, task, tiny, unlearn
from torch.nn import functional

from dmm_exp.errors import UserError

SETTINGS = {
    "epochs": 2, "batch_size": 16, "forget_batch_size": 8, "forget_every": 2, "ascent": 0.7, "focus": 0.5,
    "threshold": 1.2, "optimizer": sgd(lr=0.05, momentum=0.9), "schedule": None, "clip_norm": None,
}  # fmt: skip


def fisher(model, examples, points):
    """Return the mean of squared gradients of single examples, one at a time."""
    totals = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for point in points.tolist():
        model.zero_grad()
        one = slice(point, point + 1)
        functional.cross_entropy(model(examples.inputs[one]), examples.labels[one]).backward()
        for name, value in model.named_parameters():
            totals[name] += value.grad.square() / len(points)
    return totals


def by_hand(some, row):
    """Return one member after the algorithm of the paper, in an ordinary loop."""
    fit, model, examples = ready("sfron", some, **SETTINGS), some.originals.member(row).eval(), some.examples
    forget, retain = (fisher(model, examples, points) for points in (some.forget, some.retain))
    salient = {name: value >= 1.2 * retain[name] for name, value in forget.items()}
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05, momentum=0.9)
    steps = [[batch[row] for batch in fit.batches(epoch)] for epoch in range(2)]
    for epoch, batches in enumerate(steps):
        for step, batch in enumerate(batches):
            optimizer.zero_grad()
            values = functional.cross_entropy(model(examples.inputs[batch]), examples.labels[batch], reduction="none")
            if batch[0] in some.forget:
                weights = values.detach() ** -0.5
                passed = (epoch + step / len(batches)) / 2
                ascent = 0.7 * (1 + math.cos(math.pi * passed)) / 2
                (-ascent * (weights * values).sum() / weights.sum()).backward()
                for name, value in model.named_parameters():
                    value.grad *= salient[name]
            else:
                values.mean().backward()
            optimizer.step()
    return model


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_sfron_is_the_algorithm_of_its_paper(network):
    some = tiny(network)
    found = unlearn("sfron", some, **SETTINGS).ensemble
    for row in (0, 2):
        for name, value in by_hand(some, row).named_parameters():
            torch.testing.assert_close(found.params[name][row], value, atol=1e-3, rtol=1e-2, msg=name)


def test_a_batch_of_the_forget_set_stands_before_every_few_of_the_retain_set():
    some = tiny()
    batches = list(ready("sfron", some, **SETTINGS).batches(0))
    kinds = "".join("F" if torch.isin(batch, some.forget).all() else "r" for batch in batches)
    assert kinds == "Frr" * 2 + "Fr"
    seen = torch.cat([batch for batch in batches if not torch.isin(batch, some.forget).any()], dim=1)
    assert torch.equal(seen.sort().values, some.retain.expand(3, -1))
    forgotten = torch.cat([batch for batch in batches if torch.isin(batch, some.forget).all()], dim=1)
    assert all(len(row.unique()) == 20 for row in forgotten[:, :20])


@pytest.mark.parametrize(("focus", "done"), [(0.0, 0.0), (1.0, 0.5), (2.0, 2.0)])
def test_ascent_weighs_examples_by_what_they_have_lost_already(focus, done):
    fit, points = ready("sfron", task(), focus=focus, ascent=3.0, epochs=2), task().forget.expand(3, -1)
    fit.elapsed = done
    values = entropies(task(), points)
    weights = values**-focus / (values**-focus).sum(1, keepdim=True)
    expected = -3 * (1 + math.cos(math.pi * done / 2)) / 2 * (weights * values).sum(1)
    torch.testing.assert_close(fit.losses(points), expected, atol=1e-4, rtol=1e-3)


def test_without_salient_weights_ascent_moves_nothing():
    """Both runs descend on the same batches; the optimizer has no momentum, so an empty step does nothing."""
    settings = {**SETTINGS, "optimizer": sgd(lr=0.05)}
    runs = [unlearn("sfron", tiny(), **settings | {"threshold": 1e9, "ascent": ascent}) for ascent in (0.1, 100.0)]
    torch.testing.assert_close(runs[0].logits, runs[1].logits)


def test_sfron_raises_the_loss_on_the_forget_set_and_keeps_that_on_the_retain_set():
    before = originals(task())
    after = full("sfron", task(), epochs=3, ascent=100.0, optimizer=sgd(lr=0.02, momentum=0.9)).logits
    assert loss(after, task().forget) > 3 * loss(before, task().forget)
    assert loss(after, task().retain) < 2 * loss(before, task().retain)


@pytest.mark.parametrize(
    "setting",
    [{"ascent": -1.0}, {"focus": -1.0}, {"threshold": -1.0}, {"forget_every": 0}, {"forget_batch_size": 0}],
    ids=str,
)
def test_numbers_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match=r"unlearner\.ascent=.*expected at least 0, 0, 0, 1 and 1"):
        make("sfron", **setting)
