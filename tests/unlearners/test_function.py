"""A plain function as an unlearner: what it gets, what it may return, what it costs, and what is refused."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tasks import everything, same, tiny
from torch import nn

from dmm_exp.errors import UserError
from dmm_exp.pipeline.code import code_digest, with_code
from dmm_exp.unlearners import Function

EXAMPLE = Path(__file__).parents[2] / "examples" / "competition_unlearner.py"


def method(function: Any, **settings: Any) -> Function:
    return Function(function="mine.unlearn", call=function, **settings)


def nothing(net, retain_loader, forget_loader, val_loader):
    return None


def broken(net, *loaders):
    next(net.parameters()).data.fill_(torch.nan)


def test_it_gets_the_original_and_the_points_of_all_three_groups():
    task, seen = tiny(), []

    def look(net, retain_loader, forget_loader, val_loader):
        inputs, labels = zip(*val_loader, strict=True)
        seen.append([len(loader.dataset) for loader in (retain_loader, forget_loader, val_loader)])
        assert torch.equal(torch.cat(inputs), task.examples.inputs[100:].float())
        assert torch.equal(torch.cat(labels), task.examples.labels[100:])
        forgotten = torch.cat([batch for batch, _ in forget_loader]).flatten(1)
        wanted = task.examples.inputs[task.forget].float().flatten(1)
        assert torch.equal(forgotten.sum(0), wanted.sum(0))
        assert not torch.equal(forgotten, wanted)  # shuffled
        original = task.originals[len(seen) - 1 : len(seen)].logits(task.examples.inputs)
        torch.testing.assert_close(net(task.examples.inputs)[None].detach(), original)

    method(look).unlearn(task)
    assert seen == [[80, 20, 30]] * 3


def test_a_network_may_be_changed_in_place_or_returned():
    def shrunken(net, *loaders):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter *= 0.5
        return net

    def in_place(net, *loaders):
        shrunken(net, *loaders)

    one, other = (method(function).unlearn(tiny()) for function in (shrunken, in_place))
    assert same(one, other)
    for name, value in one.ensemble.params.items():
        assert torch.equal(value, 0.5 * tiny().originals.params[name])


def test_every_example_that_a_loader_yields_counts():
    def passes(net, retain_loader, forget_loader, val_loader):
        for _ in range(2):
            list(retain_loader)
        list(forget_loader)
        next(iter(val_loader))

    assert method(passes, batch_size=8).unlearn(tiny()).sample_gradients == 2 * 80 + 20 + 8
    assert method(nothing).unlearn(tiny()).sample_gradients == 0


def test_all_global_random_numbers_are_the_members_own_and_are_put_back():
    drawn = []

    def draws(net, *loaders):
        drawn.append((float(torch.rand(1)), random.random(), float(np.random.rand())))

    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate()
    method(draws).unlearn(tiny())
    method(draws).unlearn(tiny())
    assert drawn[:3] == drawn[3:]
    assert len({value for values in drawn[:3] for value in values}) == 9
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda net, retain: None, r"expected a function of \(net, retain_loader, forget_loader, val_loader\)"),
        (lambda net, *loaders: 3, "returned 3; expected a network, or None"),
        (lambda net, *loaders: nn.Linear(2, 2), "another architecture"),
        (broken, "model 0 are not finite"),
    ],
)
def test_what_cannot_be_is_one_sentence(function, message):
    with pytest.raises(UserError, match=f"function=mine.unlearn: .*{message}"):
        method(function).unlearn(tiny())


def test_further_arguments_are_handed_on_and_checked():
    def scaled(net, retain_loader, forget_loader, val_loader, factor=1.0):
        with torch.no_grad():
            next(net.parameters()).mul_(factor)

    moved, still = (method(scaled, arguments={"factor": factor}).unlearn(tiny()) for factor in (2.0, 1.0))
    assert torch.equal(still.logits, method(nothing).unlearn(tiny()).logits)
    assert not same(moved, still)
    with pytest.raises(UserError, match=r"and factr \(got an unexpected keyword argument 'factr'\)"):
        method(scaled, arguments={"factr": 1})


def test_the_example_unlearns():
    function = runpy.run_path(str(EXAMPLE))["unlearn"]
    assert all(torch.isfinite(value).all() for value in everything(method(function).unlearn(tiny())).values())
    assert method(function).unlearn(tiny()).sample_gradients == 2 * 80


def test_results_of_changed_code_are_others(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for place, number in enumerate((1, 2, 1)):
        (tmp_path / f"own_{place}.py").write_text(f"def unlearn(net, *loaders):\n    return {number}\n")
        found.append(code_digest(f"own_{place}.unlearn"))
    assert found[0] == found[2] != found[1]
    assert code_digest("torch.manual_seed") != code_digest("builtins.len")  # which is not written in Python


def test_only_a_users_own_code_is_part_of_what_identifies_a_result(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text("def unlearn(net, *loaders):\n    pass\n")
    function = {"_target_": "dmm_exp.unlearners.Function", "call": {"_target_": "mine.unlearn", "_partial_": True}}
    ours = {"parts": [{"_target_": "dmm_exp.unlearners.Scrub", "optimizer": {"_target_": "torch.optim.SGD"}}]}
    assert with_code(ours) is ours
    assert with_code({"parts": [function]}) == {
        "parts": [function],
        "code": {"mine.unlearn": code_digest("mine.unlearn")},
    }
