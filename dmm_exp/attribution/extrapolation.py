"""From effects at the size of the pool's subsets to effects at the size of the whole training set."""

from __future__ import annotations

import torch
from torch import Tensor

from dmm_exp.attribution.adaptive import AdaptiveShrinkage
from dmm_exp.attribution.evidence import SubsetModels
from dmm_exp.attribution.priors import BLOCK_VALUES, Priors, quantiles

OWN_EDGES = (0.5, 0.8, 0.95)  # quantiles of the expected size that divide own effects into cells
OWN_BINS = len(OWN_EDGES) + 1


def steps_ahead(pool: SubsetModels, larger: SubsetModels) -> float:
    """Return t: the distance from larger subsets to the whole training set, in steps from the pool's size to theirs."""
    sizes = (float(models.inside.sum().float() / (len(models) * models.n_train)) for models in (pool, larger))
    small, large = (1 / size for size in sizes)
    return (large - 1) / (small - large)


def own_on_everything(
    known: Tensor, ahead: float, pool: SubsetModels, larger: SubsetModels, originals: Tensor
) -> tuple[Tensor, Tensor]:
    """Return means and variances ``[n_train, classes]`` of own effects at the size of the whole training set.

    Args:
        known: their estimates from the pool, ``[n_train, classes]``.
        ahead: t.
        pool: models on smaller subsets.
        larger: models on larger ones.
        originals: mean logits of models trained on everything, ``[points, classes]``.
    """
    n_train = larger.n_train
    (small, small_error), (large, large_error) = (answers_without(models) for models in (pool, larger))
    without = large + ahead * (large - small)
    error = ((1 + ahead) ** 2 * large_error.square() + ahead**2 * small_error.square()).sqrt().clamp(min=1e-12)
    numbers, known = (originals[:n_train] - without) / error, known / error
    label = (torch.arange(originals.shape[1]) == pool.known_labels[:n_train, None]).long()
    factors = torch.stack(
        [
            (numbers * known)[label == kind].sum() / known[label == kind].square().sum().clamp(min=1e-12)
            for kind in (0, 1)
        ]
    )
    expected = factors[label] * known
    cells = label * OWN_BINS + torch.bucketize(expected.abs(), quantiles(expected.abs().flatten(), OWN_EDGES))
    shrinkage = AdaptiveShrinkage.of((numbers - expected).flatten(), cells.flatten(), 2 * OWN_BINS)
    means, variances = shrinkage.posterior(numbers - expected, cells)
    return error * (expected + means), error.square() * variances


def factor_of_others(priors: Priors, own_effects: Tensor, models: SubsetModels, points: Tensor) -> float:
    """Return the factor with which predicted effects of others predict some models best.

    Least squares over models and a sample of points, fitted together with the effects of points on themselves.
    """
    masks, inclusion, n_train = models.masks, models.inclusion, models.n_train
    predicted = torch.zeros(len(models), len(points), models.logits.shape[2])
    for rows in priors.parts(torch.arange(n_train), len(points)):
        changes = masks[:, rows].float() - inclusion[rows]
        predicted += torch.einsum("mr,rpc->mpc", changes, priors.means(rows, points))
    own = torch.zeros_like(predicted)
    trained = points[points < n_train]
    own[:, points < n_train] = (masks[:, trained].float() - inclusion[trained])[..., None] * own_effects[trained]
    actual = models.logits[:, points] - models.logits[:, points].mean(0)
    design = torch.stack([predicted.flatten(), own.flatten()])
    moments = design @ design.T + 1e-9 * torch.eye(2)
    return float(torch.linalg.solve(moments, design @ actual.flatten())[0])


def answers_without(models: SubsetModels) -> tuple[Tensor, Tensor]:
    """Return mean logits on training examples of models that were not trained on them, and their standard errors.

    Both are ``[n_train, classes]``, mean logits over the models without each example.
    """
    n_train = models.n_train
    parts = []
    for rows in torch.arange(n_train).split(max(1, BLOCK_VALUES // (len(models) * models.logits.shape[2]))):
        without = (~models.masks[:, rows]).float()
        share, logits = without / without.sum(0), models.logits[:, rows]
        mean = torch.einsum("mr,mrc->rc", share, logits)
        variance = torch.einsum("mr,mrc->rc", share, (logits - mean).square())
        parts.append((mean, (variance / (without.sum(0)[:, None] - 1).clamp(min=1)).sqrt()))
    means, errors = zip(*parts, strict=True)
    return torch.cat(means), torch.cat(errors)
