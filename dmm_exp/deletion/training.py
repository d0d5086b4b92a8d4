"""``train``: a network by a recipe, as pools and retrained networks are."""

from __future__ import annotations

import torch
from torch import nn

from dmm_exp.config.registered import registered
from dmm_exp.deletion.given import given
from dmm_exp.deletion.recipes import Recipe, composed, training_of
from dmm_exp.deletion.rows import Data
from dmm_exp.ensembles import AllBut, member_seed
from dmm_exp.ensembles.by_function import by_function, train_by_function
from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.stacking import stacking_of
from dmm_exp.ensembles.when_made import EnsembleTraining
from dmm_exp.ensembles.work import recipe as made_of
from dmm_exp.ensembles.work import trainer_factory


def train(model: nn.Module, data: Data, recipe: Recipe = "sgd_one_cycle", *, seed: int = 0) -> nn.Module:
    """Return a copy of a network, trained by a recipe from where it is; the network itself is not changed.

    Args:
        model: a ``nn.Module`` from inputs to logits.
        data: as in :func:`dmm_exp.unlearn`.
        recipe: as in :func:`dmm_exp.prepare`.
        seed: of the order of examples.

    Raises:
        UserError: something does not fit.

    >>> import torch
    >>> from dmm_exp import train
    >>> x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    >>> net = train(torch.nn.Linear(3, 2), (x, (x[:, 0] > 0).long()), {"epochs": 20})
    >>> bool((net(x).argmax(1) == (x[:, 0] > 0)).float().mean() > 0.9)
    True
    """
    known = given(model, data)
    training, ensemble, members = training_of(recipe, known), known.ensemble, range(1)
    rows = AllBut(known.examples.n_train, ()).indices(members)
    if by_function(training):
        seeds = [member_seed(seed, "original", 0, "order")]
        ensemble = train_by_function(registered(training["function"]), ensemble, rows, seeds)
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        stacking_of(lambda: known.ensemble.member(0), known.examples, device).check()
        module = EnsembleTraining(subsets=rows, **made_of(training))
        module.attach(ensemble, known.examples, seed=seed, role="original", members=members)
        module.fit(trainer_factory({**composed([]).trainer, "engine": vars(Engine().settled())}))
    return known.restore(ensemble.member(0))
