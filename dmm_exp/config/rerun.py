"""A run's folder is run again: its ``config.yaml`` is checked as what a stranger may have written, and copied.

Hydra gets the copy. So nothing else in the folder is read, and of the file only the settings of a run: no searchpaths,
no resolvers, no files of other groups, no settings of Hydra.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dmm_exp.config.folders import leave_this_folder
from dmm_exp.config.schema import FORMERLY, RUN, SCHEMA, Node, Plain
from dmm_exp.config.trust import check_names, packages, restricted
from dmm_exp.errors import UserError, reason_of, shown
from dmm_exp.files.reading import plain_name, read_json, read_yaml

CHOICES = "choices"  # key of config.yaml, and name of a file beside it: group → choice
QUIET = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
HEAD = {"defaults": [SCHEMA, "_self_", *QUIET]}
TAIL = {"hydra": {"run": {"dir": "."}, "output_subdir": None, "job": {"name": "dmm_exp", "chdir": False}}}
MANY_RUNS = (
    ("leaderboard", "methods"),
    ("study", "tables"),
)  # what consists of many runs, each given as a command line
MOVED = {  # start of a class's name, then and now
    "dmm_exp.report.trackers.": "dmm_exp.runs.trackers.",
    "dmm_exp.runs.job.Run": "dmm_exp.runs.run.Run",
}
_CHOICE = re.compile(r"[\w+-][\w.+-]*(/[\w+-][\w.+-]*)*")
_GROUP = re.compile(r"[a-z_]+(/[a-z_]+)*")


def text_of(config: Plain, choices: Mapping[str, str]) -> str:
    """Return a run's ``config.yaml``: what it was composed of, and its resolved configuration."""
    import yaml

    return yaml.safe_dump({CHOICES: dict(choices), **config}, sort_keys=False, allow_unicode=True)


@contextmanager
def checked_copy(folder: Path, name: str, trusted: Sequence[str]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Give a folder with a copy of a run's configuration, and the choices that it was composed of.

    While the body runs, no configuration may name classes that are not trusted.

    Args:
        folder: of the run.
        name: of its configuration file, without ``.yaml``.
        trusted: names of packages whose classes the configuration may name beside our own.

    Raises:
        UserError: the file is not the configuration of a run, or names what is not trusted.
    """
    import yaml

    with accepted_alone(trusted):
        config, choices = read(folder, name)
        with tempfile.TemporaryDirectory(prefix="dmm_exp_") as made:
            copy = Path(made).resolve()
            whole = yaml.safe_dump({**HEAD, **config, **TAIL}, sort_keys=False, allow_unicode=True)
            (copy / "config.yaml").write_text(whole, encoding="utf-8")
            (copy / f"{CHOICES}.json").write_text(json.dumps(choices), encoding="utf-8")
            yield copy, choices


@contextmanager
def accepted_alone(trusted: Sequence[str] = ()) -> Iterator[None]:
    """Let configuration name only classes that are accepted of a stranger's, while the body runs.

    Args:
        trusted: names of packages whose classes are accepted beside our own.
    """
    with restricted(packages(trusted)), _without_this_folder(last=bool(trusted)):
        yield


def read(folder: Path, name: str = "config") -> tuple[Node, dict[str, str]]:
    """Return the configuration of a run's folder, and the choices that it was composed of.

    Raises:
        UserError: it is no such configuration, or names a class that is not accepted.
    """
    if not plain_name(f"{name}.yaml"):
        raise UserError(f"--config-name {shown(name)}: expected the name of a file in the folder")
    path = folder / f"{name}.yaml"
    try:
        config = read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as the configuration of a run ({reason_of(error)})") from error
    try:
        return _checked(config, folder)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _checked(config: Any, folder: Path) -> tuple[Node, dict[str, str]]:
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise UserError("expected the keys of a run, such as seed and dataset")
    _check_hydra(config)
    own = {key: _moved(value) for key, value in config.items() if key not in ("defaults", "hydra", CHOICES)}
    _check_values(own, "")
    for outer, inner in MANY_RUNS:
        if isinstance(own.get(outer), dict) and own[outer].get(inner):
            raise UserError(f"{outer}.{inner}: is of many runs; expected the configuration of one")
    if own.get("job", {"_target_": RUN}) != {"_target_": RUN}:
        raise UserError(f"job={shown(own['job'])}: is not one run; expected job=run")
    check_names(own)
    return own, _choices(config.get(CHOICES), own, folder)


def _moved(node: Any) -> Any:
    """Return a node of the configuration in which classes have the names that they have now."""
    target = node.get("_target_") if isinstance(node, dict) else None
    former = next((name for name in MOVED if isinstance(target, str) and target.startswith(name)), None)
    if former is None:
        return node
    return {**node, "_target_": f"{MOVED[former]}{str(target).removeprefix(former)}"}


def _check_hydra(config: Plain) -> None:
    """Refuse all settings of Hydra but those that runs of ours have, or had."""
    if config.get("hydra", TAIL["hydra"]) != TAIL["hydra"]:
        raise UserError("hydra: sets how Hydra itself works; a folder that is run again may not")
    defaults = config.get("defaults", HEAD["defaults"])
    if defaults not in (HEAD["defaults"], [FORMERLY, *HEAD["defaults"][1:]]):
        raise UserError("defaults: names other files; a folder that is run again is one file with all settings")


def _check_values(node: Any, path: str) -> None:
    """Refuse interpolations, which may read the environment and other keys: a run's configuration is resolved."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            inner = f"{path}.{key}" if path else str(key)
            _check_values(str(key), inner)
            _check_values(value, inner)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_values(value, f"{path}[{index}]")
    elif isinstance(node, str) and "${" in node:
        raise UserError(f"{shown(path)}={shown(node)}: is an interpolation; the configuration of a run has none")


def _choices(recorded: Any, config: Plain, folder: Path) -> dict[str, str]:
    """Return group → choice, as recorded in the file, or beside it by earlier runs; else by the names of classes."""
    if recorded is None:
        try:
            recorded = read_json(folder / f"{CHOICES}.json")
        except (OSError, ValueError):
            return _choices_by_class(config)
    if not isinstance(recorded, dict):
        raise UserError(f"{CHOICES}: expected the choice of every group, such as dataset: digits")
    for group, choice in recorded.items():
        right = isinstance(choice, str) and _CHOICE.fullmatch(choice) and len(choice) < 100
        if not isinstance(group, str) or not _GROUP.fullmatch(group) or not right:
            raise UserError(f"{CHOICES}: {shown(group)}={shown(choice)} is no choice of a group")
    return recorded


def _choices_by_class(config: Plain) -> dict[str, str]:
    """Return names for the parts of a run whose choices are not known."""
    found = {}
    for group in ("dataset", "model", "forget", "unlearner"):
        node = config.get(group)
        inner = node.get("network", node) if isinstance(node, dict) else {}
        target = inner.get("_target_") if isinstance(inner, dict) else None
        found[group] = str(target or "unknown").rpartition(".")[2].lower()
    return found


@contextmanager
def _without_this_folder(*, last: bool) -> Iterator[None]:
    """Let no module be imported from the current folder, or after all others: it may be the stranger's.

    Args:
        last: look there after everywhere else, for a package that the user trusts.
    """
    before = list(sys.path)
    leave_this_folder()
    sys.path += [str(Path.cwd())] if last else []
    try:
        yield
    finally:
        sys.path[:] = before
