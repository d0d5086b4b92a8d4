"""Runs that are killed, or interrupted, or started at the same moment, end as one that nothing disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from joblib.externals import loky
from results_of_runs import SMALLEST, without_seconds

from dmm_exp.executors import close_executors

SMALL = [
    *SMALLEST,
    "n_models=4",
]
# A network that stops in the middle of training, once two shards are finished and for as long as a file asks it to.
NETWORK = """
import time
from pathlib import Path
from pathlib import Path
from dmm_exp.models import MLP

FOLDER = Path({folder!r})

class Pausing(MLP):
    def forward(self, inputs):
        while (FOLDER / "pause").exists() and len(list(FOLDER.glob("outputs/artifacts/*/*/shard-*.json"))) >= 2:
            (FOLDER / "paused").touch()
            time.sleep(0.05)
        return super().forward(inputs)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # as others below: several processes start one after another
def test_killed_at_any_moment_and_started_again_it_ends_the_same(command, tmp_path):
    """Killed while a worker trains and while it trains itself; no shard that was finished is made again."""
    (tmp_path / "undisturbed").mkdir()
    arguments = [*SMALL, "model.chunk_size=4"]
    reference = _folder_of(command(*arguments, "executor=local", cwd=tmp_path / "undisturbed"))
    killed = tmp_path / "killed"
    killed.mkdir()
    seen: dict[str, int] = {}
    for wanted, executor in ((2, ["executor=processes", "executor.workers=1"]), (3, ["executor=local"])):
        process = _started(*arguments, *executor, cwd=killed)
        _wait_for(lambda wanted=wanted: len(list(killed.rglob("shard-*.json"))) >= wanted, process)
        process.kill()
        process.communicate()  # until workers have ended, too: with their parent
        for name, stamp in _times(killed).items():
            assert seen.setdefault(name, stamp) == stamp
    folder = _folder_of(command(*arguments, "executor=local", cwd=killed))
    assert len(seen) >= 3
    assert seen.items() <= _times(killed).items()
    assert folder.name == reference.name
    assert without_seconds(folder) == without_seconds(reference)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("executor", ["local", "processes"])
def test_ctrl_c_is_one_sentence_and_the_same_command_goes_on(command, tmp_path, monkeypatch, executor):
    (tmp_path / "pausing.py").write_text(NETWORK.format(folder=str(tmp_path)))
    (tmp_path / "pause").touch()
    monkeypatch.syspath_prepend(tmp_path)
    arguments = [*SMALL, f"executor={executor}", "model.chunk_size=2", "model.network._target_=pausing.Pausing"]
    process = _started(*arguments, cwd=tmp_path, start_new_session=True)
    _wait_for((tmp_path / "paused").exists, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to this process, its server and all workers
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted; the same command goes on where this one stopped"
    assert "Traceback" not in said
    left = [path.name for path in tmp_path.rglob("*") if path.name.endswith(".lock")]
    assert left == []
    finished = _times(tmp_path)
    assert len(finished) >= 2
    (tmp_path / "pause").unlink()
    assert _folder_of(command(*arguments, cwd=tmp_path)).is_dir()
    close_executors()
    assert finished.items() <= _times(tmp_path).items()


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [["joblib", "hydra.launcher.n_jobs=2"], ["submitit_local"]], ids=lambda one: one[0]
)
def test_cells_that_start_at_the_same_moment_share_what_they_make_and_end_in_one_table(launcher, command, tmp_path):
    arguments = [*SMALL, "executor=local", "forget=random", "unlearner=finetune,gradient_ascent"]
    name, *settings = launcher
    done = command("-m", *arguments, f"hydra/launcher={name}", *settings, cwd=tmp_path)
    loky.get_reusable_executor().shutdown()
    folder = _folder_of(done)
    cells = [json.loads((folder / f"cell-0000{number}.json").read_text()) for number in (0, 1)]
    assert [cell["status"] for cell in cells] == ["done", "done"]
    for stage in ("originals", "oracles", "floor_oracles"):
        cached = sorted(cell["metrics"][f"seconds/{stage}/cached"] for cell in cells)
        assert cached == [0, 1], stage  # one cell made it, the other waited and used it


def _started(*arguments, cwd, **options):
    """Start the command in a process of its own, which finds modules of ``cwd``."""
    path = os.pathsep.join(filter(None, [str(cwd), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "dmm_exp", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path},
        preexec_fn=_heed_ctrl_c, **options,
    )  # fmt: skip


def _heed_ctrl_c():
    """Do away with what tests that a shell has put into the background would hand on: that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _folder_of(done):
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def _times(folder):
    """Return when shards were finished, by artifact and name."""
    shards = [path for path in folder.rglob("shard-*.safetensors") if path.with_suffix(".json").exists()]
    return {f"{path.parent.name.removesuffix('.partial')}/{path.name}": path.stat().st_mtime_ns for path in shards}


def _wait_for(condition, process):
    """Wait until something is so; pytest's limit ends a wait for what never comes."""
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
