"""The script that uploads offline runs, with a stand-in for the command that it calls."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "wandb_sync.sh"
# Notes what it is asked, and leaves the mark that wandb leaves, unless the run's name says otherwise.
WANDB = """#!/usr/bin/env bash
echo "$@" >> "$CALLS"
case $2 in
    *broken*) exit 1 ;;
    *unmarked*) exit 0 ;;
    *) touch "$2/run.wandb.synced" ;;
esac
"""


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Return outputs with two offline runs, the older one in the folder that comes later, and an online one."""
    command = tmp_path / "bin" / "wandb"
    command.parent.mkdir()
    command.write_text(WANDB)
    command.chmod(0o755)
    folder = tmp_path / "out puts"
    for run in ("b/wandb/offline-run-20250101_000000-b", "a/wandb/offline-run-20260101_000000-a", "a/wandb/run-1-c"):
        (folder / "runs" / run).mkdir(parents=True)
    return folder


def sync(outputs: Path, *arguments: object, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    beside = outputs.parent
    environment = {"PATH": path or f"{beside / 'bin'}:{os.environ['PATH']}", "CALLS": str(beside / "calls")}
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=beside, env=environment, capture_output=True, text=True, check=False)


def calls(outputs: Path) -> list[str]:
    """Return what the stand-in was asked."""
    file = outputs.parent / "calls"
    return file.read_text().splitlines() if file.exists() else []


def test_offline_runs_are_uploaded_once_oldest_first(outputs: Path) -> None:
    done = sync(outputs, outputs)
    assert (done.returncode, done.stdout) == (0, "2 uploaded, 0 uploaded before, 0 failed\n")
    assert [call.rsplit("-", 1)[1] for call in calls(outputs)] == ["b", "a"]
    assert all(call.startswith(f"sync {outputs}/runs/") for call in calls(outputs))
    again = sync(outputs, outputs)
    assert (again.returncode, again.stdout) == (0, "0 uploaded, 2 uploaded before, 0 failed\n")
    assert len(calls(outputs)) == 2


def test_a_dry_run_names_what_would_be_uploaded_and_needs_no_wandb(outputs: Path) -> None:
    done = sync(outputs, "--dry-run", outputs, path="/usr/bin:/bin")
    assert done.returncode == 0
    assert [line.rsplit("-", 1)[-1] for line in done.stdout.splitlines()[:2]] == ["b", "a"]
    assert done.stdout.endswith("2 would be uploaded, 0 uploaded before, 0 failed\n")
    assert not calls(outputs)


@pytest.mark.parametrize("name", ["broken", "unmarked"])
def test_a_run_that_was_not_uploaded_is_named_and_the_others_still_are(outputs: Path, name: str) -> None:
    (outputs / "runs" / "x" / "wandb" / f"offline-run-20240101_000000-{name}").mkdir(parents=True)
    done = sync(outputs, outputs)
    assert (done.returncode, done.stdout) == (1, "2 uploaded, 0 uploaded before, 1 failed\n")
    assert done.stderr.startswith("could not upload")
    assert done.stderr.endswith(f"{name}\n")


def test_outputs_is_the_folder_if_none_is_given(outputs: Path) -> None:
    (outputs.parent / "outputs").mkdir()
    done = sync(outputs)
    assert (done.returncode, done.stdout) == (0, "0 uploaded, 0 uploaded before, 0 failed\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "'nowhere' is not a folder"),
        (["--force"], "'--force' is not an option"),
        (["a", "b"], "one folder"),
    ],
)
def test_bad_input_is_one_sentence(outputs: Path, arguments: list[str], said: str) -> None:
    done = sync(outputs, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not calls(outputs)


def test_a_missing_wandb_is_one_sentence(outputs: Path) -> None:
    done = sync(outputs, outputs, path="/usr/bin:/bin")
    assert done.returncode == 2
    assert "pip install wandb" in done.stderr
