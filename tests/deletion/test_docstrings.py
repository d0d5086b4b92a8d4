"""Examples in docstrings and documentation are what happens."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dmm_exp
from dmm_exp import deletion, records

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "unlearn_your_model.md"
EXAMPLE = ROOT / "examples" / "delete_rows.py"
MODULES = sorted(
    f"{room.__name__}.{module.name}" for room in (deletion, records) for module in pkgutil.iter_modules(room.__path__)
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_are_what_happens(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


@pytest.mark.parametrize("name", [name for name in dmm_exp.__all__ if callable(getattr(dmm_exp, name))])
def test_every_public_name_is_documented_and_every_function_has_an_example(name):
    thing = getattr(dmm_exp, name)
    assert thing.__doc__
    if name in ("prepare", "train", "unlearn", "Ledger"):
        assert ">>>" in thing.__doc__


@pytest.mark.parametrize("page", ["README.md", "docs/unlearn_your_model.md"])
def test_the_example_is_the_file_that_is_run(page):
    code = EXAMPLE.read_text().split('"""', 2)[2].strip()
    assert code in (ROOT / page).read_text()


def words(text: str) -> list[str]:
    """Return the words of what is printed, without digits and what depends on the last of them."""
    return [word for word in re.findall(r"[a-z]{2,}", text.lower()) if word not in ("more", "less", "below", "above")]


@pytest.mark.slow
def test_the_example_deletes_rows_and_says_how_well(tmp_path):
    done = subprocess.run([sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("DMM made the network unlearn 10 of 1,400 training rows")
    assert "this network can be told from doing nothing and cannot be told from retraining" in done.stdout
    assert "20 retrained networks" in done.stdout
    (shown,) = re.findall(r"^```\n(DMM made .*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert words(shown) == words(done.stdout)
    assert sorted(path.name for path in (tmp_path / "unlearned").iterdir()) == [
        "deletion.json",
        "points.parquet",
        "report.html",
        "unlearned.safetensors",
    ]
