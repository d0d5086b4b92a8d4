"""Networks for texts: what fills a text up plays no part, and members together are members alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from trainers import TRAINER

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import check_targets
from dmm_exp.data import Examples, Normalisation, Words
from dmm_exp.ensembles import AllBut, Ensemble, EnsembleTraining
from dmm_exp.ensembles.stacking import stacking_of
from dmm_exp.ensembles.work import model_factory, trainer_factory
from dmm_exp.errors import UserError
from dmm_exp.models import EmbeddingBag, Transformer

NETWORKS = {
    "embedding_bag": {"_target_": "dmm_exp.models.EmbeddingBag", "width": 6, "hidden": [5]},
    "mean": {"_target_": "dmm_exp.models.EmbeddingBag", "width": 6, "pooling": "mean"},
    "transformer": {"_target_": "dmm_exp.models.Transformer", "width": 8, "depth": 2, "heads": 2},
}


def some_texts(words: Words | None = None) -> Examples:
    """Return texts of one to six of 50 words, filled up to eight, in three classes by their first word."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(2, 52, (60, 8), dtype=torch.int32, generator=generator)
    inputs[torch.arange(8) >= torch.randint(1, 7, (60, 1), generator=generator)] = 0
    return Examples(
        inputs=inputs,
        labels=inputs[:, 0].long() % 3,
        n_train=48,
        class_names=list("abc"),
        normalisation=Normalisation(1.0, [0.0], [1.0]),
        corrupted=torch.zeros(60, dtype=torch.bool),
        words=words or Words(52, learnt=False),
    )


def made(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    network = model_factory(NETWORKS[name], some_texts())()
    with torch.no_grad():
        for value in network.parameters():  # as far from zero as after training
            value += 0.3 * torch.randn(value.shape)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_what_fills_a_text_up_does_not_change_the_answer(name):
    network, inputs = made(name), some_texts().inputs
    longest = int((inputs != 0).sum(1).max())
    assert longest < inputs.shape[1]
    with torch.no_grad():
        before = network(inputs)
        torch.testing.assert_close(network(inputs[:, :longest]), before, atol=1e-5, rtol=1e-5)
        network.network.embedding.weight[0] = 1e3
        assert torch.equal(network(inputs), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_text_is_answered_alike_alone_and_beside_longer_ones(name):
    network, inputs = made(name), some_texts().inputs
    with torch.no_grad():
        whole = network(inputs)
        for row in range(5):
            words = int((inputs[row] != 0).sum())
            torch.testing.assert_close(network(inputs[row : row + 1, :words])[0], whole[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_blank_row_has_a_finite_answer_and_gradient(name):
    """Rows that were purged hold zeros."""
    network, inputs = made(name), torch.zeros(2, 8, dtype=torch.int32)
    network(inputs).square().sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in network.parameters() if value.grad is not None)


def test_the_mean_over_words_is_that_of_the_words_there_are():
    network = made("transformer").network
    inputs = torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0]], dtype=torch.int32)
    with torch.no_grad():
        tokens = network.embedding(inputs[:, :3].long()) + network.positions(torch.arange(3))
        for block in network.blocks:
            tokens = block(tokens)
        torch.testing.assert_close(network.features(inputs), network.norm(tokens).mean(1))


@pytest.mark.parametrize(("name", "matters"), [("embedding_bag", False), ("mean", False), ("transformer", True)])
def test_the_order_of_words_matters_to_the_transformer_alone(name, matters):
    network, inputs = made(name), torch.tensor([[5, 6, 7, 8, 0, 0, 0, 0]], dtype=torch.int32)
    turned = inputs[:, [3, 2, 1, 0, 4, 5, 6, 7]]
    with torch.no_grad():
        assert torch.allclose(network(inputs), network(turned), atol=1e-5) != matters


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_for_words_can_be_stacked(name):
    examples = some_texts()
    found = stacking_of(model_factory(NETWORKS[name], examples), examples, torch.device("cpu"))
    assert (found.reason, found.failure) == (None, None)


def trained(name: str, members: range) -> Ensemble:
    examples = some_texts()
    ensemble = Ensemble.initialise(model_factory(NETWORKS[name], examples), members)
    training = EnsembleTraining(
        subsets=AllBut(48, ()).indices(members),
        epochs=3,
        batch_size=16,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        schedule=None,
    )
    training.attach(ensemble, examples, seed=0, role="original", members=members)
    training.fit(trainer_factory(TRAINER))
    return ensemble.cpu()


@pytest.mark.parametrize("name", NETWORKS)
def test_members_trained_together_are_those_trained_alone(name):
    together = trained(name, range(3)).tensors()
    fresh = Ensemble.initialise(model_factory(NETWORKS[name], some_texts()), range(3)).tensors()
    for member in range(3):
        for key, value in trained(name, range(member, member + 1)).tensors().items():
            torch.testing.assert_close(value[0], together[key][member], atol=1e-5, rtol=1e-4)
    assert all(not torch.equal(value, fresh[key]) for key, value in together.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_seed_gives_the_same_members(name):
    first, second = (trained(name, range(2)).tensors() for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("name", ["embedding_bag", "transformer"])
def test_a_preset_is_complete_without_the_number_of_words(name):
    import yaml

    with open(f"{config_directory()}/model/{name}.yaml", encoding="utf-8") as file:
        check_targets({"model": yaml.safe_load(file)})


def test_a_network_for_numbers_is_refused_for_words_and_the_reverse():
    numbers = {"_target_": "dmm_exp.models.MLP", "hidden": []}
    with pytest.raises(UserError, match=r"models.MLP takes numbers, and inputs .* are words; .*model=embedding_bag"):
        model_factory(numbers, some_texts())
    images = Examples(
        torch.zeros(4, 1, 8, 8), torch.zeros(4).long(), 3, ["a", "b"], Normalisation(1, [0.0], [1.0]), torch.zeros(4)
    )
    with pytest.raises(UserError, match=r"EmbeddingBag takes words, and inputs .* numbers \[1, 8, 8\]"):
        model_factory(NETWORKS["embedding_bag"], images)


@pytest.mark.parametrize(
    ("network", "settings", "said"),
    [
        (EmbeddingBag, {"width": 0}, "width=0"),
        (EmbeddingBag, {"hidden": [0]}, "hidden"),
        (EmbeddingBag, {"pooling": "max"}, "pooling=max: expected sum or mean"),
        (Transformer, {"depth": 0}, "depth=0"),
        (Transformer, {"width": 9, "heads": 2}, "a multiple of model.network.heads=2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(network, settings, said):
    with pytest.raises(UserError, match=said):
        network((8,), 3, words=52, **settings)
