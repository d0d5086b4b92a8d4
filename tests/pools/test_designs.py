"""Designs: what members are trained without, and that it depends on nothing but what it may."""

from __future__ import annotations

import pytest
import torch

from dmm_exp.ensembles import RandomSubsets, member_generator
from dmm_exp.errors import UserError
from dmm_exp.pools import Known, WithoutClass, WithoutGroup, WithoutLevelSet, WithoutPart, WithoutShare, answers_alike
from dmm_exp.pools.designs import rounded, standing

N_TRAIN, CLASSES = 643, 4
LABELS = torch.arange(N_TRAIN + 60) % CLASSES


def known(**changes) -> Known:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(len(LABELS), 5, generator=draw)
    memorization = torch.zeros(N_TRAIN)
    memorization[:32] = 0.9
    values = {
        "n_train": N_TRAIN,
        "labels": LABELS,
        "memorization": memorization,
        "answers": inputs @ torch.randn(5, 30, generator=draw) + 0.1 * torch.randn(len(LABELS), 30, generator=draw),
        "inputs": inputs,
        "columns": {"user": [f"u{row % 7}" for row in range(N_TRAIN)]},
    }
    return Known(**(values | changes))


DESIGNS = {
    "share": lambda members: WithoutShare(members, 0.12),
    "class": WithoutClass,
    "part": WithoutPart,
    "part_inputs": lambda members: WithoutPart(members, "inputs", 0.98),
    "level_set": WithoutLevelSet,
    "group": lambda members: WithoutGroup(members, "user"),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_a_part_of_the_pool_grows(name):
    few, more = (DESIGNS[name](members).masks(name, 0, known()) for members in (6, 20))
    assert torch.equal(few, more[:6])


@pytest.mark.parametrize("name", DESIGNS)
def test_seeds_and_names_give_other_sets(name):
    design = DESIGNS[name](8)
    first = design.masks(name, 0, known())
    assert torch.equal(first, design.masks(name, 0, known()))
    assert not torch.equal(first, design.masks(name, 1, known()))
    assert not torch.equal(first, design.masks(name + "2", 0, known()))


@pytest.mark.parametrize("name", DESIGNS)
def test_members_keep_a_multiple_of_a_sixty_fourth(name):
    sizes = DESIGNS[name](30).masks(name, 0, known()).sum(1)
    assert (sizes % (N_TRAIN // 64) == 0).all()
    assert (sizes < N_TRAIN).all()
    assert (sizes > N_TRAIN / 3).all()


def test_without_a_class_all_of_it_is_left_out_and_little_else():
    masks = WithoutClass(8).masks("class", 0, known())
    for member, mask in enumerate(masks):
        of_class = LABELS[:N_TRAIN] == member % CLASSES
        assert not mask[of_class].any()
        assert mask[~of_class].float().mean() > 0.97


def test_a_part_is_of_one_class_and_belongs_together():
    data, draw = known(), torch.Generator().manual_seed(1)
    likeness = data.representation("answers")[:N_TRAIN] @ data.representation("answers")[:N_TRAIN].T
    means = {0.0: [], 0.95: []}
    for smooth, found in means.items():
        for index in range(24):
            out = WithoutPart(24, smooth=smooth, least=0.3, most=0.5).chosen(index, data, draw)
            assert len(LABELS[:N_TRAIN][out].unique()) == 1
            found.append(likeness[out][:, out].mean())
    assert sum(means[0.95]) > 3 * abs(sum(means[0.0]))


def test_a_level_set_is_of_rows_that_are_about_as_memorized():
    data = known(memorization=torch.linspace(0, 1, N_TRAIN) ** 3)
    where = standing(data.memorization)
    out = ~WithoutLevelSet(60, shares=[0.05, 0.05]).masks("level_set", 0, data)
    middles = torch.tensor([float(where[one].median()) for one in out])
    apart = torch.stack([(where[one] - middle).abs().median() for one, middle in zip(out, middles, strict=True)])
    assert apart.median() < 0.12
    assert middles.min() < 0.2
    assert middles.max() > 0.8


def test_a_level_set_leaves_out_memorized_rows_more_often():
    out = ~WithoutLevelSet(100).masks("level_set", 0, known())
    assert out[:, :32].float().mean() > 2 * out[:, 32:].float().mean()


def test_rows_stand_by_rank_and_by_their_share_of_memorization():
    memorization = torch.tensor([0.0, 3.0, 1.0, 0.0])
    torch.testing.assert_close(standing(memorization), torch.tensor([0, 1, (2 / 3 + 1 / 4) / 2, 1 / 6]))


def test_without_a_group_all_rows_of_a_value_are_left_out():
    masks = WithoutGroup(7, "user").masks("group", 0, known())
    for member, mask in enumerate(masks):
        assert not mask[member::7].any()


def test_a_member_is_left_out_at_random_to_round_its_size():
    kept = torch.arange(640) >= 13
    fewer = rounded(kept, member_generator(0, "design/x", 0, "subset"))
    assert fewer.sum() == 620
    assert not (fewer & ~kept).any()


def test_answers_do_not_show_a_rows_own_inclusion():
    masks = RandomSubsets(N_TRAIN, 0.5, 0, complementary=True).masks(range(40))
    margins = torch.randn(40, len(LABELS))
    with_own = margins.clone()
    with_own[:, :N_TRAIN] += 5 * masks.float()
    torch.testing.assert_close(answers_alike(with_own, masks), answers_alike(margins, masks), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WithoutShare(-1), "members=-1"),
        (lambda: WithoutShare(5, 1.5), "share=1.5"),
        (lambda: WithoutPart(5, smooth=2), "smooth=2"),
        (lambda: WithoutLevelSet(5, shares=[1.0]), "shares="),
        (lambda: WithoutPart(5, alike="names").masks("x", 0, known()), "alike=names"),
        (lambda: WithoutGroup(5, "users").masks("x", 0, known()), "column=users"),
        (lambda: WithoutShare(2, 1.0).masks("x", 0, known()), "pool.designs.x"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_likeness_of_flat_inputs_leaves_the_data_alone():
    of_data = known()
    before = of_data.inputs.clone()
    of_data.representation("inputs")
    assert torch.equal(of_data.inputs, before)
