"""Every single effect's posterior mean, under priors that the pool itself gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmm_exp.attribution.adaptive import AdaptiveShrinkage
from dmm_exp.attribution.datamodel import Datamodel, Ridge, check_memory
from dmm_exp.attribution.estimator import Effect, Estimator, Learned
from dmm_exp.attribution.evidence import CentredLogits, Evidence, SubsetModels, consecutive
from dmm_exp.attribution.feldman_zhang import difference_weights
from dmm_exp.errors import UserError
from dmm_exp.store import blocks, points_at_once

KINDS = 5  # of logits of another point, see ``kinds``
BIN_EDGES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)  # quantiles of the expected size that divide a kind into cells
BINS = len(BIN_EDGES) + 1
OWN = KINDS * BINS  # the cell of an example's effect on its own logit of its label; the next: on its other logits
CELLS = OWN + 2
OWN_EDGES = (0.5, 0.8, 0.95)  # the same of own effects at the whole training set's size
OWN_BINS = len(OWN_EDGES) + 1
BLOCK_VALUES = 1 << 22  # effects in memory at a time


class EmpiricalBayes(Estimator):
    """The sum of posterior means of single effects, each example's on each logit.

    What is known about the effect w of including example i on a logit f of point x is combined by its estimated risk:

    * the *unbiased estimate*: ridge plus the difference of means of its leave-one-out residuals, with its standard
      error (see :class:`Debiased`);
    * the *response*, an expectation: ``Cov(f, f_i · ε_i)`` over models not trained on i, where f_i are the logits of i
      and ε_i its label less their mean probabilities. Models without i that happen to answer i better differ from the
      rest in the same way as models that learn it: this is the mean's first step in an ensemble Kalman filter
      (Evensen, J. Geophys. Res. 1994), for the gradient of the cross-entropy at i;
    * what *other effects of the kind* are like. Kinds are told apart by labels (of the example, the point and the
      logit), by whether the point is the example itself, and by the size of the response;
    * the *size of the training set*. Subset models are trained on a share α₁ of it, where an example matters more. With
      models trained on a larger share α₂ both parts of the effect are carried on to the whole set, taken to be linear
      in 1/α, as learning curves are: with t = (1/α₂ − 1)/(1/α₁ − 1/α₂), a quantity is q(α₂) + t·(q(α₂) − q(α₁)) there.
      For effects on other points the quantity is a factor, by which they have to be multiplied to predict the larger
      models best. For an example's effect on its own logits, it is what models that have not seen it answer; the
      effect is the originals' answer less that, shrunk towards what the pool says of it. A forget point's effects are
      carried on only as far as what acts on it stays: the share that is forgotten with it is left as it is in the pool.

    Each kind has a factor for the response, fitted by least squares to unbiased estimates, and a prior for what then
    remains (:class:`AdaptiveShrinkage`). A posterior mean has the smallest expected squared error: where the pool tells
    nothing about an effect it is close to zero, where it tells much the effect is hardly shrunk.

    Nothing depends on the forget set until a direction is asked for; only the rows of examples that it moves are
    computed. Memory beside ridge's: ``8 M n_train`` bytes, the weights of both kinds of estimates.

    Args:
        penalties: see :class:`Datamodel`; of the ridge inside.
        tuning_outputs: see :class:`Datamodel`.
        prior_examples: number of training examples whose effects priors are learnt from, drawn evenly.
        prior_points: number of points at which they are, drawn evenly.

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
    ) -> None:
        self.ridge = Datamodel(penalties, tuning_outputs)
        for name, value in (("prior_examples", prior_examples), ("prior_points", prior_points)):
            if value < 1:
                raise UserError(f"attribution.{name}={value}: expected a whole number of at least 1")
        self.prior_examples = prior_examples
        self.prior_points = prior_points

    def learn(self, evidence: Evidence) -> PosteriorMeans:
        """Learn priors, and to extrapolate where there are models trained on larger subsets.

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
        ahead = _steps_ahead(pool, evidence.larger)
        factor = _factor(priors, near[0], evidence.larger, points)
        carried = min(1.0, max(0.0, factor + ahead * (factor - 1)))
        own = _own_on_everything(near[0], ahead, pool, evidence.larger, evidence.originals.mean(0))
        return PosteriorMeans(priors, penalty, near, own, carried)

    def recall(self, evidence: Evidence, tensors: Mapping[str, Tensor]) -> PosteriorMeans:
        """Take up weights, priors, and what carries effects on."""
        logits = CentredLogits(evidence.subset_models, tensors["means"])
        plain = (tensors[name] for name in ("response", "lengths", "noise"))
        estimates = Estimates(logits, tensors["unbiased"].T, *plain)
        tables = {name.removeprefix("shrinkage/"): tensors[name] for name in tensors if name.startswith("shrinkage/")}
        priors = Priors(estimates, tensors["factors"], tensors["edges"], AdaptiveShrinkage(**tables))
        own = tensors["own/means"], tensors["own/variances"]
        near = (tensors["near/means"], tensors["near/variances"]) if "near/means" in tensors else own
        return PosteriorMeans(priors, float(tensors["penalty"]), near, own, float(tensors["carried"]))


@dataclass(frozen=True)
class Estimates:
    """Both kinds of estimates of every single effect, as weighted sums of the pool's logits.

    Attributes:
        logits: of the pool.
        unbiased: weights of the unbiased estimate, of length 1, ``[n_train, members]`` in the layout of the transpose.
        response: weights of the response, divided by the same lengths, ``[n_train, members]``.
        lengths: what they were divided by, ``[n_train]``.
        noise: standard deviation of the noise of outputs, ``[points, classes]``.
    """

    logits: CentredLogits
    unbiased: Tensor
    response: Tensor
    lengths: Tensor
    noise: Tensor

    @classmethod
    def of(cls, ridge: Ridge, penalty: float) -> Estimates:
        """Weigh the members of a pool."""
        pool = ridge.pool
        unbiased = torch.empty(len(pool), pool.n_train).T  # in the layout of products with masks
        for examples in blocks(pool.n_train, points_at_once(pool.masks)):
            own = difference_weights(pool.masks[:, examples])
            unbiased[examples] = ridge.left_out_weights(own, penalty)
            unbiased[examples] += ridge.example_weights(examples, penalty)
        lengths = torch.cat([rows.square().sum(1).sqrt() for rows in unbiased.split(points_at_once(pool.masks))])
        unbiased /= lengths[:, None]
        response = response_weights(pool).div_(lengths[:, None])
        noise = ridge.noise(torch.arange(len(ridge.logits.means)), penalty).variance.sqrt().clamp(min=1e-12)
        return cls(ridge.logits, unbiased, response, lengths, noise)

    @property
    def labels(self) -> Tensor:
        """The points' labels."""
        return self.logits.pool.known_labels

    def at(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unbiased estimates and responses in standard errors, and kinds, each ``[rows, points, classes]``."""
        chosen = consecutive(rows)
        sums = self.logits.weigh_each([self.unbiased[chosen], self.response[chosen]], points)
        numbers, responses = (values.div_(self.noise[points]) for values in sums)
        kind = kinds(self.labels[rows], self.labels[points], self.noise.shape[1])
        own = (rows[:, None] == points)[:, :, None]
        return numbers, responses, torch.where(own, self._own_kinds(rows)[:, None], kind)

    def own(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what :meth:`at` does, of examples' effects on their own logits, ``[rows, classes]``."""
        parts = []
        for part in self.logits.parts(rows):
            outputs = self.logits.at(part)
            weighed = (torch.einsum("rm,mrc->rc", values[part], outputs) for values in (self.unbiased, self.response))
            parts.append([sums / self.noise[part] for sums in weighed])
        numbers, responses = (torch.cat(values) for values in zip(*parts, strict=True))
        return numbers, responses, self._own_kinds(rows)

    def _own_kinds(self, rows: Tensor) -> Tensor:
        """Return the kinds of examples' effects on their own logits, ``[rows, classes]``."""
        return torch.where(torch.arange(self.noise.shape[1]) == self.labels[rows, None], KINDS, KINDS + 1)


@dataclass(frozen=True)
class Priors:
    """What effects of every kind are like, and what single ones are, then.

    Attributes:
        estimates: of single effects.
        factors: of responses, by kind, ``[kinds]``.
        edges: sizes of expected effects that divide a kind into cells.
        shrinkage: of every cell.
    """

    estimates: Estimates
    factors: Tensor
    edges: Tensor
    shrinkage: AdaptiveShrinkage

    @classmethod
    def of(cls, estimates: Estimates, rows: Tensor, points: Tensor) -> Priors:
        """Learn from a sample of effects, and from all sampled examples' own ones."""
        numbers, responses, kind = (values.flatten() for values in estimates.at(rows, points))
        others = kind < KINDS
        pairs = zip((numbers, responses, kind), estimates.own(rows), strict=True)
        numbers, responses, kind = (torch.cat([of_others[others], own.flatten()]) for of_others, own in pairs)
        squares = torch.zeros(KINDS + 2).index_add_(0, kind, responses.square())
        products = torch.zeros(KINDS + 2).index_add_(0, kind, responses * numbers)
        factors = products / squares.clamp(min=1e-12)
        expected = responses * factors[kind]
        edges = _quantiles(expected[kind < KINDS].abs(), BIN_EDGES)
        shrinkage = AdaptiveShrinkage.of(numbers - expected, _cells(kind, expected, edges), CELLS)
        return cls(estimates, factors, edges, shrinkage)

    def effects(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return posterior means and variances ``[rows, points, classes]``; an example's effect on itself is zero."""
        unit = self.estimates.lengths[rows, None, None] * self.estimates.noise[points]
        unit[rows[:, None] == points] = 0
        return self._posterior(unit, *self.estimates.at(rows, points))

    def own_effects(self) -> tuple[Tensor, Tensor]:
        """Return posterior means and variances of examples' effects on their own logits, ``[n_train, classes]``."""
        rows = torch.arange(len(self.estimates.lengths))
        unit = self.estimates.lengths[:, None] * self.estimates.noise[rows]
        return self._posterior(unit, *self.estimates.own(rows))

    def _posterior(self, unit: Tensor, numbers: Tensor, responses: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        """Return posterior means and variances, of numbers in standard errors and of the ``unit`` that these are."""
        expected = responses * self.factors[kind]
        means, variances = self.shrinkage.posterior(numbers - expected, _cells(kind, expected, self.edges))
        return unit * (expected + means), unit.square() * variances

    def parts(self, points: Tensor, rows: int) -> Iterator[Tensor]:
        """Cut points into as many as effects of so many rows can be computed at together."""
        fitting = max(1, BLOCK_VALUES // max(1, rows * self.estimates.noise.shape[1]))
        yield from points.split(min(fitting, points_at_once(self.estimates.logits.pool.logits)))


@dataclass(frozen=True)
class PosteriorMeans(Learned):
    """Posterior means and variances of single effects, and what carries them on to the whole training set.

    Attributes:
        priors: of effects at the size of the pool's subsets.
        penalty: λ of the ridge that estimates come from.
        near: means and variances of examples' effects on their own logits, at that size, each ``[n_train, classes]``.
        own: the same at the size of the whole training set; the very same where nothing is carried on.
        carried: what effects on other points are multiplied by, at that size.
    """

    priors: Priors
    penalty: float
    near: tuple[Tensor, Tensor]
    own: tuple[Tensor, Tensor]
    carried: float = 1.0

    def effect(self, rows: Tensor) -> Effect:
        """Return the sum of posterior means, and its posterior standard deviation."""
        everything, direction = torch.arange(len(self.priors.estimates.noise)), torch.zeros(1, len(self.own[0]))
        direction[0, rows] = 1
        mean, variances = self._summed(direction, everything)
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
        """Return weights of members, priors, and what carries effects on to the whole training set."""
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

    def facts(self) -> dict[str, Any]:
        """Return λ of the ridge inside, the factors of responses and of size, and the cells' priors."""
        return {
            "penalty": {"0": self.penalty},
            "factors": self.priors.factors.tolist(),
            "means": self.priors.shrinkage.means.tolist(),
            "carried": self.carried,
            "mixture": self.priors.shrinkage.mixture.tolist(),
        }

    def _summed(self, directions: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return summed posterior means ``[directions, len(points), classes]``, and variances ``[len(points), classes]``.

        The variances are those of the effects on others, at the pool's size, summed over all examples that any
        direction moves.
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
        """Return what of the fading of effects ``[points, classes]`` has to be taken back at points that are moved.

        Effects fade as the training set grows because other examples teach the same. Where these are taken away too,
        they do not: on the way from all to none of them, half are there on average, as in the pool. So the share of a
        logit's effects that the direction moves (of the root of their summed squares) is left as it is in the pool.
        """
        changes, rows, moved = [], torch.arange(len(direction)), direction != 0
        for at in self.priors.parts(points, len(rows)):
            means = self.priors.effects(rows, at)[0]
            squares = means.square()
            share = (squares[moved].sum(0) / squares.sum(0).clamp(min=1e-30)).sqrt()
            faded = (1 - self.carried) * torch.einsum("r,rpc->pc", direction, means)
            changes.append(share * (faded + direction[at, None] * (self.near[0][at] - self.own[0][at])))
        return torch.cat(changes)


def _steps_ahead(pool: SubsetModels, larger: SubsetModels) -> float:
    """Return t: how far the whole training set is beyond larger subsets, in steps from the pool's size to theirs."""
    sizes = (float(models.inside.sum().float() / (len(models) * models.n_train)) for models in (pool, larger))
    small, large = (1 / size for size in sizes)
    return (large - 1) / (small - large)


def _own_on_everything(
    known: Tensor, ahead: float, pool: SubsetModels, larger: SubsetModels, originals: Tensor
) -> tuple[Tensor, Tensor]:
    """Return means and variances ``[n_train, classes]`` of own effects at the size of the whole training set.

    Args:
        known: what the pool says of them, ``[n_train, classes]``.
        ahead: t.
        pool: models on smaller subsets.
        larger: models on larger ones.
        originals: mean logits of models trained on everything, ``[points, classes]``.
    """
    n_train = larger.n_train
    (here, here_error), (there, there_error) = (answers_without(models) for models in (pool, larger))
    without = there + ahead * (there - here)
    error = ((1 + ahead) ** 2 * there_error.square() + ahead**2 * here_error.square()).sqrt().clamp(min=1e-12)
    numbers, known = (originals[:n_train] - without) / error, known / error
    label = (torch.arange(originals.shape[1]) == pool.known_labels[:n_train, None]).long()
    factors = torch.stack(
        [
            (numbers * known)[label == kind].sum() / known[label == kind].square().sum().clamp(min=1e-12)
            for kind in (0, 1)
        ]
    )
    expected = factors[label] * known
    cells = label * OWN_BINS + torch.bucketize(expected.abs(), _quantiles(expected.abs().flatten(), OWN_EDGES))
    shrinkage = AdaptiveShrinkage.of((numbers - expected).flatten(), cells.flatten(), 2 * OWN_BINS)
    means, variances = shrinkage.posterior(numbers - expected, cells)
    return error * (expected + means), error.square() * variances


def _factor(priors: Priors, own_effects: Tensor, models: SubsetModels, points: Tensor) -> float:
    """Return what predicted effects of others have to be multiplied by to predict some models best.

    Least squares over models and a sample of points; what points do to themselves is fitted beside it.
    """
    masks, inclusion, n_train = models.masks, models.inclusion, models.n_train
    predicted = torch.zeros(len(models), len(points), models.logits.shape[2])
    for rows in priors.parts(torch.arange(n_train), len(points)):
        changes = masks[:, rows].float() - inclusion[rows]
        predicted += torch.einsum("mr,rpc->mpc", changes, priors.effects(rows, points)[0])
    own = torch.zeros_like(predicted)
    trained = points[points < n_train]
    own[:, points < n_train] = (masks[:, trained].float() - inclusion[trained])[..., None] * own_effects[trained]
    actual = models.logits[:, points] - models.logits[:, points].mean(0)
    design = torch.stack([predicted.flatten(), own.flatten()])
    moments = design @ design.T + 1e-9 * torch.eye(2)
    return float(torch.linalg.solve(moments, design @ actual.flatten())[0])


def _cells(kind: Tensor, expected: Tensor, edges: Tensor) -> Tensor:
    """Return the cells of effects, from their kinds and from what is expected of them, in standard errors."""
    sizes = torch.bucketize(expected.abs(), edges)
    return torch.where(kind < KINDS, kind * BINS + sizes, kind - KINDS + OWN)


def kinds(trained: Tensor, points: Tensor, classes: int) -> Tensor:
    """Return what a logit is to a training example, ``[examples, points, classes]`` int, from both labels.

    0: the label's logit of a point of the example's class; 1: another logit of such a point; of a point of another
    class, 2: its label's logit; 3: the logit of the example's class; 4: any other.
    """
    logit = torch.arange(classes)
    example, point = trained[:, None, None], points[None, :, None]
    other = torch.where(logit == point, 2, torch.where(logit == example, 3, 4))
    return torch.where(example == point, torch.where(logit == point, 0, 1), other)


def response_weights(pool: SubsetModels) -> Tensor:
    """Return weights ``[n_train, members]`` of logits whose sum is the response to each example.

    Raises:
        TypeError: the pool has no labels.
    """
    n_train, labels = pool.n_train, pool.known_labels
    weights = torch.empty(n_train, len(pool))
    for rows in torch.arange(n_train).split(max(1, BLOCK_VALUES // (len(pool) * pool.logits.shape[2]))):
        without = (~pool.masks[:, rows]).float()
        share = without / without.sum(0)
        logits = pool.logits[:, rows]
        probability = torch.einsum("mr,mrc->rc", share, logits.softmax(-1))
        missing = -probability
        missing[torch.arange(len(rows)), labels[rows]] += 1
        along = torch.einsum("mrc,rc->mr", logits, missing)
        weights[rows] = ((along - (along * share).sum(0)) * share).T
    return weights


def answers_without(models: SubsetModels) -> tuple[Tensor, Tensor]:
    """Return what models answer on training examples that they have not seen, and its standard error.

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


def _quantiles(values: Tensor, levels: Sequence[float]) -> Tensor:
    """Return quantiles of a sample of values, as many as ``torch.quantile`` takes."""
    return torch.quantile(values[:: max(1, len(values) // 200_000)], torch.tensor(levels))


def _evenly(length: int, wanted: int) -> Tensor:
    """Return at most ``wanted`` of ``length`` indices, evenly spaced."""
    return torch.arange(0, length, max(1, -(-length // wanted)))
