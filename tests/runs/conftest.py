"""A made-up run, complete enough to draw everything a real one can show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dmm_exp.console.progress import StageRecord
from dmm_exp.runs.result import OtherRun, RunResult

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "<b>x</b>", "$nine"]


def made_up_run(members: int = 100, n_points: int = 300, forgotten: int = 40, **changes: Any) -> RunResult:
    """Build a run whose method closes most of the way to the oracles on the forget set; ``changes`` replace fields."""
    draw = np.random.default_rng(0)
    train = int(n_points * 0.8)
    group = np.array(["retain"] * train + ["val"] * (n_points - train), dtype=object)
    group[draw.choice(train, forgotten, replace=False)] = "forget"
    margins = _margins(draw, members, group == "forget")
    frame = _points(draw, group, margins)
    fields: dict[str, Any] = {
        "name": "digits-mlp-rum_high_mem-dmm__1a2b3c4d5e",
        "config": {"seed": 0, "n_models": members, "forget": {"_target_": "dmm_exp.forget.ByScore", "size": forgotten}},
        "choices": {"dataset": "digits", "model": "mlp", "forget": "rum_high_mem", "attribution": "datamodels",
                    "unlearner": "dmm", "refinement": "none"},
        "metrics": _metrics(frame),
        "points": frame,
        "margins": margins,
        "images": _images(draw, frame["label"].to_numpy()),
        "class_names": CLASSES,
        "stages": [
            StageRecord("pool", "3,000 subset models", 48.2, False),
            StageRecord("originals", f"{members} models on {train:,} points", 0.1, True),
            StageRecord("unlearning", f"{members} models", 3.4, False),
        ],
        "provenance": {"dmm_exp": "0.1.0", "commit": "0123abc", "device": "cpu", "command": "python -m dmm_exp"},
        "history": _history(),
        "roc": _roc(),
        "others": [
            OtherRun("digits-mlp-rum_high_mem-scrub__2", "scrub", {"klom/forget/p95": 9.5, "cost/ratio": 0.4}),
            OtherRun("digits-mlp-rum_high_mem-dm_direct__3", "dm_direct", {"klom/forget/p95": 1.5, "cost/ratio": 0.0}),
        ],
    }  # fmt: skip
    return RunResult(**{**fields, **changes})


def _margins(draw: np.random.Generator, members: int, forget: np.ndarray) -> dict[str, np.ndarray]:
    """Draw margins; only the forget points differ between ensembles."""
    centre = draw.normal(6.0, 2.0, forget.size)
    drop = np.where(forget, draw.gamma(2.0, 2.5, forget.size), 0.0)
    shift = {"original": 0.0 * drop, "unlearned": 0.9 * drop, "oracle": drop, "floor": drop}
    noise = {role: draw.normal(0.0, 1.0, (members, forget.size)) for role in shift}
    return {role: (centre - shift[role] + noise[role]).astype(np.float32) for role in shift}


def _points(draw: np.random.Generator, group: np.ndarray, margins: dict[str, np.ndarray]) -> pd.DataFrame:
    """Summarise margins by point; the KLoM columns only have to look plausible."""
    means = {role: values.mean(0) for role, values in margins.items()}
    change = means["original"] - means["oracle"]
    base = draw.gamma(8.0, 0.045, group.size)
    frame = {
        "point": np.arange(group.size),
        "group": group,
        "label": np.arange(group.size) % len(CLASSES),
        "klom": base * draw.uniform(0.8, 1.2, group.size) + 0.9 * np.maximum(means["unlearned"] - means["oracle"], 0),
        "klom_floor": base,
        "klom_original": np.minimum(base + 2.2 * np.maximum(change, 0), 11.5),
        **{f"margin_{role}": means[role] for role in ("original", "unlearned", "oracle")},
        **{f"accuracy_{role}": (margins[role] > 0).mean(0) for role in ("original", "unlearned", "oracle")},
        "memorization": np.where(group == "val", np.nan, np.clip(change / 12, 0, 1)),
        "memorization_se": np.where(group == "val", np.nan, 0.02),
        "effect_true": change,
        "effect_predicted": 0.9 * change + draw.normal(0.0, 0.3, group.size),
        "corrupted": draw.random(group.size) < 0.05,
    }
    frame |= {name.replace("klom", "klom_reverse"): 1.3 * frame[name] for name in list(frame) if "klom" in name}
    return pd.DataFrame(frame)


def _metrics(points: pd.DataFrame) -> dict[str, float]:
    """Return the metrics that a run with a predictor reports."""
    metrics: dict[str, float] = {}
    for group in ("forget", "retain", "val"):
        rows = {name: points[name].to_numpy()[points["group"] == group] for name in points.columns}
        for name in (f"{side}{end}" for side in ("klom", "klom_reverse") for end in ("", "_floor", "_original")):
            metrics[f"{name}/{group}/p95"] = float(np.percentile(rows[name], 95))
        for end in ("", "_floor", "_original"):
            metrics[f"klom_sum{end}/{group}/p95"] = 2.3 * metrics[f"klom{end}/{group}/p95"]
        value = metrics[f"klom/{group}/p95"]
        metrics |= {f"klom/{group}/p95_low": 0.9 * value, f"klom/{group}/p95_high": 1.1 * value}
        metrics[f"accuracy/floor/{group}"] = float(np.mean(rows["accuracy_oracle"]))
        for role in ("original", "unlearned", "oracle"):
            metrics[f"accuracy/{role}/{group}"] = float(np.mean(rows[f"accuracy_{role}"]))
        metrics[f"effect/r2/{group}"] = 0.84
    extra = {
        **{"tow": 0.9731, "tow/std": 0.012, "tow_low": 0.9707, "tow_high": 0.9755},
        **{"tow_floor": 0.9812, "tow_floor_low": 0.9789, "tow_floor_high": 0.9835, "tow_original": 0.612},
        **{"ulira/accuracy": 0.561, "ulira/accuracy_low": 0.541, "ulira/accuracy_high": 0.581},
        **{"ulira_floor/accuracy": 0.497, "ulira/tpr_at_1fpr": 0.034, "ulira/false_positive_rate": 0.44},
        **{"cost/ratio": 0.0213, "cost/shared": 1705.3, "cost/shared_per_request": 1709.3},
        "cost/attribution": 1e6,
    }
    return metrics | extra | {"lds": 0.61, "seconds/pool": 48.2}


def _images(draw: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Draw grey 8 x 8 pictures with a bright row that depends on the label."""
    images = draw.integers(0, 6, (labels.size, 1, 8, 8)).astype(np.uint8)
    images[np.arange(labels.size), 0, labels % 8] = 16
    return images


def _roc() -> pd.DataFrame:
    """Return curves of an attack that finds the originals, and hardly the unlearned models."""
    rates = np.concatenate([[0], np.logspace(-3, 0, 30)])
    power = {"unlearned": 0.6, "original": 0.2, "floor": 1.0}
    curves = [pd.DataFrame({"ensemble": name, "fpr": rates, "tpr": rates ** power[name]}) for name in power]
    return pd.concat(curves)


def _history() -> pd.DataFrame:
    """Return a curve for each stage that trains."""
    rows = [(stage, epoch, 2.3 * 0.8**epoch) for stage in ("pool", "originals", "oracles") for epoch in range(30)]
    rows += [("unlearning", epoch, 0.4 * 0.6**epoch) for epoch in range(5)]
    return pd.DataFrame(rows, columns=["stage", "epoch", "loss"])


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunResult]:
    """Return the function that makes a run up, for tests that change it."""
    return made_up_run


@pytest.fixture(scope="session")
def run() -> RunResult:
    """Return a complete made-up run."""
    return made_up_run()
