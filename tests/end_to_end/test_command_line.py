"""What a person at the keyboard meets: exit codes, one-sentence errors, sweeps."""

import json
import subprocess
import sys

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from results_of_runs import SMALLEST

from dmm_exp.config.schema import Config, PathsConfig
from dmm_exp.runs import batch as sweep

SMALL = [
    *SMALLEST,
    "executor=local",
    "n_models=2",
]


def dmm_exp(*arguments, cwd):
    """Start the command as a person does; what needs no process of its own takes the fixture ``command``."""
    words = [sys.executable, "-m", "dmm_exp", *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=200, check=False)


def assert_one_sentence(done, said, folder):
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["unlearner=dm"], "did you mean 'dmm'?"),
        (["unlearner.optimizer.lr=-1", "executor=local"], "Invalid learning rate"),
        (["unlearner=dmm,finetune"], "add -m"),
    ],
)
def test_bad_input_is_one_sentence_with_exit_code_2_and_nothing_written(command, tmp_path, arguments, said):
    assert_one_sentence(command(*arguments, cwd=tmp_path), said, tmp_path)


def test_the_process_ends_with_that_code_and_sentence(tmp_path):
    assert_one_sentence(dmm_exp("unlearner=dm", cwd=tmp_path), "did you mean 'dmm'?", tmp_path)


def test_last_line_is_the_folder_and_its_configuration_runs_again(command, tmp_path):
    first = dmm_exp(*SMALL, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    folder = first.stdout.splitlines()[-1]
    assert folder.startswith(str(tmp_path / "outputs" / "runs"))
    again = command("--config-path", folder, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == folder
    assert "computed" not in again.stderr.replace("reused", "")


@pytest.mark.parametrize(
    ("words", "times"),
    [
        (["--cfg", "job"], 1),
        (["--cfg", "all"], 1),
        (["--help"], 1),
        (["dry_run=true"], 1),
        (["dry_run=true", "model=mlp", "model.network._target_=dmm_exp.models.MLP"], 1),
        (["dry_run=true", "-m", "seed=1,2", "n_models=2,3"], 5),  # each cell, and what they have in common
    ],
)
def test_a_command_line_composes_each_cell_once(command, tmp_path, monkeypatch, words, times):
    composed, compose = [], ConfigLoaderImpl.load_configuration

    def counted(self, config_name, overrides, *arguments, **more):
        composed.append(overrides)
        return compose(self, config_name, overrides, *arguments, **more)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(composed) == times


def test_sweep_ends_in_one_table_and_a_failing_cell_does_not_stop_the_others(command, tmp_path):
    done = command("-m", *SMALL, "unlearner=finetune", "unlearner.optimizer.lr=1e9,0.01", cwd=tmp_path)
    assert done.returncode == 1
    assert "1 of 2 cells failed" in done.stdout
    assert "diverged" in done.stdout
    folder = done.stdout.splitlines()[-1]
    cells = [json.loads((tmp_path / folder / f"cell-0000{number}.json").read_text()) for number in (0, 1)]
    assert [cell["status"] for cell in cells] == ["failed", "done"]
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}


def test_a_cell_that_ends_without_a_word_is_listed_as_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(sweep.SWEEP, "abc")
    folder = sweep.prepared(Config(paths=PathsConfig(str(tmp_path))))
    folder.mkdir(parents=True)
    done = {"number": 0, "choices": {"unlearner": "dmm"}, "overrides": ["unlearner=dmm"], "status": "done"}
    (folder / "cell-00000.json").write_text(json.dumps(done | {"metrics": {"tow": 0.5}}))
    assert sweep.finish(folder, 2) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of 2 cells failed" in said
    assert "killed (perhaps out of memory)" in said
    sweep.prepared(Config(paths=PathsConfig(str(tmp_path))))
    assert not list(folder.glob("cell-*.json"))


def test_sweep_with_an_impossible_cell_is_refused_before_the_first_starts(command, tmp_path):
    done = command("-m", *SMALL, "unlearner=dmm,no_such", cwd=tmp_path)
    assert done.returncode == 2
    assert "unlearner=no_such" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_groups_and_needs_no_torch(tmp_path):
    script = (
        "import sys, dmm_exp.commands.cli as cli; sys.argv[1:] = ['--help']\ntry: cli.main()\nexcept SystemExit: pass\n"
    )
    code = script + "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "unlearner: amun, ascent_descent, bad_teacher, boundary_shrink" in done.stdout


def test_workers_start_before_this_process_imports_torch(tmp_path):
    script = """
import sys
from dmm_exp.commands.cli import main
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
