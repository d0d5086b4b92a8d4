"""The picture of the architecture, as code.

dataset → pool → scores → forget set → originals, oracles → effect → unlearned models: each stage is an artifact, made
when something asks for it and reused ever after. No stage knows which stage asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dmm_exp.attribution import (
    DirectionalEstimator,
    Estimator,
    Evidence,
    GradientEstimator,
    Gradients,
    SubsetModels,
)
from dmm_exp.attribution.work import GradientJob, gradient_chunk
from dmm_exp.config.instantiate import instantiate
from dmm_exp.data import Examples
from dmm_exp.ensembles import AllBut, Ensemble, Only, RandomSubsets, Role
from dmm_exp.ensembles.module import check_optimizer
from dmm_exp.ensembles.trajectory import PROXIES
from dmm_exp.ensembles.work import (
    TRAJECTORY,
    Executor,
    TrainJob,
    evaluation_copy,
    model_factory,
    recipe,
    run_shards,
    stored_ensemble,
    train_chunk,
)
from dmm_exp.errors import UserError
from dmm_exp.forget import Selector
from dmm_exp.metrics import check_attack, check_options, lds, margins
from dmm_exp.refinement import Part, Refinement
from dmm_exp.scores import (
    FAMILIES,
    FROM_POOL,
    entanglement_columns,
    families_of,
    loss_curvature,
    memorization_columns,
    principal_projections,
    symmetric_kl,
)
from dmm_exp.store import Artifact, Draft, Missing, Spec, Store
from dmm_exp.unlearners import Unlearner
from dmm_exp.unlearners.unlearner import Target
from dmm_exp.unlearners.work import PartJob, UnlearnJob, unlearn_chunk

if TYPE_CHECKING:
    import pandas as pd

    from dmm_exp.report.progress import Console

FORGET, RETAIN, VALIDATION = 0, 1, 2
GROUPS = ("forget", "retain", "val")

QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "accelerator", "devices")


class Pipeline:
    """One experiment: its stages, each made at most once.

    Args:
        config: the resolved configuration, as plain containers.
        store: where artifacts live.
        executor: where chunks of members are trained.
        console: where each stage's line goes.
    """

    def __init__(self, config: Mapping[str, Any], store: Store, executor: Executor, console: Console) -> None:
        self.config = config
        self.store = store
        self.executor = executor
        self.console = console
        self.selector: Selector = instantiate(config["forget"])
        self.estimator: Estimator = instantiate(config["attribution"])
        self.unlearner: Unlearner = instantiate(config["unlearner"])
        self.refinement: Refinement = instantiate({**config["refinement"], "_recursive_": False})
        self._score_families: dict[str, Artifact] = {}

    # ------------------------------------------------------------------ data

    @cached_property
    def examples(self) -> Examples:
        """The dataset in memory."""
        return instantiate(self.config["dataset"]).load()

    @cached_property
    def dataset(self) -> Artifact:
        """The dataset as an artifact, addressed by its content."""
        detail = f"{self.examples.n_train:,} training and {self.examples.n_points - self.examples.n_train:,} validation"
        return self.obtain("dataset", detail, self._dataset_spec, self.examples.write)

    @cached_property
    def _dataset_spec(self) -> Spec:
        examples = self.examples
        facts = {"n_train": examples.n_train, "classes": examples.class_names, "input": vars(examples.normalisation)}
        return Spec("dataset", facts, {"content": content_hash(examples.inputs, examples.labels, examples.corrupted)})

    def check(self) -> None:
        """Raise ``UserError`` for what cannot work, before anything is computed or written."""
        check_options(**self.config["evaluation"]["klom"])
        check_attack(**self.config["evaluation"]["mia"])
        self.selector.check(self.examples)
        model = model_factory(self.config["model"]["network"], self.examples)()
        if "predicted" in self.targets:
            self.estimator.check(model)
        check_optimizer(recipe(self.config["training"])["optimizer"], "training.optimizer")
        check_optimizer(recipe(self.config["scores"]["held_out"])["optimizer"], "scores.held_out.optimizer")

    # ------------------------------------------------------------------ ensembles

    @cached_property
    def originals(self) -> Artifact:
        """N models trained on everything."""
        return self._ensemble("originals", "original", self.config["n_models"])

    @cached_property
    def pool(self) -> Artifact:
        """Models trained on random subsets, for scores and attribution."""
        return self._ensemble("pool", "subset", self.config["pool"]["size"])

    @cached_property
    def oracles(self) -> Artifact:
        """N models retrained without the forget set; metrics compare with these."""
        return self._ensemble("oracles", "oracle", self.config["n_models"])

    @cached_property
    def floor_oracles(self) -> Artifact:
        """N more, independent of the first: their distance is the noise floor."""
        return self._ensemble("floor oracles", "floor_oracle", self.config["n_models"])

    def target_oracles(self, gone: Tensor) -> Artifact:
        """N more, without some points, which oracle matching may look at; metrics never do."""
        return self._ensemble("target oracles", "target_oracle", self.config["n_models"], gone)

    def _ensemble(self, name: str, role: Role, members: int, gone: Tensor | None = None) -> Artifact:
        """Return an ensemble that is trained from scratch by the run's recipe."""
        pool, n_train = self.config["pool"], self.examples.n_train
        job, what = self._job(role), "models"
        if role == "original":
            job, what = replace(job, keep=("parameters", "trajectory")), "models"
        elif role == "subset":
            subsets = RandomSubsets(n_train, pool["alpha"], self.config["seed"], pool["complementary"])
            job, what = replace(job, subsets=subsets, keep=()), "subset models"
        else:
            subsets = AllBut(n_train, tuple((self.forget if gone is None else gone).tolist()))
            job, what = replace(job, subsets=subsets), "models without the forget set"
        return self._trained(name, f"{members:,} {what}", members, job)

    def _job(self, role: Role) -> TrainJob:
        """Return the job of training on everything by the run's recipe; what differs is replaced."""
        return TrainJob(
            examples=self.dataset.path,
            model=self.config["model"]["network"],
            training=self.config["training"],
            trainer=self.config["trainer"],
            seed=self.config["seed"],
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
            "training": job.training,
            "trainer": self._trainer_identity,
            "subsets": job.subsets.identity(),
            "keep": list(job.keep),
        }
        inputs = {"dataset": self.dataset.digest} | ({"initial": initial.digest} if initial else {})

        def make(draft: Draft) -> None:
            whole = replace(job, output=draft.path, initial=initial.path if initial else None)

            def part(shard: int, start: int, stop: int) -> TrainJob:
                return replace(whole, shard=shard, start=start, stop=stop)

            self._run_shards(name, draft, train_chunk, part, members)

        return self.obtain(name, detail, Spec("ensemble", config, inputs), make)

    @property
    def _trainer_identity(self) -> dict[str, Any]:
        """What of the trainer's configuration can change a result."""
        return {key: value for key, value in self.config["trainer"].items() if key not in QUIET}

    def _run_shards(
        self,
        name: str,
        draft: Draft,
        function: Callable[[Any], None],
        make_job: Callable[[int, int, int], Any],
        members: int,
        chunk_size: int | None = None,
    ) -> None:
        if chunk_size is None:
            chunk_size = int(self.config["model"]["chunk_size"])
        with self.console.progress(name, -(-members // chunk_size)) as advance:
            run_shards(
                draft,
                function,
                make_job,
                members=members,
                chunk_size=chunk_size,
                executor=self.executor,
                progress=advance,
            )

    # ------------------------------------------------------------------ who has to go

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The scores that the forget set or its refinement depends on, one row a training example."""
        return self._joined(self._families)

    def all_scores(self) -> pd.DataFrame:
        """Return every score, as :attr:`scores` does for those that are needed."""
        return self._joined(list(FAMILIES))

    def _joined(self, families: list[str]) -> pd.DataFrame:
        table, *others = (self.score_family(family).table("scores") for family in families)
        for other in others:
            table = table.merge(other, on="point")
        return table

    @cached_property
    def score_artifacts(self) -> list[Artifact]:
        """The families of scores that :attr:`scores` is made of."""
        return [self.score_family(family) for family in self._families]

    @property
    def _families(self) -> list[str]:
        users = (self.selector, self.refinement)
        return families_of([user.score for user in users if user.needs_scores])

    def score_family(self, family: str) -> Artifact:
        """Return the scores of one family, made if need be."""
        if family not in self._score_families:
            self._score_families[family] = self._obtain_scores(family)
        return self._score_families[family]

    def _obtain_scores(self, family: str) -> Artifact:
        sources = {"source": self.pool if family in FROM_POOL else self.originals}
        if family == "held_out":
            sources["retrained"] = self.retrained_on_held_out
        settings = self.config["scores"].get(family)
        inputs = {name: artifact.digest for name, artifact in sources.items()}
        spec = Spec("scores", {"score": family, "settings": settings}, {**inputs, "dataset": self.dataset.digest})

        def write(draft: Draft) -> None:
            import pandas as pd

            columns = getattr(self, f"_{family}_scores")()
            draft.write_table("scores", pd.DataFrame({"point": range(self.examples.n_train), **columns}))

        return self.obtain("scores", f"{family.replace('_', ' ')} of every training example", spec, write)

    def _memorization_scores(self) -> dict[str, Any]:
        pool = self.subset_models
        return memorization_columns(pool.logits, pool.masks, self.examples.labels)

    def _principal_scores(self) -> dict[str, Any]:
        n_train, pool = self.examples.n_train, self.subset_models
        outputs = torch.from_numpy(margins(pool.logits[:, :n_train], self.examples.labels[:n_train]))
        first, second = principal_projections(outputs, pool.masks).unbind(1)
        return {"pc1": first.numpy(), "pc2": second.numpy()}

    def _entanglement_scores(self) -> dict[str, Any]:
        features = self._original_models().features(self.examples.inputs[: self.examples.n_train])
        return entanglement_columns(features, **self.config["scores"]["entanglement"])

    def _trajectory_scores(self) -> dict[str, Any]:
        return {name: self.originals.stacked(f"{TRAJECTORY}{name}").double().mean(0).numpy() for name in PROXIES}

    def _curvature_scores(self) -> dict[str, Any]:
        inputs, labels = (values[: self.examples.n_train] for values in (self.examples.inputs, self.examples.labels))
        generator = torch.Generator().manual_seed(self.config["seed"])
        settings = self.config["scores"]["curvature"]
        values = loss_curvature(self._original_models(), inputs, labels, generator=generator, **settings)
        return {"loss_curvature": values.double().numpy()}

    def _held_out_scores(self) -> dict[str, Any]:
        n_train = self.examples.n_train
        before, after = (made.stacked("logits")[:, :n_train] for made in (self.originals, self.retrained_on_held_out))
        return {"held_out_retraining": symmetric_kl(before, after).double().numpy()}

    @cached_property
    def retrained_on_held_out(self) -> Artifact:
        """The originals after fine-tuning on the validation points, which a score then depends on."""
        points = Only(range(self.examples.n_train, self.examples.n_points))
        job = replace(self._job("held_out"), subsets=points, training=self.config["scores"]["held_out"], keep=())
        detail = "originals fine-tuned on validation points"
        return self._trained("retraining", detail, self.config["n_models"], job, self.originals)

    def _original_models(self) -> Ensemble:
        """Return the originals, on the device that the trainer uses."""
        build = model_factory(self.config["model"]["network"], self.examples)
        originals = stored_ensemble(self.originals.path, build, range(self.config["n_models"]))
        return evaluation_copy(originals, self.config["trainer"])

    @cached_property
    def forget(self) -> Tensor:
        """The sorted training indices that have to go."""
        scores = self.scores if self.selector.needs_scores else None
        chosen = self.selector.select(self.examples, scores)
        if not 0 < len(chosen) < self.examples.n_train:
            raise UserError(
                f"forget: {type(self.selector).__name__} chose {len(chosen)} of {self.examples.n_train} training "
                "examples; something must be forgotten, and something retained"
            )
        self.console.note(f"forget set: {len(chosen)} of {self.examples.n_train:,} training examples")
        return chosen

    @cached_property
    def groups(self) -> Tensor:
        """What each point is: 0 forget, 1 retain, 2 validation; ``[points]``."""
        return self._groups(self.forget)

    def _groups(self, gone: Tensor) -> Tensor:
        groups = torch.full((self.examples.n_points,), RETAIN)
        groups[gone] = FORGET
        groups[self.examples.n_train :] = VALIDATION
        return groups

    @cached_property
    def parts(self) -> list[Part]:
        """The forget set in the parts in which it is unlearned, each with the configuration of its unlearner."""
        scores = self.scores if self.refinement.needs_scores else None
        own = self.config["unlearner"]
        return [replace(part, unlearner=part.unlearner or own) for part in self.refinement.parts(self.forget, scores)]

    @cached_property
    def unlearners(self) -> list[Unlearner]:
        """The unlearner of each part, in the order of parts."""
        own = self.config["unlearner"]
        return [instantiate(unlearner or own) for unlearner in self.refinement.unlearners.values()]

    @property
    def targets(self) -> list[Target]:
        """What each part's unlearner matches, in the order of parts."""
        return [unlearner.target for unlearner in self.unlearners]

    @property
    def needs_scores(self) -> bool:
        """Whether the forget set or its refinement depends on scores of examples."""
        return self.selector.needs_scores or self.refinement.needs_scores

    @property
    def nests(self) -> bool:
        """Whether a run of few epochs is the beginning of a longer one."""
        return len(self.unlearners) == 1 and self.unlearners[0].nests

    @property
    def predicts(self) -> bool:
        """Whether the effect of the whole forget set is predicted: the last part's unlearner matches a prediction."""
        return self.targets[-1] == "predicted"

    # ------------------------------------------------------------------ attribution

    @cached_property
    def subset_models(self) -> SubsetModels:
        """Masks and logits of the whole pool."""
        block = 2 if self.config["pool"]["complementary"] else 1
        return SubsetModels(self.pool.stacked("masks"), self.pool.stacked("logits"), block)

    @cached_property
    def effect(self) -> Artifact:
        """What including the forget set does to every logit, and how well the estimator predicts held-out members."""
        return self.effect_of(self.forget)

    def effect_of(self, gone: Tensor) -> Artifact:
        """Return the effect of some training points, as :attr:`effect` is that of all of the forget set."""
        sources = self._sources_of_effect(gone)
        config = {"estimator": self.config["attribution"]}
        if "pool" in sources:
            config |= {"held_out": self.config["pool"]["held_out"]}
        inputs = {name: artifact.digest for name, artifact in sources.items()} | {"forget": content_hash(gone)}
        what = "the forget set" if len(gone) == len(self.forget) else f"{len(gone)} forget points"
        detail = f"effect of {what} by {type(self.estimator).__name__}"
        return self.obtain("attribution", detail, Spec("effect", config, inputs), partial(self._make_effect, gone))

    def _sources_of_effect(self, gone: Tensor) -> dict[str, Artifact]:
        if self.estimator.source == "oracles":
            return {"originals": self.originals, "oracles": self.target_oracles(gone)}
        return {"pool": self.pool} | ({"gradients": self.gradients} if self.estimator.source == "gradients" else {})

    @cached_property
    def gradients(self) -> Artifact:
        """Features of gradients of some originals, which know no forget set."""
        estimator, settings = self.estimator, self.config["attribution"]
        assert isinstance(estimator, GradientEstimator)
        checkpoints = min(estimator.checkpoints, self.config["n_models"])
        known = {key: value for key, value in settings.items() if key not in (*estimator.fitted_later, "checkpoints")}
        inputs = {"originals": self.originals.digest, "dataset": self.dataset.digest}
        spec = Spec("gradients", {"estimator": known, "checkpoints": checkpoints}, inputs)

        def make(draft: Draft) -> None:
            def job(shard: int, start: int, stop: int) -> GradientJob:
                return GradientJob(
                    estimator=settings,
                    examples=self.dataset.path,
                    originals=self.originals.path,
                    model=self.config["model"]["network"],
                    trainer=self.config["trainer"],
                    output=draft.path,
                    shard=shard,
                    start=start,
                    stop=stop,
                )

            self._run_shards("gradients", draft, gradient_chunk, job, checkpoints, chunk_size=1)

        return self.obtain("gradients", f"of every logit of {checkpoints} originals", spec, make)

    def _make_effect(self, gone: Tensor, draft: Draft) -> None:
        estimator = self.estimator
        evidence = self._evidence(gone)
        tensors = {"effect": estimator.estimate(evidence, gone)}
        if isinstance(estimator, DirectionalEstimator) and self.config["pool"]["held_out"] >= 2:
            tensors["lds"] = self._lds(estimator, fitted=evidence.pool)
        draft.write_tensors("effect", tensors)
        draft.write_json("facts", estimator.facts())

    def _evidence(self, gone: Tensor) -> Evidence:
        evidence = Evidence(self._groups(gone), self.examples.n_train)
        if self.estimator.source == "oracles":
            oracles = self.target_oracles(gone).stacked("logits")
            return replace(evidence, originals=self.originals.stacked("logits"), oracles=oracles)
        fitted = self.subset_models[: len(self.subset_models) - self.config["pool"]["held_out"]]
        if self.estimator.source == "pool":
            return replace(evidence, pool=fitted)
        parts = {name: self.gradients.stacked(name) for name in ("train", "weights", "targets")}
        return replace(evidence, pool=fitted, gradients=Gradients(**parts))

    def _lds(self, estimator: DirectionalEstimator, fitted: SubsetModels | None) -> Tensor:
        """Return the linear datamodeling score of every point on members that took no part, ``[points]``."""
        assert fitted is not None
        held_out = self.subset_models[len(fitted) :]
        directions = held_out.masks.float() - fitted.masks.float().mean(0)
        predicted = fitted.logits.mean(0) + estimator.predict(directions)
        labels = self.examples.labels
        return torch.from_numpy(lds(margins(predicted, labels), margins(held_out.logits, labels))).float()

    # ------------------------------------------------------------------ unlearning

    @cached_property
    def unlearned(self) -> Artifact:
        """N unlearned models."""
        parts = [self._part_job(place) for place in range(len(self.parts))]
        config = {
            "parts": [part.unlearner for part in self.parts],
            "seed": self.config["seed"],
            "trainer": self._trainer_identity,
        }
        inputs = {"originals": self.originals.digest}
        for place, (part, artifact) in enumerate(parts):
            inputs[f"points {place}"] = content_hash(torch.tensor(part.points))
            inputs |= {f"target {place}": artifact.digest} if artifact else {}
        spec = Spec("unlearned", config, inputs)

        def make(draft: Draft) -> None:
            def job(shard: int, start: int, stop: int) -> UnlearnJob:
                return UnlearnJob(
                    parts=tuple(part for part, _ in parts),
                    examples=self.dataset.path,
                    originals=self.originals.path,
                    model=self.config["model"]["network"],
                    training=self.config["training"],
                    trainer=self.config["trainer"],
                    seed=self.config["seed"],
                    output=draft.path,
                    shard=shard,
                    start=start,
                    stop=stop,
                )

            self._run_shards("unlearning", draft, unlearn_chunk, job, self.config["n_models"])

        return self.obtain("unlearning", f"{self.config['n_models']:,} models by {self._methods}", spec, make)

    @property
    def _methods(self) -> str:
        """The classes of the parts' unlearners, in their order."""
        names = [str(part.unlearner["_target_"]).rpartition(".")[2] for part in self.parts if part.unlearner]
        return names[0] if len(set(names)) == 1 else ", then ".join(names)

    def _part_job(self, place: int) -> tuple[PartJob, Artifact | None]:
        """Return what is to do for a part, and the artifact that its targets come from.

        A part's targets are those of models without it *and* without the parts before it.
        """
        part, target = self.parts[place], self.targets[place]
        gone = torch.cat([part.points for part in self.parts[: place + 1]]).sort().values
        oracles = self.target_oracles(gone) if target == "oracle" else None
        effect = self.effect_of(gone) if target == "predicted" else None
        assert part.unlearner is not None
        return PartJob(
            unlearner=part.unlearner,
            points=tuple(part.points.tolist()),
            oracles=oracles.path if oracles else None,
            effect=effect.path if effect else None,
        ), oracles or effect

    # ------------------------------------------------------------------ all of it

    def needed(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield (name, maker) of every stage that this configuration needs, in the order of the picture."""
        predicted, by_pool = "predicted" in self.targets, self.estimator.source != "oracles"
        wants = {
            "dataset": True,
            "pool": bool(set(self._families) & set(FROM_POOL)) or (predicted and by_pool),
            "scores": self.needs_scores,
            "originals": True,
            "oracles": True,
            "floor_oracles": True,
        }
        for name, wanted in wants.items():
            if wanted:
                yield name, lambda name=name: getattr(self, name)
        for place, target in enumerate(self.targets):
            if target != "none":
                yield {"oracle": "target_oracles", "predicted": "effect"}[target], partial(self._part_job, place)
        yield "unlearned", lambda: self.unlearned

    def make(self) -> None:
        """Make every stage that is needed and not there."""
        for _, maker in self.needed():
            maker()

    def plan(self) -> list[PlannedStage]:
        """Say which stages exist and what making the others would cost; with a read-only store nothing is made."""
        return [PlannedStage(name, self._exists(maker), *self._work(name)) for name, maker in self.needed()]

    @staticmethod
    def _exists(maker: Callable[[], Any]) -> bool:
        try:
            maker()
        except Missing:
            return False
        return True

    def _work(self, name: str) -> tuple[int, int]:
        """Return (models, sample-gradient evaluations) of making a stage; 0 where nothing is trained from scratch."""
        epochs, n_train = self.config["training"]["epochs"], self.examples.n_train
        if name == "pool":
            size = self.config["pool"]["size"]
            return size, round(size * epochs * self.config["pool"]["alpha"] * n_train)
        if name.endswith(("originals", "oracles")):
            return self.config["n_models"], self.config["n_models"] * epochs * n_train
        return (self.config["n_models"], 0) if name == "unlearned" else (0, 0)

    def obtain(self, name: str, detail: str, spec: Spec, make: Callable[[Draft], None]) -> Artifact:
        """Return a stage's artifact, after making it if need be, and print the stage's line."""
        from dmm_exp.report.result import StageRecord

        artifact = self.store.obtain(spec, make)
        if not self.store.read_only:
            self.console.stage_done(StageRecord(name, detail, artifact.seconds, artifact.cached))
        return artifact


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a plan.

    Attributes:
        name: of the stage.
        exists: whether it would be reused.
        models: number of models it trains.
        sample_gradients: gradient evaluations of single examples that training them from scratch takes.
    """

    name: str
    exists: bool
    models: int
    sample_gradients: int


def content_hash(*tensors: Tensor) -> str:
    """Return the SHA-256 of tensors' types, shapes and bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
