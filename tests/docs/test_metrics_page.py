"""docs/reference/metrics.md has every name of metrics.json, and says which way is better as the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from snippets import ROOT

from dmm_exp.metrics.better import better

NAMES = json.loads((Path(__file__).parent / "metric_names.json").read_text())  # of a run with all that there is
PAGE = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
PARTS = {
    "GROUP": "(forget|retain|val)",
    "ENSEMBLE": "(unlearned|oracle|original|floor)",
    "STAGE": "[^/]+",
    "alpha_A": r"alpha_[\d.]+",
}


def rows() -> dict[str, str]:
    """Return name, as the page writes it, → its column "best"."""
    found = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and cells[0].startswith("`"):
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), cells[3])
    return found


def measured(name: str) -> str:
    """Return a metric's name without an audit before it, or an end of its interval behind it."""
    return re.sub(r"_(low|high)$", "", re.sub(r"^audit/[^/]+/", "", name))


def pattern(written: str) -> str:
    text = re.escape(written)
    for part, choices in PARTS.items():
        text = text.replace(re.escape(part), choices)
    return text


def test_every_metric_has_a_row():
    patterns = [pattern(name) for name in rows()]
    missing = [name for name in NAMES if not any(re.fullmatch(one, measured(name)) for one in patterns)]
    assert not missing


def test_every_row_is_a_metric():
    names = {measured(name) for name in NAMES} | {"seconds/pool", "seconds/pool/cached"}
    unknown = [row for row in rows() if not any(re.fullmatch(pattern(row), name) for name in names)]
    assert not unknown


@pytest.mark.parametrize("name", rows())
def test_the_better_direction_is_that_of_the_code(name):
    said = rows()[name].split(",")[0].strip()
    way = said if said in ("lower", "higher") else None
    if name.endswith("/false_positive_rate"):  # the attack's own error: neither
        way = None
    assert better(name) == better(f"audit/relearn/{name}") == way
    assert better(f"{name}_low") == way


def test_what_nobody_knows_is_not_judged():
    assert better("warmth/forget") is None
