"""Jobs that compute the gradient features of some checkpoints and write them as a shard; any process can run them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from dmm_exp.attribution.gradients import Features, GradientEstimator
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.schema import Plain
from dmm_exp.data import Examples
from dmm_exp.ensembles import Ensemble
from dmm_exp.ensembles.work import Clock, NetworkJob, model_factory, read_examples, stored_ensemble, trainer_factory
from dmm_exp.errors import UserError
from dmm_exp.store import Draft


@dataclass(frozen=True, kw_only=True)
class GradientJob(NetworkJob):
    """Compute the gradient features of some originals.

    Attributes:
        estimator: configuration of the estimator that uses the features.
        originals: folder of the originals' artifact.
    """

    estimator: Plain
    originals: Path


class GradientBatch(NamedTuple):
    """Examples of one checkpoint whose gradients are computed together.

    Attributes:
        row: place of the checkpoint in its chunk.
        points: ``[examples]`` indices.
        training: whether the output they are trained on is meant, or every logit.
    """

    row: int
    points: Tensor
    training: bool


def gradient_chunk(job: GradientJob) -> None:
    """Run a :class:`GradientJob`."""
    clock = Clock()
    examples, members = read_examples(job.examples), range(job.start, job.stop)
    originals = stored_ensemble(job.originals, model_factory(job.model, examples), members)
    module = FeatureExtraction(instantiate(job.estimator), originals, examples, members)
    tensors = module.run(trainer_factory(job.trainer)(inference_mode=False, use_distributed_sampler=False))
    gradients = examples.n_train + examples.n_points * examples.n_classes
    facts = {"seconds": clock.wall, "members": len(members), "sample_gradients": gradients}
    Draft(job.output).write_shard(job.shard, tensors, facts, cpu=clock.cpu, members=(job.start, job.stop))


class FeatureExtraction(LightningModule):
    """Computes the features of a chunk of checkpoints; its predict loop goes over checkpoints and batches of examples.

    Args:
        estimator: defines the features.
        originals: the chunk of checkpoints.
        examples: the dataset; it moves to the device with the module.
        numbers: of the checkpoints among the originals.
    """

    inputs: Tensor
    labels: Tensor

    def __init__(self, estimator: GradientEstimator, originals: Ensemble, examples: Examples, numbers: range) -> None:
        super().__init__()
        self.estimator = estimator
        self.originals = originals
        self.numbers = numbers
        self._examples = examples
        self.register_buffer("inputs", examples.inputs, persistent=False)
        self.register_buffer("labels", examples.labels, persistent=False)
        self.tensors: dict[str, Tensor] = {}
        self._current: tuple[int, Features] | None = None

    def run(self, trainer: Any) -> dict[str, Tensor]:
        """Return ``train``, ``weights`` and ``targets`` as in :class:`Gradients`, on the CPU.

        Args:
            trainer: a Lightning trainer; its ``inference_mode`` must be off, since gradients are taken.

        Raises:
            UserError: a feature is not finite.
        """
        trainer.predict(self, dataloaders=self.batches(), return_predictions=False)
        if not all(values.isfinite().all() for values in self.tensors.values()):
            name = type(self.estimator).__name__
            raise UserError(f"attribution: {name} got gradients that are not finite; raise its damping if it has one")
        return self.tensors

    def batches(self) -> DataLoader[GradientBatch]:
        """Return all work, checkpoint by checkpoint."""
        batches: list[GradientBatch] = []
        for row in range(len(self.numbers)):
            for training, points in ((True, self._examples.n_train), (False, self._examples.n_points)):
                parts = torch.arange(points).split(self.estimator.block_size)
                batches += [GradientBatch(row, part, training) for part in parts]
        return DataLoader(batches, batch_size=None)  # pyright: ignore[reportArgumentType]

    def predict_step(self, batch: GradientBatch, batch_index: int) -> None:
        """Compute the features of one batch, and keep them on the CPU."""
        features = self._features(batch.row)
        with torch.enable_grad():
            if batch.training:
                values, weights = features.train(batch.points)
                self._keep("train", batch, values)
                self._keep("weights", batch, weights)
            else:
                self._keep("targets", batch, features.targets(batch.points))

    def _features(self, row: int) -> Features:
        if self._current is None or self._current[0] != row:
            self._current = None  # frees the tensors of the last checkpoint before the next one allocates its own
            model = self.originals.member(row).to(self.device)
            with torch.enable_grad():
                features = self.estimator.features(model, self._examples.to(self.device), self.numbers[row])
            self._current = row, features
        return self._current[1]

    def _keep(self, name: str, batch: GradientBatch, values: Tensor) -> None:
        if name not in self.tensors:
            points = self._examples.n_points if name == "targets" else self._examples.n_train
            self.tensors[name] = torch.empty(len(self.numbers), points, *values.shape[1:])
        self.tensors[name][batch.row, batch.points.cpu()] = values.detach().float().cpu()
