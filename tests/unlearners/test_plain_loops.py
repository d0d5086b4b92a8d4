"""A method as an ordinary training loop: what it gets, and what it has to return."""

from __future__ import annotations

import torch
from tiny_tasks import tiny

import dmm_exp
from dmm_exp import deletion, unlearners
from dmm_exp.records.result import Unlearned
from dmm_exp.unlearners import Ensemble, Unlearner, UnlearningResult, UnlearningTask


class Disturb(Unlearner):
    """Adds random numbers to every weight of a copy."""

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        networks = []
        for row in range(len(task.members)):
            network, order = task.originals.member(row), task.generator(row)
            with torch.no_grad():
                for value in network.parameters():
                    value += torch.randn(value.shape, generator=order)
            networks.append(network)
        return UnlearningResult.of(task, networks, sample_gradients=7)


def test_networks_become_an_ensemble_with_its_answers_on_all_points():
    task = tiny()
    result = Disturb().unlearn(task)
    assert isinstance(result.ensemble, Ensemble)
    assert result.logits.shape[:2] == (len(task.members), task.examples.n_points)
    torch.testing.assert_close(result.logits, result.ensemble.logits(task.examples.inputs))
    assert (result.sample_gradients, result.history, result.checkpoints) == (7, [], {})


def test_a_member_is_a_copy_and_the_originals_stay():
    task = tiny()
    before = task.originals.logits(task.examples.inputs)
    changed = Disturb().unlearn(task).logits
    assert torch.equal(task.originals.logits(task.examples.inputs), before)
    assert (changed - before).abs().mean() > 0.1


def test_random_numbers_of_a_member_depend_on_it_alone():
    task = tiny()
    together = Disturb().unlearn(task).logits
    for row in range(len(task.members)):
        alone = Disturb().unlearn(task.alone(row)).logits
        torch.testing.assert_close(alone[0], together[row])
    first, second = (torch.rand(3, generator=task.generator(row)) for row in (0, 1))
    assert not torch.equal(first, second)


def test_what_a_loop_needs_has_one_name():
    assert {"Ensemble", "Unlearner", "UnlearningResult", "UnlearningTask"} <= set(unlearners.__all__)
    assert dmm_exp.Unlearned is deletion.Unlearned is Unlearned  # of a deletion
