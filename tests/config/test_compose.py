"""``hydra.compose`` in a program or a notebook knows the types of the configuration."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dmm_exp.config.folders import config_directory

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"
COMPOSE = f"""
from hydra import compose, initialize_config_dir
with initialize_config_dir({config_directory()!r}, version_base="1.3"):
    config = compose("config", overrides=["unlearner=finetune", "seed=3"])
    assert (config.seed, config.unlearner._target_) == (3, "dmm_exp.unlearners.Finetune")
    try:
        compose("config", overrides=["seed=abc"])
    except Exception as error:
        assert "could not be converted to Integer" in str(error.__cause__ or error), error
    else:
        raise AssertionError("a text is no seed")
"""


@pytest.mark.parametrize("before", ["", "import dmm_exp"])
def test_compose_works_without_anything_else_to_call(tmp_path, before):
    code = before + COMPOSE + "import sys\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_schema_is_in_no_other_program_s_way():
    code = "from hydra.core.plugins import Plugins\nfrom hydra.core.config_store import ConfigStore\n"
    code += "Plugins.instance()\nassert 'schema.yaml' not in ConfigStore.instance().repo\n"
    code += "assert 'dmm_exp_schema.yaml' in ConfigStore.instance().repo"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_documented_snippet_runs():
    (snippet,) = [text for text in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if "compose(" in text]
    code = f"{snippet}\nassert config.unlearner.epochs == 5"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
