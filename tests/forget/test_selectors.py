"""Selectors choose sorted, distinct training examples, and refuse what does not exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from dmm_exp.data import Examples, Normalisation
from dmm_exp.errors import UserError
from dmm_exp.forget import Indices, Memorized, Mislabelled, OneClass, Random, Selector, memorization_groups

N_TRAIN, N_POINTS = 200, 250
CLASSES = ["sneaker", "bag", "7", "coat"]


@pytest.fixture(scope="module")
def examples() -> Examples:
    """200 training and 50 validation points of four classes, 20 of them with a wrong label."""
    generator = torch.Generator().manual_seed(0)
    corrupted = torch.zeros(N_POINTS, dtype=torch.bool)
    corrupted[torch.randperm(N_TRAIN, generator=generator)[:20]] = True
    return Examples(
        inputs=torch.zeros(N_POINTS, 1),
        labels=torch.arange(N_POINTS) % 4,
        n_train=N_TRAIN,
        class_names=CLASSES,
        normalisation=Normalisation(1, [0.0], [1.0]),
        corrupted=corrupted,
    )


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    """Memorization that grows with a shuffled rank, so that groups are known."""
    generator = np.random.default_rng(0)
    values = generator.permutation(np.linspace(-0.1, 1.0, N_TRAIN))
    return pd.DataFrame({"point": range(N_TRAIN), "memorization": values, "other": values[::-1].copy()})


SELECTORS: list[tuple[Selector, int]] = [
    (Random(size=17), 17),
    (Random(), 7),
    (Random(fraction=0.5), 100),
    (OneClass(label="bag"), 50),
    (OneClass(position=3, fraction=0.3), 15),
    (OneClass(label="coat", fraction=0.001), 1),
    (Mislabelled(), 20),
    (Memorized("low", size=30), 30),
    (Memorized("mid", size=30), 30),
    (Memorized("high"), 7),
    (Memorized("high", size=66), 66),
    (Memorized("mix", size=31), 31),
    (Memorized("mix", size=2), 2),
]


@pytest.mark.parametrize(("selector", "size"), SELECTORS, ids=lambda value: str(value))
def test_a_forget_set_is_sorted_distinct_of_the_right_size_and_the_same_every_time(
    selector: Selector, size: int, examples: Examples, scores: pd.DataFrame
):
    selector.check(examples)
    chosen = selector.select(examples, scores if selector.needs_scores else None)
    assert chosen.dtype == torch.int64
    assert chosen.shape == (size,)
    assert (chosen.diff() > 0).all()
    assert 0 <= chosen.min() <= chosen.max() < N_TRAIN
    assert torch.equal(chosen, selector.select(examples, scores if selector.needs_scores else None))


# ---------------------------------------------------------------------- random and class


@pytest.mark.parametrize("make", [lambda seed: Random(size=40, seed=seed), lambda seed: OneClass("bag", 0.5, seed)])
def test_other_seeds_choose_other_examples(make, examples: Examples):
    draws = {tuple(make(seed).select(examples).tolist()) for seed in range(5)}
    assert len(draws) == 5


def test_random_prefers_no_example(examples: Examples):
    counts = torch.cat([Random(size=50, seed=seed).select(examples) for seed in range(400)]).bincount(minlength=N_TRAIN)
    assert (counts - 100).abs().max() < 5 * (400 * 0.25 * 0.75) ** 0.5


# Size and seed → first indices: numpy.random.seed(seed); sorted(numpy.random.choice(50000, size, replace=False)).
FIRST_OF_CIFAR10 = {
    (10, 0): [11841, 12363, 19602, 25747, 26128, 30346, 31902, 32490, 42642, 45519],
    (100, 1): [766, 1281, 1892, 2206, 2600, 2908, 2953, 3197, 3624, 3991],
    (1000, 2): [50, 89, 176, 186, 214, 269, 286, 302, 330, 349],
}


@pytest.mark.parametrize(("size", "seed"), FIRST_OF_CIFAR10)
def test_the_first_three_forget_sets_of_the_paper_follow_from_numpys_legacy_generator(size: int, seed: int):
    cifar10 = Examples(
        inputs=torch.zeros(50_100, 1),
        labels=torch.arange(50_100) % 4,
        n_train=50_000,
        class_names=CLASSES,
        normalisation=Normalisation(1, [0.0], [1.0]),
        corrupted=torch.zeros(50_100, dtype=torch.bool),
    )
    chosen = Random(size=size, seed=seed, generator="numpy").select(cifar10)
    assert chosen.dtype == torch.long
    assert len(chosen) == size
    assert chosen[:10].tolist() == FIRST_OF_CIFAR10[size, seed]
    assert chosen.tolist() != Random(size=size, seed=seed).select(cifar10).tolist()


def test_drawing_by_numpy_leaves_its_global_state_alone(examples: Examples):
    np.random.seed(5)
    expected = np.random.RandomState(5).rand()
    Random(size=3, generator="numpy").select(examples)
    assert np.random.rand() == expected


def test_a_seed_that_numpy_does_not_take_is_refused():
    with pytest.raises(UserError, match=r"with forget\.generator=numpy expected 0 to 4294967295"):
        Random(size=3, seed=-1, generator="numpy")


def test_a_class_is_all_of_its_training_examples_by_name_and_by_place(examples: Examples):
    expected = torch.arange(1, N_TRAIN, 4)
    assert torch.equal(OneClass(label="bag").select(examples), expected)
    assert torch.equal(OneClass(position=1).select(examples), expected)


def test_without_a_name_and_a_place_the_first_class_is_meant(examples: Examples):
    assert torch.equal(OneClass().select(examples), torch.arange(0, N_TRAIN, 4))


def test_a_class_called_by_a_number_is_found_by_its_name(examples: Examples):
    assert torch.equal(OneClass(label=7).select(examples), torch.arange(2, N_TRAIN, 4))


def test_part_of_a_class_lies_within_it(examples: Examples):
    part = OneClass(label="coat", fraction=0.5, seed=1).select(examples)
    assert (examples.labels[part] == 3).all()


@pytest.mark.parametrize("label", ["boot", 4, -1, "1", 1])
def test_an_unknown_class_is_refused_with_what_is_known(label: int | str, examples: Examples):
    with pytest.raises(UserError, match=rf"forget\.label={label}: .*sneaker, bag, 7, coat"):
        OneClass(label=label).select(examples)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_an_impossible_share_of_a_class_is_refused(fraction: float, examples: Examples):
    with pytest.raises(UserError, match=rf"forget\.fraction={fraction}"):
        OneClass(position=0, fraction=fraction).select(examples)


@pytest.mark.parametrize("size", [0, -3, N_TRAIN, 10_000])
@pytest.mark.parametrize("make", [Random, lambda size: Memorized("high", size=size)])
def test_forgetting_nothing_or_everything_is_refused_without_scores(make, size: int, examples: Examples):
    with pytest.raises(UserError, match=rf"forget\.size={size}"):
        make(size=size).check(examples)


def test_a_fraction_that_rounds_to_nothing_is_refused(examples: Examples):
    with pytest.raises(UserError, match=r"forget\.fraction=0\.001: expected from 1 to 199"):
        Random(fraction=0.001).select(examples)


# ---------------------------------------------------------------------- wrong labels


def test_mislabelled_finds_exactly_the_wrong_labels(examples: Examples):
    chosen = Mislabelled().select(examples)
    assert set(chosen.tolist()) == set(examples.corrupted.nonzero().squeeze(1).tolist())


def test_mislabelled_without_wrong_labels_says_how_to_get_some(examples: Examples):
    clean = Examples(**{**vars(examples), "corrupted": torch.zeros(N_POINTS, dtype=torch.bool)})
    with pytest.raises(UserError, match=r"dataset\.corruption\.fraction"):
        Mislabelled().select(clean)


# ---------------------------------------------------------------------- from a file

WANTED = [3, 17, 42, 199]
SHUFFLED = [42, 3, 199, 17]
MASK = [index in WANTED for index in range(N_TRAIN)]


def write(path: Path, value: Any) -> Path:
    if isinstance(value, np.ndarray):
        np.save(path, value)
    elif isinstance(value, bytes):
        path.write_bytes(value)
    else:
        path.write_text(value, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", np.array(SHUFFLED)),
        ("a.npy", np.array(SHUFFLED, dtype=np.uint8)),
        ("a.npy", np.array(MASK)),
        ("a.json", json.dumps(SHUFFLED)),
        ("a.json", json.dumps(MASK)),
        ("a.csv", "42\n3\n199\n17\n"),
        ("a.csv", '"index"\r\n42\r\n3\r\n199\r\n17\r\n'),
        ("a.csv", "\ufeff42\n3\n199\n17\n"),
        ("a.csv", "\ufeffindex\n42\n3\n199\n17\n"),
        ("a.txt", "42\n3\n199\n17"),
        ("a.txt", "42\n\n 3\n199\n17\n\n"),
    ],
)
def test_indices_are_read_from_every_format_and_sorted(name: str, content: Any, tmp_path: Path, examples: Examples):
    assert Indices(str(write(tmp_path / name, content))).select(examples).tolist() == WANTED


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "[3, 3]"),
        ("a.json", "[-1, 3]"),
        ("a.json", "[3, 200]"),
        ("a.json", "[]"),
        ("a.json", "[1.5]"),
        ("a.json", '["3"]'),
        ("a.json", '{"index": 3}'),
        ("a.json", "[[1, 2], [3, 4]]"),
        ("a.json", "[[1, 2], [3]]"),
        ("a.json", "[1, 2"),
        ("a.json", "null"),
        ("a.json", json.dumps([10**30])),
        ("a.json", json.dumps([True] * (N_TRAIN + 1))),
        ("a.json", json.dumps(list(range(N_TRAIN)))),
        ("a.npy", np.array([False] * N_TRAIN)),
        ("a.npy", np.array([True] * N_TRAIN)),
        ("a.npy", np.array([1.0, 2.0])),
        ("a.npy", np.array([{"index": 3}])),
        ("a.npy", b"not numpy"),
        ("a.npy", b""),
        ("a.csv", "index\n"),
        ("a.csv", ""),
        ("a.csv", "3\nfour\n"),
        ("a.csv", b"\xff\xfe3\n"),
        ("a.txt", "1 2 3\n"),
        ("a.pkl", b"3"),
        ("a", "3"),
    ],
)
def test_a_file_that_is_no_forget_set_is_refused(name: str, content: Any, tmp_path: Path, examples: Examples):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=rf"^forget\.indices={path}"):
        Indices(str(path)).check(examples)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, examples: Examples):
    (tmp_path / "folder.csv").mkdir()
    for name in ("absent.csv", "absent.npy", "folder.csv"):
        with pytest.raises(UserError, match=rf"^forget\.indices={tmp_path / name}"):
            Indices(str(tmp_path / name)).select(examples)


# ---------------------------------------------------------------------- by memorization


def values_of(scores: pd.DataFrame) -> Tensor:
    return torch.from_numpy(scores["memorization"].to_numpy(copy=True))


def outside(chosen: Tensor) -> Tensor:
    kept = torch.ones(N_TRAIN, dtype=torch.bool)
    kept[chosen] = False
    return kept.nonzero().squeeze(1)


@pytest.mark.parametrize("size", [1, 30, 66])
def test_groups_are_disjoint_the_top_the_bottom_and_the_middle(size: int, scores: pd.DataFrame):
    values = values_of(scores)
    groups = memorization_groups(values, size)
    low, mid, high = (groups[name] for name in ("low", "mid", "high"))
    assert [len(group) for group in (low, mid, high)] == [size] * 3
    assert len(torch.cat([low, mid, high]).unique()) == 3 * size
    assert values[high].min() > values[outside(high)].max()
    assert values[low].max() < values[outside(low)].min()
    rest = outside(torch.cat([low, mid, high]))
    assert (values[mid] - 0.5).abs().max() <= (values[rest] - 0.5).abs().min()


def test_groups_stay_disjoint_where_almost_nothing_is_memorized():
    values = torch.zeros(90)
    values[:5] = 1.0
    groups = memorization_groups(values, 30)
    assert torch.cat(list(groups.values())).unique().tolist() == list(range(90))
    assert set(range(5)) <= set(groups["high"].tolist())


def test_ties_are_broken_the_same_way_every_time():
    values = torch.zeros(60)
    first = memorization_groups(values, 10)
    assert first["low"].tolist() == list(range(10))
    for name, group in memorization_groups(values.clone(), 10).items():
        assert torch.equal(group, first[name])


@pytest.mark.parametrize("level", ["low", "mid", "high"])
def test_skip_gives_another_group_of_the_same_kind(level: Any, examples: Examples, scores: pd.DataFrame):
    test = Memorized(level, size=20).select(examples, scores)
    search = Memorized(level, size=20, skip=20).select(examples, scores)
    both = Memorized(level, size=40).select(examples, scores)
    assert len(search) == 20
    assert not set(test.tolist()) & set(search.tolist())
    if level != "mid":
        assert set(test.tolist()) | set(search.tolist()) == set(both.tolist())


def test_the_skipped_groups_of_all_levels_are_disjoint(examples: Examples, scores: pd.DataFrame):
    groups = [
        Memorized(level, size=20, skip=skip).select(examples, scores)
        for level in ("low", "mid", "high")
        for skip in (0, 20)
    ]
    assert len(torch.cat(groups).unique()) == 120


def test_mix_is_a_third_of_each(examples: Examples, scores: pd.DataFrame):
    mix = set(Memorized("mix", size=60).select(examples, scores).tolist())
    for level in ("low", "mid", "high"):
        group: Any = level
        assert set(Memorized(group, size=20).select(examples, scores).tolist()) <= mix
    assert len(mix) == 60


def test_another_column_of_scores_may_be_used(examples: Examples, scores: pd.DataFrame):
    chosen = Memorized("high", size=10, score="other").select(examples, scores)
    assert torch.equal(chosen.flip(0), N_TRAIN - 1 - Memorized("high", size=10).select(examples, scores))


def test_an_unknown_score_is_refused_with_what_is_known(examples: Examples, scores: pd.DataFrame):
    with pytest.raises(UserError, match=r"forget\.score=fame: expected one of memorization, other"):
        Memorized("high", score="fame").select(examples, scores)


@pytest.mark.parametrize("level", ["high", "mix"])
def test_examples_without_a_score_are_not_taken_for_memorized(level: Any, examples: Examples, scores: pd.DataFrame):
    some = scores.assign(memorization=scores["memorization"].where(scores["point"] != 5))
    with pytest.raises(UserError, match=r"forget\.score=memorization: 1 examples .*pool\.size"):
        Memorized(level, size=30).select(examples, some)


@pytest.mark.parametrize(
    "selector",
    [
        Memorized("high", size=67),
        Memorized("low", size=30, skip=40),
        Memorized("mix", size=199),
        Memorized("mix", size=150, skip=20),
    ],
    ids=str,
)
def test_groups_that_do_not_fit_are_refused_before_scores_are_computed(selector: Memorized, examples: Examples):
    with pytest.raises(UserError, match=r"forget\.size=.*training examples"):
        selector.check(examples)


def test_a_negative_skip_is_refused():
    with pytest.raises(UserError, match=r"forget\.skip=-1"):
        Memorized("high", skip=-1)


def test_choosing_does_not_change_the_scores(examples: Examples, scores: pd.DataFrame):
    before = scores.copy(deep=True)
    Memorized("mid", size=30).select(examples, scores)
    pd.testing.assert_frame_equal(scores, before)


def test_a_memorized_set_says_how_memorized_it_is_and_whether_that_is_what_rum_calls_high(examples: Examples):
    scores = pd.DataFrame({"point": range(examples.n_train), "memorization": np.linspace(0, 1, examples.n_train)})
    few, many, mid = Memorized("high", size=10), Memorized("high", size=66), Memorized("mid", size=10)
    assert few.remark(few.rows(examples, scores), scores).startswith("memorization 0.95 to 1.00, median 0.9")
    assert "RUM" not in few.remark(few.rows(examples, scores), scores)
    assert "RUM" not in mid.remark(mid.rows(examples, scores), scores)
    low = scores.assign(memorization=scores["memorization"] / 2)
    assert "too few such examples" in many.remark(many.rows(examples, low), low)
    assert Random(size=3).remark(Random(size=3).rows(examples)) == ""
