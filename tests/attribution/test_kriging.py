"""Group kriging: it predicts what groups do that single effects do not tell, and knows what it does not know."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from dmm_exp.attribution import Effect, EmpiricalBayes, Evidence, GroupKriging, SubsetModels, cluster_fits
from dmm_exp.attribution.cluster_fits import _left_out, factor_of, in_threads
from dmm_exp.attribution.covariance import CONSTANT, Terms, fitted_amplitudes
from dmm_exp.attribution.shared_rows import POWERS, Neighbourhoods, _powers
from dmm_exp.attribution.spread import Residuals, fitted, margin_errors, own_shifts
from dmm_exp.attribution.sums import LABEL, OTHER
from dmm_exp.ensembles import RandomSubsets
from dmm_exp.errors import UserError
from dmm_exp.models import margin
from dmm_exp.pools import Known, WithoutClass, WithoutPart, WithoutShare, answers_alike
from dmm_exp.unlearners.work import predicted

N_TRAIN, POINTS, CLASSES = 90, 110, 3
LABELS = torch.arange(POINTS) % CLASSES


def answers(masks: torch.Tensor, seed: int) -> torch.Tensor:
    """Return logits of models: single effects, and the class's logit falls steeply when the last of a class goes."""
    draw = torch.Generator().manual_seed(5)
    weights = 0.05 * torch.randn(N_TRAIN, POINTS, CLASSES, generator=draw)
    own = torch.arange(N_TRAIN)
    weights[own, own, LABELS[:N_TRAIN]] += 1.5
    logits = torch.einsum("mn,npc->mpc", masks.float(), weights)
    for label in range(CLASSES):
        share = 1 - masks[:, LABELS[:N_TRAIN] == label].float().mean(1)
        logits[:, label == LABELS, label] += 6 - 8 * share[:, None] ** 6
    return logits + 0.5 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))


def evidence(parts=("class", "part", "share")) -> Evidence:
    halves = RandomSubsets(N_TRAIN, 0.5, 0, complementary=True).masks(range(300))
    pool = SubsetModels(halves, answers(halves, 1), 2, LABELS)
    margins = pool.logits[:, torch.arange(POINTS), LABELS]
    inputs = torch.nn.functional.one_hot(LABELS, CLASSES) + torch.randn(
        POINTS, CLASSES, generator=torch.Generator().manual_seed(6)
    )
    known = Known(N_TRAIN, LABELS, torch.zeros(N_TRAIN), answers_alike(margins, halves), inputs)
    designs = {"class": WithoutClass(30), "part": WithoutPart(60), "share": WithoutShare(60)}
    masks = torch.cat([designs[name].masks(name, 0, known) for name in parts])
    by_design = SubsetModels(masks, answers(masks, 2), labels=LABELS)
    return Evidence(
        torch.zeros(POINTS, dtype=torch.long),
        N_TRAIN,
        pool=pool,
        designs=lambda: by_design,
        known=lambda: known,
        originals=answers(torch.ones(60, N_TRAIN, dtype=torch.bool), 3),
    )


def truth(rows: torch.Tensor) -> torch.Tensor:
    masks = torch.ones(200, N_TRAIN, dtype=torch.bool)
    whole = answers(masks, 4).mean(0)
    masks[:, rows] = False
    return whole - answers(masks, 5).mean(0)


@pytest.fixture(scope="module")
def all_evidence() -> Evidence:
    return evidence()


@pytest.fixture(scope="module")
def learned(all_evidence):
    return GroupKriging().learn(all_evidence)


WHOLE, SOME = torch.arange(0, N_TRAIN, CLASSES), torch.tensor([3, 17, 40, 61])


def error(found: torch.Tensor, rows: torch.Tensor) -> float:
    return float((found - truth(rows)).square().mean().sqrt())


def test_it_knows_what_a_whole_class_does_where_sums_do_not(all_evidence, learned):
    sums = EmpiricalBayes().learn(all_evidence).effect(WHOLE).mean
    assert error(learned.effect(WHOLE).mean, WHOLE) < 0.25 * error(sums, WHOLE)


def test_few_rows_are_predicted_no_worse_than_by_sums(all_evidence, learned):
    sums, sets = EmpiricalBayes().learn(all_evidence), [torch.arange(first, N_TRAIN, 23) for first in range(20)]
    own, by_sums = (sum(error(one.effect(rows).mean, rows) for rows in sets) for one in (learned, sums))
    assert own < 1.1 * by_sums


def test_the_posterior_variance_is_about_the_squared_error(learned):
    for rows in (WHOLE, SOME):
        effect = learned.effect(rows)
        squared = (effect.mean - truth(rows)).square().mean()
        assert 0.2 < float(squared / effect.standard_error.square().mean()) < 5


def test_it_is_unsure_of_what_the_pool_does_not_hold(learned):
    without_corners = GroupKriging().learn(evidence(("share",)))
    doubt, knows = (one.effect(WHOLE).standard_error.mean() for one in (without_corners, learned))
    assert doubt > 2 * knows


def test_what_it_has_learnt_can_be_kept(all_evidence, learned):
    again = GroupKriging().recall(all_evidence, learned.tensors())
    for one, other in zip(vars(learned.effect(SOME)).values(), vars(again.effect(SOME)).values(), strict=True):
        assert torch.equal(one, other)


def test_what_it_has_learnt_is_taken_up_without_a_look_at_models_by_design(all_evidence, learned):
    blind = replace(all_evidence, designs=unread, known=unread)
    again = GroupKriging().recall(blind, learned.tensors())
    assert torch.equal(again.effect(SOME).mean, learned.effect(SOME).mean)


def unread() -> Any:
    raise AssertionError("it is all in what was learnt")


def test_effects_are_those_of_each_point_by_itself(learned):
    """The formula of the class, point by point, in double precision."""
    effect, sums, near = learned.effect(WHOLE), learned.sums, learned.shared.neighbourhoods
    members, forget = learned.left_out, torch.zeros(1, N_TRAIN)
    forget[0, WHOLE] = 1
    for point in (0, 7, N_TRAIN - 1, POINTS - 1):
        cluster, place = int(near.cluster[point]), torch.tensor([point])
        residuals = learned.residuals[:, near.span(cluster)][:, near.points(cluster) == point][:, 0].double()
        base = sums.combined(forget, place)[0, 0]
        goes = members[:, point] if point < N_TRAIN else torch.zeros(len(members))
        for label in range(CLASSES):
            kind = int(label != LABELS[point])
            toward = covariance(learned, cluster, kind, forget, members)[0].double()
            prior = covariance(learned, cluster, kind, forget, forget)[0, 0]
            factor = factor_of(learned.factors[cluster], kind).tril().double()
            weights = torch.cholesky_solve(toward[:, None], factor)[:, 0]
            left = (float(forget[0, point]) if point < N_TRAIN else 0.0) - float(weights @ goes.double())
            mean = float(base[label]) + float(weights @ residuals[:, label]) + left * float(learned.gain[point, label])
            doubt = max(float(prior - toward @ weights), 0) + left**2 * float(learned.shrinkage[point, label])
            scale = float(sums.deviation[point, label])
            assert float(effect.mean[point, label]) == pytest.approx(mean * scale, rel=1e-4, abs=1e-4)
            assert float(effect.standard_error[point, label]) == pytest.approx(doubt**0.5 * scale, rel=1e-3, abs=1e-3)


def test_covariances_are_the_sum_of_all_terms_times_their_amplitudes(all_evidence, learned):
    sets, shared = (~all_evidence.designs().masks[:12]).float(), learned.shared
    terms = Terms(shared, learned.amplitudes, sets, sets[:5])
    seen = []
    for label in shared.neighbourhoods.labels:
        for cluster, covariances in terms.of_class(label):
            seen.append(cluster)
            for kind, found in enumerate(covariances):
                torch.testing.assert_close(found, covariance(learned, cluster, kind, sets, sets[:5]))
    assert seen == list(range(len(shared.neighbourhoods.label)))


def covariance(learned, cluster, kind, first, second):
    """Return what :class:`Terms` has to return, the plain way."""
    shared = learned.shared
    label = int(shared.neighbourhoods.label[cluster])
    each = [
        *shared.anywhere(first, second),
        *shared.single(label, kind, first, second),
        *shared.near(cluster, first, second),
    ]
    return torch.einsum("k,kab->ab", learned.amplitudes[kind, :-1], torch.stack(each)) + CONSTANT


def test_two_factors_are_kept_in_the_room_of_one(learned):
    members = learned.left_out
    assert learned.factors.shape[1:] == (len(members) + 1, len(members))
    for cluster, kind in itertools.product(range(len(learned.factors)), (LABEL, OTHER)):
        factor = factor_of(learned.factors[cluster], kind).tril()
        expected = covariance(learned, cluster, kind, members, members)
        expected.diagonal().add_(learned.amplitudes[kind, -1])
        torch.testing.assert_close(factor @ factor.T, expected, rtol=1e-4, atol=1e-4)


def test_the_other_kinds_triangle_is_not_looked_at(learned):
    triangles = learned.factors[0].clone()
    right = torch.randn(len(triangles) - 1, 3, generator=torch.Generator().manual_seed(0))
    for kind in (LABEL, OTHER):
        spoilt = triangles.clone()
        factor = factor_of(spoilt, kind)
        factor[torch.ones_like(factor).triu(1).bool()] = torch.nan
        assert torch.equal(
            torch.cholesky_solve(right, factor), torch.cholesky_solve(right, factor_of(triangles, kind).tril())
        )
        assert torch.equal(torch.cholesky_inverse(factor), torch.cholesky_inverse(factor_of(triangles, kind).tril()))


def test_sums_are_parts_times_slopes(learned):
    sets, points = torch.cat([learned.left_out[:9], torch.zeros(1, N_TRAIN)]), torch.arange(POINTS)
    slopes = learned.sums.slopes[learned.sums.kinds(points)]
    expected = torch.einsum("kspc,pck->spc", learned.sums.parts(sets, points), slopes)
    torch.testing.assert_close(learned.sums.combined(sets, points), expected, rtol=1e-4, atol=1e-5)


def test_members_are_predicted_from_all_others():
    draw = torch.Generator().manual_seed(0)
    root, residuals = torch.randn(30, 30, generator=draw), torch.randn(30, 4, generator=draw)
    noise = torch.tensor(0.5)
    whole = root @ root.T / 30 + noise * torch.eye(30)
    errors, doubt = _left_out(torch.linalg.cholesky(whole), residuals, noise)
    for member in range(30):
        others = torch.arange(30) != member
        weights = torch.linalg.solve(whole[others][:, others], whole[others, member])
        torch.testing.assert_close(
            errors[member], residuals[member] - weights @ residuals[others], rtol=1e-3, atol=1e-4
        )
        expected = whole[member, member] - noise - weights @ whole[others, member]
        torch.testing.assert_close(doubt[member], expected, rtol=1e-3, atol=1e-4)


def test_the_number_of_threads_changes_nothing(all_evidence, monkeypatch):
    before, found = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        for threads in (1, 3):
            monkeypatch.setattr(cluster_fits, "THREADS", threads)
            found.append(GroupKriging(clusters=2).learn(all_evidence).tensors())
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    one, several = found
    assert one.keys() == several.keys()
    for name, value in one.items():
        assert torch.equal(value, several[name]), name


def test_an_error_in_a_thread_is_raised_and_the_number_of_threads_is_restored():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda number: 1 / number, [1, 0, 2])
    assert torch.get_num_threads() == before


def test_points_of_a_class_without_training_rows_belong_to_some_cluster():
    labels = LABELS.clone()
    labels[N_TRAIN:] = CLASSES
    known = Known(N_TRAIN, labels, torch.zeros(N_TRAIN), torch.randn(POINTS, 6), torch.randn(POINTS, 4))
    found = Neighbourhoods.of(known, 2, ["answers"])
    assert found.cluster.min() >= 0
    assert found.cluster.max() < len(found.label)


def residuals_of(features: torch.Tensor, squares: torch.Tensor, known: float = 0.0) -> Residuals:
    return Residuals(torch.zeros(len(squares), dtype=torch.long), features, squares, torch.full(squares.shape, known))


def test_a_few_large_residuals_change_the_spread_little():
    draw = torch.Generator().manual_seed(0)
    features = (torch.rand(4000, 1, generator=draw) > 0.5).float()
    squares = (torch.randn(4000, generator=draw) * (1 + features[:, 0])).square()
    clean = fitted(residuals_of(features, squares))[0].item()
    assert clean == pytest.approx(2 * torch.tensor(2.0).log().item(), abs=0.2)
    squares[features[:, 0] == 1] *= torch.where(torch.rand(int(features.sum()), generator=draw) < 0.02, 100.0, 1.0)
    assert fitted(residuals_of(features, squares))[0].item() == pytest.approx(clean, abs=0.2)


def test_amplitudes_are_those_that_data_were_drawn_with():
    draw = torch.Generator().manual_seed(0)
    factor = torch.randn(80, 80, generator=draw) / 80**0.5
    term = factor @ factor.T
    root = torch.linalg.cholesky(2.0 * term + 0.5 * torch.eye(80) + 0.01)
    data = root @ torch.randn(80, 400, generator=draw)
    found = fitted_amplitudes([(term[None], data)], 200)
    torch.testing.assert_close(found, torch.tensor([2.0, 0.5]), atol=0, rtol=0.15)


def test_amplitudes_move_along_the_gradient_of_the_likelihood():
    generator = torch.Generator().manual_seed(1)
    shared, residuals = torch.randn(3, 30, 5, generator=generator), torch.randn(30, 7, generator=generator)
    terms = shared @ shared.mT / 5
    logs = torch.tensor([-3.0, -3.0, -3.0, 0.0], requires_grad=True)
    optimizer = torch.optim.Adam([logs], lr=0.4)
    for step in range(10):
        covariance = torch.einsum("k,kab->ab", logs.exp()[:-1], terms) + CONSTANT + logs.exp()[-1] * torch.eye(30)
        density = torch.distributions.MultivariateNormal(torch.zeros(30), covariance)
        optimizer.zero_grad()
        (1e-3 * logs.square().mean() - density.log_prob(residuals.T).mean() / 30).backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.4 * (1 - step / 10) + 0.01
    torch.testing.assert_close(fitted_amplitudes([(terms, residuals)], 10), logs.detach().exp(), rtol=1e-3, atol=0)


def test_without_members_by_design_it_is_refused(all_evidence):
    bare = Evidence(all_evidence.groups, N_TRAIN, pool=all_evidence.pool)
    with pytest.raises(UserError, match="pool=groups"):
        GroupKriging().learn(bare)


def test_the_spread_of_models_is_learnt_from_what_members_leave_to_explain():
    draw = torch.Generator().manual_seed(0)
    features = torch.rand(20_000, 2, generator=draw)
    variance = 0.3 + (features @ torch.tensor([1.5, -0.7])).exp()
    squares = variance * torch.randn(20_000, generator=draw).square()
    found, _, _ = fitted(residuals_of(features, squares, 0.3))
    torch.testing.assert_close(found, torch.tensor([1.5, -0.7]), atol=0.1, rtol=0)


def test_a_points_own_variance_is_learnt_from_members_without_it():
    draw = torch.Generator().manual_seed(0)
    shifts, members = 0.6 * torch.randn(200, generator=draw), 150
    student = torch.distributions.StudentT(4.0)
    torch.manual_seed(0)
    squares = (student.sample((200, members)) * (0.5 * (1 + shifts))[:, None].exp()).square().flatten()
    points = torch.arange(200).repeat_interleave(members)
    residuals = Residuals(points, torch.zeros(len(points), 0), squares, torch.zeros(len(points)))
    found = own_shifts(residuals, torch.ones(len(points)), 0.0, 210)
    assert float((found[:200] - shifts).square().mean().sqrt()) < 0.25
    torch.testing.assert_close(found[200:], torch.zeros(10), atol=1e-6, rtol=0)


def test_points_that_vary_alike_have_no_shifts_of_their_own():
    torch.manual_seed(0)
    squares = torch.distributions.StudentT(4.0).sample((200 * 30,)).square()
    points = torch.arange(200).repeat_interleave(30)
    residuals = Residuals(points, torch.zeros(len(points), 0), squares, torch.zeros(len(points)))
    assert float(own_shifts(residuals, torch.zeros(len(points)), 0.0, 200).abs().max()) < 0.15


def test_a_memorized_point_gets_the_variance_that_members_without_it_have(learned):
    spread = learned.spread
    draw = torch.Generator().manual_seed(0)
    point = torch.full((400,), 7)
    gone = Residuals(
        point,
        torch.zeros(400, len(spread.coefficients)),
        9 * torch.randn(400, generator=draw).square(),
        torch.zeros(400),
    )
    sample = residuals_of(
        torch.rand(4000, len(spread.coefficients), generator=draw), torch.randn(4000, generator=draw).square()
    )
    learnt = replace(spread, unseen=torch.zeros(POINTS)).learnt(sample, gone)
    rows = torch.nn.functional.one_hot(point[:1], N_TRAIN).float()
    cluster = int(spread.shared.neighbourhoods.cluster[7])
    with_point = learnt.ratio(cluster, point[:1], rows) / replace(learnt, unseen=torch.zeros(POINTS)).ratio(
        cluster, point[:1], rows
    )
    assert with_point.item() == pytest.approx(3 / 1.2, rel=0.25)  # a normal's scale as Student's t sees it
    assert learnt.unseen[torch.arange(POINTS) != 7].abs().max() < 1e-6


def test_errors_of_logits_move_margins_to_first_order():
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 4, 5, generator=draw), torch.tensor([0, 3, 1, 4])
    errors = 1e-3 * torch.randn(6, 4, 5, generator=draw)
    expected = margin(logits + errors, labels) - margin(logits, labels)
    torch.testing.assert_close(margin_errors(errors, logits, labels), expected, atol=1e-5, rtol=1e-2)


def test_predicted_margins_have_the_predicted_mean_and_spread():
    draw = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(50, 4, 5, generator=draw), torch.tensor([0, 3, 1, 4])
    effect, spread = torch.randn(4, 5, generator=draw), torch.tensor([0.3, 1.0, 1.5, 2.0])
    means = torch.stack([margin(values, labels).mean(0) for values in (logits, logits - effect)])
    found = predicted(logits, {"effect": effect, "spread": spread, "margins": means}, labels)
    of_margins = margin(found, labels)
    torch.testing.assert_close(of_margins.mean(0), means[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(of_margins.std(0), spread * margin(logits, labels).std(0))
    others = torch.nn.functional.one_hot(labels, 5) == 0
    torch.testing.assert_close(found[:, others], (logits - effect)[:, others])


def test_where_models_vary_as_the_originals_do_no_other_spread_is_predicted(learned):
    assert (learned.effect(SOME).spread.log().abs().mean()) < 0.15


def test_an_effect_is_corrected_by_retrained_models():
    draw = torch.Generator().manual_seed(0)
    originals, retrained = torch.randn(100, 5, 2, generator=draw), torch.randn(400, 5, 2, generator=draw) - 3
    prior = Effect(torch.zeros(5, 2), torch.full((5, 2), 2.0))
    few, many = (prior.corrected(originals, retrained[:count]) for count in (2, 400))
    assert (few.standard_error < 1).all()
    assert (many.mean - 3).abs().max() < 0.3 < (few.mean - 3).abs().max() + 0.3
    sure = Effect(torch.zeros(5, 2), torch.full((5, 2), 1e-6)).corrected(originals, retrained)
    assert sure.mean.abs().max() < 1e-3
    with pytest.raises(TypeError):
        Effect(torch.zeros(5, 2)).corrected(originals, retrained)


def test_factors_that_do_not_fit_into_memory_are_refused_before_anything_is_learned(all_evidence, monkeypatch):
    monkeypatch.setattr("dmm_exp.ensembles.memory.machine_memory", lambda: 1e5)
    with pytest.raises(UserError, match=r"pool\.designs: GroupKriging of 150 members by design"):
        GroupKriging().learn(all_evidence)


@pytest.mark.parametrize("options", [{"clusters": 0}, {"iterations": 0}, {"sample": 3}])
def test_bad_settings_are_named(options):
    with pytest.raises(UserError, match=next(iter(options))):
        GroupKriging(**options)


def test_terms_are_positive_semidefinite_and_their_powers_are_powers(all_evidence, learned):
    sets = (~all_evidence.designs().masks[:40]).float()
    shared = learned.shared
    terms = [*shared.anywhere(sets, sets), *shared.single(0, 0, sets, sets), *shared.near(0, sets, sets)]
    assert len(terms) == learned.amplitudes.shape[1] - 1
    for term in terms:
        assert torch.linalg.eigvalsh(term.double()).min() >= -1e-4 * term.abs().max()
    values = torch.rand(5)
    for power, found in zip(POWERS, _powers(values, POWERS), strict=True):
        torch.testing.assert_close(found, values**power)
