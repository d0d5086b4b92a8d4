"""Rewind and SISA: training of which a part is done again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny_tasks import TRAINER, beginning, everything, few_digits, make, same, task, tiny, trained, unlearn, usual

from dmm_exp.ensembles import Ensemble, EnsembleTraining, member_seed
from dmm_exp.ensembles.schedules import Constant, Cosine, OneCycle, Part
from dmm_exp.ensembles.work import trainer_factory
from dmm_exp.errors import UserError


def by_recipe(some, ensemble, rows, role, **recipe):
    """Train models on some rows by the task's recipe; return them."""
    training = EnsembleTraining(subsets=rows.expand(len(ensemble), -1), **{**some.recipe, **recipe})
    training.attach(ensemble, some.examples, seed=some.seed, role=role, members=some.members)
    training.fit(trainer_factory(TRAINER))
    return ensemble


def at(some, epoch):
    """Return a task with the originals as they were after some epochs."""
    early = trained(some.build, some.examples, some.members, beginning(some.recipe, epoch))
    return replace(some, early=early)


# ---------------------------------------------------------------------- the learning rates of a part


@pytest.mark.parametrize("whole", [OneCycle(), Cosine(), Constant(), None])
def test_a_part_of_training_has_the_learning_rates_of_the_whole(whole):
    part = Part(whole, 3, 8)
    for epoch in (0, 0.4, 2.5, 5):
        assert part(epoch, 5) == (1 if whole is None else whole(3 + epoch, 8))


class Snapshots(EnsembleTraining):
    """Keeps what the members were after every epoch."""

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        self.kept = [*getattr(self, "kept", []), {k: v.clone() for k, v in self.ensemble.tensors().items()}]


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_the_beginning_of_a_training_is_the_training_until_then(network):
    some = tiny(network)
    seeds = [member_seed(0, "original", i, "initialisation") for i in some.members]
    whole = Snapshots(subsets=torch.arange(100).expand(3, -1), **some.recipe)
    whole.attach(Ensemble.initialise(some.build, seeds), some.examples, seed=0, role="original", members=some.members)
    whole.fit(trainer_factory(TRAINER))
    for epoch in (1, 3):
        early = at(some, epoch).early.tensors()
        assert all(torch.equal(value, early[key]) for key, value in whole.kept[epoch - 1].items())


# ---------------------------------------------------------------------- rewind


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_going_back_to_the_start_is_retraining_from_the_same_initialisation(network):
    some = at(tiny(network), 0)
    untrained = Ensemble.initialise(some.build, [member_seed(0, "original", i, "initialisation") for i in range(3)])
    expected = by_recipe(some, untrained, some.retain, "unlearned")
    assert torch.equal(unlearn("rewind", some, rewind_to=0).logits, expected.logits(some.examples.inputs))


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_going_back_to_the_end_changes_nothing(network):
    result = unlearn("rewind", at(tiny(network), 4), rewind_to=4)
    assert result.sample_gradients == 0
    before = tiny(network).originals.tensors()
    assert all(torch.equal(value, before[key]) for key, value in result.ensemble.tensors().items())


def test_the_later_it_goes_back_to_the_nearer_it_stays():
    some, distances = tiny(), []
    for epoch in (0, 2, 3):
        after = unlearn("rewind", at(some, epoch), rewind_to=epoch).ensemble.params
        moved = [(after[name] - value).flatten(1) for name, value in some.originals.params.items()]
        distances.append(float(torch.cat(moved, 1).detach().norm(dim=1).mean()))
    assert distances == sorted(distances, reverse=True)


def test_the_last_epochs_take_the_steps_of_gradient_descent_at_the_last_rates():
    """One step an epoch, by hand, without momentum."""
    some = tiny()
    recipe = {**some.recipe, "batch_size": 1000, "optimizer": partial(torch.optim.SGD, lr=0.1)}
    some = replace(some, recipe=recipe, retain=some.retain[:1].clone())
    found = unlearn("rewind", some, rewind_to=2).ensemble.member(1)
    model = some.early.member(1).train()
    for epoch in (2, 3):
        loss = torch.nn.functional.cross_entropy(
            model(some.examples.inputs[some.retain]), some.examples.labels[some.retain]
        )
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for value in model.parameters():
                value -= 0.1 * OneCycle()(epoch, 4) * value.grad
    for own, expected in zip(found.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own, expected, atol=1e-6, rtol=1e-5)


def test_what_was_forgotten_is_looked_at_no_more():
    examples = few_digits()
    inputs = examples.inputs.clone()
    inputs[tiny().forget] = 0
    blank = replace(tiny(), examples=replace(examples, inputs=inputs))
    after = unlearn("rewind", blank).ensemble.params
    assert all(torch.equal(value, after[key]) for key, value in usual("rewind").ensemble.params.items())


def test_without_a_checkpoint_it_says_so():
    with pytest.raises(UserError, match="after epoch 2 of their training, and these have no such checkpoint"):
        unlearn("rewind", replace(tiny(), early=None))
    with pytest.raises(UserError, match=r"rewind_to=-1: expected an epoch of training, at least 0"):
        make("rewind", rewind_to=-1)


# ---------------------------------------------------------------------- SISA


def test_shards_cut_the_training_set_into_parts_that_do_not_depend_on_what_is_forgotten():
    parts = make("sisa", shards=3).parts(tiny())
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(100))
    assert [len(part) for part in parts] == [34, 33, 33]
    others = make("sisa", shards=3).parts(tiny(forget=1))
    assert all(map(torch.equal, parts, others))


def test_its_answers_are_the_mean_of_networks_that_were_trained_on_shards_without_the_forget_set():
    some = tiny()
    answers = []
    for shard, rows in enumerate(make("sisa").parts(some)):
        kept, seeds = rows[rows >= 20], [member_seed(0, f"shard/{shard}", i, "initialisation") for i in range(3)]
        networks = by_recipe(some, Ensemble.initialise(some.build, seeds), kept, f"shard/{shard}")
        answers.append(networks.logits(some.examples.inputs).softmax(2))
    torch.testing.assert_close(usual("sisa").logits.exp(), torch.stack(answers).mean(0), atol=1e-6, rtol=1e-5)


def test_answers_are_logarithms_of_probabilities():
    torch.testing.assert_close(usual("sisa").logits.exp().sum(2), torch.ones(3, 130))


def test_a_forgotten_row_concerns_its_own_shard_alone():
    """One row of the hundred is gone: one network of four is retrained, without it."""
    result = unlearn("sisa", tiny(forget=1))
    assert result.sample_gradients == 4 * 24
    costs = [unlearn("sisa", tiny(forget=1), shards=shards).sample_gradients for shards in (2, 5, 10)]
    assert costs == [4 * 49, 4 * 19, 4 * 9]


def test_it_is_exact():
    """Whatever was in the forgotten rows, the answers are the same."""
    some = tiny()
    inputs, labels = some.examples.inputs.clone(), some.examples.labels.clone()
    inputs[some.forget], labels[some.forget] = 16, 0
    other = replace(some, examples=replace(some.examples, inputs=inputs, labels=labels))
    answers = unlearn("sisa", other).logits
    assert torch.equal(answers[:, 20:], usual("sisa").logits[:, 20:])


def test_sharding_costs_accuracy():
    some = task()
    right = {}
    for name in ("retrain", "sisa"):
        answers = unlearn(name, some, **({"shards": 20} if name == "sisa" else {})).logits
        unseen = slice(some.examples.n_train, None)
        right[name] = float((answers[:, unseen].argmax(2) == some.examples.labels[unseen]).float().mean())
    assert right["sisa"] < right["retrain"] - 0.01


def test_shards_that_cannot_be():
    with pytest.raises(UserError, match="shards=1: expected at least 2"):
        make("sisa", shards=1)
    with pytest.raises(UserError, match="shards=200: a shard would keep no row to train on; expected fewer"):
        unlearn("sisa", tiny(), shards=200)


def test_chunks_of_members_are_what_all_would_be():
    assert set(everything(usual("sisa"))) == {"logits"}
    assert same(usual("sisa"), unlearn("sisa", tiny()))
