"""A sweep that is tracked with wandb, read back from disk, and the dashboard that shows it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from wandb_files import Written, written_runs

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import compose_cells
from dmm_exp.config.schema import register
from dmm_exp.errors import UserError
from dmm_exp.runs import batch as sweep
from dmm_exp.runs.figures import FIGURES
from dmm_exp.runs.job import JobRequest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
OVERRIDES = [
    "experiment=quick", "forget=random", "unlearner=finetune,gradient_ascent", "unlearner.epochs=1", "n_models=4",
    "training.epochs=2", "training.batch_size=512", "executor=local", "evaluation.report=false", "logger=wandb",
    "logger.mode=offline",
]  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the outputs of a sweep over two unlearners; the page, which has its own tests, is a stand-in."""
    register()
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(sweep.SWEEP, "")  # restored afterwards
        patch.setattr("dmm_exp.runs.trackers.write_report", lambda _, to: (to / "report.html").write_text("page"))
        patch.setattr("dmm_exp.runs.trackers.TABLE_ROWS", 100)
        sweep.begin(OVERRIDES)
        cells = compose_cells(config_directory(), [*OVERRIDES, f"paths.outputs={folder}"], [])
        for number, (config, choices) in enumerate(cells):
            sweep.run_cell(config, choices, [], number)
        assert sweep.finish(sweep.folder_of_sweep(config), 2) == 0
    return folder


def runs_of(outputs: Path) -> dict[Path, Written]:
    """Return the one offline run of every run's folder."""
    found = {folder: written_runs(folder) for folder in sorted((outputs / "runs").iterdir())}
    assert all(len(written) == 1 for written in found.values())
    return {folder: written for folder, (written,) in found.items()}


def test_every_cell_is_one_run_in_the_sweeps_group(outputs: Path) -> None:
    (folder,) = (outputs / "sweeps").iterdir()
    runs = runs_of(outputs)
    assert len(runs) == 2
    assert {written.group for written in runs.values()} == {folder.name}
    assert [written.name for written in runs.values()] == [path.name for path in runs]
    assert {written.config["choices"]["unlearner"] for written in runs.values()} == {"finetune", "gradient_ascent"}


def test_runs_read_back_hold_what_their_folders_hold(outputs: Path) -> None:
    for folder, written in runs_of(outputs).items():
        metrics = json.loads((folder / "metrics.json").read_text())
        assert {name: written.summary[name] for name in metrics} == metrics
        assert written.config["choices"] == json.loads((folder / "choices.json").read_text())
        assert written.config["n_models"] == 4
        assert len(written.table("members")["data"]) == 4
        assert sum(row[1] == "forget" for row in written.table("points")["data"]) == 50
        assert [row["epoch/originals"] for row in written.history if "epoch/originals" in row] == [1, 2]
        assert written.exit_code == 0


@pytest.mark.parametrize(
    ("module", "composes", "job"),
    [
        ("leaderboard.board", "compose_entries", "Leaderboard"),
        ("study.study", "compose_cells_of", "Study"),
    ],
)
def test_runs_of_leaderboards_and_studies_are_composed_with_a_group(
    module: str, composes: str, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    monkeypatch.setenv(sweep.SWEEP, "")
    commands = importlib.import_module(f"dmm_exp.{module}")
    groups: list[str] = []

    def composed(*_: Any) -> Iterator[Any]:
        ((config, _),) = compose_cells(config_directory(), ["logger=wandb"], [])
        groups.append(config.logger["group"])
        return iter(())

    monkeypatch.setattr(commands, composes, composed)
    ((config, _),) = compose_cells(config_directory(), ["dry_run=true"], [])
    for overrides in (["seed=1"], ["seed=2"], ["seed=1"]):
        with pytest.raises(UserError, match="names no runs"):
            getattr(commands, job)().do(JobRequest(config, {}, overrides))
    assert groups[0] == groups[2] != groups[1]
    assert all(groups)


@pytest.fixture(scope="module")
def dashboard() -> ModuleType:
    """Return scripts/wandb_dashboard.py as a module."""
    spec = importlib.util.spec_from_file_location("wandb_dashboard", SCRIPTS / "wandb_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(node: Any) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of every text in plain containers; the elements of a list have the list's key."""
    for key, value in node.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                yield from texts(each)
            elif isinstance(each, str):
                yield key, each


def test_a_run_of_each_job_type_shows_the_work_that_was_done(outputs: Path) -> None:
    first, second = (written_runs(folder, None) for folder in sorted((outputs / "runs").iterdir()))
    kinds = [{written.job_type for written in runs} for runs in (first, second)]
    assert {"train", "unlearn", "evaluate"} in kinds
    assert {"unlearn", "evaluate"} in kinds  # which trained nothing that the other had not
    (trained,) = (written for runs in (first, second) for written in runs if written.job_type == "train")
    for stage in ("originals", "oracles", "floor oracles"):
        assert trained.summary[f"members/{stage}"] == 4
        assert 0 < trained.summary[f"loss/{stage}"] < 3
    assert not any("klom/forget/p95" in written.summary for written in (trained,))
    for folder in (outputs / "runs").iterdir():
        (evaluated,) = written_runs(folder)
        assert "report" not in evaluated.summary


def test_the_dashboard_names_only_what_runs_write(dashboard: ModuleType, outputs: Path) -> None:
    found = list(texts(dashboard.specification(dashboard.workspace("team", "dmm_exp"))))
    shown = {text.removeprefix("summary:") for key, text in found if key in ("metrics", "xAxis", "yAxis", "accessor")}
    metrics = {text for text in shown if not text.startswith("config:")} - {"_step"}
    work = {text for text in metrics if text.startswith("members/")}
    names = set(json.loads((SCRIPTS.parent / "tests" / "docs" / "metric_names.json").read_text()))
    probes = {text.split("/")[1] for text in metrics if text.startswith("audit/")}
    assert {"klom_sum/forget/p95", "tow_mia", "cost/ratio", "certified/epsilon", "ulira/accuracy"} <= metrics
    assert probes == set(compose_cells(config_directory(), ["evaluation/audits=all"])[0][0].evaluation.audits or {})
    known = names | {f"audit/{probe}/{name}" for probe in probes for name in names}
    of_runs = {re.sub(r"/(retain|val)(/|$)", r"/forget\2", name) for name in metrics - work}
    assert {name for name in of_runs if not name.startswith(("loss/", "epoch/"))} <= known
    pictures = {text for key, text in found if key == "mediaKeys"}
    assert pictures <= {f"figures/{draw.__name__}" for draw in FIGURES}
    groups = {".".join(re.findall(r"choices\.value\.(\w+)$", text)) for _, text in found} - {""}
    assert groups == {"unlearner", "forget"}
    optional = {text for text in metrics if text.startswith(("audit/", "certified/", "competition/"))}
    written_work = {name for folder in (outputs / "runs").iterdir() for run in written_runs(folder, None)
                    for name in run.summary}  # fmt: skip
    assert work <= written_work
    for written in runs_of(outputs).values():
        assert metrics - optional - work <= set(written.summary)
        assert groups <= set(written.config["choices"])


def test_the_dashboards_specification_is_what_the_package_reads_back(dashboard: ModuleType) -> None:
    from wandb_workspaces.workspaces import internal

    made = dashboard.specification(dashboard.workspace("team", "dmm_exp"))
    section = internal.WorkspaceViewspec.model_validate(made).section
    titles = [section.name for section in section.panel_bank_config.sections]
    assert titles[:4] == ["KLoM by group, with its floor", "Quality against cost", "ToW", "Leaderboard"]
    assert [len(each.panels) for each in section.panel_bank_config.sections[:5]] == [6, 3, 3, 3, 3]
    assert '"jobType"' in json.dumps(made)  # runs that hold progress alone are not among those that are compared
    assert [key.name for key in section.run_sets[0].grouping] == ["choices.value.forget", "choices.value.unlearner"]


def test_a_dry_run_prints_the_specification(
    dashboard: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard.ws.Workspace, "save", lambda _: pytest.fail("a dry run asks no server"))
    assert dashboard.main(["--entity", "team", "--project", "dmm_exp", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["section"]["panelBankConfig"]["sections"]


def test_a_dashboard_that_the_server_refuses_is_one_sentence(
    dashboard: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> None:
        raise dashboard.wandb.errors.UsageError("no API key")

    monkeypatch.setattr(dashboard.ws.Workspace, "save", refuse)
    assert dashboard.main(["--entity", "team", "--project", "dmm_exp"]) == 2
    assert capsys.readouterr().err == "error: W&B did not take the workspace (no API key)\n"


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    spec = importlib.util.spec_from_file_location("wandb_dashboard", SCRIPTS / "wandb_dashboard.py")
    with pytest.raises(SystemExit) as ended:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))  # type: ignore[union-attr, arg-type]
    assert ended.value.code == 2
    assert "pip install wandb-workspaces" in capsys.readouterr().err
