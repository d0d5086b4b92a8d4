"""Retraining in part: of the last epochs (rewind), or of the networks that saw what has to go (SISA)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from dmm_exp.ensembles import Ensemble, member_generator, member_seed
from dmm_exp.ensembles.schedules import Part
from dmm_exp.ensembles.when_made import EnsembleTraining
from dmm_exp.errors import UserError
from dmm_exp.unlearners.unlearner import Unlearner, UnlearningResult, UnlearningTask


class Rewind(Unlearner):
    """Go back to an early epoch of the original's training, and train from there on the retain set alone.

    The step of "Rewind-to-Delete" (Mu and Klabjan, NeurIPS 2025, arXiv 2409.09778), without the noise that it adds at
    the end for a certificate: that needs a bound on how fast gradients change, which nobody knows of a network. The
    last epochs are those of the recipe, at the learning rates that they have there. A checkpoint holds no state of the
    optimizer, so momentum begins at zero; the order of examples is drawn again. Costs one gradient for each retained
    example in each of these epochs. The checkpoint itself is counted among what is shared (``cost/shared``): the
    originals' first epochs are trained again to get it, where training would have kept it.

    Args:
        rewind_to: epoch of the originals' training to go back to. From 0 on it is retraining, from the original's own
            initialisation; after all epochs, nothing is done.

    Raises:
        UserError: the number is negative, or (when it unlearns) no such models are there.
    """

    own_sets: ClassVar[bool] = True
    needs_training: ClassVar[str | None] = (
        "goes back to an early epoch of a network's training, of which a given network keeps no checkpoint"
    )

    def __init__(self, *, rewind_to: int) -> None:
        if rewind_to < 0:
            raise UserError(f"unlearner.rewind_to={rewind_to}: expected an epoch of training, at least 0")
        self.starts_at = rewind_to

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Train what the originals once were for the remaining epochs."""
        epochs, begin = task.recipe["epochs"], self.starts_at or 0
        if task.early is None:
            raise UserError(
                f"unlearner=rewind: needs the models as they were after epoch {begin} of their training, and these "
                "have no such checkpoint; expected another method, such as finetune"
            )
        ensemble = task.early.copy()
        rest = {"epochs": epochs - begin, "schedule": Part(task.recipe["schedule"], begin, epochs)}
        training = EnsembleTraining(subsets=task.retain.expand(len(task.members), -1), **{**task.recipe, **rest})
        training.attach(ensemble, task.examples, seed=task.seed, role="unlearned", members=task.members)
        training.fit(task.make_trainer)
        logits = ensemble.to(task.originals.device).logits(task.examples.inputs)
        return UnlearningResult(ensemble.cpu(), logits, training.sample_gradients, training.history())


class SISA(Unlearner):
    """Sharded training: several networks, each on a part of the data, of which only those that saw F are retrained.

    The training set is cut at random into shards of nearly equal size, the same ones for all members, by the run's seed
    and not by the forget set. A network is trained by the recipe on each shard, and the answer of all is the mean of
    their softmax answers, whose logarithms are the logits (Bourtoule et al., "Machine Unlearning", IEEE S&P 2021, arXiv
    1912.03817, without slices: one slice a shard). A shard without a forgotten row keeps its network; the others are
    trained again from scratch.

    So it is exact: its answers are those of such networks that never saw F. These are other networks than one that is
    trained on the whole retain set, and the metrics, which compare with such ones, show by how much. Costs are counted
    as they would come up: unlearning is the retraining of the shards that hold forgotten rows; the first training of
    all shards is shared, and as costly as one of the originals, which the method does not use.

    Args:
        shards: number of them, at least 2.

    Raises:
        UserError: the number is too small, or (when it unlearns) a shard keeps too few rows to train on.
    """

    returns_models: ClassVar[bool] = False
    needs_training: ClassVar[str | None] = (
        "cuts the data into parts and trains a network on each, so that it cannot start from one network trained on all"
    )
    trains_originals: ClassVar[bool] = True

    def __init__(self, *, shards: int = 4) -> None:
        if shards < 2:
            raise UserError(f"unlearner.shards={shards}: expected at least 2")
        self.shards = shards

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Train the networks of all shards without the forget set; count those that deletion concerns."""
        kept, hit = self._kept(task)
        found = [self._trained(task, shard, rows) for shard, rows in enumerate(kept)]
        answers, costs, histories = zip(*found, strict=True)
        logits = torch.stack(answers).logsumexp(0) - math.log(self.shards)
        cost = sum(cost for cost, concerned in zip(costs, hit, strict=True) if concerned)
        return UnlearningResult(None, logits, cost, torch.tensor(histories).mean(0).tolist())

    def parts(self, task: UnlearningTask) -> tuple[Tensor, ...]:
        """Return the sorted rows of every shard, before anything is forgotten."""
        everything = torch.cat([task.forget, task.retain]).sort().values
        order = torch.randperm(len(everything), generator=member_generator(task.seed, "shard", 0, "subset"))
        return tuple(everything[part].sort().values for part in order.tensor_split(self.shards))

    def _kept(self, task: UnlearningTask) -> tuple[list[Tensor], list[bool]]:
        """Return the rows that every shard keeps, and whether it loses any."""
        parts = self.parts(task)
        kept = [rows[torch.isin(rows, task.retain)] for rows in parts]
        if not all(map(len, kept)):
            raise UserError(f"unlearner.shards={self.shards}: a shard would keep no row to train on; expected fewer")
        return kept, [len(rows) < len(part) for rows, part in zip(kept, parts, strict=True)]

    def _trained(self, task: UnlearningTask, shard: int, rows: Tensor) -> tuple[Tensor, int, list[float]]:
        """Return log-probabilities ``[members, points, classes]`` of one shard's networks, and what they cost."""
        role, members = f"shard/{shard}", task.members
        seeds = (member_seed(task.seed, role, index, "initialisation") for index in members)
        ensemble = Ensemble.initialise(task.build, seeds)
        training = EnsembleTraining(subsets=rows.expand(len(members), -1), **task.recipe)
        training.attach(ensemble, task.examples, seed=task.seed, role=role, members=members)
        training.fit(task.make_trainer)
        logits = ensemble.to(task.originals.device).logits(task.examples.inputs)
        return logits.log_softmax(2), training.sample_gradients, training.history()
