"""Who is trained on what, from which randomness, and how fast."""

from __future__ import annotations

import inspect
from itertools import product

import pytest
import torch
from torch import Tensor

from dmm_exp.ensembles import schedules
from dmm_exp.ensembles.schedules import Constant, Cosine, Exponential, MultiStep, OneCycle, Part
from dmm_exp.ensembles.seeds import member_generator, member_seed
from dmm_exp.ensembles.subsets import AllBut, RandomSubsets
from dmm_exp.errors import UserError


def pairs(n_train: int, seed: int = 0) -> RandomSubsets:
    return RandomSubsets(n_train, alpha=0.5, seed=seed, complementary=True)


def independent(n_train: int, alpha: float, seed: int = 0) -> RandomSubsets:
    return RandomSubsets(n_train, alpha, seed, complementary=False)


def blocks(n_train: int, of: int) -> RandomSubsets:
    return RandomSubsets(n_train, alpha=1 - 1 / of, seed=0, complementary=True)


EVERY = [
    pairs(60),
    pairs(61),
    blocks(60, 4),
    blocks(61, 3),
    independent(60, 0.5),
    independent(61, 0.7),
    independent(60, 0.1),
]


# ---------------------------------------------------------------------- subsets


@pytest.mark.parametrize("subsets", EVERY, ids=str)
def test_subsets_are_sorted_distinct_and_of_one_size(subsets: RandomSubsets):
    indices = subsets.indices(range(8))
    assert indices.shape == (8, subsets.size)
    assert (indices.diff(dim=1) > 0).all()
    assert indices.min() >= 0
    assert indices.max() < subsets.n_train


@pytest.mark.parametrize("subsets", EVERY, ids=str)
def test_masks_say_what_indices_say(subsets: RandomSubsets):
    masks = subsets.masks(range(3, 9))
    assert masks.shape == (6, subsets.n_train)
    assert masks.dtype == torch.bool
    for mask, indices in zip(masks, subsets.indices(range(3, 9)), strict=True):
        assert torch.equal(mask.nonzero().squeeze(1), indices)


@pytest.mark.parametrize("subsets", EVERY, ids=str)
def test_a_members_subset_does_not_depend_on_who_else_is_asked_for(subsets: RandomSubsets):
    together = subsets.indices(range(9))
    apart = torch.cat([subsets.indices(range(start, stop)) for start, stop in ((0, 1), (1, 4), (4, 9))])
    assert torch.equal(together, apart)


@pytest.mark.parametrize("subsets", EVERY, ids=str)
def test_subsets_of_members_and_seeds_differ(subsets: RandomSubsets):
    other = RandomSubsets(subsets.n_train, subsets.alpha, subsets.seed + 1, subsets.complementary)
    drawn = [tuple(row) for which in (subsets, other) for row in which.indices(range(10)).tolist()]
    assert len(set(drawn)) == 20


@pytest.mark.parametrize(("n_train", "of", "remainder"), [(60, 4, 0), (62, 4, 2), (61, 3, 1), (70, 10, 0)])
def test_a_block_leaves_every_point_out_once(n_train: int, of: int, remainder: int):
    subsets = blocks(n_train, of)
    assert subsets.block == of
    times_in = subsets.masks(range(6 * of)).view(6, of, n_train).sum(1)
    assert set(times_in.unique().tolist()) <= {0, of - 1}
    assert ((times_in == 0).sum(1) == remainder).all()


@pytest.mark.parametrize(("n_train", "left_out"), [(60, 0), (61, 1)])
def test_a_pair_shares_no_point_and_covers_all_but_an_odd_one(n_train: int, left_out: int):
    times_in = pairs(n_train).masks(range(12)).view(6, 2, n_train).sum(1)
    assert times_in.max() == 1
    assert ((times_in == 0).sum(1) == left_out).all()


def test_the_odd_one_is_not_always_the_same():
    missing = ~pairs(61).masks(range(60)).view(30, 2, 61).any(1)
    assert len(missing.nonzero()[:, 1].unique()) > 10


def test_pairs_include_every_example_in_exactly_half_of_the_members():
    assert (pairs(50).masks(range(30)).sum(0) == 15).all()


def test_independent_subsets_include_every_example_equally_often_on_average():
    counts = independent(50, 0.7).masks(range(600)).sum(0)
    assert counts.float().mean().item() == pytest.approx(420)
    assert (counts - 420).abs().max() < 5 * (600 * 0.7 * 0.3) ** 0.5


def test_independent_subsets_have_the_share_asked_for():
    assert independent(1438, 0.7).size == 1007
    assert independent(10, 0.001).size == 1


# ---------------------------------------------------------------------- oracles and originals


@pytest.mark.parametrize("excluded", [[], [0], [3, 7, 19]])
def test_all_but_leaves_out_exactly_the_excluded_points(excluded: list[int]):
    indices = AllBut(20, torch.tensor(excluded, dtype=torch.long)).indices(range(5, 8))
    expected = [index for index in range(20) if index not in excluded]
    assert indices.tolist() == [expected] * 3


# ---------------------------------------------------------------------- seeds


def test_seeds_differ_over_everything_that_names_them():
    roles = ("original", "oracle", "target_oracle", "floor_oracle", "retrained", "subset", "unlearned")
    streams = ("initialisation", "order", "subset", "noise")
    names = list(product(range(3), roles, range(12), streams, range(3)))
    assert len({member_seed(*name) for name in names}) == len(names)


def test_a_seed_is_the_same_in_every_version_of_this_program():
    assert member_seed(0, "original", 0, "initialisation") == 591849016937798242
    assert member_seed(3, "subset", 41, "order", epoch=2) == 6649625361291340021


def test_seeds_fit_what_generators_accept():
    seeds = [member_seed(0, "oracle", index, "order") for index in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_does_not_touch_global_randomness():
    def draw() -> Tensor:
        return torch.randn(4, generator=member_generator(0, "original", 1, "noise"))

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, again = draw(), draw()
    assert torch.equal(first, again)
    assert torch.equal(torch.rand(3), expected)


# ---------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("schedule", "epochs", "values"),
    [
        (Constant(), 10, {0: 1.0, 3.7: 1.0, 10: 1.0}),
        (OneCycle(), 20, {0: 0.1, 2.5: 0.55, 5: 1.0, 12.5: 0.5, 20: 0.0}),
        (OneCycle(peak=0.5, start=0.0, end=0.2), 10, {0: 0.0, 2.5: 0.5, 5: 1.0, 7.5: 0.6, 10: 0.2}),
        (Exponential(0.5), 10, {0: 1.0, 0.99: 1.0, 1: 0.5, 1.5: 0.5, 3: 0.125}),
        (Cosine(), 8, {0: 1.0, 2: 0.853553, 4: 0.5, 6: 0.146447, 8: 0.0}),
        (Cosine(end=0.5), 8, {0: 1.0, 4: 0.75, 8: 0.5}),
        (MultiStep([3, 6]), 10, {0: 1.0, 2.9: 1.0, 3: 0.1, 5.9: 0.1, 6: 0.01, 9.9: 0.01}),
        (MultiStep(), 10, {0: 1.0, 9: 1.0}),
    ],
    ids=str,
)
def test_schedules_have_their_known_values(schedule, epochs: int, values: dict[float, float]):
    for epoch, expected in values.items():
        assert schedule(epoch, epochs) == pytest.approx(expected, abs=1e-6), f"at epoch {epoch}"


@pytest.mark.parametrize("peak", [0.0, 1.0, -1.0])
def test_a_peak_outside_of_training_is_refused(peak: float):
    with pytest.raises(UserError, match=rf"schedule\.peak={peak}"):
        OneCycle(peak=peak)


SCHEDULES = [
    Constant(), OneCycle(), Exponential(0.5), Cosine(), Cosine(end=0.2), MultiStep([1, 3]), Part(OneCycle(), 2, 30),
]  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_schedule_nests_exactly_if_its_values_do_not_depend_on_the_number_of_epochs(schedule):
    moments = [step / 4 for step in range(17)]
    lengths = (4, 5, 9)
    values = {tuple(schedule(moment, epochs) for moment in moments) for epochs in lengths}
    assert schedule.nests == (len(values) == 1)


def test_every_schedule_says_whether_it_nests():
    classes = {cls for _, cls in inspect.getmembers(schedules, inspect.isclass) if cls.__module__ == schedules.__name__}
    assert {type(schedule) for schedule in SCHEDULES} == classes - {schedules.Schedule}
