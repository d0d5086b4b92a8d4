"""Audits of a run: retrained models stay at their floor, and what cannot be audited is refused."""

from __future__ import annotations

import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.schema import register
from dmm_exp.console.progress import Console
from dmm_exp.errors import UserError
from dmm_exp.evaluation.audits import Audits
from dmm_exp.executors import Local
from dmm_exp.pipeline import Context, Pipeline
from dmm_exp.runs.page import REPORT
from dmm_exp.store import Store

ALL = ("relearn", "relearn_shown", "perturb", "int8", "bfloat16")
SMALL = [
    "evaluation/audits=all",
    "forget=rum_high_mem",
    "unlearner=gradient_ascent",
    "attribution=debiased",
    "n_models=20",
]


@pytest.fixture(scope="module")
def found(start, outputs):
    return start(outputs, *SMALL)


@pytest.mark.parametrize("name", ALL)
def test_retrained_models_are_at_the_second_sets_value_and_the_originals_are_not(found, name):
    of = {key.removeprefix(f"audit/{name}/"): value for key, value in found.metrics.items() if f"/{name}/" in key}
    low, high = of["accuracy/floor/forget_low"], of["accuracy/floor/forget_high"]
    width = high - low
    assert low - width <= of["accuracy/oracle/forget"] <= high + width
    assert of["accuracy/original/forget"] > high + width
    assert of["tow_original"] < of["tow_floor"]
    assert of["klom_original/forget/p95"] > of["klom_floor/forget/p95"]


def test_doing_nothing_passes_no_audit_better_than_the_originals(start, outputs, found):
    nothing = start(outputs, *SMALL, "unlearner=do_nothing")
    for name in ("perturb", "int8", "bfloat16"):  # the same models, and no randomness of the probe's own
        for metric in ("accuracy/{}/forget", "accuracy/{}/val"):
            own, original = (nothing.metrics[f"audit/{name}/{metric.format(one)}"] for one in ("unlearned", "original"))
            assert own == original
    same = [key for key in found.metrics if key.startswith("audit/") and ("/oracle/" in key or "/floor/" in key)]
    assert all(nothing.metrics[key] == found.metrics[key] for key in same)


def test_rows_that_are_shown_are_not_looked_at(outputs):
    audits = audits_of(outputs, "forget=random", "forget.size=5", "evaluation.audits.relearn_shown.shown=0.79")
    forget, unseen = (set(rows.tolist()) for rows in (audits.pipeline.forget, audits.unseen("relearn_shown")))
    assert len(unseen) == 1
    assert unseen < forget
    assert set(audits.unseen("relearn").tolist()) == forget
    audits = audits_of(outputs, "forget=random", "forget.size=5", "evaluation.audits.relearn_shown.shown=0.95")
    with pytest.raises(UserError, match=r"evaluation.audits.relearn_shown.shown=0.95: shows all 5 forgotten rows"):
        audits.unseen("relearn_shown")


def audits_of(outputs, *overrides) -> Audits:
    """Return the audits of a run; nothing is made before it is asked for."""
    register()
    (config,) = check_overrides(config_directory(), [*SMALL, *overrides])
    console = Console(quiet=True)
    return Audits(Pipeline(Context(config, Store(outputs / "artifacts", console), Local(), console)))


def test_the_page_shows_them(start, outputs, found):
    again = start(outputs, *SMALL, "evaluation.report=true")
    assert again.folder == found.folder
    page = (again.folder / REPORT).read_text(encoding="utf-8")
    assert "Does it come back?" in page
    assert "relearn shown" in page


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["unlearner=dm_direct"], "evaluation.audits: DMDirect returns predictions and no models"),
        (["evaluation.audits.relearn.shown=1.5"], "evaluation.audits.relearn.*shown=1.5: expected a share"),
        (
            ["+evaluation.audits.own={_target_: dmm_exp.unlearners.DMDirect}"],
            "evaluation.audits.own: DMDirect is no probe",
        ),
    ],
)
def test_what_cannot_be_audited_is_refused_before_anything_is_made(start, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        start(tmp_path, *SMALL, *overrides)
    assert not list(tmp_path.rglob("*.safetensors"))
