"""What a person at the keyboard meets: exit codes, one-sentence errors, sweeps, kills."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from results_of_runs import without_seconds

from dmm_exp import sweep

SMALL = [
    "experiment=quick",
    "evaluation.report=false",
    "executor=local",
    "pool.size=20",
    "pool.larger.size=8",
    "pool.held_out=4",
    "n_models=4",
]


def dmm_exp(*arguments, cwd, **options):
    command = [sys.executable, "-m", "dmm_exp", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False, **options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["unlearner=dm"], "did you mean 'dmm'?"),
        (["unlearner.optimizer.lr=-1"], "Invalid learning rate"),
        (["unlearner=dmm,finetune"], "add -m"),
    ],
)
def test_bad_input_is_one_sentence_with_exit_code_2_and_nothing_written(tmp_path, arguments, said):
    done = dmm_exp(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_last_line_is_the_folder_and_its_configuration_runs_again(tmp_path):
    first = dmm_exp(*SMALL, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    folder = first.stdout.splitlines()[-1]
    assert folder.startswith(str(tmp_path / "outputs" / "runs"))
    again = dmm_exp("--config-path", folder, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == folder
    assert "computed" not in again.stderr.replace("reused", "")


def test_sweep_ends_in_one_table_and_a_failing_cell_does_not_stop_the_others(tmp_path):
    done = dmm_exp("-m", *SMALL, "unlearner=finetune", "unlearner.optimizer.lr=1e9,0.01", cwd=tmp_path)
    assert done.returncode == 1
    assert "1 of 2 cells failed" in done.stdout
    assert "diverged" in done.stdout
    folder = done.stdout.splitlines()[-1]
    cells = [json.loads((tmp_path / folder / f"cell-0000{number}.json").read_text()) for number in (0, 1)]
    assert [cell["status"] for cell in cells] == ["failed", "done"]
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}


@pytest.mark.slow
def test_cells_that_start_at_the_same_moment_share_what_they_make_and_end_in_one_table(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = [*SMALL, "forget=random", "unlearner=finetune,gradient_ascent"]
    done = dmm_exp("-m", *arguments, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / done.stdout.splitlines()[-1]
    cells = [json.loads((folder / f"cell-0000{number}.json").read_text()) for number in (0, 1)]
    assert [cell["status"] for cell in cells] == ["done", "done"]
    for stage in ("originals", "oracles", "floor_oracles"):
        cached = sorted(cell["metrics"][f"seconds/{stage}/cached"] for cell in cells)
        assert cached == [0, 1], stage  # one cell made it, the other waited and used it


def test_a_cell_that_ends_without_a_word_is_listed_as_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(sweep.SWEEP, "abc")
    folder = sweep.prepared({"paths": {"outputs": str(tmp_path)}})
    folder.mkdir(parents=True)
    done = {"number": 0, "choices": {"unlearner": "dmm"}, "overrides": ["unlearner=dmm"], "status": "done"}
    (folder / "cell-00000.json").write_text(json.dumps(done | {"metrics": {"tow": 0.5}}))
    assert sweep.finish(folder, 2) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of 2 cells failed" in said
    assert "killed, or out of memory" in said
    sweep.prepared({"paths": {"outputs": str(tmp_path)}})
    assert not list(folder.glob("cell-*.json"))


def test_sweep_with_an_impossible_cell_is_refused_before_the_first_starts(tmp_path):
    done = dmm_exp("-m", *SMALL, "unlearner=dmm,no_such", cwd=tmp_path)
    assert done.returncode == 2
    assert "unlearner=no_such" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_it_ends_the_same(tmp_path):
    """Killed after each new shard, until it gets through; no shard that was finished is made again."""
    arguments = [*SMALL, "executor=processes", "executor.workers=1", "model.chunk_size=4"]
    reference = dmm_exp(*arguments, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)})
    folder = reference.stdout.splitlines()[-1].replace(str(tmp_path), str(tmp_path / "killed"))
    killed = tmp_path / "killed"
    killed.mkdir()
    seen: dict[str, int] = {}
    for kills in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "dmm_exp", *arguments],
            cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _wait_for(lambda wanted=kills + 2: len(list(killed.rglob("shard-*.json"))) >= wanted, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.6)  # workers end with their parent
        for path in killed.rglob("shard-*.safetensors"):
            if path.with_suffix(".json").exists():
                stamp = path.stat().st_mtime_ns
                assert seen.setdefault(_identity(path), stamp) == stamp
    done = dmm_exp(*arguments, cwd=killed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == folder
    for path in killed.rglob("shard-*.safetensors"):
        assert seen.get(_identity(path), path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    references = tmp_path / "outputs" / "runs" / folder.rsplit("/", 1)[1]
    assert without_seconds(killed / "outputs" / "runs" / references.name) == without_seconds(references)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "processes"])
def test_ctrl_c_is_one_sentence_and_the_same_command_goes_on(tmp_path, executor):
    arguments = [*SMALL, f"executor={executor}", "model.chunk_size=2", "training.epochs=20"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dmm_exp", *arguments],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    _wait_for(lambda: len(list(tmp_path.rglob("shard-*.json"))) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to this process, its server and all workers
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted; the same command goes on where this one stopped"
    assert "Traceback" not in said
    left = [path.name for path in tmp_path.rglob("*") if path.name.endswith(".lock")]
    assert left == []
    finished = _times(tmp_path)
    done = dmm_exp(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(finished) >= 2
    assert finished.items() <= _times(tmp_path).items()


def _times(folder):
    shards = [path for path in folder.rglob("shard-*.safetensors") if path.with_suffix(".json").exists()]
    return {_identity(path): path.stat().st_mtime_ns for path in shards}


def _identity(path):
    return f"{path.parent.name.removesuffix('.partial')}/{path.name}"


def _wait_for(condition, process):
    for _ in range(600):
        if condition() or process.poll() is not None:
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened for 30 s")


def test_help_names_the_groups_and_needs_no_torch(tmp_path):
    script = "import sys, dmm_exp.cli; sys.argv[1:] = ['--help']\ntry: dmm_exp.cli.main()\nexcept SystemExit: pass\n"
    code = script + "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "unlearner: ascent_descent, bad_teacher, dm_direct, dmm" in done.stdout


def test_workers_start_before_this_process_imports_torch(tmp_path):
    script = """
import sys
from dmm_exp.cli import main
from dmm_exp.executors import Processes
def started(self):
    print("with torch" if "torch" in sys.modules else "before torch")
    sys.exit(0)
Processes.warm_up = started
main()
"""
    command = [sys.executable, "-c", script, "unlearner=finetune", "executor=processes"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "before torch\n", done.stderr
