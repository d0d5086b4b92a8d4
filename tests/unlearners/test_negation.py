"""NegMerge: what several fine-tuned models agree on is subtracted."""

from __future__ import annotations

import pytest
import torch
from tiny_tasks import full, loss, make, originals, ready, same, sgd, task, tiny, unlearn
from torch.nn import functional

from dmm_exp.errors import UserError
from dmm_exp.unlearners.negation import agreed

SETTINGS = {"epochs": 2, "batch_size": 8, "optimizer": sgd(lr=0.1, momentum=0.9), "schedule": None}


def test_changes_are_averaged_where_all_have_the_same_sign():
    changes = torch.tensor([[1.0, -2.0, 1.0, 0.0, 3.0], [3.0, -4.0, -1.0, 0.0, 0.0]])
    assert agreed(changes).tolist() == [2.0, -3.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_negmerge_is_the_formula_of_its_paper(network):
    some, rates = tiny(network), [0.2, 0.5, 1.0]
    fit = ready("negmerge", some, **SETTINGS)
    found = unlearn("negmerge", some, **SETTINGS, rates=rates, strength=0.7)
    for row in (0, 2):
        tuned = []
        for rate in rates:
            model = some.originals.member(row).train()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * rate, momentum=0.9)
            for epoch in range(2):
                for batch in fit.batches(epoch):
                    optimizer.zero_grad()
                    inputs, labels = some.examples.inputs[batch[row]], some.examples.labels[batch[row]]
                    functional.cross_entropy(model(inputs), labels).backward()
                    optimizer.step()
            tuned.append(dict(model.named_parameters()))
        for name, value in some.originals.member(row).named_parameters():
            changes = [params[name] - value for params in tuned]
            up, down = (torch.stack([sign * change > 0 for change in changes]).all(0) for sign in (1, -1))
            expected = value - 0.7 * (up | down) * sum(changes) / 3
            close = (found.ensemble.params[name][row] - expected).abs() < 1e-4 + 1e-2 * expected.abs()
            assert close.float().mean() > 0.98, name  # signs of changes that are nothing but rounding may differ
    assert found.sample_gradients == 3 * 2 * 20


def test_running_statistics_are_those_of_the_originals():
    before, after = tiny("cnn").originals.stats, unlearn("negmerge", tiny("cnn"), **SETTINGS).ensemble.stats
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_twice_the_strength_goes_twice_as_far():
    near, far = (unlearn("negmerge", tiny(), **SETTINGS, strength=strength).ensemble for strength in (1.0, 2.0))
    for name, value in tiny().originals.params.items():
        torch.testing.assert_close(far.params[name] - value, 2 * (near.params[name] - value), atol=1e-5, rtol=1e-3)
    assert not same(unlearn("negmerge", tiny(), **SETTINGS), unlearn("negmerge", tiny(), **SETTINGS, strength=2.0))


def test_negmerge_raises_the_loss_on_the_forget_set():
    before = originals(task())
    after = full("negmerge", task(), strength=3.0, epochs=4).logits
    assert loss(after, task().forget) > 1.5 * loss(before, task().forget)


@pytest.mark.parametrize("rates", [[], [1.0], [0.5, 0.0]], ids=str)
def test_factors_out_of_range_are_refused(rates):
    with pytest.raises(UserError, match=r"unlearner\.rates=.*expected at least two numbers above 0"):
        make("negmerge", rates=rates)
