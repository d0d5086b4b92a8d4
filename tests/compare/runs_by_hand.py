"""Run folders written by hand: complete enough to be compared, and nothing more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

TARGETS = {
    "dmm": "dmm_exp.unlearners.DMM",
    "finetune": "dmm_exp.unlearners.Finetune",
    "scrub": "dmm_exp.unlearners.Scrub",
    "retrain": "dmm_exp.unlearners.Retrain",
    "do_nothing": "dmm_exp.unlearners.DoNothing",
}


def write_run(outputs: Path, unlearner: str, seed: int = 0, **changes: Any) -> Path:
    """Write a finished run; ``changes``: forget, size, lr, n_models, state, metrics, tow (by member), name."""
    forget, size = changes.get("forget", "random"), changes.get("size", 50)
    name = changes.get("name", f"digits-mlp-{forget}-{unlearner}__{seed}-{size}-{changes.get('lr', 0)}")
    folder = outputs / name
    folder.mkdir(parents=True)
    choices = {"dataset": "digits", "model": "mlp", "forget": forget, "unlearner": unlearner, "refinement": "none"}
    config = {
        "defaults": ["schema"],
        "seed": seed,
        "n_models": changes.get("n_models", 20),
        "forget": {"_target_": "dmm_exp.forget.Random", "size": size, "seed": 0},
        "unlearner": {"_target_": TARGETS[unlearner], "lr": changes.get("lr", 0.1)},
        "paths": {"outputs": str(outputs)},
    }
    tow = changes.get("tow")
    metrics = {"klom/forget/p95": 2.0, "tow": 0.5 if tow is None else float(np.mean(tow)), "cost/ratio": 0.5}
    (folder / "choices.json").write_text(json.dumps({**choices, **changes.get("choices", {})}))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text(json.dumps({**metrics, **changes.get("metrics", {})}))
    (folder / "forget.json").write_text(json.dumps([forget, size, seed]))
    (folder / "status.json").write_text(json.dumps({"state": changes.get("state", "finished"), "updated": 1.0}))
    if tow is not None:
        oracle = changes.get("oracle", np.full(len(tow), 0.75))
        pd.DataFrame({"tow": tow, "accuracy/oracle/forget": oracle}).to_parquet(folder / "members.parquet")
    return folder
