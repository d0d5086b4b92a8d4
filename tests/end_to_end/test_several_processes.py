"""One member trained by several processes (``torchrun -m dmm_exp trainer=ddp``) is what one process trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dmm_exp.commands.cli import main

SMALL = [
    "experiment=quick",
    "evaluation.report=false",
    "forget=random",
    "unlearner=dmm",
    "unlearner.epochs=1",
    "attribution=trak_factored",
    "attribution.proj_dim=16",
    "attribution.calibration_members=10",
    "pool.size=20",
    "pool.held_out=6",
    "pool.larger.size=0",
    "training.epochs=2",
    "training.batch_size=256",
    "trainer.accelerator=cpu",
    "n_models=2",
]


def ensembles(folder: Path) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
    """Return the tensors of every shard by its ensemble's role."""
    found = {}
    for manifest in folder.glob("artifacts/*/*/manifest.json"):
        if (kind := manifest.parent.parent.name) in ("ensemble", "unlearned", "gradients"):
            role = json.loads(manifest.read_text())["config"].get("role", kind)
            for shard in sorted(manifest.parent.glob("shard*.safetensors")):
                found[role, shard.name] = load_file(shard)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_what_one_trains(command, tmp_path):
    done = command(*SMALL, "executor=local", f"paths.outputs={tmp_path / 'one'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    arguments = [*launcher, "dmm_exp", *SMALL, "trainer=ddp", f"paths.outputs={tmp_path / 'two'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    alone, together = ensembles(tmp_path / "one"), ensembles(tmp_path / "two")
    assert alone.keys() == together.keys()
    assert {role for role, _ in alone} == {"original", "oracle", "floor_oracle", "subset", "gradients", "unlearned"}
    for (role, shard), tensors in alone.items():
        for name, value in tensors.items():
            close = torch.isclose(together[role, shard][name], value, atol=2e-3, rtol=2e-3, equal_nan=True)
            # Where a rectifier's input is nearly 0, rounding decides whether an example's gradient passes through it.
            assert (~close).float().mean() <= (0.01 if role == "gradients" else 0), (role, shard, name)


def test_several_devices_need_several_processes(capsys, monkeypatch):
    for devices in ("2", "[0,1]", "-1"):
        monkeypatch.setattr(sys, "argv", ["dmm_exp", f"trainer.devices={devices}"])
        with pytest.raises(SystemExit, match="2"):
            main()
        assert "torchrun --nproc-per-node=N -m dmm_exp trainer=ddp" in capsys.readouterr().err


def test_processes_that_would_not_share_work_are_refused(capsys, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["dmm_exp", "dry_run=true"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "torchrun started 2 processes: they share work by trainer=ddp only" in capsys.readouterr().err


def test_ddp_without_its_launcher_says_how_to_start(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dmm_exp", "trainer=ddp"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "start them with torchrun" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_thread_of_the_group_outlives_it(tmp_path):
    """A thread of gloo that still works while Python ends aborts the process, after all results are written."""
    script = tmp_path / "leaves.py"
    script.write_text(
        "from pathlib import Path\n"
        "from dmm_exp.executors.distributed import _join, _leave, _broadcast\n"
        "_join()\n"
        "_broadcast('hello')\n"
        "import lightning.pytorch, torch.distributed.nn.functional\n"
        "names = lambda: [(task / 'comm').read_text().strip() for task in Path('/proc/self/task').iterdir()]\n"
        "assert any('gloo' in name for name in names()), names()\n"
        "_leave()\n"
        "assert not any('gloo' in name for name in names()), names()\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    done = subprocess.run([*launcher, str(script)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
