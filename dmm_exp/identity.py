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
    identity = digest_of({key: value for key, value in config.items() if key not in ELSEWHERE})
    return f"{words}__{identity[:10]}"
