"""Everything a finished run hands to the report, in one object; nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dmm_exp.compare.runs import is_used
from dmm_exp.config.schema import Plain

if TYPE_CHECKING:
    import pandas as pd

    from dmm_exp.console.progress import StageRecord


@dataclass(frozen=True)
class OtherRun:
    """Another finished run that answers the same question: same data, model, training, forget set, seed and N.

    Attributes:
        name: of its folder.
        method: what tells it from the others.
        metrics: its ``metrics.json``.
    """

    name: str
    method: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Row ``i`` of ``points``, column ``i`` of every array in ``margins`` and row ``i`` of ``images`` are the same point,
    and ``points.point`` increases; anything else raises ``ValueError``, because every figure would silently be wrong.

    Attributes:
        name: the run folder's name, such as ``digits-mlp-rum_high_mem-dmm__1a2b3c4d5e``.
        config: the resolved configuration, plain containers only.
        choices: configuration group -> choice (``dataset``, ``model``, ``forget``, ``attribution``, ``unlearner`` ...).
        metrics: the content of ``metrics.json``; any name may be absent.
        points: one row a point: ``point, group, label, klom, klom_floor, klom_original``, the same three as
            ``klom_reverse…``; mean margins and accuracies of the three ensembles (``margin_original`` ...); and, when
            they exist, ``memorization, memorization_se, effect_predicted, effect_true, corrupted``. Of models that were
            made elsewhere, labels, accuracies, floor and original may be unknown.
        margins: ``original``, ``unlearned``, ``oracle``, ``floor`` -> float32 ``[members, points]``; the first and the
            last may be unknown.
        images: raw inputs ``[points, channels, height, width]``, uint8 or float; flat vectors have no pictures.
        class_names: one name a class.
        stages: what the pipeline did, in order.
        provenance: versions, commit, device, command.
        history: training curves with columns ``stage, epoch, loss``; may be empty.
        checkpoints: metrics by number of epochs, when the unlearner was evaluated on its way; the last are ``metrics``.
        members: one row a member of the ensembles, such as its accuracies; ``None`` when nobody collected them.
        roc: curves of the attack with columns ``ensemble`` (``unlearned``, ``original``, ``floor``), ``fpr``, ``tpr``;
            ``None`` or empty where nothing was attacked.
        others: finished runs on the same question, to compare quality and cost with.
        notes: sentences on what was scored, and on what could not be; the page says them among its limits.
    """

    name: str
    config: Plain
    choices: dict[str, str]
    metrics: dict[str, float]
    points: pd.DataFrame
    margins: dict[str, np.ndarray]
    images: np.ndarray
    class_names: list[str]
    stages: list[StageRecord]
    provenance: dict[str, str]
    history: pd.DataFrame
    checkpoints: dict[int, dict[str, float]] = field(default_factory=dict)
    members: pd.DataFrame | None = None
    roc: pd.DataFrame | None = None
    others: Sequence[OtherRun] = ()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse arrays that do not describe the same points."""
        if not self.points["point"].is_monotonic_increasing:
            raise ValueError("RunResult.points must be in increasing order of `point`")
        for role, values in self.margins.items():
            if values.shape[1] != len(self.points):
                raise ValueError(f"margins[{role!r}] has {values.shape[1]} columns for {len(self.points)} points")
        if len(self.images) != len(self.points):
            raise ValueError(f"images has {len(self.images)} rows for {len(self.points)} points")

    def rows(self, group: str) -> np.ndarray:
        """Return where a group's points are: rows of ``points`` and ``images``, columns of ``margins``."""
        return np.flatnonzero(self.groups == group)

    @property
    def groups(self) -> np.ndarray:
        """Return the group of every point, ``[points]``."""
        return np.asarray(self.points["group"])

    def has(self, role: str) -> bool:
        """Return whether there are models of this role, or at least their KLoM on forget points."""
        return role in self.margins or f"klom_{role}/forget/p95" in self.metrics

    def column(self, name: str) -> np.ndarray | None:
        """Return one number a point, ``[points]``, or ``None`` when this run has no such column."""
        return np.asarray(self.points[name], dtype=np.float64) if name in self.points.columns else None

    def known(self, *names: str, group: str = "forget") -> np.ndarray:
        """Return the rows of a group in which every named column exists and is finite."""
        rows = self.rows(group)
        for name in names:
            values = self.column(name)
            rows = rows[:0] if values is None else rows[np.isfinite(values[rows])]
        return rows

    @property
    def n_models(self) -> int | None:
        """Members in the unlearned ensemble, or ``None`` when neither margins nor configuration say."""
        if "unlearned" in self.margins:
            return int(self.margins["unlearned"].shape[0])
        count = self.config.get("n_models")
        return int(count) if count is not None else None

    @property
    def method(self) -> str:
        """What this run calls its method: the unlearner, with its refinement when there is one."""
        unlearner = self.choices.get("unlearner") or "this method"
        refinement = self.choices.get("refinement")
        if not is_used(refinement):
            return unlearner
        return str(refinement) if all(self.part_methods.values()) else f"{unlearner} + {refinement}"

    @property
    def part_methods(self) -> dict[str, str | None]:
        """Return the class of each part's unlearner, by the part's name; None for parts that take the run's own."""
        parts = {
            name: part["unlearner"]
            for name, part in self.config.get("refinement", {}).items()
            if isinstance(part, dict) and "unlearner" in part
        }
        return {
            name: str(config["_target_"]).rpartition(".")[2] if config else None for name, config in parts.items()
        } or {"all": None}

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number when it has no name."""
        return str(self.class_names[label]) if 0 <= label < len(self.class_names) else str(label)
