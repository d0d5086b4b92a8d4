"""What makes a run itself: its name, and the files by which others know it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import translate
from functools import cache
from pathlib import Path

from dmm_exp.config.schema import Config, Plain, marks, plain
from dmm_exp.console.terminal import tracked
from dmm_exp.files.digests import digest_of

MANY = 5000  # files whose reading deserves a progress bar
NAMED = ("dataset", "model", "forget", "unlearner", "refinement", "scale")
OURS = ("dmm_exp", "torch", "lightning")  # packages whose arguments name no files but those that the schema marks
CHOICES = "choices.json"
CONTENTS = "contents.json"
ARTIFACTS = "artifacts.json"
FORGET = "forget.json"
MEMBERS = "members.parquet"
MODEL = "unlearned.safetensors"


def run_name(config: Config, choices: Mapping[str, str], identity: Plain | None = None) -> str:
    """Return ``<choices>__<id>``: the same experiment has the same name wherever it is started.

    The id is the hash of what identifies the result; see :func:`identified`.

    Args:
        config: the run's.
        choices: group → choice.
        identity: what identifies the result, where that is known already.
    """
    words = "-".join(choices[group] for group in NAMED if choices.get(group, "none") != "none")
    return f"{words}__{digest_of(identified(config) if identity is None else identity)[:10]}"


def many_runs_digest(runs: Sequence[tuple[Sequence[str], Config]]) -> str:
    """Return the identity of something made of many runs, each given as its overrides and its configuration.

    Overrides identify them, without those that change no result; where a run reads files, their content does.
    """
    if not any(contents(config) for _, config in runs):
        return digest_of([naming(overrides) for overrides, _ in runs])
    return digest_of([identified(config) for _, config in runs])


def identified(config: Config) -> Plain:
    """Return what identifies the result of a configuration: files by their content, and nothing of where it runs."""
    identity = identifying(plain(config))
    return _replaced(identity, _contents(identity, config.outputs), "")


def identifying(resolved: Plain) -> Plain:
    """Return a configuration with those keys alone that identify a result (see :mod:`dmm_exp.config.schema`).

    >>> identifying({"seed": 0, "forget": {"label": 3, "position": None}, "paths": {"outputs": "here"}})
    {'seed': 0, 'forget': {'label': 3}}
    """
    return _identifying(resolved, "")


def _identifying(node: Plain, before: str) -> Plain:
    found = {}
    for name, value in node.items():
        mark = marks().get(f"{before}{name}")
        if mark in ("presentation", "place", "job") or (mark == "later" and value is None):
            continue
        found[name] = _identifying(value, f"{before}{name}.") if isinstance(value, Mapping) else value
    return found


def does_not_identify(key: str) -> bool:
    """Say whether a dotted key, or one that it lies in, changes nothing of a result."""
    parts = key.split(".")
    above = (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return any(marks().get(name) in ("presentation", "place", "job") for name in above)


def naming(overrides: Sequence[str]) -> list[str]:
    """Return those overrides that may name a folder: none of keys that are marked presentation or place.

    What starts the cells of a sweep (``hydra/launcher``) is a place, too.

    >>> naming(["seed=1", "dry_run=true", "+executor.threads=2", "study.title=mine"])
    ['seed=1', 'study.title=mine']
    """
    keys = {text: _key(text) for text in overrides}
    return [
        text
        for text in overrides
        if _mark(keys[text]) not in ("presentation", "place") and not f"{keys[text]}.".startswith("hydra.launcher.")
    ]


def _key(override: str) -> str:
    """Return the dotted key of an override: of ``+evaluation/klom@evaluation.klom=paper``, ``evaluation.klom``."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")


def _mark(key: str) -> str | None:
    """Return the mark of a key, or of the key nearest above it that has one."""
    parts = key.split(".")
    above = (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return next((mark for name in above if (mark := marks().get(name)) is not None), None)


def contents(config: Config) -> dict[str, str]:
    """Return dotted key → digest of the content of every file or folder that a configuration names and that exists."""
    return _contents(identifying(plain(config)), config.outputs)


def _contents(identity: Plain, outputs: Path) -> dict[str, str]:
    return {key: _digest(path, outputs) for key, path in _named_files(identity, "")}


def _named_files(node: Plain, before: str) -> Iterator[tuple[str, Path]]:
    stranger = str(node.get("_target_", OURS[0])).split(".")[0] not in OURS
    for name, value in node.items():
        key = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _named_files(value, f"{key}.")
        elif isinstance(value, str | int) and not isinstance(value, bool) and name != "_target_":
            known = _files().match(key) is not None
            if known or stranger:
                path = Path(str(value)).expanduser()
                if (known and path.exists()) or (stranger and _is_file(path)):
                    yield key, path


@cache
def _files() -> re.Pattern[str]:
    """Return what the keys match that name files."""
    return re.compile("|".join(translate(key) for key, mark in marks().items() if mark == "file"))


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


def _replaced(node: Plain, values: Mapping[str, str], before: str) -> Plain:
    """Return a configuration with the values of some dotted keys replaced."""
    found = {}
    for name, value in node.items():
        key = f"{before}{name}"
        inner = _replaced(value, values, f"{key}.") if isinstance(value, Mapping) else value
        found[name] = values.get(key, inner)
    return found
