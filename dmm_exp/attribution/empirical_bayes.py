"""Every single effect's posterior mean, under priors that the pool itself gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dmm_exp.attribution.adaptive import AdaptiveShrinkage
from dmm_exp.attribution.datamodel import Datamodel
from dmm_exp.attribution.estimator import Evidence, SubsetModels, consecutive
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
PLAIN = ("means", "response", "lengths", "noise", "factors", "edges")  # of what is learnt, plain tensors
BLOCK_VALUES = 1 << 22  # effects in memory at a time


def kinds(trained: Tensor, points: Tensor, classes: int) -> Tensor:
    """Return what a logit is to a training example, ``[examples, points, classes]`` int, from both labels.

    0: the label's logit of a point of the example's class; 1: another logit of such a point; of a point of another
    class, 2: its label's logit; 3: the logit of the example's class; 4: any other.
    """
    logit = torch.arange(classes)
    example, point = trained[:, None, None], points[None, :, None]
    other = torch.where(logit == point, 2, torch.where(logit == example, 3, 4))
    return torch.where(example == point, torch.where(logit == point, 0, 1), other)


class EmpiricalBayes(Datamodel):
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
        UserError: there are no penalties, or a number is not positive; in ``fit``, an example is in all members, or in
            none.
    """

    posterior = True
    extrapolates = True
    tuned_by_group = False
    remembers = True
    whole_matrices = 2

    def __init__(
        self,
        penalties: list[float] | None = None,
        tuning_outputs: int = 200,
        prior_examples: int = 2000,
        prior_points: int = 250,
    ) -> None:
        super().__init__(penalties, tuning_outputs)
        for name, value in (("prior_examples", prior_examples), ("prior_points", prior_points)):
            if value < 1:
                raise UserError(f"attribution.{name}={value}: expected a whole number of at least 1")
        self.prior_examples = prior_examples
        self.prior_points = prior_points
        self._summed = torch.empty(0), torch.empty(0), torch.empty(0)  # rows, points and variances of the last effect

    def fit(self, pool: SubsetModels, groups: Tensor) -> None:
        """Learn priors; groups of outputs do not matter."""
        super().fit(pool, torch.zeros_like(groups))

    def learn(self, evidence: Evidence) -> None:
        """Learn priors, and to extrapolate where there are models trained on larger subsets."""
        super().learn(evidence)
        if evidence.larger is not None and evidence.originals is not None:
            self._extrapolate(evidence.larger, evidence.originals.mean(0))

    def prepare(self) -> None:
        """Weigh members for both kinds of estimates, and learn the priors."""
        super().prepare()
        if self.pool.labels is None:
            raise TypeError("EmpiricalBayes needs labels")
        self.labels = self.pool.labels
        penalty = self.penalty[0]
        self.unbiased = torch.empty(len(self.pool), self.pool.n_train).T  # in the layout of products with masks
        for examples in blocks(self.pool.n_train, points_at_once(self.pool.masks)):
            own = difference_weights(self.pool.masks[:, examples])
            self.unbiased[examples] = self.left_out_weights(own, penalty)
            self.unbiased[examples] += self.example_weights(examples, penalty)
        self.lengths = torch.cat(
            [rows.square().sum(1).sqrt() for rows in self.unbiased.split(points_at_once(self.pool.masks))]
        )
        self.unbiased /= self.lengths[:, None]
        self.response = response_weights(self.pool).div_(self.lengths[:, None])
        everything = torch.arange(len(self.groups))
        self.noise = self.noise_of(0, everything).variance.sqrt().clamp(min=1e-12)
        self._learn_priors()
        self.carried = 1.0
        self.near = self.own = self._own_effects()

    def predict_group(self, directions: Tensor, group: int, where: Tensor) -> Tensor:
        """Return summed posterior means."""
        return self.predict_at(directions, where)

    def predict_at(self, directions: Tensor, points: Tensor) -> Tensor:
        """Return summed posterior means at some points, the only ones that are computed."""
        rows = directions.any(0).nonzero().squeeze(1)
        moved, n_train = directions[:, rows], directions.shape[1]
        parts, variances = [], []
        for part in points.split(self._points_at_once(len(rows))):
            means, spread = self._of_others(rows, part)
            changes = self.carried * torch.einsum("dr,rpc->dpc", moved, means)
            train = part < n_train
            changes[:, train] += directions[:, part[train], None] * self.own[0][part[train]]
            parts.append(changes)
            variances.append(spread.sum(0))
        found = torch.cat(parts, 1)
        self._summed = rows, points, torch.cat(variances)
        if self.own is not self.near:
            for change, direction in zip(found, directions, strict=True):
                gone = (points < n_train) & (direction[points.clamp(max=n_train - 1)] == 1)
                if gone.any():
                    change[gone] += self._not_faded(direction, points[gone])
        return found

    def _not_faded(self, direction: Tensor, points: Tensor) -> Tensor:
        """Return what of the fading of effects ``[points, classes]`` has to be taken back at points that are moved.

        Effects fade as the training set grows because other examples teach the same. Where these are taken away too,
        they do not: on the way from all to none of them, half are there on average, as in the pool. So the share of a
        logit's effects that the direction moves (of the root of their summed squares) is left as it is in the pool.
        """
        changes = torch.empty(len(points), self.noise.shape[1])
        rows, moved = torch.arange(len(direction)), direction != 0
        for part in torch.arange(len(points)).split(self._points_at_once(len(rows))):
            means, at = self._of_others(rows, points[part])[0], points[part]
            squares = means.square()
            share = (squares[moved].sum(0) / squares.sum(0).clamp(min=1e-30)).sqrt()
            faded = (1 - self.carried) * torch.einsum("r,rpc->pc", direction, means)
            changes[part] = share * (faded + direction[at, None] * (self.near[0][at] - self.own[0][at]))
        return changes

    def learnt(self) -> dict[str, Tensor]:
        """Return weights of members, priors, and what carries effects on to the whole training set."""
        kept = {name: getattr(self, name) for name in PLAIN} | {"unbiased": self.unbiased.T}
        kept |= {f"shrinkage/{name}": table for name, table in vars(self.shrinkage).items()}
        own = {"own": self.own} if self.own is self.near else {"own": self.own, "near": self.near}
        for name, (means, variances) in own.items():
            kept |= {f"{name}/means": means, f"{name}/variances": variances}
        numbers = {"carried": self.carried, "penalty": self.penalty[0]}
        return kept | {name: torch.tensor(value, dtype=torch.double) for name, value in numbers.items()}

    def recall(self, evidence: Evidence, learnt: Mapping[str, Tensor]) -> None:
        """Take up weights, priors, and what carries effects on."""
        if evidence.pool is None or evidence.pool.labels is None:
            raise TypeError("EmpiricalBayes needs a pool with labels")
        self.pool, self.labels = evidence.pool, evidence.pool.labels
        self.groups = torch.zeros_like(evidence.groups)
        for name in PLAIN:
            setattr(self, name, learnt[name])
        self.unbiased = learnt["unbiased"].T
        tables = {name.removeprefix("shrinkage/"): learnt[name] for name in learnt if name.startswith("shrinkage/")}
        self.shrinkage = AdaptiveShrinkage(**tables)
        self.near = self.own = learnt["own/means"], learnt["own/variances"]
        if "near/means" in learnt:
            self.near = learnt["near/means"], learnt["near/variances"]
        self.carried, self.penalty = float(learnt["carried"]), {0: float(learnt["penalty"])}

    def standard_error(self, forget: Tensor) -> Tensor:
        """Return the posterior standard deviation of the effect of ``forget``, ``[points, classes]``."""
        everything = torch.arange(len(self.groups))
        rows, points, summed = self._summed
        if not torch.equal(rows, forget) or not torch.equal(points, everything):
            blocks = everything.split(self._points_at_once(len(forget)))
            summed = torch.cat([self._of_others(forget, part)[1].sum(0) for part in blocks])
        variances = self.carried**2 * summed
        variances[forget] += self.own[1][forget]
        return variances.sqrt()

    def facts(self) -> dict[str, Any]:
        """Return λ of the ridge inside, the factors of responses and of size, and the cells' priors."""
        return super().facts() | {
            "factors": self.factors.tolist(),
            "means": self.shrinkage.means.tolist(),
            "carried": self.carried,
            "mixture": self.shrinkage.mixture.tolist(),
        }

    def _of_others(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return posterior means and variances ``[rows, points, classes]``; an example's effect on itself is zero."""
        numbers, expected, cells = self._numbers(rows, points)
        unit = self.lengths[rows, None, None] * self.noise[points]
        unit[rows[:, None] == points] = 0
        means, variances = self.shrinkage.posterior(numbers - expected, cells)
        return unit * (expected + means), unit.square() * variances

    def _numbers(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unbiased estimates, expectations (in standard errors) and cells, each ``[rows, points, classes]``."""
        numbers, responses, kind = self._raw(rows, points)
        expected = responses * self.factors[kind]
        sizes = torch.bucketize(expected.abs(), self.edges)
        return numbers, expected, torch.where(kind < KINDS, kind * BINS + sizes, kind - KINDS + OWN)

    def _raw(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unbiased estimates and responses in standard errors, and kinds, each ``[rows, points, classes]``."""
        chosen = consecutive(rows)
        sums = self.weigh_each([self.unbiased[chosen], self.response[chosen]], points)
        numbers, responses = (values.div_(self.noise[points]) for values in sums)
        kind = kinds(self.labels[rows], self.labels[points], self.noise.shape[1])
        own = (rows[:, None] == points)[:, :, None]
        label = torch.arange(self.noise.shape[1]) == self.labels[rows][:, None, None]
        return numbers, responses, torch.where(own, torch.where(label, KINDS, KINDS + 1), kind)

    def _learn_priors(self) -> None:
        """Learn factors, edges and priors from a sample of effects, and from all sampled examples' own ones."""
        n_train = self.pool.n_train
        rows, points = _evenly(n_train, self.prior_examples), _evenly(len(self.groups), self.prior_points)
        numbers, responses, kind = (values.flatten() for values in self._raw(rows, points))
        others = kind < KINDS
        pairs = zip((numbers, responses, kind), self._own(rows), strict=True)
        numbers, responses, kind = (torch.cat([of_others[others], own.flatten()]) for of_others, own in pairs)
        squares = torch.zeros(KINDS + 2).index_add_(0, kind, responses.square())
        products = torch.zeros(KINDS + 2).index_add_(0, kind, responses * numbers)
        self.factors = products / squares.clamp(min=1e-12)
        expected = responses * self.factors[kind]
        sizes = expected[kind < KINDS].abs()
        self.edges = _quantiles(sizes, BIN_EDGES)
        cells = torch.where(kind < KINDS, kind * BINS + torch.bucketize(expected.abs(), self.edges), kind - KINDS + OWN)
        self.shrinkage = AdaptiveShrinkage.of(numbers - expected, cells, CELLS)

    def _own(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what :meth:`_raw` does, of examples' effects on their own logits, ``[rows, classes]``."""
        parts = []
        for part in self.parts(rows):
            outputs = self.outputs(part)
            weighed = (torch.einsum("rm,mrc->rc", values[part], outputs) for values in (self.unbiased, self.response))
            parts.append([sums / self.noise[part] for sums in weighed])
        numbers, responses = (torch.cat(values) for values in zip(*parts, strict=True))
        label = torch.arange(self.noise.shape[1]) == self.labels[rows][:, None]
        return numbers, responses, torch.where(label, KINDS, KINDS + 1)

    def _extrapolate(self, larger: SubsetModels, originals: Tensor) -> None:
        """Learn what carries effects on to the whole training set.

        Args:
            larger: models trained on larger subsets.
            originals: mean logits of models trained on everything, ``[points, classes]``.
        """
        n_train = larger.n_train
        small, large = (
            1 / float(models.inside.sum().float() / (len(models) * n_train)) for models in (self.pool, larger)
        )
        ahead = (large - 1) / (small - large)
        factor = self._factor(larger)
        self.carried = min(1.0, max(0.0, factor + ahead * (factor - 1)))
        (here, here_error), (there, there_error) = (answers_without(models) for models in (self.pool, larger))
        without = there + ahead * (there - here)
        error = ((1 + ahead) ** 2 * there_error.square() + ahead**2 * here_error.square()).sqrt().clamp(min=1e-12)
        numbers = (originals[:n_train] - without) / error
        known = self.own[0] / error
        label = (torch.arange(originals.shape[1]) == self.labels[:n_train, None]).long()
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
        self.own = error * (expected + means), error.square() * variances

    def _own_effects(self) -> tuple[Tensor, Tensor]:
        """Return posterior means and variances of examples' effects on their own logits, ``[n_train, classes]``."""
        rows = torch.arange(self.pool.n_train)
        numbers, responses, kind = self._own(rows)
        expected, cells = responses * self.factors[kind], kind - KINDS + OWN
        unit = self.lengths[:, None] * self.noise[rows]
        means, variances = self.shrinkage.posterior(numbers - expected, cells)
        return unit * (expected + means), unit.square() * variances

    def _factor(self, models: SubsetModels) -> float:
        """Return what predicted effects of others have to be multiplied by to predict some models best.

        Least squares over models and a sample of points; what points do to themselves is fitted beside it.
        """
        points = _evenly(len(self.groups), self.prior_points)
        masks, inclusion, n_train = models.masks, models.inclusion, models.n_train
        predicted = torch.zeros(len(models), len(points), models.logits.shape[2])
        for rows in torch.arange(n_train).split(self._points_at_once(len(points))):
            changes = masks[:, rows].float() - inclusion[rows]
            predicted += torch.einsum("mr,rpc->mpc", changes, self._of_others(rows, points)[0])
        own = torch.zeros_like(predicted)
        trained = points[points < n_train]
        own[:, points < n_train] = (masks[:, trained].float() - inclusion[trained])[..., None] * self.own[0][trained]
        actual = models.logits[:, points] - models.logits[:, points].mean(0)
        design = torch.stack([predicted.flatten(), own.flatten()])
        moments = design @ design.T + 1e-9 * torch.eye(2)
        return float(torch.linalg.solve(moments, design @ actual.flatten())[0])

    def _points_at_once(self, rows: int) -> int:
        fitting = max(1, BLOCK_VALUES // max(1, rows * self.noise.shape[1]))
        return min(fitting, points_at_once(self.pool.logits))


def response_weights(pool: SubsetModels) -> Tensor:
    """Return weights ``[n_train, members]`` of logits whose sum is the response to each example.

    Raises:
        TypeError: the pool has no labels.
    """
    if pool.labels is None:
        raise TypeError("responses need labels")
    n_train = pool.n_train
    weights = torch.empty(n_train, len(pool))
    for rows in torch.arange(n_train).split(max(1, BLOCK_VALUES // (len(pool) * pool.logits.shape[2]))):
        without = (~pool.masks[:, rows]).float()
        share = without / without.sum(0)
        logits = pool.logits[:, rows]
        probability = torch.einsum("mr,mrc->rc", share, logits.softmax(-1))
        missing = -probability
        missing[torch.arange(len(rows)), pool.labels[rows]] += 1
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
