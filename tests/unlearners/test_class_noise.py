"""UNSIR: noise is taught as the class that has to go, and then the rest is repaired."""

from __future__ import annotations

import pytest
import torch
from tiny_tasks import fitting, make, ready, sgd, tiny, unlearn
from torch.nn import functional

from dmm_exp.ensembles import member_generator
from dmm_exp.errors import UserError

SETTINGS = {
    "epochs": 2, "batch_size": 16, "noise_size": 6, "noise_steps": 5, "penalty": 0.05, "repeats": 2,
    "retain_fraction": 0.5, "optimizer": sgd(lr=0.05, momentum=0.9), "schedule": None,
}  # fmt: skip
MEAN, STD = 16 * 0.305, 16 * 0.376  # of digits, as they are stored


def noise_by_hand(some, row, label):
    """Return a member's noise, each input by an Adam of its own."""
    generator = member_generator(some.seed, "unlearned", some.members[row], "noise")
    model, made = some.originals.member(row).eval(), []
    for start in torch.randn(6, 1, 8, 8, generator=generator):
        noise = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([noise], lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            answer = model((MEAN + STD * noise)[None])
            (-functional.cross_entropy(answer, label[None]) + 0.05 * noise.square().sum()).backward()
            optimizer.step()
        made.append((MEAN + STD * noise).detach())
    return torch.stack(made)


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_unsir_is_the_algorithm_of_its_paper(network):
    some = fitting("unsir", network)
    label, fit = some.examples.labels[0], ready("unsir", some, **SETTINGS)
    result = unlearn("unsir", some, **SETTINGS)
    for row in (0, 2):
        noise = noise_by_hand(some, row, label)
        inputs = torch.cat([some.examples.inputs.float(), noise])
        labels = torch.cat([some.examples.labels, label.expand(6)])
        model = some.originals.member(row).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for epoch in range(2):
            for batch in fit.batches(epoch):
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs[batch[row]]), labels[batch[row]]).backward()
                optimizer.step()
        for name, value in model.named_parameters():
            torch.testing.assert_close(result.ensemble.params[name][row], value, atol=1e-3, rtol=1e-2, msg=name)
    assert result.sample_gradients == 5 * 6 + 40 + 2 * 6 + 40


def test_the_first_epochs_impair_and_the_others_repair():
    fit = ready("unsir", fitting("unsir"), **SETTINGS)
    first, second = (torch.cat(list(fit.batches(epoch)), dim=1) for epoch in (0, 1))
    assert all((first == 130 + number).sum(1).tolist() == [2, 2, 2] for number in range(6))
    assert (second >= 20).all()
    assert (second < 100).all()
    assert len({tuple(sorted(row.tolist())) for row in second}) == 3  # a share of its own for every member


def test_unsir_forgets_a_class_and_keeps_the_others():
    some = fitting("unsir")
    settings = SETTINGS | {"epochs": 4, "noise_size": 32, "retain_fraction": 1.0}
    before, after = some.originals.logits(some.examples.inputs), unlearn("unsir", some, **settings).logits

    def entropy(logits, points):
        return float(functional.cross_entropy(logits[:, points].flatten(0, 1), some.examples.labels[points].repeat(3)))

    assert entropy(after, some.forget) > entropy(before, some.forget) + 0.5
    assert entropy(after, some.retain) < entropy(before, some.retain) + 0.3


def test_a_forget_set_that_is_no_whole_class_is_refused_in_a_sentence():
    with pytest.raises(UserError, match=r"forgets whole classes, and \d+ examples of class 0 are to be kept"):
        unlearn("unsir", tiny())


@pytest.mark.parametrize(
    "setting", [{"noise_size": 0}, {"repeats": 0}, {"penalty": -1.0}, {"impair_epochs": -1}], ids=str
)
def test_numbers_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match=r"unlearner\.noise_size=.*expected at least 1 for the first two"):
        make("unsir", **setting)


@pytest.mark.parametrize("fraction", [0.0, 1.1])
def test_a_share_out_of_range_is_refused(fraction):
    with pytest.raises(UserError, match=r"unlearner\.retain_fraction"):
        make("unsir", retain_fraction=fraction)
