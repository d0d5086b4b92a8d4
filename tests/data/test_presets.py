"""Every preset of a paper runs at the smallest scale, by the same code, on made-up files of the true format."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import dataset_files as files
import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides, forget_overrides
from dmm_exp.config.schema import Config, register
from dmm_exp.leaderboard.board import Leaderboard, compose_entries
from dmm_exp.runs.job import JobRequest
from dmm_exp.study.study import Study, compose_cells_of

SMALLEST = [
    "scale=tiny",
    "scale.n_models=2",
    "scale.pool.size=24",
    "scale.pool.held_out=2",
    "scale.dataset.train_size=48",
    "scale.dataset.validation_size=16",
    "scale.forget.size=3",
    "scale.forget.skip=0",
    "scale.training.epochs=1",
    "scale.training.batch_size=64",
    "scale.unlearner.epochs=1",
    "scale.unlearner.batch_size=64",
    "scale.model.network.width=2",
    "dataset.verify=false",
    "executor=local",
    "logger=none",
]
GFLOP = {
    "resnet9": 1.74,
    "resnet18": 3.33,
    "resnet50": 7.78,
    "resnet18_imagenet": 10.6,
    "vgg16_bn": 7.50,
}  # docs/models.md
TRAINING_POINTS = {"cifar10": 50_000, "cifar100": 50_000, "living17": 88_400, "tiny_imagenet": 100_000}
RATE = 50e12  # operations a second, as docs/reproducing.md assumes


def images(folder: Path, dataset: str) -> Path:
    """Write 80 + 16 made-up images as a dataset's files hold them."""
    size, channels = {"tiny_imagenet": (64, 3), "fashion_mnist": (28, 1)}.get(dataset, (32, 3))
    arrays = files.made_up(size, channels, classes=4, n_train=80, n_test=16)
    names = ["bear", "cat", "dog", "elk"]
    write = {
        "cifar10": lambda: files.write_cifar10(folder, arrays),
        "fashion_mnist": lambda: files.write_idx(folder, arrays),
        "cifar100": lambda: files.write_cifar100(folder, arrays),
        "tiny_imagenet": lambda: files.write_tiny_imagenet(folder, arrays, names),
        "living17": lambda: files.write_images(folder, arrays, names, test="val"),
    }
    return write[dataset]()


def composed(*overrides: str) -> Config:
    register()
    (config,) = check_overrides(config_directory(), overrides)
    return config


BOARDS = {
    "dmm_cifar10": ("cifar10", 'leaderboard.forget_sets.random=["random size=10 generator=numpy"]'),
    "easydub_cifar10": ("cifar10", 'leaderboard.forget_sets.random=["pc1_both size=500"]'),
    "dmm_fashion": ("fashion_mnist", 'leaderboard.forget_sets.random=["random size=100"]'),
    "dmm_fashion_full": ("fashion_mnist", 'leaderboard.forget_sets.random=["random size=500"]'),
    "dmm_fashion_mislabelled": ("fashion_mnist", "leaderboard.forget_sets.mislabelled=[mislabelled]"),
    "dmm_living17": ("living17", 'leaderboard.forget_sets.random=["random size=500"]'),
}
KINDS_OF_FASHION = [f"~leaderboard.forget_sets.{kind}" for kind in ("rum_high_mem", "rum_mid_mem", "class")]
OTHER_KINDS = {
    "dmm_fashion": KINDS_OF_FASHION,
    "dmm_fashion_full": KINDS_OF_FASHION,
    "dmm_fashion_mislabelled": [],
    "dmm_living17": ["~leaderboard.forget_sets.class", "dataset.decoding.size=32", "dataset.decoding.keep_in=null"],
}


@pytest.mark.parametrize("name", BOARDS)
def test_a_preset_that_is_a_leaderboard_runs_at_the_smallest_scale(name, tmp_path):
    dataset, forget = BOARDS[name]
    overrides = [f"experiment={name}", *SMALLEST, f"dataset.path={images(tmp_path / 'files', dataset)}", forget]
    overrides += OTHER_KINDS.get(name, ["~leaderboard.forget_sets.pc_top", "~leaderboard.forget_sets.pc_both"])
    overrides += ["leaderboard.methods=[dmm,finetune]", f"paths.outputs={tmp_path / 'outputs'}"]
    folder = Leaderboard().do(JobRequest(composed(*overrides), {}, overrides))
    assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 2
    assert "finetune" in (folder / "leaderboard.csv").read_text()
    assert "failed" not in (folder / "cells.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rum_cifar10", "rum_cifar100", "rum_tiny_imagenet"])
def test_a_preset_that_is_a_study_runs_at_the_smallest_scale(name, tmp_path):
    dataset = name.removeprefix("rum_")
    overrides = [f"experiment={name}", *SMALLEST, f"dataset.path={images(tmp_path / 'files', dataset)}"]
    overrides += [
        "study.seeds=[0]",
        "study.methods=[finetune]",
        "~study.tables.entanglement",
        "~study.tables.refinement",
    ]
    overrides += ["~study.tables.memorization.columns.mid", "~study.tables.memorization.columns.high"]
    overrides += [f"paths.outputs={tmp_path / 'outputs'}"]
    overrides += [] if dataset == "tiny_imagenet" else ["dataset.split.validation=8"]
    folder = Study().do(JobRequest(composed(*overrides), {}, overrides))
    assert len(list((folder / "runs").iterdir())) == 3


@pytest.mark.parametrize(
    "name", ["dmm_cifar10", "dmm_living17", "easydub_cifar10", "rum_cifar10", "rum_cifar100", "rum_tiny_imagenet"]
)
def test_a_preset_says_what_it_costs(name):
    """The hours of pool, originals and oracles are models × epochs × examples × operations ÷ rate."""
    text = Path(config_directory(), "experiment", f"{name}.yaml").read_text()
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    total, pool, trained, unlearning = map(
        int,
        re.search(
            r"Cost: (\d+) GPU-hours at 50 TFLOP/s, an assumed rate: (\d+) for the pool, (\d+) for originals "
            r"and oracles, (\d+) for unlearning",
            comment,
        ).groups(),
    )
    config = composed(f"experiment={name}")
    if config.leaderboard.methods:
        plan, seeds = config.leaderboard, 1
        sets = sum(len(texts) for texts in plan.forget_sets.values())
        cell = next(compose_entries(replace(plan, methods=["finetune"]), [])).config
    else:
        plan = config.study
        cell, seeds = next(compose_cells_of(plan, [])).config, len(plan.seeds)
        words = " ".join(column for table in plan.tables.values() for column in table.columns.values()).split()
        sets = len({word for word in words if word.startswith("forget=")})
    split = cell.dataset["split"]["validation"]
    n = cell.dataset["train_size"] or TRAINING_POINTS[name.split("_", 1)[1]] - split
    network = re.search(r"override /model: (\w+)", text).group(1)
    model = GFLOP[network] * 1e9 * n * cell.training.epochs / RATE / 3600
    assert pool == round(seeds * model * cell.pool.size * cell.pool.alpha)
    assert trained == round(seeds * model * cell.n_models * (1 + 2 * sets))
    assert abs(total - pool - trained - unlearning) <= 1
    assert cell.pool.larger.size == 0


def test_the_full_fashion_mnist_is_the_small_one_with_larger_numbers():
    small, full = (composed(f"experiment={name}").leaderboard for name in ("dmm_fashion", "dmm_fashion_full"))
    names = [key.name for key in fields(small)]
    assert [name for name in names if getattr(small, name) != getattr(full, name)] == [
        "title",
        "overrides",
        "forget_sets",
    ]
    assert small.forget_sets.keys() == full.forget_sets.keys()
    sizes = [next(compose_entries(replace(board, methods=["dmm"]), [])).config.dataset for board in (small, full)]
    assert [(size["train_size"], size["validation_size"]) for size in sizes] == [(6000, 2000), (None, None)]


@pytest.mark.parametrize("name", ["dmm_cifar10", "easydub_cifar10"])
def test_the_random_sets_of_cifar10_are_those_of_the_paper(name):
    sets = composed(f"experiment={name}").leaderboard.forget_sets["random"]
    forget = [composed(*forget_overrides(text)).forget for text in sets]
    assert [(each["size"], each["seed"], each["generator"]) for each in forget] == [
        (10, 0, "numpy"),
        (100, 1, "numpy"),
        (1000, 2, "numpy"),
    ]
