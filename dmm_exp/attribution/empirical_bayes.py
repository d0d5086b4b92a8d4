"""Posterior means of single effects, under priors that are estimated from the pool itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmm_exp.attribution.adaptive import AdaptiveShrinkage
from dmm_exp.attribution.datamodel import Datamodel, check_memory
from dmm_exp.attribution.estimator import Effect, Estimator, Learned, at_least, towards
from dmm_exp.attribution.evidence import CentredLogits, Evidence
from dmm_exp.attribution.extrapolation import factor_of_others, own_on_everything, steps_ahead
from dmm_exp.attribution.priors import Estimates, Priors
from dmm_exp.files.reading import Json


class EmpiricalBayes(Estimator):
    """The sum of posterior means of single effects, each example's on each logit.

    The information about the effect w of including example i on a logit f of point x is combined by its estimated risk:

    * the *unbiased estimate*: ridge plus the difference of means of its leave-one-out residuals, with its standard
      error (see :class:`Debiased`);
    * the *response*, an expectation: ``Cov(f, f_i · ε_i)`` over models not trained on i, where f_i are the logits of i
      and ε_i its label less their mean probabilities. Models without i that happen to answer i better differ from the
      rest in the same way as models that learn it: this is the mean's first step in an ensemble Kalman filter
      (Evensen, J. Geophys. Res. 1994), for the gradient of the cross-entropy at i;
    * the distribution of *other effects of the kind*. The kind depends on labels (of the example, the point and the
      logit), on whether the point is the example itself, and on the size of the response;
    * the *size of the training set*. Subset models are trained on a share α₁ of it, where an example matters more. With
      models trained on a larger share α₂ both parts of the effect are carried on to the whole set, taken to be linear
      in 1/α, as learning curves are: with t = (1/α₂ − 1)/(1/α₁ − 1/α₂), a quantity is q(α₂) + t·(q(α₂) − q(α₁)) there.
      For effects on other points the quantity is a factor, by which they have to be multiplied to predict the larger
      models best. For an example's effect on its own logits, it is what models that have not seen it answer; the
      effect is the originals' answer less that, shrunk towards what the pool says of it. A forget point's effects are
      carried on only as far as what acts on it stays: the share that is forgotten with it is left as it is in the pool.

    Each kind has a factor for the response, fitted by least squares to unbiased estimates, and a prior for what then
    remains (:class:`AdaptiveShrinkage`). A posterior mean has the smallest expected squared error: where the pool tells
    nothing about an effect it is close to zero, and where it tells much the effect is hardly shrunk.

    Nothing depends on the forget set until a direction is given; only the rows of examples that it moves are computed.
    Memory besides that of ridge: ``8 M n_train`` bytes, the weights of both kinds of estimates.

    Args:
        penalties: see :class:`Datamodel`; of the ridge inside.
        tuning_outputs: see :class:`Datamodel`.
        prior_examples: number of evenly spaced training examples from whose effects priors are learned.
        prior_points: number of evenly spaced points for these effects.
        oracles: see :class:`Estimator`.

    Raises:
        UserError: there are no penalties, or a number is not positive.
    """

    posterior = True
    extrapolates = True
    tuned_by_group = False
    remembers = True

    def __init__(
        self,
        penalties: list[float] | None = None,
        tuning_outputs: int = 200,
        prior_examples: int = 2000,
        prior_points: int = 250,
        oracles: int | None = None,
    ) -> None:
        self.oracles = at_least("oracles", oracles or 0, 0)
        self.ridge = Datamodel(penalties, tuning_outputs)
        self.prior_examples = at_least("prior_examples", prior_examples, 1)
        self.prior_points = at_least("prior_points", prior_points, 1)

    def learn(self, evidence: Evidence) -> PosteriorMeans:
        """Learn priors, and how to extrapolate if there are models trained on larger subsets.

        Raises:
            UserError: the pool needs more memory than there is, or an example is in all members, or in none.
        """
        pool = evidence.subset_models
        check_memory(pool, type(self).__name__, whole_matrices=2)
        fitted = self.ridge.learn(replace(evidence, groups=torch.zeros_like(evidence.groups)))
        estimates, penalty = Estimates.of(fitted.ridge, fitted.penalty[0]), fitted.penalty[0]
        points = _evenly(len(estimates.noise), self.prior_points)
        priors = Priors.of(estimates, _evenly(pool.n_train, self.prior_examples), points)
        near = priors.own_effects()
        if evidence.larger is None or evidence.originals is None:
            return PosteriorMeans(priors, penalty, near, near)
        ahead = steps_ahead(pool, evidence.larger)
        factor = factor_of_others(priors, near[0], evidence.larger, points)
        carried = min(1.0, max(0.0, factor + ahead * (factor - 1)))
        own = own_on_everything(near[0], ahead, pool, evidence.larger, evidence.originals.mean(0))
        return PosteriorMeans(priors, penalty, near, own, carried)

    def recall(self, evidence: Evidence, tensors: Mapping[str, Tensor]) -> PosteriorMeans:
        """Restore weights, priors and extrapolation from stored tensors."""
        logits = CentredLogits(evidence.subset_models, tensors["means"])
        plain = (tensors[name] for name in ("response", "lengths", "noise"))
        estimates = Estimates(logits, tensors["unbiased"].T, *plain)
        tables = {name.removeprefix("shrinkage/"): tensors[name] for name in tensors if name.startswith("shrinkage/")}
        priors = Priors(estimates, tensors["factors"], tensors["edges"], AdaptiveShrinkage(**tables))
        own = tensors["own/means"], tensors["own/variances"]
        near = (tensors["near/means"], tensors["near/variances"]) if "near/means" in tensors else own
        return PosteriorMeans(priors, float(tensors["penalty"]), near, own, float(tensors["carried"]))


@dataclass(frozen=True)
class PosteriorMeans(Learned):
    """Posterior means and variances of single effects, and their extrapolation to the whole training set.

    Attributes:
        priors: of effects at the size of the pool's subsets.
        penalty: λ of the ridge that estimates come from.
        near: means and variances of examples' effects on their own logits, at that size, each ``[n_train, classes]``.
        own: the same at the size of the whole training set; the same objects if nothing is extrapolated.
        carried: factor of effects on other points at that size.
    """

    priors: Priors
    penalty: float
    near: tuple[Tensor, Tensor]
    own: tuple[Tensor, Tensor]
    carried: float = 1.0

    def effect(self, rows: Tensor) -> Effect:
        """Return the sum of posterior means, and its posterior standard deviation."""
        everything = torch.arange(len(self.priors.estimates.noise))
        mean, variances = self._summed(towards(rows, len(self.own[0])), everything)
        variances = self.carried**2 * variances
        variances[rows] += self.own[1][rows]
        return Effect(mean[0], variances.sqrt())

    def predict(self, directions: Tensor) -> Tensor:
        """Return summed posterior means, ``[directions, points, classes]``."""
        return self.predict_at(directions, torch.arange(len(self.priors.estimates.noise)))

    def predict_at(self, directions: Tensor, points: Tensor) -> Tensor:
        """Return summed posterior means at some points, the only ones that are computed."""
        return self._summed(directions, points)[0]

    def tensors(self) -> dict[str, Tensor]:
        """Return weights of members, priors, and the extrapolation to the whole training set."""
        priors, estimates = self.priors, self.priors.estimates
        kept = {"means": estimates.logits.means, "unbiased": estimates.unbiased.T}
        kept |= {name: getattr(estimates, name) for name in ("response", "lengths", "noise")}
        kept |= {"factors": priors.factors, "edges": priors.edges}
        kept |= {f"shrinkage/{name}": table for name, table in vars(priors.shrinkage).items()}
        own = {"own": self.own} if self.own is self.near else {"own": self.own, "near": self.near}
        for name, (means, variances) in own.items():
            kept |= {f"{name}/means": means, f"{name}/variances": variances}
        numbers = {"carried": self.carried, "penalty": self.penalty}
        return kept | {name: torch.tensor(value, dtype=torch.double) for name, value in numbers.items()}

    def facts(self) -> Json:
        """Return λ of the ridge inside, the factors of responses and of size, and the cells' priors."""
        return {
            "penalty": {"0": self.penalty},
            "factors": self.priors.factors.tolist(),
            "means": self.priors.shrinkage.means.tolist(),
            "carried": self.carried,
            "mixture": self.priors.shrinkage.mixture.tolist(),
        }

    def _summed(self, directions: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return summed posterior means ``[directions, len(points), classes]``, and variances.

        These, ``[len(points), classes]``, are of the effects on others, at the pool's size, summed over all examples
        that any direction moves.
        """
        rows = directions.any(0).nonzero().squeeze(1)
        moved, n_train = directions[:, rows], directions.shape[1]
        parts, variances = [], []
        for part in self.priors.parts(points, len(rows)):
            means, spread = self.priors.effects(rows, part)
            changes = self.carried * torch.einsum("dr,rpc->dpc", moved, means)
            train = part < n_train
            changes[:, train] += directions[:, part[train], None] * self.own[0][part[train]]
            parts.append(changes)
            variances.append(spread.sum(0))
        found = torch.cat(parts, 1)
        if self.own is not self.near:
            for change, direction in zip(found, directions, strict=True):
                gone = (points < n_train) & (direction[points.clamp(max=n_train - 1)] == 1)
                if gone.any():
                    change[gone] += self._not_faded(direction, points[gone])
        return found, torch.cat(variances)

    def _not_faded(self, direction: Tensor, points: Tensor) -> Tensor:
        """Return the part of the fading of effects ``[points, classes]`` to restore at points that are moved.

        Effects fade as the training set grows because other examples carry the same information. If these examples are
        removed, too, effects do not fade: on average half of them are present, as in the pool. So the share of a
        logit's effects that the direction moves (of the root of their summed squares) is left as it is in the pool.
        """
        changes, rows, moved = [], torch.arange(len(direction)), direction != 0
        for at in self.priors.parts(points, len(rows)):
            means = self.priors.means(rows, at)
            squares = means.square()
            share = (squares[moved].sum(0) / squares.sum(0).clamp(min=1e-30)).sqrt()
            faded = (1 - self.carried) * torch.einsum("r,rpc->pc", direction, means)
            changes.append(share * (faded + direction[at, None] * (self.near[0][at] - self.own[0][at])))
        return torch.cat(changes)


def _evenly(length: int, wanted: int) -> Tensor:
    """Return at most ``wanted`` of ``length`` indices, evenly spaced."""
    return torch.arange(0, length, max(1, -(-length // wanted)))
