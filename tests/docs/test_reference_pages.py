"""The reference made from conf/ has every group, choice and key, each with its meaning; methods have a paper."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from snippets import ROOT

from dmm_exp.commands.cli import COMMANDS
from dmm_exp.config.folders import config_directory

CONF = Path(config_directory())
METHODS = (ROOT / "docs" / "reference" / "methods.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """Return scripts/docs_reference.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        import docs_reference

        yield docs_reference
    sys.modules.pop("docs_reference")


def leaves(value: object, before: str = "") -> list[str]:
    """Return the dotted keys of everything that holds no further keys."""
    if not isinstance(value, dict) or not value:
        return [before]
    return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{before}.{key}" if before else str(key))]


def test_every_key_of_every_choice_has_a_row_with_its_meaning(reference):
    pages = reference.pages()
    for group in reference.groups():
        if group in reference.OVERLAYS:
            continue
        for choice, path in reference.choices(group).items():
            written = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            written.pop("defaults", None)
            found = reference.keys(path)
            assert set(leaves(written)) - {""} <= {key.name for key in found}, path
            assert not [key.name for key in found if not key.meaning], path
            assert f"={choice.rpartition('/')[2]}`" in pages[group]


def test_every_group_and_choice_has_a_place(reference):
    pages = reference.pages()
    for path in CONF.rglob("*.yaml"):
        group, *inner = path.relative_to(CONF).with_suffix("").parts
        if inner and group != "hydra":
            assert f"## `{'/'.join([group, *inner[:-1]])}={inner[-1]}`" in pages[group], path
            assert f"[`{group}`]" in pages["index"]


@pytest.mark.parametrize("group", ["unlearner", "attribution", "refinement"])
def test_every_method_has_a_row_with_its_paper(group):
    (table,) = re.findall(rf"^\| `{group}=` \|.*\n\|[-|]+\n((?:\|.*\n)+)", METHODS, re.MULTILINE)
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    assert set(rows) == {path.stem for path in (CONF / group).glob("*.yaml")}
    for name, row in rows.items():
        head = re.match(r"(?:#.*\n)*", (CONF / group / f"{name}.yaml").read_text())[0]
        named = set(re.findall(r"\d{4}\.\d{5}", head))
        assert not named or named & set(re.findall(r"\d{4}\.\d{5}", row)) or "as above" in row, name


def test_every_command_has_its_help_on_the_page():
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == set(COMMANDS)
    assert set(re.findall(r"<!-- help: (\w+) -->", page)) == set(COMMANDS) - {"run", "scores"}


def test_every_page_is_in_the_navigation_or_is_added_by_a_hook():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if page not in nav} == set()
