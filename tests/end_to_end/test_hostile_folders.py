"""A run's folder that a stranger wrote is run again: refused in one sentence; nothing imported, nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from results_of_runs import SMALLEST

from dmm_exp.config.schema import Config, plain
from dmm_exp.config.trust import Trust, packages, restricted
from dmm_exp.errors import UserError
from dmm_exp.runs import batch

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = [*SMALLEST, "executor=local", "n_models=2", "unlearner=finetune"]


@pytest.fixture(scope="module")
def finished(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run, whose name is its identity."""
    place = tmp_path_factory.mktemp("own")
    done = command(*SMALL, cwd=place)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def settings(finished: Path) -> dict[str, Any]:
    return yaml.safe_load((finished / "config.yaml").read_text())


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return an empty folder in which commands are started."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def folder_of(here: Path, config: object) -> Path:
    """Return a folder beside with this configuration, and nothing else."""
    folder = here.parent / "stranger"
    folder.mkdir()
    text = config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False)
    (folder / "config.yaml").write_text(text)
    return folder


def with_value(config: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    *parents, last = path.split(".")
    node = config
    for name in parents:
        node = node.setdefault(name, {})
    node[last] = value
    return config


def assert_refused(done: subprocess.CompletedProcess[str], words: str, here: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(here.iterdir()) == []


# ---------------------------------------------------------------------- one's own folder


def test_a_lone_configuration_runs_again_elsewhere_with_the_same_identity(command: Command, finished: Path, here: Path):
    folder = folder_of(here, (finished / "config.yaml").read_text())
    shutil.copytree(finished.parents[1] / "artifacts", here / "outputs" / "artifacts")
    done = command("--config-path", folder, cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(here / "outputs" / "runs" / finished.name)
    assert "computed" not in done.stderr
    again = here / "outputs" / "runs" / finished.name
    assert (again / "config.yaml").read_text().splitlines()[1:] == (
        (finished / "config.yaml").read_text().splitlines()[1:]
    )
    assert json.loads((again / "choices.json").read_text()) == json.loads((finished / "choices.json").read_text())


def test_values_can_be_overridden(command: Command, finished: Path, here: Path):
    done = command("--config-path", finished, "-m", "unlearner.epochs=1,2", "dry_run=true", cwd=here)
    assert done.returncode == 0, done.stderr
    names = [Path(line.split()[4]).name for line in done.stdout.splitlines() if line.startswith("it would run")]
    assert len(set(names)) == 2
    assert {name.split("__")[0] for name in names} == {finished.name.split("__")[0]}
    done = command("--config-path", finished, "unlearner.epoch=2", cwd=here)
    assert_refused(done, "did you mean 'unlearner.epochs'", here)


def test_folders_of_earlier_versions_run_again(command: Command, finished: Path, here: Path):
    config = settings(finished)
    choices = config.pop("choices")
    del config["job"]  # which came later
    config["logger"]["_target_"] = config["logger"]["_target_"].replace("dmm_exp.runs.", "dmm_exp.report.")
    head = ["schema", "_self_", {"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    tail = {"run": {"dir": "."}, "output_subdir": None, "job": {"name": "dmm_exp", "chdir": False}}
    folder = folder_of(here, {"defaults": head, **config, "hydra": tail})
    (folder / "choices.json").write_text(json.dumps(choices))
    done = command("--config-path", folder, "dry_run=true", cwd=here)
    assert done.returncode == 0, done.stderr
    assert f"/runs/{finished.name} (not finished before)" in done.stdout
    (folder / "choices.json").unlink()
    done = command("--config-path", folder, "dry_run=true", cwd=here)
    assert f"/runs/digits-mlp-memorized-finetune__{finished.name.split('__')[1]}" in done.stdout
    later = {"choices": choices, **settings(finished), "job": {"_target_": "dmm_exp.runs.job.Run"}}  # its former name
    done = command("--config-path", folder_of(here / "later", later), "dry_run=true", cwd=here)
    assert done.returncode == 0, done.stderr


def test_a_plan_of_a_folder_makes_nothing(
    command: Command, finished: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    import hydra.utils

    def make(*arguments: object, **more: object) -> None:
        raise AssertionError(f"{arguments} was made")

    monkeypatch.setattr(hydra.utils, "instantiate", make)
    done = command("--config-path", finished, "dry_run=true", cwd=here)
    assert done.returncode == 0, done.stderr
    assert "dmm_exp.unlearners.Finetune" in done.stdout
    assert list(here.iterdir()) == []


def test_a_run_knows_how_it_was_started(command: Command, finished: Path, monkeypatch: pytest.MonkeyPatch, here: Path):
    seen: list[list[str]] = []
    monkeypatch.setattr(batch, "from_hydra", lambda config, shared, plans: seen.append(list(sys.argv[1:])))
    assert command("--config-path", finished, "seed=3", cwd=here).returncode == 0
    assert seen == [["--config-path", str(finished), "seed=3"]]


# ---------------------------------------------------------------------- classes

DANGEROUS = [
    "torch.load",
    "torch.hub.load",
    "joblib.load",
    "pandas.read_pickle",
    "sympy.sympify",
    "os.system",
    "builtins.eval",
    "hydra.utils.get_method",
    "subprocess.Popen",
    "evil.Net",
    "__main__.main",
    "torch.nn.modules.module.torch.load",
    "torch.nn.functional.boolean_dispatch",
    "torch.nn.utils.rnn.pad_sequence",
    "torch.optim.swa_utils.AveragedModel",
    "torch.nn.__builtins__.eval",
    "lightning.pytorch.cli.LightningCLI",
    "lightning.pytorch.loggers.WandbLogger",
    "lightning.Trainer.load_from_checkpoint",
    "dmm_exp.commands.cli.main",
    "dmm_exp.commands.cli.os.system",
    "dmm_exp.files.writing.shutil.rmtree",
    "dmm_exp.store.Store",
    "dmm_exp.executors.Ray",
    "dmm_exp.executors.Submitit",
    "dmm_exp.executors.queue.Queue",
    "dmm_exp.runs.trackers.WandbTracker",
    "dmm_exp.files.reading.read_bytes",
    "dmm_exp.data.pictures.file_content",
    "dmm_exp.data.examples.Examples.read",
    "dmm_exp",
    "torch.nn.Linear\n",
    "torch.nn.Linéar",
    "",
    3,
    None,
    ["torch.nn.Linear"],
]


@pytest.mark.parametrize("target", DANGEROUS)
def test_classes_of_others_are_refused_by_their_names(target: object, command: Command, finished: Path, here: Path):
    nested = [{"a": {"_target_": target}}]
    for path, value, arguments in [
        ("model.network._target_", target, []),
        ("trainer.callbacks", nested, ["dry_run=true"]),
        ("unlearner.nested", nested, ["-m", "seed=1,2"]),
    ]:
        folder = folder_of(here, with_value(settings(finished), path, value))
        assert_refused(command("--config-path", folder, *arguments, cwd=here), "_target_=", here)
        shutil.rmtree(folder)


def test_nothing_that_a_stranger_names_is_imported(finished: Path, here: Path):
    (here / "evil.py").write_text("from pathlib import Path\nPath('imported').write_text('')\nclass Net: pass\n")
    (here / "hydra_plugins").mkdir()
    (here / "hydra_plugins" / "evil.py").write_text("from pathlib import Path\nPath('imported').write_text('')\n")
    (here / "yaml.py").write_text("from pathlib import Path\nPath('imported').write_text('')\n")
    (here / "omegaconf.py").write_text("from pathlib import Path\nPath('imported').write_text('')\n")
    folder = folder_of(here, with_value(settings(finished), "model.network", {"_target_": "evil.Net"}))
    words = [sys.executable, "-m", "dmm_exp", "--config-path", str(folder), "dry_run=true"]
    done = subprocess.run(words, cwd=here, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "model.network._target_=evil.Net" in done.stderr
    assert "--trust evil" in done.stderr
    assert not (here / "imported").exists()


OWN = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, input_shape: list, n_classes: int, width: int = 4):
        size = input_shape[0] * input_shape[1] * input_shape[2]
        super().__init__(nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, n_classes))
"""


def test_a_package_that_the_user_trusts_is_accepted(command: Command, finished: Path, here: Path):
    network = {"_target_": "own_net_of_mine.Net", "width": 3}
    folder = folder_of(here, with_value(settings(finished), "model.network", network))
    done = command("--config-path", folder, "--trust", "own_net_of_mine", "--trust", "other", "dry_run=true", cwd=here)
    assert done.returncode == 0, done.stderr
    refused = command("--config-path", folder, "--trust", "own_net", "dry_run=true", cwd=here)
    assert_refused(refused, "--trust own_net_of_mine", here)


def test_a_trusted_package_is_found_after_all_others(here: Path, monkeypatch: pytest.MonkeyPatch):
    from dmm_exp.config.instantiate import instantiate
    from dmm_exp.config.rerun import _without_this_folder

    (here / "own_net_of_yours.py").write_text(OWN)
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    with restricted(packages(["own_net_of_yours"])), _without_this_folder(last=True):
        assert sys.path[-1] == str(here)
        assert str(here) not in sys.path[:-1]
        made = instantiate({"_target_": "own_net_of_yours.Net", "input_shape": [1, 2, 2], "n_classes": 2})
    assert type(made).__name__ == "Net"


@pytest.mark.parametrize("name", ["", "a b", "../x", "a;b", "-x"])
def test_trust_is_in_packages(name: str, command: Command, finished: Path, here: Path):
    assert_refused(command("--config-path", finished, f"--trust={name}", cwd=here), "--trust", here)


def test_trust_is_for_folders_that_are_run_again(command: Command, here: Path):
    assert_refused(command("--trust", "torch", "dry_run=true", cwd=here), "--config-path FOLDER", here)


def test_an_accepted_name_that_leads_elsewhere_is_refused_before_it_is_called():
    from dmm_exp.config.instantiate import check_targets, instantiate

    for target in ("torch.nn.Parameter", "dmm_exp.data.pictures.Path", "dmm_exp.models.normalised.Tensor"):
        with restricted(Trust()):
            for read in (instantiate, check_targets):
                with pytest.raises(UserError, match="leads to what is no class of"):
                    read({"_target_": target})


def test_texts_that_become_configuration_later_are_checked_too():
    from dmm_exp.config.instantiate import check_targets
    from dmm_exp.config.parts import composed_parts

    with restricted(packages(["mine"])):
        part = {"high": {"unlearner": "finetune _target_=os.system"}}
        with pytest.raises(UserError, match=r"refinement\.high\.unlearner\._target_=os\.system"):
            check_targets(plain(composed_parts(Config(refinement=part))))


def test_ordinary_commands_may_name_any_class():
    from dmm_exp.config.instantiate import instantiate

    assert instantiate({"_target_": "builtins.dict", "a": 1}) == {"a": 1}


# ---------------------------------------------------------------------- everything else of Hydra


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("hydra.callbacks", {"evil": {"_target_": "evil.Callback"}}, "hydra: sets how Hydra itself works"),
        ("hydra.job.env_set", {"PATH": "/evil"}, "hydra: sets how"),
        ("hydra.searchpath", ["pkg://evil"], "hydra: sets how"),
        ("hydra.run.dir", "/evil", "hydra: sets how"),
        ("hydra", None, "hydra: sets how"),
        ("defaults", ["_self_", "evil"], "defaults: names other files"),
        ("defaults", [{"override hydra/launcher": "joblib"}], "defaults: names other files"),
        ("seed", "${oc.env:HOME}", "seed=${oc.env:HOME}: is an interpolation"),
        ("logger.project", "x-${oc.decode:${oc.env:SECRET}}", "is an interpolation"),
        ("dataset.path", "${n_models}", "is an interpolation"),
        ("dataset.folders", ["a", {"b": "${now:%Y}"}], "dataset.folders[1].b"),
        ("dataset.${oc.env:HOME}", 1, "is an interpolation"),
        ("leaderboard.methods", ["finetune"], "leaderboard.methods: is of many runs"),
        ("study.tables", {"a": {"columns": {"b": "+x._target_=os.system"}}}, "study.tables: is of many runs"),
        ("choices", {"dataset": "../../../etc"}, "choices: dataset=../../../etc is no choice"),
        ("choices", {"dataset": "/etc"}, "is no choice"),
        ("choices", {"dataset": "a\x1b[2J"}, "is no choice"),
        ("choices", {"../x": "a"}, "is no choice"),
        ("choices", ["a"], "choices: expected"),
        ("surprise", 1, "surprise"),
        ("n_models", "many", "n_models"),
    ],
)
def test_settings_that_are_none_of_a_run_are_refused(
    path: str, value: object, words: str, command: Command, finished: Path, here: Path
):
    folder = folder_of(here, with_value(settings(finished), path, value))
    assert_refused(command("--config-path", folder, "dry_run=true", cwd=here), words, here)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected the keys of a run"),
        ("a: [", "cannot be read"),
        ("[1, 2]", "expected the keys of a run"),
        ("1: 2", "expected the keys of a run"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: " + "[" * 100_000, "nested more than"),
        ("&a [*a]", "holds itself"),
        ("a: \x1b[2J", "cannot be read"),
        ("a: 2020-99-99", "cannot be read"),
    ],
)
def test_files_that_are_no_configuration_are_refused(text: str, words: str, command: Command, here: Path):
    assert_refused(command("--config-path", folder_of(here, text), cwd=here), words, here)


def test_a_folder_instead_of_the_file_and_a_pipe_are_refused(command: Command, here: Path):
    folder = folder_of(here, "")
    (folder / "config.yaml").unlink()
    assert_refused(command("--config-path", folder, cwd=here), "cannot be read", here)
    (folder / "config.yaml").mkdir()
    assert_refused(command("--config-path", folder, cwd=here), "cannot be read", here)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config-path", "pkg://evil"], "there is no such folder"),
        (["--config-path", "file://."], "there is no such folder"),
        (["--config-path", ""], "there is no such folder"),
        (["--config-path", ".", "--config-name", "../x"], "--config-name ../x"),
        (["--config-path", ".", "--info", "all"], "--info"),
        (["--config-path", ".", "--help"], "--help"),
        (["--config-path", ".", "--hydra-help"], "--hydra-help"),
        (["--experimental-rerun", "config.pickle"], "reads a pickle"),
    ],
)
def test_other_ways_to_run_what_a_folder_says_are_refused(
    arguments: list[str], words: str, command: Command, here: Path
):
    assert_refused(command(*arguments, cwd=here), words, here)


def test_files_beside_the_configuration_are_not_read(command: Command, finished: Path, here: Path):
    folder = folder_of(here, settings(finished))
    (folder / "hydra").mkdir()
    (folder / "hydra" / "default.yaml").write_text("callbacks: {evil: {_target_: evil.Callback}}")
    (folder / "unlearner").mkdir()
    (folder / "unlearner" / "evil.yaml").write_text("_target_: os.system")
    done = command("--config-path", folder, "unlearner=evil", cwd=here)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "os.system" not in done.stderr
