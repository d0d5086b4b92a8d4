"""Group kriging: what leaving out a *set* of rows does, learnt from models that were trained without such sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.linalg import solve_triangular

from dmm_exp.attribution.cluster_fits import ClusterFits, factor_of, in_threads
from dmm_exp.attribution.covariance import Terms, fitted_amplitudes
from dmm_exp.attribution.empirical_bayes import EmpiricalBayes
from dmm_exp.attribution.estimator import Effect, Estimator, Learned, at_least
from dmm_exp.attribution.evidence import Evidence, SubsetModels
from dmm_exp.attribution.shared_rows import Neighbourhoods, SharedRows
from dmm_exp.attribution.spread import Spread
from dmm_exp.attribution.sums import LABEL, OTHER, Sums, slopes
from dmm_exp.ensembles.memory import require_memory, return_free_memory
from dmm_exp.errors import UserError
from dmm_exp.files.reading import Json
from dmm_exp.pools import rows_of_classes

SCATTERED = 0.5  # largest share of any class that members leave out from whom slopes are learnt
SAMPLED_POINTS = 300  # that slopes and amplitudes are learnt from


class GroupKriging(Estimator):
    """A Gaussian process over sets of rows, on top of sums of single effects.

    What leaving out a set D does to a logit, in standard deviations of that logit over the originals, is

    ``y(D) = Σ_{j ∈ D} s w_j + r(D)``,

    with the effects w_j of single rows, which models on random halves tell (:class:`EmpiricalBayes`), slopes s that say
    how far these hold at the size of the whole training set, and what groups do beyond, ``r ~ GP(0, K)`` (kriging:
    Matheron, Economic Geology 1963). K is a sum of terms in what two sets have in common (:class:`SharedRows`). It is
    observed, with noise, on the members of the pool that were trained by design (:mod:`dmm_exp.pools`); its amplitudes
    maximise their likelihood. Then

    ``effect(F) = Σ_F s w + k(F)ᵀ (K + σ² I)⁻¹ (y − Σ s w)``,

    and the posterior variance says how unlike F is to anything in the pool. The error of a point's effect on itself is
    a further term of rank one, ``b [x ∈ D]``.

    Cost for M members by design, Q clusters, n rows, P points and C classes: ``Q·(2M³/3 + terms·M²) + M²·P·C``
    operations; ``4·Q·M²`` bytes for factors and ``2·M·P·C`` for residuals are kept.

    Args:
        clusters: of points in each class; points of one share their covariance.
        alike: in which senses rows are near a cluster, see :class:`Known`.
        iterations: steps of Adam towards the amplitudes.
        sample: members whose likelihood amplitudes are fitted to.
        prior_examples: see :class:`EmpiricalBayes`.
        prior_points: see :class:`EmpiricalBayes`.
        oracles: see :class:`Estimator`.
        spread: see :class:`Estimator`.

    Raises:
        UserError: a number is too small, or there is no such sense of likeness.
    """

    posterior = True
    uses_designs = True
    tuned_by_group = False
    remembers = True

    def __init__(
        self,
        clusters: int = 4,
        alike: Sequence[str] = ("answers", "inputs"),
        iterations: int = 40,
        sample: int = 500,
        prior_examples: int = 2000,
        prior_points: int = 250,
        oracles: int | None = None,
        spread: bool = False,
    ) -> None:
        self.spread = spread
        self.oracles = at_least("oracles", oracles or 0, 0)
        self.clusters, self.alike = at_least("clusters", clusters, 1), tuple(alike)
        self.iterations, self.sample = at_least("iterations", iterations, 1), at_least("sample", sample, 10)
        self.singles = EmpiricalBayes(prior_examples=prior_examples, prior_points=prior_points)

    @property
    def at_size_of_pool(self) -> EmpiricalBayes:
        """The estimator of single effects: models by design tell of the size of the whole training set."""
        return self.singles

    def learn(self, evidence: Evidence) -> Kriged:
        """Learn single effects, slopes, amplitudes, and what members by design leave to explain.

        Raises:
            UserError: no members were trained by design, or the factors need more memory than there is; see
                :class:`EmpiricalBayes` for others.
        """
        designs = None if evidence.designs is None else evidence.designs()
        known = None if evidence.known is None else evidence.known()
        originals = evidence.originals
        if designs is None or originals is None or known is None or len(designs) < 2:
            raise UserError(
                "pool.designs: GroupKriging expects at least two members that are trained by design; choose "
                "pool=groups, or attribution=empirical_bayes"
            )
        self.check_memory(len(designs), *originals.shape[1:])
        left_out = (~designs.masks[:, :]).float()
        neighbourhoods = Neighbourhoods.of(known, self.clusters, self.alike)
        singles = self.singles.learn(replace(evidence, larger=None))
        return_free_memory()
        sums = Sums.of(singles, originals, known.memorization)
        points = torch.arange(0, len(known.labels), max(1, len(known.labels) // SAMPLED_POINTS))
        sums, residuals = _with_slopes(sums, designs, left_out, known.classes, points)
        shared = SharedRows(neighbourhoods, sums.sizes(points), known.memorization, known.classes)
        amplitudes = self._amplitudes(shared, left_out, points, residuals, sums)
        spread = Spread.of(shared, evidence.subset_models, len(known.labels))
        return Kriged.of(sums, shared, amplitudes, spread, designs, left_out)

    def check_memory(self, members: int, points: int, classes: int) -> None:
        """Check that what is learnt from members by design fits into memory.

        Args:
            members: that are trained by design.
            points: of the data.
            classes: of the data.

        Raises:
            UserError: it does not.
        """
        require_memory(
            4 * classes * self.clusters * members**2 + 6 * members * points * classes,  # factors; residuals, logits
            f"pool.designs: {type(self).__name__} of {members:,} members by design, {points:,} points and {classes} "
            "classes",
            "fewer members by design, attribution.clusters=1, or attribution=empirical_bayes",
        )

    def _amplitudes(
        self, shared: SharedRows, left_out: Tensor, points: Tensor, residuals: Tensor, sums: Sums
    ) -> Tensor:
        """Return amplitudes of all terms and, last, of noise, ``[kinds, terms + 1]``, by maximum likelihood."""
        generator = torch.Generator().manual_seed(0)
        members = torch.randperm(len(left_out), generator=generator)[: self.sample].sort().values
        sets = left_out[members]
        anywhere = list(shared.anywhere(sets, sets))
        seldom_out = ~sums.hard(points)

        def of_kind(kind: int) -> Tensor:
            tasks = []
            for label in shared.neighbourhoods.labels:
                of_class = shared.neighbourhoods.of_class(label)
                cluster = of_class[label % len(of_class)]
                here = seldom_out & (shared.neighbourhoods.cluster[points] == cluster)
                values = residuals[members][:, here][:, sums.kinds(points[here]) == kind]
                if values.shape[1]:
                    single = shared.single(label, kind, sets, sets)
                    terms = torch.stack([*anywhere, *single, *shared.near(cluster, sets, sets)])
                    tasks.append((terms, values[:, :: max(1, values.shape[1] // 64)]))
            return fitted_amplitudes(tasks, self.iterations)

        return torch.stack(in_threads(of_kind, (LABEL, OTHER)))

    def recall(self, evidence: Evidence, tensors: Mapping[str, Tensor]) -> Kriged:
        """Take up what was learnt; of the models by design nothing is read."""
        inner = {name.removeprefix("singles/"): value for name, value in tensors.items() if name.startswith("singles/")}
        singles, memorization = self.singles.recall(evidence, inner), tensors["memorization"]
        scales = {name: tensors[name] for name in ("mean", "deviation", "margin_deviation", "slopes")}
        sums = Sums(singles, memorization=memorization, **scales)
        neighbourhoods = Neighbourhoods(tensors["cluster"], tensors["label"], tensors["near"])
        classes = rows_of_classes(evidence.subset_models.known_labels[: evidence.n_train])
        shared = SharedRows(neighbourhoods, tensors["sizes"], memorization, classes)
        left_out = (~tensors["masks"]).float()
        kept = {name: tensors[name] for name in ("amplitudes", "factors", "residuals", "gain", "shrinkage")}
        spread = Spread(shared, tensors["spread/unseen"], tensors["spread/coefficients"])
        return Kriged(sums, shared, left_out, **kept, spread=spread)


@dataclass(frozen=True)
class Kriged(Learned):
    """What group kriging has learnt.

    Attributes:
        sums: of single effects.
        shared: terms of the covariance.
        left_out: what the members by design were trained without, ``[members, n_train]``, 1 where a row is left out.
        amplitudes: of terms and, last, of noise, ``[kinds, terms + 1]``.
        factors: Cholesky factors of the members' covariance, ``[clusters, members + 1, members]``: two triangles each,
            see :func:`factor_of`.
        residuals: what members leave to explain, in standard deviations, ``[members, points, classes]`` float16, with
            points in the order of clusters.
        gain: mean error of points' effects on themselves, beyond their sums, ``[points, classes]``.
        shrinkage: posterior variance of that error, ``[points, classes]``.
        spread: of retrained models' logits.
    """

    sums: Sums
    shared: SharedRows
    left_out: Tensor
    amplitudes: Tensor
    factors: Tensor
    residuals: Tensor
    gain: Tensor
    shrinkage: Tensor
    spread: Spread

    @classmethod
    def of(
        cls,
        sums: Sums,
        shared: SharedRows,
        amplitudes: Tensor,
        spread: Spread,
        designs: SubsetModels,
        left_out: Tensor,
    ) -> Kriged:
        """Factor covariances, find the errors of points' effects on themselves, and learn how much models vary."""
        fits = ClusterFits.of(sums, shared, amplitudes, spread, designs, left_out)
        spread = spread.learnt(*fits.learn())
        variance = _own_variance(fits.weighed, fits.known, sums)
        shrinkage = variance / (1 + variance * fits.known)
        gain = shrinkage * fits.weighed
        return cls(sums, shared, left_out, amplitudes, fits.factors, fits.residuals, gain, shrinkage, spread)

    def effect(self, rows: Tensor) -> Effect:
        """Return the effect of including rows, its posterior standard deviation, and the spread of models without."""
        sums, near, points = self.sums, self.shared.neighbourhoods, torch.arange(len(self.sums.mean))
        forget, spread = torch.zeros(1, self.left_out.shape[1]), torch.empty(len(points))
        forget[0, rows] = 1
        of_members_and_itself = torch.cat([self.left_out, forget])
        both = Terms(self.shared, self.amplitudes, forget, of_members_and_itself)
        weights, explained = torch.empty(len(near.label), 2, len(self.left_out)), torch.empty(2, *sums.mean.shape)
        doubt = torch.empty(len(near.label), 2)
        for label in near.labels:
            for cluster, covariances in both.of_class(label):
                here, residuals = near.points(cluster), self.residuals[:, near.span(cluster)].flatten(1).float()
                spread[here] = self.spread.ratio(cluster, here, forget)[0]
                for kind, (covariance,) in enumerate(covariances):
                    toward, prior = covariance[:-1], covariance[-1]
                    factor = factor_of(self.factors[cluster], kind)
                    white = solve_triangular(factor, toward[:, None], upper=False)  # cholesky_solve copies the factor
                    weights[cluster, kind] = solve_triangular(factor.mT, white, upper=True)[:, 0]
                    doubt[cluster, kind] = (prior - white.square().sum()).clamp(min=0)
                explained[:, here] = (weights[cluster] @ residuals).view(2, len(here), -1)
        kinds = sums.kinds(points)
        left = self._left(forget[0], weights).gather(1, kinds)
        mean = sums.combined(forget, points)[0] + torch.where(kinds == LABEL, *explained) + left * self.gain
        variance = doubt[near.cluster].gather(1, kinds) + left.square() * self.shrinkage
        return Effect(mean * sums.deviation, variance.sqrt() * sums.deviation, spread)

    def _left(self, forget: Tensor, weights: Tensor) -> Tensor:
        """Return what goes of each point itself beyond what members' weights account for, ``[points, kinds]``.

        Args:
            forget: ``[n_train]``, 1 where a row goes.
            weights: of members, ``[clusters, kinds, members]``.
        """
        left, n_train = torch.zeros(len(self.sums.mean), 2), len(forget)
        known = (weights.flatten(0, 1) @ self.left_out).view(*weights.shape[:2], n_train)
        of_rows = self.shared.neighbourhoods.cluster[:n_train]
        left[:n_train] = forget[:, None] - known[of_rows, :, torch.arange(n_train)]
        return left

    def predict(self, directions: Tensor) -> Tensor:
        """Return summed single effects at the size of the pool's subsets, ``[directions, points, classes]``."""
        return self.sums.singles.predict(directions)

    def predict_at(self, directions: Tensor, points: Tensor) -> Tensor:
        """Return summed single effects at some points."""
        return self.sums.singles.predict_at(directions, points)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that was learnt; what members by design were trained without stands with them."""
        near = self.shared.neighbourhoods
        kept = {name: getattr(self, name) for name in ("amplitudes", "factors", "residuals", "gain", "shrinkage")}
        kept |= {f"spread/{name}": getattr(self.spread, name) for name in ("unseen", "coefficients")}
        kept |= {name: getattr(self.sums, name) for name in ("mean", "deviation", "margin_deviation", "slopes")}
        kept |= {"cluster": near.cluster, "label": near.label, "near": near.near, "sizes": self.shared.sizes}
        kept |= {"memorization": self.sums.memorization, "masks": self.left_out == 0}
        return kept | {f"singles/{name}": value for name, value in self.sums.singles.tensors().items()}

    def facts(self) -> Json:
        """Return slopes, amplitudes, and what the single effects chose."""
        chosen = {"slopes": self.sums.slopes.tolist(), "amplitudes": self.amplitudes.tolist()}
        chosen |= {"spread": self.spread.coefficients.tolist()}
        return chosen | {"singles": self.sums.singles.facts()}


def _with_slopes(
    sums: Sums, designs: SubsetModels, left_out: Tensor, classes: Sequence[Tensor], points: Tensor
) -> tuple[Sums, Tensor]:
    """Return sums with slopes, and what these leave to explain at some points, ``[members, points, classes]``.

    Slopes are learnt from members that miss scattered rows, no large part of a class.

    Args:
        sums: without slopes.
        designs: the members.
        left_out: what they were trained without, ``[members, n_train]``.
        classes: training rows of every class.
        points: where.
    """
    parts, observed, kinds = sums.parts(left_out, points), sums.observed(designs, points), sums.kinds(points)
    scattered = torch.stack([left_out[:, rows].mean(1) for rows in classes]).amax(0) < SCATTERED
    sums = replace(sums, slopes=slopes(parts[:, scattered], observed[scattered], kinds))
    return sums, observed - torch.einsum("kspc,pck->spc", parts, sums.slopes[kinds])


def _own_variance(weighed: Tensor, known: Tensor, sums: Sums) -> Tensor:
    """Return the prior variance of the error of points' effects on themselves, ``[points, classes]``.

    It is ``a + b own²``, with a and b of each kind of logit that are most likely among a few; 0 for points that are no
    training rows.

    Args:
        weighed: Σ o K⁻¹ residuals, ``[points, classes]``.
        known: o K⁻¹ o, the precision of what members tell of it.
        sums: of single effects.
    """
    n_train, variance = len(sums.memorization), torch.zeros_like(weighed)
    rows, kinds = torch.arange(n_train), sums.kinds(torch.arange(n_train))
    squares = (sums.singles.near[0] / sums.deviation[rows]).square()
    for kind in (LABEL, OTHER):
        chosen = (kinds == kind) & (known[:n_train] > 1e-3)
        if not chosen.any():
            continue
        precision, size = known[:n_train][chosen], squares[chosen]
        raw = weighed[:n_train][chosen] / precision
        best = (-torch.inf, 0.0, 0.0)
        for constant in (0.0, 0.03, 0.1, 0.3, 1.0, 3.0):
            for factor in (0.0, 0.01, 0.03, 0.1, 0.2, 0.4):
                total = 1 / precision + constant + factor * size
                likelihood = float(-(total.log() + (raw.square() / total).clamp(max=32)).sum())
                best = max(best, (likelihood, constant, factor))
        variance[:n_train] = torch.where(kinds == kind, best[1] + best[2] * squares, variance[:n_train])
    return variance
