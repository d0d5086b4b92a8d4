"""A finished pool, as its folder describes it: ``pool.json``, and the artifacts beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

from torch import Tensor

from dmm_exp.attribution import Learned
from dmm_exp.config.schema import Node
from dmm_exp.console.progress import duration
from dmm_exp.data import Examples
from dmm_exp.ensembles.work import read_examples
from dmm_exp.errors import UserError, explained, shown
from dmm_exp.files.writing import write_json
from dmm_exp.pipeline import Last
from dmm_exp.records.files import read_whole
from dmm_exp.store.spec import SHORT
from dmm_exp.store.store import SEAL, sealed

FILE = "pool.json"
FORMAT = 2  # 1: of attribution=empirical_bayes, as all pools were then
PROBED = 8  # training examples on which two networks are compared; pool.json holds answers on them
FARTHEST = 4.0  # from a pool's full models, where these are about 1 from each other; more is refused
CHEAPER = 2.0  # times as long as a request that a retraining must take, so that requests save anything worth naming
BEST, EMPIRICAL_BAYES = "best", "empirical_bayes"  # files of conf/attribution
DESIGNED = {"class": 120, "part_answers": 150, "part_inputs": 150, "level_set": 600}  # members for 1,300 on halves
FEWEST_DESIGNED = 4  # of each design
NOTHING, LITTLE = 0.1, 0.2  # LDS below which a pool predicts next to nothing, and little (docs/unlearn_your_model.md)


@dataclass(frozen=True, repr=False)
class Pool:
    """A finished pool: subset models, models by design or larger subset models, and originals, all by one recipe.

    Attributes:
        folder: where it is.
        size: models trained on random halves; beside them there are about three quarters as many by design
            (:mod:`dmm_exp.pools`), and a tenth as many on everything.
        training: configuration of the recipe.
        network: name of the architecture.
        dataset: digest of the data.
        probe: logits of the network that seed 0 initialises, on a few examples.
        seed: determines every model.
        seconds: wall time of the call that finished it, and of those that finished smaller ones before.
        retraining: wall seconds of training one network alone, on everything, by a plain loop.
        models: number of all its models.
        lds: linear datamodeling score on members that took no part in estimation, mean over unseen points (over
            training points where there are no unseen ones; over both in pools of earlier versions): 1 where their
            answers are predicted in their order, 0 where nothing is; None where they all answer alike.
        attribution: what predicts from it: ``best``, or ``empirical_bayes`` for a pool with a quarter as many models on
            three quarters in the place of those by design.
        learned: what was learnt from it last, which requests to this object share; no file holds it.
    """

    folder: Path
    size: int
    training: Node
    network: Node
    dataset: str
    probe: list[Any]
    seed: int
    seconds: float
    retraining: float
    models: int
    lds: float | None
    attribution: str = BEST
    learned: Last[Learned] = field(default_factory=Last, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, folder: str | Path) -> Pool:
        """Return the pool in a folder that :func:`dmm_exp.prepare` has finished.

        Raises:
            UserError: there is none.
        """
        path = Path(folder).expanduser()
        if not is_finished(path):
            raise UserError(f"pool={shown(folder)}: holds no finished pool; expected a folder of prepare()")
        with explained(f"pool={folder}: {FILE} is damaged; prepare() mends it", OSError, ValueError):
            facts = read_whole(path / FILE)
        version = facts.pop("format")
        if version not in (1, FORMAT):
            raise UserError(f"pool={folder}: is of another version of this package; expected another folder")
        facts |= {"attribution": EMPIRICAL_BAYES} if version == 1 else {}
        return cls(path, **{name: value for name, value in facts.items() if name != SEAL})

    def write(self) -> None:
        """Write ``pool.json``, which makes the pool a finished one."""
        facts = {name: value for name, value in vars(self).items() if name not in ("folder", "learned")}
        write_json(self.folder / FILE, sealed({"format": FORMAT, **facts}))

    def __repr__(self) -> str:
        """Say in a few lines what it is, and how well it predicts."""
        members = f"{self.models:,} models, {self.size:,} of them on random halves"
        took = f"trained in {duration(self.seconds)}; one retraining takes {duration(self.retraining)}"
        return f"Pool in {self.folder}: {members} ({self.attribution}, seed {self.seed})\n{took}\n{self.quality}"

    @property
    def is_poor(self) -> bool:
        """Whether it predicts little."""
        return self.lds is None or self.lds < LITTLE

    @property
    def quality(self) -> str:
        """How well it predicts models that it did not learn from, in a sentence.

        >>> def pool(lds): return Pool(Path("pool"), 400, {}, {}, "", [], 0, 900.0, 100.0, models=540, lds=lds)
        >>> pool(0.41).quality
        'it predicts models that it did not learn from with LDS 0.41 (1 is best)'
        >>> pool(None).is_poor, pool(0.05).is_poor, pool(0.19).is_poor, pool(0.2).is_poor
        (True, True, True, False)
        """
        if self.lds is None:
            return "its models answer alike whatever they were trained on, so there is nothing to predict from it"
        found = f"it predicts models that it did not learn from with LDS {self.lds:.2f} (1 is best)"
        if not self.is_poor:
            return found
        much = "next to nothing" if self.lds < NOTHING else "little"
        return f"{found}: that is {much}; prepare more models (a larger size=), or retrain"

    @property
    def artifacts(self) -> Path:
        """The folder of its artifacts."""
        return self.folder / "artifacts"

    @property
    def data(self) -> Path:
        """The folder of its copy of the data."""
        return self.artifacts / "dataset" / self.dataset[:SHORT]

    def examples(self) -> Examples:
        """Return its copy of the data."""
        return read_examples(self.data)

    def unseen(self) -> tuple[Tensor, Tensor] | None:
        """Return the (inputs, labels) that the pool's models have answers for beside the training set, None if none."""
        examples = self.examples()
        unseen = examples.inputs[examples.n_train :], examples.labels[examples.n_train :]
        return unseen if len(unseen[1]) else None

    def break_even(self, request: float) -> int | None:
        """Return after how many requests, of so many seconds each, the pool took less time than retraining.

        The number is rounded up to two digits. It is None where a request takes more than half of a retraining: then
        requests save too little, and retraining is the better way.

        >>> pool = Pool(Path("pool"), 400, {}, {}, "", [], seed=0, seconds=900.0, retraining=100.0, models=540, lds=0.5)
        >>> pool.break_even(request=10.0), pool.break_even(request=12.3), pool.break_even(request=60.0)
        (10, 11, None)
        """
        if self.retraining < CHEAPER * request:
            return None
        count = self.seconds / (self.retraining - request)
        unit = 10 ** max(0, floor(log10(max(count, 1))) - 1)
        return ceil(count / unit) * unit

    def in_words(self, request: float) -> str:
        """Say in a sentence whether the pool pays off, if requests take so many seconds."""
        took = f"this request took {duration(request)}, retraining one network takes {duration(self.retraining)}"
        count = self.break_even(request)
        if count is None:
            return f'{took}: retraining is cheaper here, and exact (method="retrain")'
        return f"{took}: the pool ({duration(self.seconds)}) pays off after about {count:,} requests"


def is_finished(folder: Path) -> bool:
    """Return whether a folder holds a pool that was finished; its file may be damaged."""
    return (folder / FILE).is_file()


def larger_of(size: int) -> int:
    """Return how many models on larger subsets belong to a pool of so many on halves."""
    return max(8, size // 4 // 4 * 4)


def originals_of(size: int) -> int:
    """Return how many models trained on everything belong to it."""
    return max(8, size // 10)


def designed_of(size: int, classes: int) -> dict[str, int]:
    """Return how many models of each design belong to it; of one class, no part is left out, since nothing remains."""
    found = {name: max(FEWEST_DESIGNED, round(members * size / 1300)) for name, members in DESIGNED.items()}
    return found if classes > 1 else {name: members if name == "level_set" else 0 for name, members in found.items()}


def models_of(size: int, classes: int) -> int:
    """Return the number of all models of a pool by design."""
    return size + sum(designed_of(size, classes).values()) + originals_of(size)
