"""What makes a run itself: its name, and the files by which others know it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from dmm_exp.store.spec import digest_of
from dmm_exp.terminal import tracked

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
# Keys that name a file or a folder, which count by what is in it. So do files that arguments of other people's classes
# name.
FILES = ("forget.indices", "dataset.path", "dataset.formats.*.groups")
OURS = ("dmm_exp", "torch", "lightning")  # packages whose arguments name no files, but for those of FILES
MANY = 5000  # files whose reading deserves a progress bar
CHOICES = "choices.json"
CONTENTS = "contents.json"
ARTIFACTS = "artifacts.json"
FORGET = "forget.json"
MEMBERS = "members.parquet"
MODEL = "unlearned.safetensors"


def run_name(config: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """Return ``<choices>__<id>``: the same experiment has the same name wherever it is started.

    The id is the hash of the resolved configuration without paths, loggers and executors, with files by content.
    """
    words = "-".join(choices[group] for group in NAMED if choices.get(group, "none") != "none")
    return f"{words}__{digest_of(identified(config))[:10]}"


def many_runs_digest(runs: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> str:
    """Return the identity of something made of many runs, each given as its overrides and its configuration.

    Overrides identify them; where a run reads files, their content does.
    """
    if not any(contents(config) for _, config in runs):
        return digest_of([list(overrides) for overrides, _ in runs])
    return digest_of([identified(config) for _, config in runs])


def identified(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies the result of a configuration: files by their content, and nothing of where it runs."""
    return {key: value for key, value in by_content(config).items() if key not in ELSEWHERE}


def by_content(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as ever, with the content of files in place of their names."""
    return _replaced(as_ever(config), contents(config), "")


def contents(config: Mapping[str, Any]) -> dict[str, str]:
    """Return dotted key → digest of the content of every file or folder that a configuration names and that exists."""
    outputs = Path(str((config.get("paths") or {}).get("outputs", ""))).expanduser().absolute()
    return {key: _digest(path, outputs) for key, path in _named_files(config, "") if key.split(".")[0] not in ELSEWHERE}


def _named_files(node: Mapping[str, Any], before: str) -> Iterator[tuple[str, Path]]:
    stranger = str(node.get("_target_", OURS[0])).split(".")[0] not in OURS
    for name, value in node.items():
        key = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _named_files(value, f"{key}.")
        elif isinstance(value, str | int) and not isinstance(value, bool) and name != "_target_":
            path, known = Path(str(value)).expanduser(), any(fnmatch(key, pattern) for pattern in FILES)
            if (known and path.exists()) or (stranger and _is_file(path)):
                yield key, path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is no path, such as a very long one
        return False


def _digest(path: Path, outputs: Path) -> str:
    """Return a digest of a file, or of all files of a folder but hidden ones and those in ``outputs``."""
    if path.is_file():
        return f"{_digest_of_file(path)}{path.suffix}"  # the ending decides how a file is read
    digest, found = hashlib.sha256(), []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if name[0] != "." and Path(folder, name).absolute() != outputs)
        found += [Path(folder, name) for name in sorted(files) if name[0] != "."]
    for file in tracked(found, f"reading {path}", long=len(found) >= MANY):
        digest.update(os.fsencode(f"{file.relative_to(path)}\0{_digest_of_file(file)}\n"))
    return digest.hexdigest()


def _digest_of_file(path: Path) -> str:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            return ""  # a pipe or a device, which is not waited for
        return _digest_at(path.resolve(), facts.st_size, facts.st_mtime_ns)
    except OSError:  # a link to nothing, or a file that may not be read: who needs it says so
        return ""


@cache
def _digest_at(path: Path, size: int, changed: int) -> str:
    """Return the digest of a file; one that has not changed since is read once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replaced(node: Mapping[str, Any], values: Mapping[str, Any], before: str) -> dict[str, Any]:
    """Return a configuration with the values of some dotted keys replaced."""
    found = {}
    for name, value in node.items():
        key = f"{before}{name}"
        inner = _replaced(value, values, f"{key}.") if isinstance(value, Mapping) else value
        found[name] = values.get(key, inner)
    return found


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
