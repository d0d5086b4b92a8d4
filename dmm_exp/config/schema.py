"""The typed configuration: what Hydra refuses before anything runs, and what every key is to a result.

A key identifies a result unless it is marked otherwise, beside the key: ``presentation`` changes what is shown of a
result, ``place`` where and how fast it is computed, and ``job`` which runs there are. Keys of a class that a user
chooses (:data:`Node`) are marked by their names within it. Two more marks concern how a key identifies: a ``file``
counts by its content, and a ``later`` key, which came after results existed, counts as absent while it is null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from dmm_exp.config.convex import ConvexConfig
from dmm_exp.errors import UserError, did_you_mean, shown

Node = dict[str, Any]  # a class (``_target_``) with its arguments, as a user chose them
Plain = Mapping[str, Any]  # a configuration as plain containers, which are hashed and written
Hints = dict[str, Any]  # name of a field or an argument → the type that it is annotated with
Mark = Literal["presentation", "place", "job", "file", "later"]
MARKS = get_args(Mark)


def _marks_inside(**marks: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return what a field says of keys within it, dotted and perhaps patterns."""
    return {"marks": {key: mark for mark, keys in marks.items() for key in keys}}


RUN = "dmm_exp.runs.run.Run"  # the job of a configuration that names none
GROUPED = ("folder", "npz", "table")  # formats whose files may say of every row from whom or where it is
PLACE, PRESENTATION, JOB, LATER = ({"marks": {"": mark}} for mark in ("place", "presentation", "job", "later"))


@dataclass
class ModelConfig:
    """An architecture and how many members of it are trained together."""

    chunk_size: int | str = field(default=MISSING, metadata=PLACE)  # or "auto"
    network: Node = field(default_factory=dict)


@dataclass
class AugmentationConfig:
    """What is done to images before a model is trained on them; nothing unless asked for."""

    flip: bool = False
    crop_padding: int = 0
    cutout: int = 0


@dataclass
class TrainingConfig:
    """The recipe of every model that is trained from scratch: originals, oracles and pool alike."""

    epochs: int = MISSING
    batch_size: int = MISSING
    label_smoothing: float = 0.0
    optimizer: Node = field(default_factory=dict)
    schedule: Node = field(default_factory=dict)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass
class EngineConfig:
    """How chunks of members are trained; results do not depend on it."""

    step: str = MISSING
    members: str = MISSING
    memory: str = MISSING


@dataclass
class EntanglementConfig:
    """How the groups are made whose entanglement is a score."""

    groups: int = MISSING


@dataclass
class CurvatureConfig:
    """Finite differences of the loss around an example."""

    step: float = MISSING
    directions: int = MISSING


@dataclass
class ScoresConfig:
    """Settings of scores of single examples, by family."""

    entanglement: EntanglementConfig = field(default_factory=EntanglementConfig)
    curvature: CurvatureConfig = field(default_factory=CurvatureConfig)
    held_out: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass
class LargerConfig:
    """Models trained on larger subsets than the pool's, from which estimators extrapolate to the whole training set."""

    size: int = 0
    alpha: float = 0.75


@dataclass
class PoolConfig:
    """Models trained on random subsets, shared by scores, estimators and attacks."""

    size: int = MISSING
    alpha: float = 0.5
    complementary: bool = True
    held_out: int = 100
    logits_dtype: str = "float32"
    lds_alphas: list[float] = field(default_factory=list)
    larger: LargerConfig = field(default_factory=LargerConfig)
    designs: dict[str, Node] | None = field(default=None, metadata=LATER)
    amortised_over: int = 1


@dataclass
class StrongUliraConfig:
    """An attack on base models, each unlearned of many small forget sets; off without forget sets."""

    forget_sets: int = 0
    size: int = 10
    base_models: int = 64
    drawn_from: str = "class"
    label: Any = None
    position: int | None = field(default=None, metadata=LATER)


@dataclass
class EvaluationConfig:
    """How unlearned models are compared with oracles."""

    klom: Node = field(default_factory=dict, metadata=_marks_inside(later=("floor_everywhere",)))
    mia: Node = field(default_factory=dict)
    strong_ulira: StrongUliraConfig = field(default_factory=StrongUliraConfig)
    audits: dict[str, Node] | None = field(default=None, metadata=LATER)
    report: bool = field(default=True, metadata=PRESENTATION)


@dataclass
class LeaderboardConfig:
    """Many methods on many forget sets, ending in one ranking."""

    title: str = "Leaderboard"
    methods: list[str] = field(default_factory=list)
    settings: str | None = None
    overrides: list[str] = field(default_factory=list)
    forget_sets: dict[str, list[str]] = field(default_factory=dict)
    checkpoints: bool = True
    rows: str | None = None
    board: str | None = None


@dataclass
class StudyTableConfig:
    """Rows × columns of runs; each row and column is a label and the overrides that it stands for."""

    caption: str = ""
    rows: dict[str, str] | None = None
    columns: dict[str, str] = field(default_factory=dict)
    differences: bool = True


@dataclass
class ScatterConfig:
    """One metric of all runs against another."""

    x: str = MISSING
    y: str = MISSING
    caption: str = ""
    least_x: float | None = None
    log_x: bool = False


@dataclass
class StudyConfig:
    """Tables of runs, each cell repeated over seeds."""

    title: str = "Study"
    seeds: list[int] = field(default_factory=lambda: [0])
    metrics: list[str] = field(default_factory=lambda: ["tow"])
    overrides: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    settings: str | None = None
    tables: dict[str, StudyTableConfig] = field(default_factory=dict)
    claims: dict[str, str] = field(default_factory=dict)
    scatters: dict[str, ScatterConfig] = field(default_factory=dict)


@dataclass
class PathsConfig:
    """Where results go."""

    outputs: str = MISSING


@dataclass
class Config:
    """Everything a run is made of: composed once, and typed from then on."""

    seed: int = 0
    n_models: int = 100
    dry_run: bool = field(default=False, metadata=PRESENTATION)
    job: Node = field(default_factory=lambda: {"_target_": RUN}, metadata=JOB)
    dataset: Node = field(
        default_factory=dict,
        metadata=_marks_inside(
            file=("path", "formats.*.groups"),
            later=(
                *("train_skip", "validation_skip", "formats.npz.axes", "formats.table.keep", "formats.table.text"),
                *(f"formats.{one}.group_by" for one in GROUPED),
            ),
            place=("decoding.keep_in",),
            presentation=("package",),
        ),
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    forget: Node = field(
        default_factory=dict, metadata=_marks_inside(file=("indices",), later=("position", "column", "header"))
    )
    attribution: Node = field(default_factory=dict, metadata=_marks_inside(later=("oracles",)))
    unlearner: Node = field(default_factory=dict, metadata=_marks_inside(later=("margin_weight",)))
    refinement: Node = field(default_factory=dict, metadata=_marks_inside(later=("each",)))
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: Node = field(
        default_factory=dict,
        metadata=_marks_inside(
            presentation=("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
            place=("accelerator", "devices", "num_nodes"),
        ),
    )
    engine: EngineConfig = field(default_factory=EngineConfig, metadata=PLACE)
    executor: Node = field(default_factory=dict, metadata=PLACE)
    logger: Node = field(default_factory=dict, metadata=PRESENTATION)
    paths: PathsConfig = field(default_factory=PathsConfig, metadata=PLACE)
    hparams_search: Node | None = field(default=None, metadata=JOB)
    scale: Node | None = field(default=None, metadata=JOB)  # the other keys are within its bounds already
    forget_tuning: list[str] = field(default_factory=list, metadata=JOB)
    leaderboard: LeaderboardConfig = field(default_factory=LeaderboardConfig, metadata=JOB)
    study: StudyConfig = field(default_factory=StudyConfig, metadata=JOB)
    convex: ConvexConfig = field(default_factory=ConvexConfig, metadata=JOB)

    @property
    def outputs(self) -> Path:
        """The folder of all results (``paths.outputs``), absolute."""
        return Path(self.paths.outputs).expanduser().absolute()

    @classmethod
    def of(cls, resolved: Plain) -> Config:
        """Return a resolved configuration with its types.

        Raises:
            UserError: it has a key that there is not.
        """
        return _typed(cls, resolved, "")


@dataclass
class TrainingByFunction:
    """What stands for a recipe where a function of the user's trains members.

    Attributes:
        function: the registered function.
        epochs: 1; what one network costs is one pass over its data as far as anybody knows.
    """

    function: Node
    epochs: int = 1


def training_config(training: Node) -> TrainingConfig:
    """Return a recipe with its types, or what stands for one: ``{"function": …}``."""
    return _typed(TrainingConfig, training, "training")


def plain(node: Any) -> Any:
    """Return a typed configuration, or a part of one, as plain containers."""
    if node is None or type(node) in (str, bool, int, float):  # most are: what follows is slow
        return node
    if is_dataclass(node):
        return {one.name: plain(getattr(node, one.name)) for one in fields(node)}
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items()}
    return [plain(value) for value in node] if isinstance(node, (list, tuple)) else node


def _typed(hint: Any, value: Any, path: str) -> Any:
    """Return plain containers as what a type hint says.

    Raises:
        UserError: a key does not exist, or something else stands where keys are needed.
    """
    if get_origin(hint) is UnionType:
        hint = next(one for one in get_args(hint) if one is not type(None)) if value is not None else type(None)
    if get_origin(hint) is dict and isinstance(value, Mapping):
        return {key: _typed(get_args(hint)[1], inner, f"{path}.{key}") for key, inner in value.items()}
    if not (isinstance(hint, type) and is_dataclass(hint)):
        return value
    if not isinstance(value, Mapping):
        raise UserError(f"{path}={shown(value)}: expected keys with values")
    if "function" in value and hint is TrainingConfig:
        return TrainingByFunction(**value)
    hints = _hints(hint)
    for key in value:
        if key not in hints:
            place = f"{path}.{key}: there is no such key" if path else f"{key}: there is no such key at the root"
            raise UserError(f"{place}{did_you_mean(str(key), hints)}")
    return hint(**{key: _typed(hints[key], inner, f"{path}.{key}" if path else key) for key, inner in value.items()})


@cache
def _hints(cls: type) -> Hints:
    return get_type_hints(cls)


@cache
def marks() -> dict[str, Mark]:
    """Return dotted key, or pattern of keys, → mark, of all keys that are marked."""
    return dict(_marks(Config, ""))


def _marks(cls: type, before: str) -> Iterator[tuple[str, Mark]]:
    for one in fields(cls):
        for inside, mark in one.metadata.get("marks", {}).items():
            yield f"{before}{one.name}{inside and '.'}{inside}", mark
        inner = _hints(cls)[one.name]
        if is_dataclass(inner) and isinstance(inner, type):
            yield from _marks(inner, f"{before}{one.name}.")


SCHEMA = "dmm_exp_schema"  # what conf/config.yaml lists first; a name that no other program's configuration has
FORMERLY = "schema"  # what the configurations list that earlier runs wrote


def register() -> None:
    """Make the schema known to Hydra, also under the name that earlier runs know it by."""
    register_for_all()
    _store(FORMERLY)


def register_for_all() -> None:
    """Make the schema known to Hydra under its own name, which is in no other program's way."""
    _store(SCHEMA)


def _store(name: str) -> None:
    from hydra.core.config_store import ConfigStore

    store, file = ConfigStore.instance(), f"{name}.yaml"
    if name not in _stored or store.repo.get(file) is not _stored[name]:
        store.store(name=name, node=Config)
        _stored[name] = store.repo[file]


_stored: dict[str, Any] = {}  # what Hydra's store got, which is not made again while it is there
