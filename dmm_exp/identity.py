"""What makes a run itself: its name, and the files by which others know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmm_exp.store.spec import digest_of

# What changes where a run happens, or which runs there are, but not what one finds.
ELSEWHERE = (
    "paths",
    "logger",
    "executor",
    "engine",
    "dry_run",
    "hparams_search",
    "forget_tuning",
    "leaderboard",
    "study",
    "convex",
    "scale",  # whose bounds the other keys keep already
)
NAMED = ("dataset", "model", "forget", "unlearner", "refinement", "scale")
# Keys that came later: null, which leaves everything as it was before, counts as absent.
LATER = (
    "forget.position",
    "forget.column",
    "forget.header",
    "evaluation.strong_ulira.position",
    "dataset.formats.npz.axes",
    "dataset.formats.table.keep",
)
CHOICES = "choices.json"
ARTIFACTS = "artifacts.json"
FORGET = "forget.json"
MEMBERS = "members.parquet"
MODEL = "unlearned.safetensors"


def run_name(config: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """Return ``<choices>__<id>``: the same experiment has the same name wherever it is started.

    The id is the hash of the resolved configuration without paths, loggers and executors.
    """
    words = "-".join(choices[group] for group in NAMED if choices.get(group, "none") != "none")
    identity = digest_of({key: value for key, value in as_ever(config).items() if key not in ELSEWHERE})
    return f"{words}__{identity[:10]}"


def as_ever(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as it was before keys came later that are not used in it.

    >>> as_ever({"seed": 0, "forget": {"label": 3, "position": None}})
    {'seed': 0, 'forget': {'label': 3}}
    """
    return _without_later(config, "")


def _without_later(node: Mapping[str, Any], path: str) -> dict[str, Any]:
    kept = {key: value for key, value in node.items() if value is not None or f"{path}{key}" not in LATER}
    return {
        key: _without_later(value, f"{path}{key}.") if isinstance(value, Mapping) else value
        for key, value in kept.items()
    }
