"""Experiments in tables: rows of a CSV file, composed like files."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import check_targets
from dmm_exp.config.loader import config_loader
from dmm_exp.config.loading import options_of
from dmm_exp.config.preflight import check_overrides, composer
from dmm_exp.config.ranges import check_ranges
from dmm_exp.config.tables import cell_of, read_rows, row_of, settings_in, tables_of, value_of, write_row
from dmm_exp.errors import UserError

CONF = Path(config_directory())


def written(folder, text, name="mine/random"):
    path = folder / "experiment" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, errors="surrogateescape")
    return path


def test_every_row_of_every_table_composes_to_its_settings():
    tables = tables_of(CONF)
    assert {"fair/class", "parts_fashion/whole", "boards/letters", "literature"} <= set(tables)
    with composer(str(CONF)) as compose:
        for table, path in tables.items():
            for method, row in read_rows(path).items():
                ((config, choices),) = compose([f"experiment={table}/{method}"])
                assert choices["unlearner"] == method
                for key, value in settings_in(row).items():
                    node = config.unlearner
                    for part in key.split("."):
                        node = node[part]
                    assert node == value
                    assert type(node) is type(value)
                check_ranges(config)
                check_targets(config)


def test_a_row_is_what_the_same_overrides_are(tmp_path):
    written(tmp_path, "unlearner,unlearner.epochs,unlearner.optimizer.lr,note\nfinetune,3,1e-5,mine\nscrub,,,\n")
    more = [str(tmp_path)]
    asked = ["unlearner=finetune", "unlearner.epochs=3", "unlearner.optimizer.lr=1e-5"]
    assert check_overrides(str(CONF), ["experiment=mine/random/finetune"], more) == check_overrides(str(CONF), asked)
    rows = [f"experiment=mine/random/{name}" for name in ("finetune", "scrub")]
    later = check_overrides(str(CONF), ["experiment=mine/random/finetune,mine/random/scrub", "seed=2"], more)
    assert later == [check_overrides(str(CONF), [row, "seed=2"], more)[0] for row in rows]


def test_the_command_knows_the_tables_of_further_folders_when_it_starts(tmp_path):
    """Hydra, too, which composes what runs: in a process that has composed nothing before."""
    written(tmp_path, "unlearner,unlearner.epochs\nfinetune,3\n")
    code = """
from dmm_exp.commands.cli import main
from dmm_exp.runs import batch
batch.from_hydra = lambda config, shared, plans: print("epochs", config.unlearner.epochs)
main()
"""
    words = ["--config-dir", str(tmp_path), "experiment=mine/random/finetune", f"paths.outputs={tmp_path / 'outputs'}"]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "epochs 3\n"


def test_the_command_line_and_files_have_the_last_word(tmp_path):
    written(tmp_path, "unlearner,unlearner.epochs\nfinetune,3\n")
    (config,) = check_overrides(str(CONF), ["experiment=mine/random/finetune", "unlearner.epochs=7"], [str(tmp_path)])
    assert config.unlearner["epochs"] == 7


def test_tables_are_those_of_the_folders_that_are_asked(tmp_path):
    written(tmp_path, "unlearner\nfinetune\n")
    with composer(str(CONF), [str(tmp_path)]) as compose:
        assert compose.has("experiment", "mine/random/finetune")
    with composer(str(CONF)) as compose:
        assert not compose.has("experiment", "mine/random/finetune")
    with config_loader(str(CONF)) as loader:
        assert options_of("experiment/fair/class", loader) == sorted(read_rows(tables_of(CONF)["fair/class"]))


def test_a_choice_that_no_row_has_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"experiment=fair/class/scurb: expected one of"):
        check_overrides(str(CONF), ["experiment=fair/class/scurb"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("unlearner\nscrub\nscrub\n", r"random\.csv, line 3: has 'scrub' a second time; expected one row"),
        ("unlearner,note\n,x\n", r"line 2: has no name"),
        ("unlearner,note\nscrub,x,y\n", r"line 2: has more cells than columns"),
        ("unlearner,note\nscrub,\udcff\n", r"random\.csv: cannot be read as a table"),
        (f"unlearner,note\nscrub,{'x' * 200_000}\n", r"random\.csv: cannot be read as a table"),
    ],
)
def test_a_damaged_table_is_one_sentence_that_names_it(tmp_path, text, said):
    written(tmp_path, text)
    with pytest.raises(UserError, match=said):
        check_overrides(str(CONF), [], [str(tmp_path)])


def test_other_csv_files_are_left_alone(tmp_path):
    written(tmp_path, "index,label\n1,2\n1,2\n", name="rows")
    assert tables_of(tmp_path) == {}


def test_a_row_replaces_that_of_the_same_unlearner_and_leaves_the_others(tmp_path):
    path = tmp_path / "table.csv"
    write_row(path, row_of("scrub", {"optimizer.lr": 1e-5, "epochs": 3}, {"tried": "7"}))
    write_row(path, row_of("finetune", {"epochs": 6.0}, {"tried": "2", "command": 'a "b", c'}))
    write_row(path, row_of("scrub", {"epochs": 4}, {"tried": "9"}))
    assert path.read_text() == ('unlearner,unlearner.epochs,tried,command\nfinetune,6.0,2,"a ""b"", c"\nscrub,4,9,\n')
    assert settings_in(read_rows(path)["finetune"]) == {"epochs": 6.0}


@pytest.mark.parametrize("value", [1, 6.0, 1e-05, True, None, "linear", "true", "1e3", "", "NaN", [1, 2], {"a": [0.5]}])
def test_a_cell_keeps_a_value_and_its_type(value):
    found = value_of(cell_of(value))
    assert found == value
    assert type(found) is type(value)


def test_tables_are_there_again_when_hydra_replaced_what_it_knows():
    asked = ["experiment=fair/rum_high_mem/salun"]
    expected = check_overrides(str(CONF), asked)
    instance = ConfigStore.instance()
    before = instance.repo
    try:
        for _ in range(20):  # a repository that is gone may leave its place to the next
            instance.repo = {name: node for name, node in before.items() if name != "experiment"}
            assert check_overrides(str(CONF), asked) == expected
    finally:
        instance.repo = before
