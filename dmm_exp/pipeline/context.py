"""What all stages of an experiment share: the configuration, the data, the store and the console."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from dmm_exp.config.identity import identifying
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.schema import Config, Node, Plain, TrainingConfig, plain
from dmm_exp.console.progress import Console, StageRecord
from dmm_exp.data import Examples, content_hash
from dmm_exp.ensembles.work import Executor, model_factory, recipe
from dmm_exp.files.digests import digest_of
from dmm_exp.models import Normalised
from dmm_exp.pipeline.shared import Shared
from dmm_exp.store import Artifact, Draft, Spec, Store


@dataclass(frozen=True)
class Data:
    """A dataset in memory, and its artifact.

    Attributes:
        examples: all points.
        spec: what determines the artifact: the content of all points.
        written: the examples in the artifact; they differ from ``examples`` if some values must not be written.
        detail: of the stage's line.
    """

    examples: Examples
    spec: Spec
    written: Examples
    detail: str

    @classmethod
    def of(cls, examples: Examples) -> Data:
        """Return a dataset whose artifact holds all of it."""
        facts = {"n_train": examples.n_train, "classes": examples.class_names, "input": vars(examples.normalisation)}
        facts |= {} if examples.words is None else {"words": vars(examples.words)}
        spec = Spec("dataset", facts, {"content": content_of(examples)})
        unseen = examples.n_points - examples.n_train
        return cls(examples, spec, examples, f"{examples.n_train:,} training and {unseen:,} validation")


class Context:
    """What the stages of one experiment share.

    Args:
        config: the resolved configuration.
        store: where artifacts are kept.
        executor: where chunks of members are trained.
        console: where each stage's line goes.
        data: the dataset; by default the one of the configuration.
        shared: with other experiments of this process.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        executor: Executor,
        console: Console,
        data: Data | None = None,
        shared: Shared | None = None,
    ) -> None:
        self.config = config
        self.store = store
        self.executor = executor
        self.console = console
        self.shared = shared or Shared()
        self._given = data
        self._printed: set[str] = set()  # digests of artifacts whose line has been printed

    @cached_property
    def data(self) -> Data:
        """The dataset."""
        if self._given is not None:
            return self._given
        dataset = self.config.dataset
        load = self.made(dataset, "dataset").load
        data = self.shared.data.obtain(digest_of(plain(dataset)), lambda: Data.of(load()))
        for sentence in data.examples.taken:
            self.console.note(sentence)
        return data

    @property
    def examples(self) -> Examples:
        """The dataset in memory."""
        return self.data.examples

    @cached_property
    def dataset(self) -> Artifact:
        """The dataset as an artifact, addressed by its content."""
        return self.obtain("dataset", self.data.detail, self.data.spec, self.data.written.write)

    def made(self, part: Plain, path: str) -> Any:
        """Return the object that a part of the configuration describes; see :func:`instantiate`."""
        return self.shared.once(partial(instantiate, part, path), path, plain(part))

    @cached_property
    def network(self) -> Callable[[], Normalised]:
        """Makes a newly initialised network behind the dataset's normalisation."""
        config = self.config.model.network
        make = partial(model_factory, config, self.examples)
        return self.shared.once(make, "model.network", plain(config), self.data.spec.digest)

    def recipe(self, training: TrainingConfig) -> Node:
        """Return a part of the configuration that trains networks, with its objects; see :func:`recipe`."""
        config = plain(training)
        return self.shared.once(partial(recipe, config), "training", config)

    @property
    def trainer_identity(self) -> Node:
        """The part of the trainer's configuration that can change a result."""
        return identifying({"trainer": self.config.trainer})["trainer"]

    def obtain(
        self, name: str, detail: str, spec: Spec, make: Callable[[Draft], None], *, to_read: bool = True
    ) -> Artifact:
        """Return a stage's artifact, computed if it does not exist, and print the stage's line once.

        ``to_read`` says whether its files will be read, see :meth:`Store.obtain`.
        """
        artifact = self.store.obtain(spec, make, to_read=to_read)
        if not self.store.read_only and artifact.digest not in self._printed:
            self._printed.add(artifact.digest)
            taken_over = 0 if artifact.cached else artifact.taken_over
            new = artifact.members - taken_over
            self.console.stage_done(StageRecord(name, detail, artifact.seconds, artifact.cached, taken_over, new))
        return artifact


def content_of(examples: Examples) -> str:
    """Return the hash of all numbers of a dataset."""
    return content_hash(examples.inputs, examples.labels, examples.corrupted)
