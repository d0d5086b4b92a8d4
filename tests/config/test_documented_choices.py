"""docs/choices.md names everything there is to choose, and nothing else stands in the README than works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dmm_exp.config.folders import config_directory

CONF = Path(config_directory())
ROOT = Path(__file__).parents[2]
CHOICES = (ROOT / "docs" / "choices.md").read_text(encoding="utf-8")
ONE_CHOICE = {"engine", "hydra", "paths", "scores", "trainer"}  # groups without anything to choose for a person
FAMILIES = {
    r"rum_(high|mid|low|mix)_(mem|es)": "`rum_{high,mid,low,mix}_",
    r"pc[12]_(top|both)": "`pc{1,2}_{top,both}`",
}


def groups() -> dict[str, list[str]]:
    """Group → its choices, folders of groups of their own left out."""
    folders = [path for path in CONF.iterdir() if path.is_dir() and path.name not in ONE_CHOICE]
    return {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in folders}


@pytest.mark.parametrize("group", sorted(groups()))
def test_every_choice_is_documented(group):
    (row,) = [line for line in CHOICES.splitlines() if line.startswith(f"| `{group}` |")] or [""]
    missing = [name for name in groups()[group] if not named(name, row)]
    assert not missing, f"docs/choices.md, {group}"


def named(choice: str, row: str) -> bool:
    if f"`{choice}`" in row or choice == "default":
        return True
    return any(re.fullmatch(pattern, choice) and words in row for pattern, words in FAMILIES.items())


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "RELEASING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MADE = ROOT / "docs" / "reference" / "configuration"  # a page for each group, made when the site is built


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in PAGES])
def test_links_lead_to_files_and_headings_that_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        if file.parent == MADE:
            assert file.stem in {"index", *groups()}, target
            continue
        assert file.exists(), target
        if heading and file.suffix == ".md":
            assert heading in headings(file.read_text(encoding="utf-8")), target


def headings(text: str) -> set[str]:
    """Anchors of a page, as GitHub makes them of its headings."""
    lines = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
