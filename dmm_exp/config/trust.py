"""Which classes a configuration may name while a run's folder is run again: it may come from a stranger.

A ``_target_`` is compared with what is accepted by its text, before anything of it is imported; what it leads to is
checked again before it is called, since a path through an accepted module can lead to anything that this has imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dmm_exp.config.folders import config_directory
from dmm_exp.errors import UserError, shown

TARGET = "_target_"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
_OURS = re.compile(r"dmm_exp\.(?P<room>[a-z][a-z0-9_]*)(\.[a-z][a-z0-9_]*)*\.[A-Z][A-Za-z0-9_]*", re.ASCII)
_THEIRS = re.compile(
    r"(torch\.nn|torch\.optim|torch\.optim\.lr_scheduler|lightning\.pytorch\.(callbacks|profilers|plugins|strategies))"
    r"\.[A-Z][A-Za-z0-9_]*",
    re.ASCII,
)
# Classes that work on other machines, or send results to them, and get commands or addresses from the configuration.
ELSEWHERE = ("executors.Submitit", "executors.Ray", "runs.trackers.WandbTracker")
ALONE = ("executors", "runs")  # rooms of which only what conf/ names is accepted
ACCEPTED = "dmm_exp, torch.nn, torch.optim and lightning.pytorch"


@dataclass(frozen=True)
class Trust:
    """What is accepted beside our own classes.

    Attributes:
        packages: names of packages, modules or classes whose content is accepted as it is.
    """

    packages: tuple[str, ...] = ()

    def covers(self, target: str) -> bool:
        """Say whether a target is, or lies in, one of the packages."""
        return any(f"{target}.".startswith(f"{package}.") for package in self.packages)

    def check_name(self, target: object, path: str = "") -> None:
        """Compare the text of a target with what is accepted; nothing is imported.

        Raises:
            UserError: it is not accepted.
        """
        where = f"{path}._target_={shown(target)}" if path else f"_target_={shown(target)}"
        if not isinstance(target, str) or not NAME.fullmatch(target):
            raise UserError(f"{where}: expected the name of a class, such as torch.nn.Linear")
        if self.covers(target):
            return
        if target in (f"dmm_exp.{name}" for name in ELSEWHERE):
            raise UserError(
                f"{where}: this works on other machines or sends results there, as the folder says; add --trust "
                f"{target} if you know who wrote the folder, or choose another class"
            )
        if not (target in _ours() or _THEIRS.fullmatch(target) or _is_in_a_room(target)):
            raise UserError(
                f"{where}: is none of the classes of {ACCEPTED} that a folder may name which is run again; if you know "
                f"who wrote the folder, add --trust {target.split('.')[0]}"
            )

    def check_found(self, target: str, found: Any) -> None:
        """Check what the text of a target leads to, before it is called.

        Raises:
            UserError: it is no class of the package that its text begins with.
        """
        if self.covers(target) or target in _ours():
            return
        home = target.split(".")[0]
        module = getattr(found, "__module__", "")
        right = isinstance(found, type) and str(module).split(".")[0] == home
        if right and home == "torch":
            right = _is_part_of_training(found)
        if not right:
            raise UserError(
                f"_target_={target}: leads to what is no class of {home} that a folder may name which is run again"
            )


_trust: Trust | None = None  # None accepts everything: the configuration is the user's own


@contextmanager
def restricted(trust: Trust) -> Iterator[None]:
    """Accept only what is trusted while the body runs."""
    global _trust
    before, _trust = _trust, trust
    try:
        yield
    finally:
        _trust = before


def check_names(node: Any, path: str = "") -> None:
    """Check every ``_target_`` of plain containers by its text, if only some are accepted now.

    Raises:
        UserError: the first that is not accepted.
    """
    if _trust is None:
        return
    if isinstance(node, Mapping):
        if TARGET in node:
            _trust.check_name(node[TARGET], path)
        for key, value in node.items():
            check_names(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            check_names(value, f"{path}[{index}]")


def named(node: Any) -> set[str]:
    """Return every ``_target_`` of plain containers."""
    if isinstance(node, list | tuple):
        return {target for value in node for target in named(value)}
    if not isinstance(node, Mapping):
        return set()
    own = {str(node[TARGET])} if TARGET in node else set()
    return own | {target for value in node.values() for target in named(value)}


def needed(config: Any) -> list[str]:
    """Return the packages that have to be trusted for a configuration to be run again, by their shortest names."""
    found = set()
    for target in named(config):
        try:
            Trust().check_name(target)
        except UserError:
            found.add(target if target.startswith("dmm_exp.") else target.split(".")[0])
    return sorted(found)


def check_found(target: str, found: Any) -> None:
    """Check what a target leads to, if only some classes are accepted now. Raises ``UserError``."""
    if _trust is not None:
        _trust.check_found(target, found)


def is_restricted() -> bool:
    """Say whether only some classes are accepted now."""
    return _trust is not None


def packages(names: Sequence[str]) -> Trust:
    """Return the trust in packages that are given by their names.

    Raises:
        UserError: a name cannot be that of a package.
    """
    for name in names:
        if not NAME.fullmatch(name):
            raise UserError(f"--trust {shown(name)}: expected the name of a package, a module or a class")
    return Trust(tuple(names))


@cache
def _ours() -> frozenset[str]:
    """Return the targets that our own configuration names."""
    texts = (path.read_text(encoding="utf-8") for path in Path(config_directory()).rglob("*.yaml"))
    found = (match[1] for text in texts for match in re.finditer(r"_target_: *([A-Za-z0-9_.]+)", text))
    return frozenset(found) - {f"dmm_exp.{name}" for name in ELSEWHERE}


def _is_in_a_room(target: str) -> bool:
    """Say whether this is the name of a class of ours that lies beside those that our configuration names."""
    rooms = {name.split(".")[1] for name in _ours() if name.startswith("dmm_exp.")} - {*ALONE}
    match = _OURS.fullmatch(target)
    return match is not None and match["room"] in rooms


def _is_part_of_training(found: type) -> bool:
    from torch import nn, optim

    return issubclass(found, (nn.Module, optim.Optimizer, optim.lr_scheduler.LRScheduler))
