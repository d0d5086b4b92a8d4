"""Plans (``dry_run=true``) of every kind of job: what they say is what happens, and they make nothing."""

import re
import shlex
from pathlib import Path

import pytest
from results_of_runs import SMALLEST
from test_sweeps_of_jobs import BOARD, CONVEX, STUDY

from dmm_exp.config.identity import naming
from dmm_exp.config.schema import marks

SMALL = [*SMALLEST, "n_models=2", "logger=none", "executor=local", "unlearner=do_nothing", "forget=random"]
OF_JOBS = [*SMALLEST[1:], "n_models=2", "executor=local"]
JOBS = {
    "run": (["experiment=quick", "unlearner=do_nothing", "forget=random"], OF_JOBS),
    "scores": (["job=scores"], OF_JOBS),
    "leaderboard": (["experiment=board"], OF_JOBS),
    "study": (["experiment=study"], OF_JOBS),
    "convex": (["experiment=convex"], []),
    "sweep": (["-m", "experiment=quick", "unlearner=do_nothing", "forget=random", "seed=0,1"], OF_JOBS),
    "sweep of jobs": (["-m", "experiment=board,study"], OF_JOBS),
}
PRESENTED = ["logger=csv", "logger=none", "trainer.enable_progress_bar=true", "evaluation.report=true"]
PLACED = ["executor.threads=1", "engine.step=eager", "model.chunk_size=1", "trainer.accelerator=cpu"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a folder with experiments of many runs."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    for name, text in {"convex": CONVEX, "board": BOARD, "study": STUDY}.items():
        (tmp_path / "conf" / "experiment" / f"{name}.yaml").write_text(text)
    return tmp_path


def total(plan: str, stage: str) -> int:
    """Return how many models of a stage a plan would make."""
    (row,) = re.findall(rf"^ {stage} +would be made(?:, [\d,]+ models taken over)? +([\d,]+)", plan, re.MULTILINE)
    return int(row.replace(",", ""))


@pytest.mark.parametrize("job", JOBS)
def test_what_changes_no_result_names_no_folder(command, here, monkeypatch, job):
    words, small = JOBS[job]
    outputs = set()
    for more in ([], PRESENTED[:1], PRESENTED[1:], PLACED, ["paths.outputs=outputs", "dry_run=true"]):
        done = command("--config-dir", "conf", *words, *small, "dry_run=true", *more, cwd=here)
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout.splitlines()[-1])
    (folder,) = outputs
    assert not Path(folder).exists()
    done = command("--config-dir", "conf", *words, *small, cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == folder


@pytest.mark.parametrize("key", [key for key, mark in marks().items() if mark in ("presentation", "place")])
def test_no_key_that_is_marked_presentation_or_place_takes_part_in_a_name(key):
    key = key.replace("*", "npz")
    for text in (f"{key}=x", f"+{key}=x", f"++{key}.deeper=x", f"~{key}"):
        assert naming(["seed=1", text]) == ["seed=1"]
    assert naming([f"{key}er=x"]) == [f"{key}er=x"] or "." not in key


@pytest.mark.parametrize(
    "text", ["evaluation/klom=paper", "study.title=x", "job=study", "experiment=quick", "n_models=3"]
)
def test_other_keys_take_part_in_names(text):
    assert naming([text]) == [text]


def test_a_run_ends_in_the_folder_of_its_plan_and_then_everything_is_there(command, tmp_path):
    words = [*SMALL, f"paths.outputs={tmp_path / 'my outputs'}"]
    plan = command(*words, "dry_run=true", cwd=tmp_path)
    assert not (tmp_path / "my outputs").exists()
    (line,) = re.findall(r"command: python -m dmm_exp (.*)", plan.stdout)
    done = command(*shlex.split(line), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == plan.stdout.splitlines()[-1]
    again = command(*words, "dry_run=true", cwd=tmp_path).stdout
    assert "would be made" not in again
    assert "of which 1 were finished before" in again
    assert "models to make: 0" in again
    assert "time: no training" in again


def test_the_disk_of_a_plan_is_what_the_run_takes(start, tmp_path, capsys):
    words = ["unlearner=finetune", "forget.score=memorization", "attribution=debiased", "n_models=4", "pool.size=24"]
    words += ["training.epochs=1", "unlearner.epochs=1", "pool.held_out=2", "pool.larger.size=0", "forget=random"]
    words.remove("forget.score=memorization")
    start(tmp_path, *words, "dry_run=true")
    value, unit = re.findall(r"disk: about ([\d.]+) (\w)B", capsys.readouterr().out)[0]
    start(tmp_path, *words)
    there = sum(path.stat().st_size for path in (tmp_path / "artifacts").rglob("*.safetensors"))
    assert float(value) * {"k": 1e3, "M": 1e6}[unit] == pytest.approx(there, rel=0.1)


def test_runs_of_one_plan_share_what_they_share(command, here):
    plan = command("--config-dir", "conf", "experiment=board", *OF_JOBS, "dry_run=true", cwd=here).stdout
    assert total(plan, "originals") == total(plan, "oracles") == total(plan, "floor oracles") == 2
    assert total(plan, "unlearned") == 4
    assert "runs: 2, of which 0 were finished before" in plan
    assert re.search(r"time: about .* of one (processor core|GPU)", plan)


def test_a_plan_knows_which_of_many_runs_are_there(command, here):
    words = ["--config-dir", "conf", "experiment=board", *OF_JOBS]
    plan = command(*words, "dry_run=true", cwd=here).stdout.splitlines()
    first = next(line for line in plan if line.startswith("python"))
    assert "dry_run" not in first
    assert command(*shlex.split(first)[3:], cwd=here).returncode == 0
    again = command(*words, "dry_run=true", cwd=here).stdout
    assert f"{first}  # finished before" in again
    assert "runs: 2, of which 1 were finished before" in again
    assert total(again, "unlearned") == 2
    assert "originals" in again
    assert not re.search("originals +would be made", again)


def test_stages_whose_forget_set_is_not_known_yet_are_counted_once_a_forget_set(command, tmp_path):
    words = ["-m", *SMALLEST, "n_models=2", "executor=local", "forget=rum_high_mem,random", "forget.size=9,12"]
    done = command(*words, "unlearner=do_nothing,gradient_ascent", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "8, of which" in done.stdout
    assert total(done.stdout, "pool") == 12
    assert total(done.stdout, "oracles") == 4 * 2
    assert total(done.stdout, "unlearned") == 8 * 2


def test_a_choice_of_another_group_is_suggested_with_its_group(command, tmp_path):
    assert "; did you mean refinement=rum?" in command("unlearner=rum", cwd=tmp_path).stderr
    assert "; did you mean 'scrub'?" in command("unlearner=scrubb", cwd=tmp_path).stderr
