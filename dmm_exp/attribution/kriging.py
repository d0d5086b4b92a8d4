"""Group kriging: what leaving out a *set* of rows does, learnt from models that were trained without such sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dmm_exp.attribution.covariance import Terms, fitted_amplitudes
from dmm_exp.attribution.empirical_bayes import EmpiricalBayes
from dmm_exp.attribution.estimator import Effect, Estimator, Learned, at_least
from dmm_exp.attribution.evidence import Evidence, SubsetModels
from dmm_exp.attribution.shared_rows import Neighbourhoods, SharedRows
from dmm_exp.attribution.spread import Spread, fitted, margin_errors
from dmm_exp.attribution.sums import HARD, LABEL, OTHER, Sums, slopes
from dmm_exp.ensembles.memory import require_memory
from dmm_exp.errors import UserError
from dmm_exp.files.reading import Json
from dmm_exp.pools import rows_of_classes

SCATTERED = 0.5  # largest share of any class that members leave out from whom slopes are learnt
SAMPLED_POINTS = 300  # that slopes and amplitudes are learnt from
SPREAD_POINTS = 15  # of a cluster, from which it is learnt how much models vary
SPREAD_CLUSTERS = 2  # of each class's clusters every second one: half of them tell as much


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
    operations; ``8·Q·M²`` bytes for factors and ``2·M·P·C`` for residuals are kept.

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
        sums = Sums.of(singles, originals, known.memorization)
        points = torch.arange(0, len(known.labels), max(1, len(known.labels) // SAMPLED_POINTS))
        parts = sums.parts(left_out, points)
        observed = sums.observed(designs, points)
        scattered = torch.stack([left_out[:, rows].mean(1) for rows in known.classes]).amax(0) < SCATTERED
        sums = replace(sums, slopes=slopes(parts[:, scattered], observed[scattered], sums.kinds(points)))
        shared = SharedRows(neighbourhoods, sums.sizes(points), known.memorization, known.classes)
        residuals = observed - sums.combined(parts, points)
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
            8 * classes * self.clusters * members**2 + 6 * members * points * classes,  # factors; residuals, logits
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
        seldom_out = (points >= len(sums.memorization)) | (
            sums.memorization[points.clamp(max=len(sums.memorization) - 1)] < HARD
        )
        found = []
        for kind in (LABEL, OTHER):
            tasks = []
            for label in shared.neighbourhoods.label.unique().tolist():
                of_class = (shared.neighbourhoods.label == label).nonzero().squeeze(1)
                cluster = int(of_class[label % len(of_class)])
                here = seldom_out & (shared.neighbourhoods.cluster[points] == cluster)
                values = residuals[members][:, here][:, sums.kinds(points[here]) == kind]
                if values.shape[1]:
                    single = shared.single(label, kind, sets, sets)
                    terms = torch.stack([*anywhere, *single, *shared.near(cluster, sets, sets)])
                    tasks.append((terms, values[:, :: max(1, values.shape[1] // 64)]))
            found.append(fitted_amplitudes(tasks, self.iterations))
        return torch.stack(found)

    def recall(self, evidence: Evidence, tensors: Mapping[str, Tensor]) -> Kriged:
        """Take up what was learnt.

        What was stored by an earlier version lacks two tensors, which are computed from the pool again.
        """
        assert evidence.designs is not None
        assert evidence.known is not None
        inner = {name.removeprefix("singles/"): value for name, value in tensors.items() if name.startswith("singles/")}
        singles = self.singles.recall(evidence, inner)
        memorization, masks = tensors.get("memorization"), tensors.get("masks")
        memorization = evidence.known().memorization if memorization is None else memorization
        masks = evidence.designs().masks[:, :] if masks is None else masks
        scales = {name: tensors[name] for name in ("mean", "deviation", "margin_deviation", "slopes")}
        sums = Sums(singles, memorization=memorization, **scales)
        neighbourhoods = Neighbourhoods(tensors["cluster"], tensors["label"], tensors["near"])
        classes = rows_of_classes(evidence.subset_models.known_labels[: evidence.n_train])
        shared = SharedRows(neighbourhoods, tensors["sizes"], memorization, classes)
        left_out = (~masks).float()
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
        factors: Cholesky factors of the members' covariance, ``[clusters, kinds, members, members]``.
        residuals: what members leave to explain, in standard deviations, ``[members, points, classes]`` float16.
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
        clusters, members, shape = len(shared.neighbourhoods.label), len(left_out), sums.mean.shape
        factors = torch.empty(clusters, 2, members, members)
        residuals = torch.empty(members, *shape, dtype=torch.float16)
        weighed, known = torch.zeros(shape), torch.zeros(shape)
        examples: list[tuple[Tensor, Tensor, Tensor]] = []
        terms, labels = Terms(shared, amplitudes, left_out, left_out), shared.neighbourhoods.label.tolist()
        for cluster in range(clusters):
            points = (shared.neighbourhoods.cluster == cluster).nonzero().squeeze(1)
            rest = sums.unexplained(designs, left_out, points)
            residuals[:, points] = rest.clamp(-60000, 60000).half()
            goes, kinds = _goes(left_out, points), sums.kinds(points)
            some = torch.arange(0, len(points), max(1, len(points) // SPREAD_POINTS))
            errors, doubt = torch.empty(members, len(some), shape[1]), torch.empty(2, members)
            tells_spread = (cluster - labels.index(labels[cluster])) % SPREAD_CLUSTERS == 0
            for kind, covariance in enumerate(terms.covariances(cluster)):
                covariance.diagonal().add_(amplitudes[kind, -1])
                factors[cluster, kind] = factor = torch.linalg.cholesky(covariance)
                solved = torch.cholesky_solve(goes, factor)
                own = torch.einsum("mp,mpc->pc", solved, rest)
                weighed[points] = torch.where(kinds == kind, own, weighed[points])
                seen = (goes * solved).sum(0)[:, None].expand_as(own)
                known[points] = torch.where(kinds == kind, seen, known[points])
                chosen = kinds[some] == kind
                if tells_spread:
                    found = _left_out(factor, rest[:, some][:, chosen], amplitudes[kind, -1])
                    errors[:, chosen], doubt[kind] = found
            if tells_spread:
                margins = _of_margins(points[some], cluster, errors, doubt[LABEL], sums, spread, left_out, designs)
                examples.append(margins)
        variance = _own_variance(weighed, known, sums)
        spread = replace(spread, coefficients=fitted(*map(torch.cat, zip(*examples, strict=True))))
        shrinkage = variance / (1 + variance * known)
        return cls(sums, shared, left_out, amplitudes, factors, residuals, shrinkage * weighed, shrinkage, spread)

    def effect(self, rows: Tensor) -> Effect:
        """Return the effect of including rows, its posterior standard deviation, and the spread of models without."""
        sums, spread, everywhere = self.sums, torch.empty(len(self.sums.mean)), torch.arange(len(self.sums.mean))
        forget = torch.zeros(1, self.left_out.shape[1])
        forget[0, rows] = 1
        across, alone = (Terms(self.shared, self.amplitudes, forget, other) for other in (self.left_out, forget))
        weights, doubt = torch.empty(self.factors.shape[:3]), []
        explained = torch.empty(2, *sums.mean.shape)
        for cluster, (points, residuals) in enumerate(self._by_cluster):
            spread[points] = self.spread.ratio(cluster, points, forget)[0]
            toward = torch.stack(across.covariances(cluster), 1)[0]
            weights[cluster] = torch.cholesky_solve(toward[..., None], self.factors[cluster])[..., 0]
            prior = torch.stack(alone.covariances(cluster))[:, 0, 0]
            doubt.append((prior - (toward * weights[cluster]).sum(1)).clamp(min=0))
            explained[:, points] = (weights[cluster] @ residuals.float()).view(2, len(points), -1)
        kinds = sums.kinds(everywhere)
        left = self._left(forget[0], weights).gather(1, kinds)
        summed = sums.combined(sums.parts(forget, everywhere), everywhere)[0]
        mean = summed + torch.where(kinds == LABEL, *explained) + left * self.gain
        known = torch.stack(doubt)[self.shared.neighbourhoods.cluster].gather(1, kinds)
        variance = known + left.square() * self.shrinkage
        return Effect(mean * sums.deviation, variance.sqrt() * sums.deviation, spread)

    @cached_property
    def _by_cluster(self) -> list[tuple[Tensor, Tensor]]:
        """Points of every cluster, and what members leave to explain there, ``[members, points · classes]`` float16."""
        points = [(self.shared.neighbourhoods.cluster == cluster).nonzero().squeeze(1) for cluster in self._clusters]
        return [(some, self.residuals.index_select(1, some).flatten(1)) for some in points]

    @property
    def _clusters(self) -> range:
        return range(len(self.shared.neighbourhoods.label))

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


def _left_out(factor: Tensor, residuals: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return errors of predicting every member from the others, and the variance that these predictions have.

    They are ``[members, logits]`` and ``[members]``, in closed form: ``K⁻¹r / diag K⁻¹``, and ``1 / diag K⁻¹`` less the
    noise.
    """
    precision = torch.cholesky_inverse(factor)
    alone = precision.diagonal()
    return precision @ residuals / alone[:, None], (1 / alone - noise).clamp(min=0)


def _of_margins(
    points: Tensor,
    cluster: int,
    errors: Tensor,
    doubt: Tensor,
    sums: Sums,
    spread: Spread,
    left_out: Tensor,
    designs: SubsetModels,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, squared errors of margins and the variance of their prediction, of members at some points.

    Args:
        points: of a cluster.
        cluster: which.
        errors: of predicted logits, in standard deviations of the originals, ``[members, points, classes]``.
        doubt: variance of the label's prediction, in their squares, ``[members]``.
        sums: scales.
        spread: gives features.
        left_out: what members were trained without.
        designs: the members.
    """
    labels, deviation = sums.labels[points], sums.deviation[points]
    errors = margin_errors(errors * deviation, designs.logits[:, points].float(), labels)
    scale = sums.margin_deviation[points]
    known = doubt[:, None] * (deviation.gather(1, labels[:, None])[:, 0] / scale).square()
    return (
        spread.features(cluster, points, left_out).flatten(0, 1),
        (errors / scale).square().flatten(),
        known.flatten(),
    )


def _goes(sets: Tensor, points: Tensor) -> Tensor:
    """Return whether sets leave out the points themselves, ``[sets, points]`` float32."""
    n_train = sets.shape[1]
    return sets.index_select(1, points.clamp(max=n_train - 1)) * (points < n_train)


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
