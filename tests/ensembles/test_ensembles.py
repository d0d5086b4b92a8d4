"""An ensemble is its members: stacked, trained together, sliced, saved, they answer as they would alone."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from trainers import TRAINER

from dmm_exp.data import Digits, Normalisation
from dmm_exp.ensembles import AllBut, Ensemble, EnsembleTraining, RandomSubsets, member_seed
from dmm_exp.ensembles.schedules import OneCycle
from dmm_exp.ensembles.seeds import seed_torch
from dmm_exp.ensembles.work import model_factory, trainer_factory
from dmm_exp.errors import UserError


class BatchNormNet(nn.Module):
    """A small network with running statistics."""

    def __init__(self, input_shape, n_classes):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Linear(12, n_classes)

    def forward(self, inputs):
        return self.last(self.norm(self.first(inputs.flatten(1))).relu())


class DropoutNet(nn.Module):
    """A small network that draws random numbers while training."""

    def __init__(self, input_shape, n_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.3), nn.Linear(12, n_classes))

    def forward(self, inputs):
        return self.layers(inputs)


@pytest.fixture(scope="module")
def digits():
    return Digits(Normalisation(16, [0.305], [0.376])).load()


def builder(name, digits):
    target = {"mlp": "dmm_exp.models.MLP", "cnn": "dmm_exp.models.CNN"}.get(name, f"{__name__}.{name}")
    extra = {"mlp": {"hidden": [16]}, "cnn": {"channels": [4]}}.get(name, {})
    return model_factory({"_target_": target, **extra}, digits)


def initialised(name, digits, members, role="original"):
    seeds = [member_seed(0, role, index, "initialisation") for index in members]
    return Ensemble.initialise(builder(name, digits), seeds)


def train(name, digits, members, *, epochs=2, role="original", optimizer=None):
    ensemble = initialised(name, digits, members, role)
    subsets = RandomSubsets(digits.n_train, 0.2, 0, complementary=False).indices(members)
    optimizer = optimizer or partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    module = EnsembleTraining(subsets=subsets, epochs=epochs, batch_size=32, optimizer=optimizer, schedule=OneCycle())
    module.attach(ensemble, digits, seed=0, role=role, members=members)
    module.fit(trainer_factory(TRAINER))
    return ensemble, module


ALL = ["mlp", "cnn", "BatchNormNet"]


@pytest.mark.parametrize("name", ALL)
def test_ensemble_answers_as_its_members_do(name, digits):
    ensemble, _ = train(name, digits, range(3), epochs=1)
    inputs = digits.inputs[:50]
    together = ensemble.logits(inputs)
    for index in range(3):
        with torch.no_grad():
            alone = ensemble.member(index)(inputs)
        torch.testing.assert_close(together[index], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_training_together_equals_training_one_after_another(name, digits):
    """The slow, obvious way: a plain loop over the same batches, one ordinary model at a time."""
    members, epochs = range(3), 2
    ensemble, module = train(name, digits, members, epochs=epochs)
    starts = initialised(name, digits, members)
    steps = -(-module.subsets.shape[1] // 32)
    for row in members:
        model = starts.member(row).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for epoch in range(epochs):
            for step, batch in enumerate(module.batches(epoch)):
                optimizer.param_groups[0]["lr"] = 0.1 * OneCycle()(epoch + step / steps, epochs)
                optimizer.zero_grad()
                functional.cross_entropy(model(digits.inputs[batch[row]]), digits.labels[batch[row]]).backward()
                optimizer.step()
        trained = ensemble.member(row)
        for (key, expected), (_, found) in zip(model.named_parameters(), trained.named_parameters(), strict=True):
            torch.testing.assert_close(
                found, expected, atol=2e-4, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}"
            )
        for expected, found in zip(model.buffers(), trained.buffers(), strict=True):
            torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_a_member_does_not_depend_on_the_chunk_it_is_trained_in(name, digits):
    whole = train(name, digits, range(4))[0].logits(digits.inputs[:100])
    chunks = [train(name, digits, members)[0].logits(digits.inputs[:100]) for members in (range(1), range(1, 4))]
    torch.testing.assert_close(torch.cat(chunks), whole, atol=2e-3, rtol=1e-3)


def test_what_ran_before_changes_nothing(digits):
    first = train("mlp", digits, range(2))[0].logits(digits.inputs[:20])
    torch.manual_seed(99)
    torch.rand(7)
    assert torch.equal(train("mlp", digits, range(2))[0].logits(digits.inputs[:20]), first)


def test_training_leaves_the_global_generator_alone(digits):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train("mlp", digits, range(2), epochs=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("accelerator", [False, True])
def test_seeding_is_that_of_torch(monkeypatch, accelerator):
    seeded, seed = [], torch.manual_seed
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    monkeypatch.setattr(torch, "manual_seed", lambda number: seeded.append(number) or seed(number))
    with torch.random.fork_rng(devices=[]):
        seed_torch(2**63 - 1)
        found = torch.rand(3)
        seed(2**63 - 1)
        assert torch.equal(found, torch.rand(3))
    assert seeded == [2**63 - 1] * accelerator  # it seeds what else there is


def test_members_and_roles_differ(digits):
    original, oracle = (
        initialised("mlp", digits, range(2), role).logits(digits.inputs[:5]) for role in ("original", "oracle")
    )
    assert not torch.allclose(original[0], original[1])
    assert not torch.allclose(original[0], oracle[0])


def test_every_epoch_shows_every_point_of_a_subset_once_in_another_order(digits):
    _, module = train("mlp", digits, range(2), epochs=1)
    first, second = (torch.cat(list(module.batches(epoch)), dim=1) for epoch in (0, 1))
    assert torch.equal(first.sort().values, module.subsets)
    assert torch.equal(second.sort().values, module.subsets)
    assert not torch.equal(first, second)
    assert module.sample_gradients == module.subsets.shape[1]


def test_dropout_is_refused_for_members_trained_together_and_works_alone(digits):
    with pytest.raises(UserError, match="chunk_size"):
        train("DropoutNet", digits, range(2))
    once, again = (train("DropoutNet", digits, range(1))[0].logits(digits.inputs[:9]) for _ in range(2))
    assert torch.equal(once, again)


def test_an_optimizer_that_would_mix_members_is_refused(digits):
    with pytest.raises(UserError, match="LBFGS mixes members"):
        train("mlp", digits, range(2), optimizer=partial(torch.optim.LBFGS, lr=1.0))


def test_a_broken_optimizer_setting_is_refused_at_once():
    with pytest.raises(UserError, match="Invalid learning rate"):
        EnsembleTraining(
            subsets=torch.zeros(1, 1), epochs=1, batch_size=1, optimizer=partial(torch.optim.SGD, lr=-1), schedule=None
        )


def test_slices_are_copies(digits):
    ensemble = initialised("mlp", digits, range(3))
    part = ensemble[1:]
    with torch.no_grad():
        next(part.parameters()).zero_()
    assert len(part) == 2
    assert next(ensemble.parameters()).abs().sum() > 0


@pytest.mark.parametrize("name", ALL)
def test_saved_and_loaded_it_is_the_same(name, digits, tmp_path):
    ensemble, _ = train(name, digits, range(2), epochs=1)
    ensemble.save(tmp_path / "ensemble.safetensors")
    loaded = Ensemble.load(tmp_path / "ensemble.safetensors", builder(name, digits))
    assert torch.equal(loaded.logits(digits.inputs[:50]), ensemble.logits(digits.inputs[:50]))


def test_features_are_what_the_last_layer_sees(digits):
    ensemble = initialised("mlp", digits, range(2))
    features = ensemble.features(digits.inputs[:7])
    assert features.shape == (2, 7, 16)
    params = ensemble.params
    expected = features @ params["network.head.weight"].transpose(1, 2) + params["network.head.bias"][:, None]
    torch.testing.assert_close(ensemble.logits(digits.inputs[:7]), expected)


def test_an_empty_ensemble_is_refused():
    with pytest.raises(UserError, match="at least one member"):
        Ensemble.stack([])


def test_the_default_recipe_is_in_the_papers_regime(digits):
    """Above 96 % on validation points, training points fitted, margins that vary between seeds."""
    from dmm_exp.metrics import accuracy, margins

    members = range(6)
    network = {"_target_": "dmm_exp.models.MLP", "hidden": [96, 96]}
    seeds = [member_seed(0, "original", index, "initialisation") for index in members]
    ensemble = Ensemble.initialise(model_factory(network, digits), seeds)
    module = EnsembleTraining(
        subsets=AllBut(digits.n_train, torch.empty(0, dtype=torch.long)).indices(members),
        epochs=8, batch_size=64, optimizer=partial(torch.optim.SGD, lr=0.2, momentum=0.9), schedule=OneCycle(),
    )  # fmt: skip
    module.attach(ensemble, digits, seed=0, role="original", members=members)
    module.fit(trainer_factory(TRAINER))
    logits = ensemble.logits(digits.inputs)
    right = accuracy(logits, digits.labels)
    assert right[:, digits.n_train :].mean() >= 0.96
    assert right[:, : digits.n_train].mean() >= 0.99
    assert 1.5 < margins(logits, digits.labels).std(0, ddof=1).mean() < 4.5
    assert module.history()[-1] < 0.1 * module.history()[0]
