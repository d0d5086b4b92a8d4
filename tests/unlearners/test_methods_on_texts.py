"""Every method on texts: it unlearns, or says in one sentence that it cannot."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from tiny_tasks import METHODS, everything, forgetting, make, movement

from dmm_exp.data import Examples, Normalisation, Words
from dmm_exp.errors import UserError
from dmm_exp.unlearners import UnlearningTask
from dmm_exp.unlearners.probes import Perturbed

NETWORKS = {
    "embedding_bag": {"_target_": "dmm_exp.models.EmbeddingBag", "width": 8},
    "transformer": {"_target_": "dmm_exp.models.Transformer", "width": 8},
}
MOVES_INPUTS = ["amun", "boundary_shrink", "unsir"]
ON_IMAGES = ["ct"]
STILL = ["dm_direct", "do_nothing", "sisa"]  # no models of theirs, or the originals


@lru_cache
def texts() -> Examples:
    """Return a hundred training texts and thirty others of six words, whose class is their most frequent kind."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(2, 62, (130, 6), dtype=torch.int32, generator=generator)
    inputs[::3, 4:] = 0
    kinds = torch.stack([(inputs % 3 == kind).sum(1) for kind in range(3)], 1)
    return Examples(
        inputs=inputs,
        labels=kinds.argmax(1),
        n_train=100,
        class_names=list("abc"),
        normalisation=Normalisation(1.0, [0.0], [1.0]),
        corrupted=torch.zeros(130, dtype=torch.bool),
        words=Words(62, learnt=False),
    )


@lru_cache
def task(network: str) -> UnlearningTask:
    return forgetting(texts(), range(10), members=3, network=NETWORKS[network])


def test_methods_that_move_inputs_say_so():
    assert [name for name in METHODS if make(name).moves_inputs] == MOVES_INPUTS
    assert Perturbed(size=0.1, draws=1).moves_inputs


@pytest.mark.parametrize("name", MOVES_INPUTS)
def test_a_method_that_moves_inputs_is_refused(name):
    with pytest.raises(UserError, match=r"unlearner: \w+ moves inputs by small amounts, and inputs .* are words"):
        make(name).check_inputs(texts(), "unlearner")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", [name for name in METHODS if name not in (*MOVES_INPUTS, *ON_IMAGES)])
def test_every_other_method_unlearns_texts(name, network):
    some = task(network)
    method = make(name)
    method.check_inputs(some.examples, "unlearner")
    before = {key: value.clone() for key, value in some.originals.tensors().items()}
    result = method.unlearn(some)
    assert result.logits.shape == (3, 130, 3)
    assert all(torch.isfinite(value).all() for value in everything(result).values())
    assert all(torch.equal(value, before[key]) for key, value in some.originals.tensors().items())
    if name not in STILL:
        assert (movement(result, some) > 0).all()
