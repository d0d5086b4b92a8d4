"""Another ``_target_`` replaces the arguments of the class that was there, wherever it is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.schema import plain
from dmm_exp.deletion.recipes import composed as composed_for_a_request
from dmm_exp.errors import UserError

OWN = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, input_shape, n_classes, width: int = 5, hidden: int = 3):
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, n_classes))

class Needs(nn.Sequential):
    def __init__(self, input_shape, n_classes, width: int, depth: int):
        super().__init__()
"""
NET = "model.network._target_=mynets.Net"


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """Return a folder with a module of networks, which can be imported."""
    (tmp_path / "mynets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def cells(*overrides, more=()):
    found = check_overrides(config_directory(), overrides, more)
    for config in found:
        check_targets(plain(config))
    return found


@pytest.mark.parametrize(
    ("overrides", "node", "left"),
    [
        ([NET], "model.network", {}),
        ([NET, "model.network.width=7"], "model.network", {"width": 7}),
        (["model.network.width=7", NET], "model.network", {"width": 7}),
        (["+model.network.width=7", NET], "model.network", {"width": 7}),
        (["~model.network.hidden", NET], "model.network", {}),
        (["model.network={_target_: mynets.Net, width: 4}"], "model.network", {"width": 4}),
        (["forget._target_=dmm_exp.forget.Random", "forget.size=9"], "forget", {"size": 9}),
        (["unlearner._target_=dmm_exp.unlearners.DoNothing"], "unlearner", {}),
        (["attribution._target_=dmm_exp.attribution.Datamodel"], "attribution", {}),
        (
            ["training.optimizer._target_=torch.optim.AdamW", "training.optimizer.lr=0.001"],
            "training.optimizer",
            {"_partial_": True, "lr": 0.001},
        ),
        (
            ["scores.held_out.optimizer._target_=torch.optim.Adam"],
            "scores.held_out.optimizer",
            {"_partial_": True},
        ),
    ],
)
def test_another_class_gets_what_the_command_line_sets_and_nothing_of_the_preset(overrides, node, left):
    found = plain(*cells(*overrides))
    for name in node.split("."):
        found = found[name]
    assert {key: value for key, value in found.items() if key != "_target_"} == left


def test_a_part_of_the_preset_stays_where_the_command_line_sets_something_of_it():
    words = ["_target_=dmm_exp.unlearners.FineTuning", "epochs=3", "batch_size=9", "optimizer.lr=0.5", "schedule.x=1"]
    (config,) = check_overrides(config_directory(), [f"unlearner.{word}" for word in words])
    assert config.unlearner["optimizer"]["lr"] == 0.5
    assert config.unlearner["optimizer"]["_partial_"] is True
    assert set(config.unlearner) == {"_target_", "epochs", "batch_size", "optimizer", "schedule"}


def test_the_class_of_the_preset_keeps_the_arguments_of_the_preset():
    assert cells("model.network._target_=dmm_exp.models.MLP") == cells()


def test_each_cell_of_a_sweep_has_the_arguments_of_its_class():
    own, preset = cells(f"{NET},dmm_exp.models.MLP", "seed=0")
    assert own.model.network == {"_target_": "mynets.Net"}
    assert preset.model.network == {"_target_": "dmm_exp.models.MLP", "hidden": [96, 96]}


@pytest.mark.parametrize(
    ("name", "text", "choice"),
    [
        ("experiment/own", "# @package _global_\nmodel:\n  network: {_target_: mynets.Net}\n", "experiment=own"),
        (
            "experiment/two",
            "# @package _global_\ndefaults: [own]\nmodel: {network: {width: 5}}\n",
            "experiment=[own,two]",
        ),
        ("model/own", "defaults: [mlp, _self_]\nnetwork: {_target_: mynets.Net}\n", "model=own"),
    ],
)
def test_it_holds_in_files_that_are_laid_over_others(own, name, text, choice):
    for folder in ("experiment", "model"):
        (own / "conf" / folder).mkdir(parents=True)
    (own / "conf" / "experiment" / "own.yaml").write_text(
        "# @package _global_\nmodel:\n  network: {_target_: mynets.Net}\n"
    )
    (own / "conf" / f"{name}.yaml").write_text(text.replace("defaults: [own]\n", ""))
    (config,) = cells(choice, more=[str(own / "conf")])
    assert "hidden" not in config.model.network
    assert config.model.network["_target_"] == "mynets.Net"


def test_a_request_for_deletion_composes_the_same():
    assert composed_for_a_request([NET]).model.network == {"_target_": "mynets.Net"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [NET, "model.network.wdth=7"],
            "takes no 'wdth', it takes input_shape, n_classes, width, hidden; did",
        ),
        (["model.network._target_=mynets.Needs"], "needs width and depth; give model.network.width=VALUE"),
        (["model.network._target_=mynets.Nte"], "cannot be imported"),
        (["unlearner._target_=dmm_exp.unlearners.FineTuning"], "needs epochs and batch_size and optimizer"),
        ([NET, "model.network.width=wide"], "model.network.width=wide: expected a whole number"),
    ],
)
def test_what_the_new_class_does_not_take_or_lacks_is_one_sentence(overrides, said):
    with pytest.raises(UserError) as error:
        cells(*overrides)
    assert said in str(error.value)


def test_numbers_become_the_texts_that_a_class_takes():
    table = instantiate({"_target_": "dmm_exp.data.formats.Table", "label": 2021, "leave_out": [1, "no"]})
    assert (table.label, table.leave_out) == ("2021", ["1", "no"])


def documented(file, word):
    """Return the words of the commands in a documentation file that hold a word."""
    text = (Path(__file__).parents[2] / "docs" / file).read_text()
    return [part for quoted in text.split("`") if word in quoted for part in quoted.split() if "=" in part]


def test_the_documented_ways_to_name_a_class_are_accepted():
    assert "model.network._target_=my_package.Net" in documented("unlearn_your_model.md", "_target_=my")
    adam = documented("models.md", "_target_=torch.optim")
    assert cells(*adam)[0].training.optimizer["_target_"] == "torch.optim.AdamW"


def test_a_run_in_the_current_folder_trains_ones_own_network(command, own, monkeypatch):
    small = ["experiment=quick", "n_models=2", "pool.size=12", "pool.held_out=2", "pool.larger.size=0", "logger=none"]
    small += ["training.epochs=1", "training.batch_size=512", "executor=local", "evaluation.report=false"]
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(own)])
    done = command(NET, "model.network.width=7", *small, "forget=random", "unlearner=do_nothing", cwd=own)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    assert (folder / "config.yaml").read_text().splitlines()[0].endswith(f"--config-path {folder} --trust mynets")
    refused = command("--config-path", folder.relative_to(own), cwd=own)
    assert (refused.returncode, refused.stdout) == (2, "")
    again = command("--config-path", folder.relative_to(own), "--trust", "mynets", cwd=own)
    assert again.stdout.splitlines()[-1] == str(folder)


def test_the_configuration_that_is_shown_is_the_one_that_runs(command, own):
    done = command(NET, "model.network.width=7", "--cfg", "job", "--package", "model.network", cwd=own)
    assert done.stdout == "# @package model.network\n_target_: mynets.Net\nwidth: 7\n"
    assert "hidden" not in command(NET, "--help", cwd=own).stdout
    done = command("--cfg", "job", "--package", "seed", cwd=own)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_the_console_script_imports_from_the_current_folder_as_the_module_does(own):
    code = "import sys; sys.path[0] = '/somewhere/bin'\nfrom dmm_exp.commands import cli\n"
    code += "cli.start = lambda name: None\ncli.main()\nimport mynets"
    done = subprocess.run([sys.executable, "-c", code], cwd=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
