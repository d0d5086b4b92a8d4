"""Numbers that a type cannot check."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_type_hints

from dmm_exp.config.convex import check_convex
from dmm_exp.config.instantiate import check_targets, describe, fits
from dmm_exp.config.places import check_named
from dmm_exp.config.schema import (
    Config,
    LargerConfig,
    Node,
    PoolConfig,
    StrongUliraConfig,
    TrainingConfig,
    plain,
)
from dmm_exp.console.ranks import ranks
from dmm_exp.errors import UserError, did_you_mean, shown

LOGITS_DTYPES = ("float32", "float16")
NAMES_OF_FILES = ("paths.outputs", "dataset.path", "forget.indices")


def check_config(config: Config) -> None:
    """Check a configuration as far as that is possible before any work is done: its numbers and its classes.

    Raises:
        UserError: what :func:`check_ranges` or :func:`~dmm_exp.config.instantiate.check_targets` refuse.
    """
    check_ranges(config)
    check_targets(config)


def check_ranges(config: Config) -> None:
    """Check numbers that a type cannot.

    Raises:
        UserError: the first that is out of range.
    """
    _check_types("", config)
    check_convex(config.convex)
    resolved = plain(config)
    check_named(resolved)
    _at_least("n_models", config.n_models, 2)
    _at_least("seed", config.seed, 0)
    for key, value in resolved.items():
        _check_numbers(key, value)
    _check_processes(config.trainer, str(config.executor.get("_target_", "")))
    chunk_size = config.model.chunk_size
    if chunk_size != "auto" and (isinstance(chunk_size, str) or chunk_size < 1):
        raise UserError(f"model.chunk_size={chunk_size}: expected a whole number of at least 1, or auto")
    _check_training("training", config.training)
    _check_training("scores.held_out", config.scores.held_out)
    _check_pool(config.pool)
    _check_attack(config.evaluation.strong_ulira)


def _check_processes(trainer: Node, executor: str) -> None:
    """Refuse several devices where nothing starts a process for each."""
    together, devices = executor.endswith(".Distributed"), trainer.get("devices", 1)
    if devices not in (1, "1", [0], "auto") and not together:
        raise UserError(
            f"trainer.devices={devices}: a process trains on one device; for members on several, executor.workers; for "
            "one member on several, torchrun --nproc-per-node=N -m dmm_exp trainer=ddp"
        )
    if ranks() > 1 and not together:
        raise UserError(f"torchrun started {ranks()} processes: they share work by trainer=ddp only")


def _check_types(before: str, node: Any) -> None:
    """Refuse values of another type that OmegaConf lets pass, such as an element of a list, or what was replaced."""
    for name, hint in _hints(type(node)).items():
        value, path = getattr(node, name), f"{before}{name}"
        if is_dataclass(value):
            _check_types(f"{path}.", value)
        elif not fits(value, hint):
            raise UserError(f"{path}={shown(value)}: expected {describe(hint)}")


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    return get_type_hints(cls)


def _check_numbers(path: str, value: Any) -> None:
    """Refuse what JSON cannot hold, and seeds that random generators do not take; ``seed`` at the root may be any.

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


def _check_pool(pool: PoolConfig) -> None:
    _at_least("pool.amortised_over", pool.amortised_over, 1)
    _at_least("pool.held_out", pool.held_out, 0)
    if pool.size < pool.held_out + 4:
        raise UserError(
            f"pool.size={pool.size}: expected at least pool.held_out + 4 = {pool.held_out + 4} members, since "
            "held-out members take no part in estimation"
        )
    if not 0 < pool.alpha < 1:
        raise UserError(f"pool.alpha={pool.alpha}: expected a fraction in (0, 1)")
    if pool.logits_dtype not in LOGITS_DTYPES:
        expected = " or ".join(LOGITS_DTYPES)
        raise UserError(
            f"pool.logits_dtype={pool.logits_dtype}: expected {expected}"
            f"{did_you_mean(pool.logits_dtype, LOGITS_DTYPES)}"
        )
    for alpha in pool.lds_alphas:
        if not 0 < alpha < 1 or pool.held_out < 2:
            raise UserError(
                f"pool.lds_alphas={pool.lds_alphas}: expected fractions in (0, 1), and pool.held_out of at least 2, "
                "the number of models that each is measured on"
            )
    if pool.complementary:
        _check_blocks("pool", pool, ("size", "held_out"))
    if pool.larger.size:
        _check_larger(pool)


def _check_training(name: str, training: TrainingConfig) -> None:
    _at_least(f"{name}.epochs", training.epochs, 1)
    _at_least(f"{name}.batch_size", training.batch_size, 1)
    if not 0 <= training.label_smoothing < 1:
        raise UserError(f"{name}.label_smoothing={training.label_smoothing}: expected a fraction in [0, 1)")


def _check_attack(attack: StrongUliraConfig) -> None:
    for key, least in {"forget_sets": 0, "size": 1, "base_models": 1}.items():
        _at_least(f"evaluation.strong_ulira.{key}", getattr(attack, key), least)
    if attack.drawn_from not in ("class", "forget"):
        raise UserError(f"evaluation.strong_ulira.drawn_from={attack.drawn_from}: expected class or forget")


def _check_larger(pool: PoolConfig) -> None:
    larger = pool.larger
    if not pool.alpha < larger.alpha < 1:
        raise UserError(f"pool.larger.alpha={larger.alpha}: expected a fraction between pool.alpha={pool.alpha} and 1")
    _check_blocks("pool.larger", larger, ("size",))
    fewest = 2 * round(1 / (1 - larger.alpha))
    if larger.size < fewest:
        raise UserError(f"pool.larger.size={larger.size}: expected 0 for none, or at least {fewest}, two blocks")


def _check_blocks(name: str, pool: PoolConfig | LargerConfig, sizes: Sequence[str]) -> None:
    """Check that complementary members come in whole blocks."""
    block = 1 / (1 - pool.alpha)
    if block < 1.5 or abs(block - round(block)) > 1e-6:
        raise UserError(
            f"{name}.alpha={pool.alpha}: with complementary members expected 1 - 1/k for a whole k of at least 2 "
            "(0.5, 0.75, 0.8, 0.9, ...)"
        )
    for key in sizes:
        if getattr(pool, key) % round(block):
            raise UserError(
                f"{name}.{key}={getattr(pool, key)}: with complementary members and {name}.alpha={pool.alpha} expected "
                f"a multiple of {round(block)}, whole blocks of them"
            )


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{key}={value}: expected a whole number of at least {least}")
