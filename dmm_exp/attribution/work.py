"""Jobs that compute the gradient features of some checkpoints and write them as a shard; any process can run them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.later import Later
from dmm_exp.config.schema import Plain
from dmm_exp.ensembles.work import Clock, NetworkJob, model_factory, read_examples, stored_ensemble, trainer_factory
from dmm_exp.store import Draft

if TYPE_CHECKING:
    from dmm_exp.attribution.extraction import FeatureExtraction
else:
    FeatureExtraction = Later("dmm_exp.attribution.extraction:FeatureExtraction")


@dataclass(frozen=True, kw_only=True)
class GradientJob(NetworkJob):
    """Compute the gradient features of some originals.

    Attributes:
        estimator: configuration of the estimator that uses the features.
        originals: folder of the originals' artifact.
    """

    estimator: Plain
    originals: Path


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
