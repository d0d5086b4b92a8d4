"""Boundary shrink and AMUN: what the original says beyond its nearest boundary is taught to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_tasks import full, loss, make, originals, ready, sgd, task, tiny, unlearn
from torch import nn
from torch.nn import functional

from dmm_exp.data import Examples, Normalisation
from dmm_exp.ensembles import Ensemble
from dmm_exp.errors import UserError
from dmm_exp.unlearners.other_inputs import moved, surroundings

SETTINGS = {"epochs": 2, "batch_size": 16, "optimizer": sgd(lr=0.05, momentum=0.9), "schedule": None}
STD, LOW, HIGH = 16 * 0.376, 0.0, 16.0  # of digits, as they are stored


def slope(model, inputs, label):
    """Return the gradient of one input's cross-entropy by the input."""
    inputs = inputs.clone().requires_grad_()
    functional.cross_entropy(model(inputs[None]), label[None]).backward()
    return inputs.grad


def trained(some, row, fit, taught):
    """Return one member, trained in an ordinary loop on what ``taught`` gives for a batch: inputs and labels."""
    model = some.originals.member(row).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(2):
        for batch in fit.batches(epoch):
            optimizer.zero_grad()
            inputs, labels = taught(batch[row])
            functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model


def check(found, row, model):
    for name, value in model.named_parameters():
        torch.testing.assert_close(found.params[name][row], value, atol=1e-3, rtol=1e-2, msg=name)


# ---------------------------------------------------------------------- boundary shrink


def nearest(some, row, bound):
    """Return the nearest wrong class of every forget point of one member, one input at a time."""
    model, examples, found = some.originals.member(row).eval(), some.examples, {}
    for point in some.forget.tolist():
        inputs, label = examples.inputs[point].float(), examples.labels[point]
        there = (inputs + bound * STD * slope(model, inputs, label).sign()).clamp(LOW, HIGH)
        order = model(there[None])[0].argsort(descending=True).tolist()
        found[point] = order[0] if order[0] != int(label) else order[1]
    return found


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_boundary_shrink_is_the_algorithm_of_its_paper(network):
    some, settings = tiny(network), {**SETTINGS, "bound": 0.3}
    fit, found = ready("boundary_shrink", some, **settings), unlearn("boundary_shrink", some, **settings).ensemble
    for row in (0, 2):
        wrong = nearest(some, row, 0.3)
        labels = some.examples.labels.clone()
        labels[list(wrong)] = torch.tensor(list(wrong.values()))
        check(found, row, trained(some, row, fit, lambda batch, own=labels: (some.examples.inputs[batch], own[batch])))


def test_the_nearest_wrong_class_is_wrong_and_a_long_step_finds_what_the_original_says():
    for bound in (0.0, 0.5, 3.0):
        labels = ready("boundary_shrink", task(), bound=bound).kept["labels"]
        assert (labels[:, task().forget] != task().examples.labels[task().forget]).all()
        assert torch.equal(labels[:, task().retain], task().examples.labels[task().retain].expand(3, -1))


def test_boundary_shrink_raises_the_loss_on_the_forget_set_more_than_on_the_retain_set():
    before = originals(task())
    after = full("boundary_shrink", task(), epochs=8, optimizer=sgd(lr=0.005, momentum=0.9)).logits
    rises = [loss(after, points) - loss(before, points) for points in (task().forget, task().retain)]
    assert rises[0] > max(0.3, 1.5 * rises[1])


def test_a_negative_step_is_refused():
    with pytest.raises(UserError, match=r"unlearner\.bound=-1\.0: expected a number of at least 0"):
        make("boundary_shrink", bound=-1.0)


# ---------------------------------------------------------------------- AMUN


def adversary(model, inputs, label, radius=0.5, doublings=8, steps=7):
    """Return the nearest adversarial example of one input, the class it is taken for, and how many steps it took."""
    taken = 0
    for size in (radius * 2**power for power in range(doublings + 1)):
        by = torch.zeros_like(inputs)
        for _ in range(steps):
            here = (inputs + STD * by).clamp(LOW, HIGH)
            taken += 1
            answer = model(here[None])[0].argmax()
            if answer != label:
                return here, answer, taken
            direction = slope(model, here, label)
            by = by + 0.1 * size * direction / direction.norm()
            by = by * min(1, size / float(by.norm()))
    raise AssertionError("there is none")


def adversaries(some, row):
    model = some.originals.member(row).eval()
    return [adversary(model, some.examples.inputs[p].float(), some.examples.labels[p]) for p in some.forget]


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_amun_is_the_algorithm_of_its_paper(network):
    some, settings = tiny(network), {**SETTINGS, "steps": 7}
    fit, result = ready("amun", some, **settings), unlearn("amun", some, **settings)
    steps = []
    for row in range(3):
        near = adversaries(some, row)
        inputs = torch.cat([some.examples.inputs.float(), torch.stack([one for one, _, _ in near])])
        labels = torch.cat([some.examples.labels, torch.stack([answer for _, answer, _ in near])])
        check(result.ensemble, row, trained(some, row, fit, lambda b, x=inputs, y=labels: (x[b], y[b])))
        steps.append(sum(taken for _, _, taken in near))
    assert result.sample_gradients == pytest.approx(sum(steps) / 3 + 2 * (80 + 20 + 20), abs=2)


def test_amun_teaches_the_retain_set_the_adversarial_examples_and_if_asked_the_forget_set():
    points = {}
    for asked in (True, False):
        rows = torch.cat(list(ready("amun", tiny(), true_labels=asked).batches(0)), dim=1).sort().values
        points[asked] = rows[0].tolist()
        assert torch.equal(rows, rows[:1].expand(3, -1))
    assert points[True] == [*range(100), *range(130, 150)]
    assert points[False] == [*range(20, 100), *range(130, 150)]


def test_adversarial_examples_of_a_linear_network_lie_just_beyond_its_boundary():
    """Two classes and two inputs: the distance is that of a point from a line."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 2, generator=generator)
    network = nn.Linear(2, 2)
    network.weight.data, network.bias.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0.1, -0.2])
    margins = (network(inputs)[:, 0] - network(inputs)[:, 1]).detach()
    labels = (margins < 0).long()
    nothing = torch.zeros(12, dtype=torch.bool)
    examples = Examples(100 * inputs, labels, 12, ["a", "b"], Normalisation(100.0, [0.0], [1.0]), nothing)
    scaled = nn.Sequential(nn.Linear(2, 2))
    scaled[0].weight.data, scaled[0].bias.data = network.weight.data / 100, network.bias.data
    some = replace(tiny(), originals=Ensemble.stack([scaled]), examples=examples, members=[0], forget=torch.arange(6),
                   retain=torch.arange(6, 12))  # fmt: skip
    kept = ready("amun", some, radius=0.05, doublings=10, steps=50).kept
    assert kept["known"].all()
    assert torch.equal(kept["labels"][0], 1 - labels[:6])
    distances = (kept["inputs"][0] / 100 - inputs[:6]).norm(dim=1)
    exact = margins[:6].abs() / 5**0.5
    inside = (inputs[:6] - margins[:6, None] / 5 * torch.tensor([1.0, -2.0])).abs().amax(1) < inputs.abs().max() * 0.9
    assert inside.sum() >= 3
    assert (distances >= exact - 1e-4).all()
    assert (distances[inside] <= 1.25 * exact[inside] + 0.01).all()


def test_a_point_without_an_adversarial_example_is_not_taught_one():
    fit = ready("amun", tiny(), radius=1e-6, doublings=0, steps=2)
    right = originals(tiny()).argmax(-1)[:, :20] == tiny().examples.labels[:20]
    assert torch.equal(fit.kept["known"], ~right)
    batch = torch.tensor([[130, 25], [131, 26], [132, 27]])
    alone = fit.losses(batch[:, 1:])
    torch.testing.assert_close(fit.losses(batch)[right[:, :3].diagonal()], alone[right[:, :3].diagonal()])


def test_amun_leaves_a_higher_loss_on_the_forget_set_than_finetuning():
    settings = {"epochs": 3, "optimizer": sgd(lr=0.05, momentum=0.9)}
    after = full("amun", task(), **settings, true_labels=False).logits
    tuned = full("finetune", task(), **settings).logits
    assert loss(after, task().forget) > 1.1 * loss(tuned, task().forget)
    assert loss(after, task().retain) < loss(originals(task()), task().retain)


def test_moved_inputs_stay_in_the_range_of_their_channel():
    inputs = torch.stack([torch.rand(20, 3, 3), 100 * torch.rand(20, 3, 3)], dim=1)
    nothing = torch.zeros(20, dtype=torch.bool)
    examples = Examples(
        inputs, torch.arange(20) % 2, 20, ["a", "b"], Normalisation(1.0, [0.5, 50.0], [0.3, 30.0]), nothing
    )
    far = moved(surroundings(examples), inputs, torch.full_like(inputs, 100.0))
    near = moved(surroundings(examples), 0.5 * inputs, torch.full_like(inputs, 0.1))
    torch.testing.assert_close(far, inputs.amax((0, 2, 3)).view(2, 1, 1).expand_as(far))
    torch.testing.assert_close(near, 0.5 * inputs + torch.tensor([0.03, 3.0]).view(2, 1, 1))


@pytest.mark.parametrize("setting", [{"radius": 0.0}, {"doublings": -1}, {"steps": 0}], ids=str)
def test_numbers_of_the_attack_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match=r"unlearner\.radius=.*expected above 0, at least 0 and at least 1"):
        make("amun", **setting)
