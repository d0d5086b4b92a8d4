"""A pool whose logits are rounded and stay on disk gives the run that one of float32 in memory does."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from dmm_exp.store import Artifact, stacked

OVERRIDES = ("attribution=debiased", "unlearner=dm_direct", "n_models=2", "pool.larger.size=0", "pool.lds_alphas=[0.7]")


def pools(outputs) -> list[Artifact]:
    """Return all ensembles of subset models."""
    folders = [path.parent for path in (outputs / "artifacts" / "ensemble").glob("*/manifest.json")]
    found = [Artifact(folder, folder.name, cached=True) for folder in folders]
    return [artifact for artifact in found if artifact.spec.config["role"] in ("subset", "larger", "lds")]


@pytest.fixture(scope="module")
def runs(start, tmp_path_factory):
    """Return the folders of results, and the runs, of both."""
    plain, rounded = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("rounded")
    first = start(plain, *OVERRIDES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacked, "WHOLE_BYTES", 0)
        patch.setattr(stacked, "BLOCK_BYTES", 1 << 18)
        second = start(rounded, *OVERRIDES, "pool.logits_dtype=float16")
    return (plain, first), (rounded, second)


def test_shards_hold_rounded_logits_and_exact_margins(runs):
    for artifact in pools(runs[1][0]):
        assert artifact.spec.config["logits_dtype"] == "float16"
        assert artifact.stacked("logits").dtype == torch.float16
        assert artifact.stacked("margins").dtype == torch.float32
        assert artifact.stacked("margins").shape == artifact.stacked("logits").shape[:2]


def test_pools_of_float32_are_called_what_they_always_were(runs):
    for artifact in pools(runs[0][0]):
        assert "logits_dtype" not in artifact.spec.config
        assert "margins" not in artifact.stacked_names()


def test_memorization_and_lds_come_from_margins(runs):
    (_, plain), (_, rounded) = runs
    first, second = (pd.read_parquet(run.folder / "points.parquet") for run in (plain, rounded))
    assert second.memorization.dropna().to_numpy() == pytest.approx(first.memorization.dropna().to_numpy(), abs=1e-5)
    for name in ("lds", "lds/alpha_0.7"):
        assert rounded.metrics[name] == pytest.approx(plain.metrics[name], abs=0.02)


def test_effects_are_close(runs):
    (_, plain), (_, rounded) = runs
    first, second = (pd.read_parquet(run.folder / "points.parquet").effect_predicted for run in (plain, rounded))
    assert (first - second).std() < 0.02 * first.std()


def test_another_type_is_refused(start, tmp_path):
    with pytest.raises(ValueError, match=r"pool\.logits_dtype=float61: expected float32 or float16; did you mean"):
        start(tmp_path, "pool.logits_dtype=float61")
