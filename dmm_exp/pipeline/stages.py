"""What every stage needs: the configuration, the store, and ensembles that do not depend on a forget set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dmm_exp.config.identity import identifying
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.schema import Config, Node, Plain, TrainingByFunction, plain
from dmm_exp.data import Examples
from dmm_exp.ensembles import AllBut, RandomSubsets, Role
from dmm_exp.ensembles.chunk_size import MeasureJob, device_name, measure_chunk_size, said_of
from dmm_exp.ensembles.engine import AUTO, Engine
from dmm_exp.ensembles.stacking import Stacking, stacking_of
from dmm_exp.ensembles.work import Executor, TrainJob, model_factory, run_shards, train_chunk, uses_gpu
from dmm_exp.store import Artifact, Draft, Spec, Store

if TYPE_CHECKING:
    from dmm_exp.console.progress import Console


class Stages:
    """The data, and the ensembles that all forget sets share, each made at most once.

    Args:
        config: the resolved configuration.
        store: where artifacts live.
        executor: where chunks of members are trained.
        console: where each stage's line goes.
    """

    def __init__(self, config: Config, store: Store, executor: Executor, console: Console) -> None:
        self.config = config
        self.store = store
        self.executor = executor
        self.console = console
        self._said: set[str] = set()  # digests of artifacts whose line has been printed

    @cached_property
    def examples(self) -> Examples:
        """The dataset in memory."""
        examples = instantiate(self.config.dataset).load()
        for sentence in examples.taken:
            self.console.note(sentence)
        return examples

    @cached_property
    def dataset(self) -> Artifact:
        """The dataset as an artifact, addressed by its content."""
        detail = f"{self.examples.n_train:,} training and {self.examples.n_points - self.examples.n_train:,} validation"
        return self.obtain("dataset", detail, self.dataset_spec, self.examples.write)

    @cached_property
    def dataset_spec(self) -> Spec:
        """What determines the dataset's artifact."""
        examples = self.examples
        facts = {"n_train": examples.n_train, "classes": examples.class_names, "input": vars(examples.normalisation)}
        return Spec("dataset", facts, {"content": content_hash(examples.inputs, examples.labels, examples.corrupted)})

    @cached_property
    def originals(self) -> Artifact:
        """N models trained on everything."""
        members, job = self.config.n_models, replace(self._job("original"), keep=("parameters", "trajectory"))
        return self._trained("originals", f"{members:,} models", members, job)

    @property
    def subsets(self) -> RandomSubsets:
        """What the members of the pool are trained on."""
        pool = self.config.pool
        return RandomSubsets(self.examples.n_train, pool.alpha, self.config.seed, pool.complementary)

    @cached_property
    def pool(self) -> Artifact:
        """Models trained on random subsets, for scores and attribution."""
        size, job = self.config.pool.size, self._subset_job("subset", self.subsets)
        return self._trained("pool", f"{size:,} subset models", size, job)

    @property
    def larger_subsets(self) -> RandomSubsets:
        """What the models on larger subsets are trained on."""
        alpha = self.config.pool.larger.alpha
        return RandomSubsets(self.examples.n_train, alpha, self.config.seed, complementary=True, role="larger")

    @cached_property
    def larger(self) -> Artifact:
        """Models trained on larger random subsets than the pool's, from which effects are extrapolated."""
        size, job = self.config.pool.larger.size, self._subset_job("larger", self.larger_subsets)
        return self._trained("larger pool", f"{size:,} larger subset models", size, job)

    def _subset_job(self, role: Role, subsets: RandomSubsets) -> TrainJob:
        """Return the job of training on random subsets, of whose models only the answers are kept."""
        dtype = self.config.pool.logits_dtype
        return replace(self._job(role), subsets=subsets, keep=(), logits_dtype=dtype)

    def _job(self, role: Role) -> TrainJob:
        """Return the job of training on everything by the run's recipe; what differs is replaced."""
        return TrainJob(
            examples=self.dataset.path,
            model=self.config.model.network,
            training=plain(self.config.training),
            trainer=self.config.trainer,
            seed=self.config.seed,
            role=role,
            subsets=AllBut(self.examples.n_train, ()),
        )

    def _trained(
        self, name: str, detail: str, members: int, job: TrainJob, initial: Artifact | None = None
    ) -> Artifact:
        """Return the ensemble that a job makes, from the members of another one if that is given."""
        config = {
            "role": job.role,
            "members": members,
            "seed": job.seed,
            "network": job.model,
            "training": told(job.training),
            "trainer": self._trainer_identity,
            "subsets": job.subsets.identity(),
            "keep": list(job.keep),
        }
        config |= {"logits_dtype": job.logits_dtype} if job.logits_dtype != "float32" else {}
        inputs = {"dataset": self.dataset.digest} | ({"initial": initial.digest} if initial else {})
        spec = Spec("ensemble", config, inputs, {"initial": initial.spec.family} if initial else {})

        def make(draft: Draft) -> None:
            start = initial.path if initial else None
            whole = replace(job, output=draft.path, initial=start, trainer=self.trainer)

            def part(shard: int, start: int, stop: int) -> TrainJob:
                return replace(whole, shard=shard, start=start, stop=stop)

            self._run_shards(name, draft, train_chunk, part, members)

        return self.obtain(name, detail, spec, make)

    @property
    def _trainer_identity(self) -> Node:
        """What of the trainer's configuration can change a result."""
        return identifying({"trainer": self.config.trainer})["trainer"]

    def _run_shards(
        self,
        name: str,
        draft: Draft,
        function: Callable[[Any], None],
        make_job: Callable[[int, int, int], Any],
        members: int,
        chunk_size: int | None = None,
    ) -> None:
        run_shards(
            draft,
            function,
            make_job,
            members=members,
            chunk_size=chunk_size or self.chunk_size,
            executor=self.executor,
            progress=partial(self.console.progress, name),
        )

    @property
    def chunk_size(self) -> int:
        """How many members train together: ``model.chunk_size``, or what is fastest here where that is ``auto``."""
        return self._fastest[0]

    @property
    def trainer(self) -> Node:
        """The trainer's configuration, with the engine: what is fastest here where that is ``auto``."""
        return {**self.config.trainer, "engine": asdict(self._fastest[1])}

    @cached_property
    def stacking(self) -> Stacking:
        """How these networks can be trained: stacked, one at a time, or not at all."""
        return self._stacking_of(model_factory(self.config.model.network, self.examples))

    def _stacking_of(self, build: Callable[[], nn.Module], known_as: Hashable = None) -> Stacking:
        device = torch.device("cuda" if uses_gpu(self.config.trainer) else "cpu")
        return stacking_of(build, self.examples, device, known_as)

    def _settled(self) -> tuple[int | str, Engine]:
        """Return the chunk size and the engine that are asked for, as far as these networks can be trained by them.

        What a person does not expect of these networks is noted.
        """
        asked, engine = self.config.model.chunk_size, Engine(**plain(self.config.engine))
        if not isinstance(self.config.training, TrainingByFunction):
            self.stacking.check()
        size, engine = self.stacking.settled(asked, engine)
        notice = self.stacking.notice(one_at_a_time=size != asked)
        if notice is not None:
            self.console.note_once(notice, about=str(self.config.model.network))
        return size, engine

    @cached_property
    def _fastest(self) -> tuple[int, Engine]:
        """The chunk size and the engine, measured where they are left open: engines on a GPU only."""
        size, engine = self._settled()
        if size != AUTO and not (engine.open and uses_gpu(self.config.trainer)):
            return int(size), engine.settled()
        job = MeasureJob(
            examples=self.dataset.path,
            model=self.config.model.network,
            training=plain(self.config.training),
            trainer={**self.config.trainer, "engine": asdict(engine)},
            size=None if size == AUTO else int(size),
        )
        config = {
            "network": job.model,
            "batch_size": job.training["batch_size"],
            "optimizer": job.training["optimizer"],
            "precision": job.trainer["precision"],
            "input": list(self.examples.input_shape),
            "classes": self.examples.n_classes,
            "device": device_name(job.trainer),
            "size": job.size,
            "engine": asdict(engine),
        }

        def make(draft: Draft) -> None:
            for _ in self.executor.run(measure_chunk_size, [replace(job, output=draft.path)]):
                pass

        measured = self.obtain("chunk size", "members trained together", Spec("chunk_size", config, {}), make)
        found = measured.json("chunk_size")
        self.console.note(f"{'model.chunk_size' if size == AUTO else 'engine'}=auto: {said_of(found)}")
        return found["chosen"], Engine(**found["engine"])

    def obtain(self, name: str, detail: str, spec: Spec, make: Callable[[Draft], None]) -> Artifact:
        """Return a stage's artifact, after making it if need be, and print the stage's line, once."""
        from dmm_exp.console.progress import StageRecord

        artifact = self.store.obtain(spec, make)
        if not self.store.read_only and artifact.digest not in self._said:
            self._said.add(artifact.digest)
            taken_over = 0 if artifact.cached else artifact.taken_over
            made = artifact.members - taken_over
            self.console.stage_done(StageRecord(name, detail, artifact.seconds, artifact.cached, taken_over, made))
        return artifact


def told(training: Plain) -> Node:
    """Return a recipe without the options that are off: artifacts from before there were any keep their keys."""
    off = {"augmentation": {"flip": False, "crop_padding": 0, "cutout": 0}, "label_smoothing": 0.0}
    return {key: value for key, value in training.items() if key not in off or value != off[key]}


def content_hash(*tensors: Tensor) -> str:
    """Return the SHA-256 of tensors' types, shapes and bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)  # not a copy: the tensor may be a large mapped file
    return digest.hexdigest()
