"""Types of the root configuration: what Hydra refuses before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, cast, get_type_hints

from omegaconf import MISSING

from dmm_exp.config.convex import ConvexConfig, check_convex
from dmm_exp.config.instantiate import check_options_of, describe, fits
from dmm_exp.config.places import check_named
from dmm_exp.config.processes import ranks
from dmm_exp.errors import UserError, did_you_mean, shown

LOGITS_DTYPES = ("float32", "float16")
NAMES_OF_FILES = ("paths.outputs", "dataset.path", "forget.indices")


@dataclass
class ModelConfig:
    """An architecture and how many members of it are trained together."""

    chunk_size: int | str = MISSING  # or "auto"
    network: dict[str, Any] = field(default_factory=dict)


@dataclass
class AugmentationConfig:
    """What is done to images before a model is trained on them; nothing unless asked for."""

    flip: bool = False
    crop_padding: int = 0
    cutout: int = 0


@dataclass
class TrainingConfig:
    """The recipe of every model that is trained from scratch: originals, oracles and pool alike."""

    epochs: int = MISSING
    batch_size: int = MISSING
    label_smoothing: float = 0.0
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass
class EngineConfig:
    """How chunks of members are trained; results do not depend on it."""

    step: str = MISSING
    members: str = MISSING
    memory: str = MISSING


@dataclass
class EntanglementConfig:
    """How the groups are made whose entanglement is a score."""

    groups: int = MISSING


@dataclass
class CurvatureConfig:
    """Finite differences of the loss around an example."""

    step: float = MISSING
    directions: int = MISSING


@dataclass
class ScoresConfig:
    """Settings of scores of single examples, by family."""

    entanglement: EntanglementConfig = field(default_factory=EntanglementConfig)
    curvature: CurvatureConfig = field(default_factory=CurvatureConfig)
    held_out: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass
class LargerConfig:
    """Models trained on larger subsets than the pool's, from which estimators extrapolate to the whole training set."""

    size: int = 0
    alpha: float = 0.75


@dataclass
class PoolConfig:
    """Models trained on random subsets, shared by scores, estimators and attacks."""

    size: int = MISSING
    alpha: float = 0.5
    complementary: bool = True
    held_out: int = 100
    logits_dtype: str = "float32"
    lds_alphas: list[float] = field(default_factory=list)
    larger: LargerConfig = field(default_factory=LargerConfig)
    amortised_over: int = 1


@dataclass
class StrongUliraConfig:
    """An attack on base models, each unlearned of many small forget sets; off without forget sets."""

    forget_sets: int = 0
    size: int = 10
    base_models: int = 64
    drawn_from: str = "class"
    label: Any = None
    position: int | None = None


@dataclass
class EvaluationConfig:
    """How unlearned models are compared with oracles."""

    klom: dict[str, Any] = field(default_factory=dict)
    mia: dict[str, Any] = field(default_factory=dict)
    strong_ulira: StrongUliraConfig = field(default_factory=StrongUliraConfig)
    report: bool = True


@dataclass
class LeaderboardConfig:
    """Many methods on many forget sets, ending in one ranking."""

    title: str = "Leaderboard"
    methods: list[str] = field(default_factory=list)
    settings: str | None = None
    overrides: list[str] = field(default_factory=list)
    forget_sets: dict[str, list[str]] = field(default_factory=dict)
    checkpoints: bool = True


@dataclass
class StudyTableConfig:
    """Rows × columns of runs; each row and column is a label and the overrides that it stands for."""

    caption: str = ""
    rows: dict[str, str] | None = None
    columns: dict[str, str] = field(default_factory=dict)
    differences: bool = True


@dataclass
class ScatterConfig:
    """One metric of all runs against another."""

    x: str = MISSING
    y: str = MISSING
    caption: str = ""
    least_x: float | None = None
    log_x: bool = False


@dataclass
class StudyConfig:
    """Tables of runs, each cell repeated over seeds."""

    title: str = "Study"
    seeds: list[int] = field(default_factory=lambda: [0])
    metrics: list[str] = field(default_factory=lambda: ["tow"])
    overrides: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    settings: str | None = None
    tables: dict[str, StudyTableConfig] = field(default_factory=dict)
    scatters: dict[str, ScatterConfig] = field(default_factory=dict)


@dataclass
class PathsConfig:
    """Where results go."""

    outputs: str = MISSING


@dataclass
class RootConfig:
    """Everything a run is made of."""

    seed: int = 0
    n_models: int = 100
    dry_run: bool = False
    dataset: dict[str, Any] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    forget: dict[str, Any] = field(default_factory=dict)
    attribution: dict[str, Any] = field(default_factory=dict)
    unlearner: dict[str, Any] = field(default_factory=dict)
    refinement: dict[str, Any] = field(default_factory=dict)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    engine: EngineConfig = field(default_factory=EngineConfig)
    executor: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    paths: PathsConfig = field(default_factory=PathsConfig)
    hparams_search: dict[str, Any] | None = None
    scale: dict[str, Any] | None = None
    forget_tuning: list[str] = field(default_factory=list)
    leaderboard: LeaderboardConfig = field(default_factory=LeaderboardConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    convex: ConvexConfig = field(default_factory=ConvexConfig)


SCHEMA = "dmm_exp_schema"  # what conf/config.yaml lists first; a name that no other program's configuration has
FORMERLY = "schema"  # what the configurations list that earlier runs wrote


def register() -> None:
    """Make the schema known to Hydra, also under the name that earlier runs know it by."""
    register_for_all()
    _store(FORMERLY)


def register_for_all() -> None:
    """Make the schema known to Hydra under its own name, which is in no other program's way."""
    _store(SCHEMA)


def _store(name: str) -> None:
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name=name, node=RootConfig)


def _check_processes(trainer: Mapping[str, Any], executor: str) -> None:
    """Refuse several devices where nothing starts a process for each."""
    together, devices = executor.endswith(".Distributed"), trainer.get("devices", 1)
    if devices not in (1, "1", [0], "auto") and not together:
        raise UserError(
            f"trainer.devices={devices}: a process trains on one device; for members on several, executor.workers; for "
            "one member on several, torchrun --nproc-per-node=N -m dmm_exp trainer=ddp"
        )
    if ranks() > 1 and not together:
        raise UserError(f"torchrun started {ranks()} processes: they share work by trainer=ddp only")


def check_ranges(config: Mapping[str, Any]) -> None:
    """Check numbers that a type cannot.

    Raises:
        UserError: the first that is out of range.
    """
    known = [field.name for field in fields(RootConfig)]
    for key in config:
        if key not in known:
            raise UserError(f"{key}: there is no such key at the root of the configuration{did_you_mean(key, known)}")
    _check_lists("", RootConfig, config)
    if "convex" in config:
        check_convex(config["convex"])
    check_named(config)
    _at_least("n_models", config["n_models"], 2)
    _at_least("seed", config["seed"], 0)
    for key, node in config.items():
        _check_numbers(str(key), node)
    _check_processes(config["trainer"], str(config["executor"].get("_target_", "")))
    chunk_size = config["model"]["chunk_size"]
    if chunk_size != "auto" and (isinstance(chunk_size, str) or chunk_size < 1):
        raise UserError(f"model.chunk_size={chunk_size}: expected a whole number of at least 1, or auto")
    _check_training("training", config["training"])
    _check_training("scores.held_out", config["scores"]["held_out"])
    _check_pool(config["pool"])
    _check_attack(config["evaluation"]["strong_ulira"])


def _check_lists(before: str, kind: type, node: Mapping[str, Any]) -> None:
    """Refuse elements of lists that are of another type; OmegaConf takes a list where an element is a number."""
    for name, hint in get_type_hints(kind).items():
        value, path = node.get(name), f"{before}{name}"
        if is_dataclass(hint) and isinstance(value, Mapping):
            _check_lists(f"{path}.", cast(type, hint), value)
        elif isinstance(value, list) and not fits(value, hint):
            raise UserError(f"{path}={shown(value)}: expected {describe(hint)}")


def _check_numbers(path: str, value: Any) -> None:
    """Refuse what has no address, and seeds that generators of random numbers do not take; that at the root may be any.

    An artifact's key is the hash of JSON, which has neither NaN nor infinities nor halves of characters. Names of files
    may hold those: the files count by their content.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}={value}: expected a finite number")
    if isinstance(value, str) and path not in NAMES_OF_FILES and not _is_text(value):
        raise UserError(f"{path}={shown(value)}: holds half a character; expected text in Unicode")
    name = path.rpartition(".")[2]
    if name != path and name.endswith("seed") and isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise UserError(f"{path}={value}: expected a seed of at least -2^63 and below 2^64")
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        _check_numbers(f"{path}.{key}", inner)
    for index, inner in enumerate(value) if isinstance(value, list | tuple) else ():
        _check_numbers(f"{path}[{index}]", inner)


def _is_text(value: str) -> bool:
    try:
        return bool(value.encode()) or not value
    except UnicodeEncodeError:
        return False


def _check_pool(pool: Mapping[str, Any]) -> None:
    _at_least("pool.amortised_over", pool["amortised_over"], 1)
    _at_least("pool.held_out", pool["held_out"], 0)
    if pool["size"] < pool["held_out"] + 4:
        raise UserError(
            f"pool.size={pool['size']}: expected at least pool.held_out + 4 = {pool['held_out'] + 4} members, since "
            "held-out members take no part in estimation"
        )
    if not 0 < pool["alpha"] < 1:
        raise UserError(f"pool.alpha={pool['alpha']}: expected a fraction in (0, 1)")
    if pool["logits_dtype"] not in LOGITS_DTYPES:
        expected = " or ".join(LOGITS_DTYPES)
        raise UserError(
            f"pool.logits_dtype={pool['logits_dtype']}: expected {expected}"
            f"{did_you_mean(pool['logits_dtype'], LOGITS_DTYPES)}"
        )
    for alpha in pool["lds_alphas"]:
        if not 0 < alpha < 1 or pool["held_out"] < 2:
            raise UserError(
                f"pool.lds_alphas={pool['lds_alphas']}: expected fractions in (0, 1), and pool.held_out of at least 2, "
                "the number of models that each is measured on"
            )
    if pool["complementary"]:
        _check_blocks("pool", pool, ("size", "held_out"))
    if pool["larger"]["size"]:
        _check_larger(pool)


def _check_training(name: str, training: Mapping[str, Any]) -> None:
    known = [one.name for one in fields(TrainingConfig)]
    for key in training:
        if key not in known:
            raise UserError(f"{name}.{key}: there is no such key{did_you_mean(key, known)}")
    check_options_of(f"{name}.augmentation", training.get("augmentation", {}), AugmentationConfig)
    _at_least(f"{name}.epochs", training["epochs"], 1)
    _at_least(f"{name}.batch_size", training["batch_size"], 1)
    if not 0 <= training["label_smoothing"] < 1:
        raise UserError(f"{name}.label_smoothing={training['label_smoothing']}: expected a fraction in [0, 1)")


def _check_attack(attack: Mapping[str, Any]) -> None:
    for key, least in {"forget_sets": 0, "size": 1, "base_models": 1}.items():
        _at_least(f"evaluation.strong_ulira.{key}", attack[key], least)
    if attack["drawn_from"] not in ("class", "forget"):
        raise UserError(f"evaluation.strong_ulira.drawn_from={attack['drawn_from']}: expected class or forget")


def _check_larger(pool: Mapping[str, Any]) -> None:
    larger = pool["larger"]
    if not pool["alpha"] < larger["alpha"] < 1:
        raise UserError(
            f"pool.larger.alpha={larger['alpha']}: expected a fraction between pool.alpha={pool['alpha']} and 1"
        )
    _check_blocks("pool.larger", larger, ("size",))
    fewest = 2 * round(1 / (1 - larger["alpha"]))
    if larger["size"] < fewest:
        raise UserError(f"pool.larger.size={larger['size']}: expected 0 for none, or at least {fewest}, two blocks")


def _check_blocks(name: str, pool: Mapping[str, Any], sizes: Sequence[str]) -> None:
    """Check that complementary members come in whole blocks."""
    block = 1 / (1 - pool["alpha"])
    if block < 1.5 or abs(block - round(block)) > 1e-6:
        raise UserError(
            f"{name}.alpha={pool['alpha']}: with complementary members expected 1 - 1/k for a whole k of at least 2 "
            "(0.5, 0.75, 0.8, 0.9, ...)"
        )
    for key in sizes:
        if pool[key] % round(block):
            raise UserError(
                f"{name}.{key}={pool[key]}: with complementary members and {name}.alpha={pool['alpha']} expected a "
                f"multiple of {round(block)}, whole blocks of them"
            )


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{key}={value}: expected a whole number of at least {least}")
