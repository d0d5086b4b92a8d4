"""What tells runs apart: filters, the keys that differ, methods, and the blocks in which methods can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from dmm_exp.compare.runs import DRAWS, METHOD_GROUPS, Run, is_used
from dmm_exp.config.identity import does_not_identify
from dmm_exp.errors import UserError, did_you_mean

SETTING = ("dataset", "model", "forget")
METHOD = "method"
# Our unlearners with ``reference = True``: they mark an end of the scale, look at retrained models, or make no model.
# They are named here because classes cannot be asked without importing torch.
REFERENCES = frozenset(f"dmm_exp.unlearners.{name}" for name in ("DMDirect", "DoNothing", "OracleMatching", "Retrain"))
_NEVER_TELLING = {*DRAWS, "experiment", "trainer", "evaluation"}  # of choices, those whose settings may tell


def text(value: Any) -> str:
    """Return a setting as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def filtered(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """Return the runs that meet every condition.

    Args:
        runs: to choose from.
        conditions: ``key=value`` or ``key!=value``; several values of one key mean any of them.

    Raises:
        UserError: a condition has another form, a key that no run has, or leaves nothing.
    """
    wanted: dict[str, list[str]] = {}
    for condition in conditions:
        key, equals, value = condition.partition("=")
        known = sorted({name for run in runs for name in run.facts})
        if not equals or key.removesuffix("!") not in known:
            hint = did_you_mean(key.removesuffix("!"), known)
            raise UserError(
                f"--where '{condition}' is unknown; expected key=value or key!=value, with a group such as unlearner "
                f"or a configuration key of these runs such as pool.size{hint}"
            )
        wanted.setdefault(key, []).append(value)
    for key, values in wanted.items():
        runs = _meeting(runs, key, values)
    return list(runs)


def _meeting(runs: Sequence[Run], key: str, values: Sequence[str]) -> list[Run]:
    name = key.removesuffix("!")
    equal = [run for run in runs if name in run.facts and any(_equals(run.facts[name], value) for value in values)]
    kept = equal if name == key else [run for run in runs if run not in equal]
    if not kept:
        there = listed(text(run.facts[name]) for run in runs if name in run.facts)
        raise UserError(f"--where {key}={' or '.join(values)} leaves no run; {name} is {there} in those there are")
    return kept


def _equals(found: Any, wanted: str) -> bool:
    if text(found) == wanted:
        return True
    try:
        return found == yaml.safe_load(wanted)
    except yaml.YAMLError:
        return False


def telling_keys(runs: Sequence[Run]) -> list[list[str]]:
    """Return, for each run, the keys that tell it apart beside dataset, model, forget set, method and draws.

    A key tells runs apart when it differs between two that otherwise chose the same: what comes with the choice of an
    unlearner, such as its batch size, is said by its name, and so are settings found for each dataset.
    """
    cells = [{key: (key, *_cell(run, key)) for key in run.facts if not _is_silent(run, key)} for run in runs]
    seen: dict[tuple[str, ...], set[str]] = {}
    for run, own in zip(runs, cells, strict=True):
        for key, cell in own.items():
            seen.setdefault(cell, set()).add(text(run.facts[key]))
    return [[key for key, cell in own.items() if len(seen[cell]) > 1] for own in cells]


def _is_silent(run: Run, key: str) -> bool:
    """Say whether a key never tells runs apart, as settings that each repetition of a method finds for itself."""
    if key.startswith("refinement."):
        return ".unlearner." in key and "refinement.candidates" in run.facts
    searched = key.startswith("unlearner.") and is_used(run.facts["hparams_search"])
    silent = key in _NEVER_TELLING or (does_not_identify(key) and key != "hparams_search")
    return searched or silent


def _cell(run: Run, key: str) -> tuple[str, ...]:
    """Return what runs must share for a difference of ``key`` to tell them apart."""
    group = key.partition(".")[0]
    names = [*SETTING, group] if key != group else [*SETTING]
    if group in METHOD_GROUPS:
        names += ["unlearner", "refinement"]
    shared = (*(str(run.facts.get(name)) for name in names), *_classes_above(run, key))
    return (*shared, run.setting) if group in METHOD_GROUPS else shared


def _classes_above(run: Run, key: str) -> list[str]:
    """Return the classes that a setting belongs to: what comes with another class is said by its name."""
    parts = key.split(".")
    above = (".".join([*parts[:depth], "_target_"]) for depth in range(1, len(parts)))
    return [str(run.facts.get(name)) for name in above if name != key]


def method_of(run: Run, telling: Sequence[str]) -> str:
    """Return a method's name: unlearner, refinement where there is one, and the settings of theirs that tell."""
    names = [run.choices[name] for name in ("unlearner", "refinement") if is_used(run.choices.get(name))]
    own = [key for key in telling if key.partition(".")[0] in METHOD_GROUPS]
    own.sort(key=lambda key: "." in key)  # choices before their settings
    return " ".join([" + ".join(names), *(_word(key, text(run.facts[key])) for key in own)])


def _word(key: str, value: str) -> str:
    """Return a setting in a method's name; a class by its last name alone."""
    if key.endswith("._target_"):
        return f"{key.removesuffix('._target_')}={value.rpartition('.')[2]}"
    return f"{key}={value}"


def is_reference(run: Run) -> bool:
    """Say whether a run's method takes no part in a ranking; a refinement makes a method of a reference."""
    return run.facts.get("unlearner._target_") in REFERENCES and not is_used(run.choices.get("refinement"))


def listed(names: Iterable[str]) -> str:
    """Return names in alphabetical order for a sentence, the first twenty if there are more."""
    known = sorted(set(names))
    return ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")


def newest(runs: Sequence[Run], methods: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Keep the newest of runs with the same method and block, in their order; return a line for each other one."""
    last: dict[tuple[str, str], Run] = {}
    keys = [(run.block, method) for run, method in zip(runs, methods, strict=True)]
    for key, run in zip(keys, runs, strict=True):
        last[key] = max(last.get(key, run), run, key=lambda one: one.finished)
    kept = [run for key, run in zip(keys, runs, strict=True) if last[key] is run]
    repeated = [(run, last[key]) for key, run in zip(keys, runs, strict=True) if last[key] is not run]
    return kept, [
        f"left out {run.folder}: {other.folder} is the same method on the same question, and newer"
        for run, other in repeated
    ]
