"""The two ends of every comparison: doing nothing, and retraining."""

from __future__ import annotations

from typing import ClassVar

from dmm_exp.ensembles import Ensemble, member_seed
from dmm_exp.ensembles.when_made import EnsembleTraining
from dmm_exp.unlearners.unlearner import Unlearner, UnlearningResult, UnlearningTask


class DoNothing(Unlearner):
    """Return the originals unchanged: the reference that a method must improve on."""

    reference: ClassVar[bool] = True
    own_sets: ClassVar[bool] = True

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Return copies of the originals."""
        ensemble = task.originals.copy()
        return UnlearningResult(ensemble, ensemble.logits(task.examples.inputs), 0, [])


class Retrain(Unlearner):
    """Train from scratch on the retain set, as oracles are: exact, and its cost ratio is 1 by definition.

    Its members have seeds of their own (role ``retrained``), so that its distance to the oracles is an independent
    draw of the noise floor.
    """

    reference: ClassVar[bool] = True
    own_sets: ClassVar[bool] = True

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Train as many new models as there are originals."""
        seeds = (member_seed(task.seed, "retrained", index, "initialisation") for index in task.members)
        ensemble = Ensemble.initialise(task.build, seeds)
        subsets = task.retain.expand(len(task.members), -1)
        training = EnsembleTraining(subsets=subsets, **task.recipe)
        training.attach(ensemble, task.examples, seed=task.seed, role="retrained", members=task.members)
        training.fit(task.make_trainer)
        logits = ensemble.to(task.originals.device).logits(task.examples.inputs)
        return UnlearningResult(ensemble.cpu(), logits, training.sample_gradients, training.history())
