from pathlib import Path

import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.schema import register
from dmm_exp.runs.run import run

CHOICES = {"dataset": "digits", "model": "mlp", "forget": "rum_high_mem", "unlearner": "dmm", "attribution": "best"}


@pytest.fixture(scope="session")
def start():
    """Run a small experiment in this process, as the command line would: returns what it found."""
    register()

    def _start(outputs: Path, *overrides: str):
        common = ["experiment=quick", "executor=local", "evaluation.report=false", f"paths.outputs={outputs}"]
        (config,) = check_overrides(config_directory(), [*common, *overrides])
        chosen = dict(text.split("=", 1) for text in overrides if text.split("=")[0] in CHOICES)
        return run(config, CHOICES | chosen, table=False)

    return _start


@pytest.fixture(scope="session")
def outputs(tmp_path_factory):
    """Return a folder of results that the tests of this folder share."""
    return tmp_path_factory.mktemp("outputs")
