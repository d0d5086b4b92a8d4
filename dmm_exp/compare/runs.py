"""Finished runs, read from their folders; what is unfinished or damaged is named and left out."""

from __future__ import annotations

import glob
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmm_exp.config.identity import CHOICES, CONTENTS, FORGET, MEMBERS, NAMED, identifying
from dmm_exp.config.schema import Plain
from dmm_exp.errors import UserError
from dmm_exp.files.digests import digest_of
from dmm_exp.files.reading import JSON_BYTES, Json, check_parquet, read_bytes, read_json, read_yaml

if TYPE_CHECKING:
    import pandas as pd

STATUS = "status.json"
HYDRAS = ("defaults", "hydra", "choices")  # keys of config.yaml that are no part of the configuration
# Groups whose settings belong to a method; all others belong to the question that methods answer.
METHOD_GROUPS = ("unlearner", "refinement", "attribution", "pool", "scores", "hparams_search", "hparams_search/spaces")
DRAWS = ("seed", "forget.seed")

_NOT_USED = {"", "none", "null", "off", "None"}


@dataclass(frozen=True)
class Run:
    """What one finished run was and found.

    Attributes:
        folder: where it is.
        choices: configuration group → choice.
        settings: dotted key → value (a number, text, bool, None or list), of all that determines a result.
        metrics: ``metrics.json``.
        forget: hash of the forget set's points; equal for equal sets.
        finished: when, in seconds since 1970.
        contents: dotted key → digest of the file or folder that it named then.
    """

    folder: Path
    choices: Mapping[str, str]
    settings: Plain
    metrics: Mapping[str, float]
    forget: str
    finished: float
    contents: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        folder: Path,
        config: Plain,
        choices: Mapping[str, str],
        metrics: Mapping[str, float],
        finished: float,
    ) -> Run:
        """Return a run from its resolved configuration; its folder holds the forget set already."""
        settings = dict(flat({key: value for key, value in identifying(config).items() if key not in HYDRAS}))
        return cls(folder, choices, settings, metrics, _forget_set(folder), finished, _contents(folder))

    @cached_property
    def facts(self) -> Json:
        """Choices and settings by key, without those of an attribution that was not used."""
        used = used_attribution(self.choices, self.metrics) is not None
        both = {**self.settings, "hparams_search": "none", **self.choices}
        return {key: value for key, value in both.items() if used or key.split(".")[0] != "attribution"}

    @cached_property
    def setting(self) -> str:
        """What runs share that repeat one question with other draws: the hash of its settings."""
        return digest_of({key: value for key, value in self._question.items() if key not in DRAWS})

    @cached_property
    def block(self) -> str:
        """What runs share that can be compared: the hash of all that makes the oracles."""
        question = {key: value for key, value in self._question.items() if not key.startswith("forget.")}
        return digest_of([question, self.forget])

    @property
    def _question(self) -> Json:
        """Settings that do not belong to the method, files by their content."""
        settings = {**self.settings, **self.contents}
        return {key: value for key, value in settings.items() if key.partition(".")[0] not in METHOD_GROUPS}

    @cached_property
    def members(self) -> pd.DataFrame | None:
        """``members.parquet``: one row a member; None where there is none that can be read."""
        import pandas as pd

        try:
            check_parquet(self.folder / MEMBERS)
            return pd.read_parquet(self.folder / MEMBERS)
        except (OSError, ValueError, LookupError, TypeError, NotImplementedError):
            return None


def find_folders(paths: Sequence[str]) -> list[Path]:
    """Return the run folders that paths stand for, each once, in the order given.

    A path is a run's folder, a folder of such folders, or a pattern of either.

    Raises:
        UserError: a path stands for no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        folders = [folder for match in _matches(path) for folder in _run_folders(match)]
        if not folders:
            accepted = (
                "expected a run's folder (with status.json), a folder of them, or a pattern such as outputs/runs/*"
            )
            raise UserError(f"PATH '{path}' holds no run; {accepted}")
        found |= {folder.resolve(): folder for folder in folders if folder.resolve() not in found}
    return list(found.values())


def _matches(path: str) -> list[Path]:
    literal = Path(path).expanduser()
    return [literal] if literal.exists() else sorted(map(Path, glob.glob(str(literal))))


def _run_folders(folder: Path) -> list[Path]:
    if _is_run(folder):
        return [folder]
    return [child for child in sorted(folder.iterdir()) if _is_run(child)] if folder.is_dir() else []


def _is_run(folder: Path) -> bool:
    return (folder / STATUS).is_file() or (folder / "config.yaml").is_file()


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Return the finished runs among folders, and a line for each folder that is left out."""
    runs, left_out = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except (OSError, ValueError, AttributeError) as error:  # the last of keys that are no texts
            left_out.append(f"left out {folder}: {' '.join(str(error).split())}")
    return runs, left_out


def read_run(folder: Path) -> Run:
    """Return what a finished run left.

    Raises:
        OSError, ValueError, AttributeError: it did not finish, or a file is missing or damaged.
    """
    status = _mapping(folder / STATUS)
    if status.get("state") != "finished":
        raise ValueError(f"it did not finish (its state is '{status.get('state')}')")
    config = read_yaml(folder / "config.yaml")
    choices, metrics = _mapping(folder / CHOICES), _mapping(folder / "metrics.json")
    if not isinstance(config, dict):
        raise ValueError("config.yaml is damaged: it holds no keys")
    unknown = [group for group in NAMED[:4] if group not in choices]
    if unknown:
        raise ValueError(f"{CHOICES} is damaged: it has no {unknown[0]}")
    if not all(isinstance(choice, str | None) for choice in choices.values()):
        raise ValueError(f"{CHOICES} is damaged: it has choices that are no names")
    wrong = [name for name, value in metrics.items() if not _is_number(value)]
    if wrong or not metrics:
        raise ValueError(f"metrics.json is damaged: {wrong[0]} is no number" if wrong else "metrics.json is empty")
    updated = status.get("updated", 0.0)
    return Run.of(folder, config, choices, metrics, float(updated) if _is_number(updated) else 0.0)


def runs_beside(own: Run) -> list[Run]:
    """Return the other finished runs in a run's parent folder that can be compared with it; damaged ones are not."""
    folders = [folder for folder in _run_folders(own.folder.parent) if folder != own.folder and _may_match(folder, own)]
    return [run for run in read_runs(folders)[0] if run.block == own.block]


def _may_match(folder: Path, own: Run) -> bool:
    """Say, at the price of two small files, whether it is worth reading a folder's configuration."""
    try:
        choices = _mapping(folder / CHOICES)
        return _forget_set(folder) == own.forget and all(choices.get(k) == own.choices.get(k) for k in NAMED[:2])
    except (OSError, ValueError):
        return False


def _forget_set(folder: Path) -> str:
    return hashlib.sha256(read_bytes(folder / FORGET, JSON_BYTES)).hexdigest()


def _contents(folder: Path) -> dict[str, str]:
    """Return the digests of the files that a run named; runs of before have none."""
    return _mapping(folder / CONTENTS) if (folder / CONTENTS).exists() else {}


def _mapping(path: Path) -> Json:
    try:
        value = read_json(path)
    except ValueError:
        value = None
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is damaged")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def flat(config: Plain, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every leaf; a list is a leaf."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def used_attribution(choices: Mapping[str, str], metrics: Mapping[str, float]) -> str | None:
    """Return an attribution if it was used; methods without a predictor leave no trace of it in the metrics."""
    choice = choices.get("attribution")
    used = not metrics or any(name in ("lds", "cost/attribution") or name.startswith("effect/") for name in metrics)
    return choice if is_used(choice) and used else None


def is_used(choice: str | None) -> bool:
    """Tell whether a configuration choice names something rather than its absence."""
    return choice is not None and str(choice) not in _NOT_USED
