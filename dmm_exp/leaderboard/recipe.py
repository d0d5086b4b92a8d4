"""How a result is made again: the choices and settings of a run, said so that a stranger's may be read with care.

Nothing that a row says is run as text. A recipe holds choices of groups and values of keys. Of both only those are
accepted that change what is computed, by our own classes, from data that our own configuration names: no class, no
file, no address, no settings of Hydra, of executors or of trackers. What it composes to is checked once more before it
is run.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from typing import Any

from dmm_exp.compare.runs import METHOD_GROUPS, flat
from dmm_exp.config.folders import config_directory
from dmm_exp.config.identity import does_not_identify, identifying
from dmm_exp.config.overrides import quoted
from dmm_exp.config.parts import is_reference
from dmm_exp.config.preflight import composer
from dmm_exp.config.schema import Config, Plain, marks, plain
from dmm_exp.errors import UserError, shown

GROUPS = (
    *("dataset", "model", "training", "pool", "scores", "forget", "attribution", "unlearner", "refinement"),
    *("evaluation", "evaluation/klom", "evaluation/audits"),
)
ALONE = ("seed", "n_models")  # keys at the root
ALWAYS = ("dataset", "model", "forget", "unlearner")  # groups whose choice a recipe says even where it is the default
STEPS = "engine.members=together"  # as all rows from the first: fused steps are rounded in another way
MOST = 1000  # values in a list
_CHOICE = re.compile(r"[a-z0-9][a-z0-9_]{0,59}", re.ASCII)
_KEY = re.compile(r"[a-z][A-Za-z0-9_]{0,59}(\.[A-Za-z0-9][A-Za-z0-9_]{0,59}){0,9}", re.ASCII)
_TEXT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .+-]{0,99}", re.ASCII)
_WORD = re.compile(r"[A-Za-z_]{2,}[A-Za-z0-9_-]*", re.ASCII)
_MEANT = {"true", "false", "null", "none", "inf", "nan", "yes", "no", "on", "off"}  # words that stand for no text
# Keys that name where data come from, or a function: those of a person's own command line, not of a row.
_REFUSED = ("dataset.folders", "dataset.hub", "dataset.hub.*", "unlearner.function", "unlearner.call.*")


@dataclass(frozen=True)
class Recipe:
    """How a result is made.

    Attributes:
        choices: group → choice, of the groups in :data:`GROUPS` that are not at their defaults, and of :data:`ALWAYS`.
        settings: dotted key → value (a number, text, true, false, null, or a list), of what differs from the choices.
    """

    choices: Mapping[str, str] = field(default_factory=dict)
    settings: Plain = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what a row may not say. Raises ``UserError``."""
        for group, choice in self.choices.items():
            _check_choice(group, choice)
        for key, value in self.settings.items():
            _check_key(key, value)
            _check_value(value, f"{key}={shown(json.dumps(value))}")

    @property
    def overrides(self) -> list[str]:
        """The words of the command line."""
        choices = [f"{group}={self.choices[group]}" for group in GROUPS if group in self.choices]
        return [*choices, *(f"{key}={written(self.settings[key])}" for key in sorted(self.settings))]

    @property
    def command(self) -> str:
        """What to type into a shell."""
        return shlex.join(["python", "-m", "dmm_exp", *self.overrides])

    @property
    def task(self) -> Plain:
        """What methods have in common that can be compared: choices and settings of neither method nor forget set."""
        both = {**self.choices, **self.settings}
        own = {group for group in METHOD_GROUPS if group != "pool"} | {"forget"}  # the pool decides what is memorized
        return {key: value for key, value in both.items() if key.partition(".")[0] not in own}

    @classmethod
    def of(cls, settings: Plain, choices: Mapping[str, str]) -> Recipe:
        """Return the recipe of a run.

        Args:
            settings: dotted key → value, of all that identifies its result.
            choices: group → choice that it was composed of.

        Raises:
            UserError: it was made with something that no row may say.
        """
        _, usual = _of_choices(())
        named = {group: choices[group] for group in GROUPS if group in choices}
        named = {group: choice for group, choice in named.items() if group in ALWAYS or usual.get(group) != choice}
        config, _ = _of_choices(tuple(named.items()))
        return cls(named, _differences(dict(flat(identifying(plain(config)))), settings))

    @property
    def reference(self) -> bool:
        """Whether its method takes no part in a ranking."""
        config, _ = _of_choices(tuple((group, self.choices[group]) for group in GROUPS if group in self.choices))
        return is_reference(config)

    def composed(self, places: Sequence[str] = ()) -> tuple[Config, dict[str, str]]:
        """Return the configuration and the choices that it stands for, of our own folder of configuration alone.

        Args:
            places: overrides of the person's own that change no result, or say where data are.

        Raises:
            UserError: there is no such choice, or no such key.
        """
        with composer(config_directory()) as compose:
            return compose([*self.overrides, *places])[0]


@cache
def _of_choices(named: tuple[tuple[str, str], ...]) -> tuple[Config, dict[str, str]]:
    """Return what choices alone compose to, of our own folder of configuration."""
    with composer(config_directory()) as compose:
        return compose([f"{group}={choice}" for group, choice in named])[0]


def _differences(base: Plain, settings: Plain) -> Plain:
    """Return what is to be set beside the choices. Raises ``UserError`` for what cannot be set."""
    for key in base.keys() ^ settings.keys():
        if marks().get(key) != "later":
            said = f"{key}={shown(settings[key])}: is in none" if key in settings else f"{key}: is left out, and in one"
            raise UserError(f"{said} of our own choices; a row says how anybody makes the result again")
    both = {key: settings.get(key) for key in {**base, **settings}}
    return {key: value for key, value in both.items() if value != base.get(key) and not _is_file(key)}


def _check_choice(group: str, choice: object) -> None:
    if group not in GROUPS:
        raise UserError(f"choices: '{shown(group)}' is no group that a row may choose in; expected {', '.join(GROUPS)}")
    if not isinstance(choice, str) or not _CHOICE.fullmatch(choice):
        raise UserError(f"choices: {group}={shown(choice)}: expected the name of a choice")


def _check_key(key: str, value: object) -> None:
    """Refuse a key that says where something is, or what is imported, or that changes no result."""
    said = f"settings: {shown(key)}={shown(value)}"
    roots = [group for group in GROUPS if "/" not in group]
    if not _KEY.fullmatch(key) or not (key in ALONE or ("." in key and key.split(".")[0] in roots)):
        raise UserError(f"{said}: is no key that a row may set; expected {', '.join(ALONE)} or a key of {roots[0]}, …")
    if does_not_identify(key):
        raise UserError(f"{said}: changes no result, and a row may not set it")
    if _is_file(key) or any(fnmatch(key, pattern) for pattern in _REFUSED):
        raise UserError(f"{said}: says where something is or what is imported; a row may not")


def _is_file(key: str) -> bool:
    return any(mark == "file" and fnmatch(key, pattern) for pattern, mark in marks().items())


def _check_value(value: object, said: str, depth: int = 0) -> None:
    if isinstance(value, list) and depth < 3 and len(value) <= MOST:
        for element in value:
            _check_value(element, said, depth + 1)
        return
    is_text = isinstance(value, str) and _TEXT.fullmatch(value) and ".." not in value
    is_number = isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    if not (value is None or is_text or is_number):
        raise UserError(f"settings: {said}: expected a number, true, false, null, a plain word, or a list of these")


def written(value: Any) -> str:
    """Return a plain value as the command line takes it.

    >>> written([1, None, "kl", "16 bits"])
    '[1,null,kl,"16 bits"]'
    """
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) and value.lower() not in _MEANT else quoted(value)
    return json.dumps(value)


def check_places(words: Sequence[str]) -> None:
    """Raise ``UserError`` unless all words set where something is, or how fast it is made."""
    for word in words:
        key = word.partition("=")[0]
        if "=" not in word or not (does_not_identify(key) or _is_file(key)):
            accepted = "paths.outputs=DIR, executor=NAME, dataset.path=FILE or the like"
            raise UserError(f"{word}: says not where something is, or how fast it is made; expected {accepted}")
