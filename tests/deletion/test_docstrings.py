"""Examples in docstrings and documentation are what happens."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

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
def test_the_example_deletes_rows_and_says_how_well(tmp_path, monkeypatch, capsys):
    """With half the pool, which says it in the same words."""
    monkeypatch.chdir(tmp_path)
    code = EXAMPLE.read_text()
    assert "size=600" in code
    with torch.random.fork_rng():
        exec(compile(code.replace("size=600", "size=300"), EXAMPLE, "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert said.startswith("DMM made the network unlearn 10 of 1,400 training rows")
    assert "this network can be told from doing nothing and cannot be told from retraining" in said
    assert "20 retrained networks" in said
    (shown,) = re.findall(r"^```\n(DMM made .*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert words(shown) == words(said)
    assert sorted(path.name for path in (tmp_path / "unlearned").iterdir()) == [
        "deletion.json",
        "points.parquet",
        "report.html",
        "unlearned.safetensors",
    ]
