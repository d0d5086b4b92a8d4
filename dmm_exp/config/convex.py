"""Types and ranges of ``convex``: experiments whose retrained model is known exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from dmm_exp.errors import UserError, did_you_mean, shown

LOSSES = ("ridge", "logistic")
DATA = ("gaussian", "digits", "breast_cancer")
FORGET = ("random", "unusual", "mislabelled")
SEEDS = 1000  # a seed of the configuration stands for so many seeds of problems; those to tune on are the second half
LARGEST = {"digits": (1797, 61), "breast_cancer": (569, 30)}  # rows, and directions that are not constant


@dataclass
class SettingConfig:
    """One problem: what is varied from one to the next.

    Attributes:
        data: where inputs come from: Gaussian, or projections of real ones on their principal components.
        n: training examples.
        d: directions of the inputs; real inputs get a constant one on top.
        condition: variance of an ordinary direction over that of a rare one; of Gaussian inputs only.
        rare: number of rare directions; of Gaussian inputs only.
        noise: standard deviation of the targets' noise (ridge), or share of labels that are flipped (logistic).
        size: of the forget set.
        forget: which examples it holds: any, ones with a feature that others lack, or ones with a wrong label.
        penalty: λ of ½λ‖θ‖², beside the *sum* of the examples' losses.
        matched: share of the retain set that is matched, beside all of the forget set.
    """

    data: str = "gaussian"
    n: int = 200
    d: int = 40
    condition: float = 1000.0
    rare: int = 5
    noise: float = 0.5
    size: int = 10
    forget: str = "unusual"
    penalty: float = 0.1
    matched: float = 1.0


@dataclass
class ConvexPoolConfig:
    """Models fitted to random subsets, from which effects are estimated."""

    size: int = 400
    alpha: float = 0.5
    estimator: dict[str, Any] = field(default_factory=dict)


@dataclass
class ConvexConfig:
    """Methods against exact retraining on convex problems; off without a loss.

    Attributes:
        title: of the page.
        loss: ``ridge`` or ``logistic``.
        repeats: problems drawn of every setting, each with a seed of its own.
        tuning_repeats: further ones, on which step sizes are chosen.
        steps: of full-batch methods.
        passes: over the data, of stochastic methods.
        batch: examples of a stochastic step, drawn with replacement.
        ascent_steps: ascent steps of ascent–descent, each followed by a descent step.
        multiples: step sizes that are tried, in multiples of the largest that theory allows.
        pool: for estimated effects.
        base: the setting that the others differ from.
        settings: name → the keys in which a setting differs from ``base``.
    """

    title: str = "Convex"
    loss: str | None = None
    repeats: int = 20
    tuning_repeats: int = 4
    steps: int = 1000
    passes: int = 100
    batch: int = 10
    ascent_steps: int = 10
    multiples: list[float] = field(default_factory=list)
    pool: ConvexPoolConfig = field(default_factory=ConvexPoolConfig)
    base: SettingConfig = field(default_factory=SettingConfig)
    settings: dict[str, Any] = field(default_factory=dict)


_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}


def settings_of(convex: ConvexConfig) -> dict[str, SettingConfig]:
    """Return every setting by its name, ``base`` with its differences.

    Raises:
        UserError: a difference that names no key or is of the wrong type.
    """
    found = {}
    for name, different in convex.settings.items():
        different = {} if different is None else different
        if not isinstance(different, Mapping):
            raise UserError(
                f"convex.settings.{name}={shown(different)}: expected the keys in which it differs from base"
            )
        for key, value in different.items():
            _check_difference(f"convex.settings.{name}.{key}", key, value)
        found[str(name)] = replace(convex.base, **different)
    return found


def _check_difference(path: str, key: str, value: Any) -> None:
    types = {known.name: str(known.type) for known in fields(SettingConfig)}
    if key not in types:
        raise UserError(f"{path}: there is no such key, a setting has {', '.join(types)}{did_you_mean(key, types)}")
    if isinstance(value, bool) or not isinstance(value, _TYPES[types[key]]):
        expected = {"str": "a text", "int": "a whole number", "float": "a number"}[types[key]]
        raise UserError(f"{path}={value}: expected {expected}")


def check_convex(convex: ConvexConfig) -> None:
    """Check what types cannot, of every setting; nothing if there is no loss.

    Raises:
        UserError: the first value that is out of range.
    """
    if convex.loss is None:
        return
    _one_of("convex.loss", convex.loss, LOSSES)
    for key in ("repeats", "tuning_repeats", "steps", "passes", "batch", "ascent_steps"):
        _require(f"convex.{key}", getattr(convex, key), getattr(convex, key) >= 1, "a whole number of at least 1")
    for key in ("repeats", "tuning_repeats"):
        _require(f"convex.{key}", getattr(convex, key), getattr(convex, key) <= SEEDS // 2, f"at most {SEEDS // 2}")
    multiples = convex.multiples
    _require("convex.multiples", multiples, bool(multiples) and min(multiples) > 0, "a list of positive numbers")
    pool = convex.pool
    _require("convex.pool.size", pool.size, pool.size >= 4, "a whole number of at least 4")
    _require("convex.pool.alpha", pool.alpha, 0 < pool.alpha < 1, "a fraction in (0, 1)")
    _require("convex.settings", convex.settings, bool(convex.settings), "at least one setting")
    for name, setting in settings_of(convex).items():
        _check_setting(f"convex.settings.{name}", setting, convex.loss)
        if setting.data != "gaussian":
            _check_real(f"convex.settings.{name}", setting, convex.settings[name] or {})


def _check_setting(path: str, setting: SettingConfig, loss: str) -> None:
    _one_of(f"{path}.data", setting.data, DATA)
    _one_of(f"{path}.forget", setting.forget, FORGET)
    if setting.data != "gaussian" and loss != "logistic":
        raise UserError(f"{path}.data={setting.data}: expected gaussian, since these labels are classes (convex.loss)")
    if setting.data != "gaussian" and setting.forget == "unusual":
        raise UserError(f"{path}.forget=unusual: expected random or mislabelled, only gaussian inputs have rare ones")
    _require(f"{path}.d", setting.d, setting.d >= 2, "a whole number of at least 2")
    _require(f"{path}.rare", setting.rare, 1 <= setting.rare < setting.d, "a whole number from 1 to below d")
    _require(f"{path}.condition", setting.condition, setting.condition >= 1, "a number of at least 1")
    _require(f"{path}.size", setting.size, 1 <= setting.size < setting.n, "a whole number from 1 to below n")
    _require(f"{path}.matched", setting.matched, 0 <= setting.matched <= 1, "a share from 0 to 1")
    _require(f"{path}.penalty", setting.penalty, setting.penalty > 0, "a number above 0")
    most = 0.5 if loss == "logistic" else float("inf")
    _require(f"{path}.noise", setting.noise, 0 <= setting.noise <= most, f"a number from 0 to {most:g}")


def _check_real(path: str, setting: SettingConfig, different: Mapping[str, Any]) -> None:
    rows, directions = LARGEST[setting.data]
    _require(f"{path}.n", setting.n, setting.n <= rows, f"at most {rows}, the examples of {setting.data}")
    _require(f"{path}.d", setting.d, setting.d <= directions, f"at most {directions}, the directions of {setting.data}")
    for key in ("condition", "rare"):
        if key in different:
            raise UserError(f"{path}.{key}={different[key]}: only gaussian inputs have it; expected none")


def _one_of(path: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise UserError(f"{path}={value}: expected one of {', '.join(accepted)}{did_you_mean(value, accepted)}")


def _require(path: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise UserError(f"{path}={value}: expected {expected}")
