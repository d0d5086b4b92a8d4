"""Steps of matching that are written out do what those with autograd do."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from tiny_tasks import CNN, FINE_TUNING, METHODS, TRAINER, digits, forgetting, same, sgd, task
from torch import Tensor

from dmm_exp.config.instantiate import instantiate
from dmm_exp.ensembles.work import trainer_factory
from dmm_exp.unlearners import DMM, Fit, UnlearningResult, UnlearningTask
from dmm_exp.unlearners.matching import distances_
from dmm_exp.unlearners.unlearner import in_place_of

ADAM = {"_target_": "torch.optim.Adam", "_partial_": True, "eps": 1e-4}  # a smaller eps magnifies rounding
CHAIN = CNN | {"batch_norm": False}
MATCHING = ["dmm", "oracle_matching"]
DOSE = {
    "epochs": 2,
    "forget_multiplier": 5,
    "retain_multiplier": 10,
}  # with more steps, Adam magnifies rounding further


def with_members(members_are: str, task: UnlearningTask, trainer: dict[str, Any] | None = None) -> UnlearningTask:
    """Return a task whose steps are taken in one way."""
    engine = {"step": "eager", "members": members_are, "memory": "rows"}
    return replace(task, make_trainer=trainer_factory({**TRAINER, **(trainer or {}), "engine": engine}))


def fitted(method: Any, task: UnlearningTask) -> tuple[UnlearningResult, Fit]:
    """Return what a method makes of a task, and the module that did it."""
    fit = Fit(method, task)
    return fit.result(), fit


def largest(one: UnlearningResult, other: UnlearningResult) -> float:
    """Return the largest difference of logits."""
    return float((one.logits - other.logits).abs().max())


@pytest.mark.parametrize("weight", [None, 0.0, 0.7])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_gradient_is_that_of_autograd(classes, weight):
    generator = torch.Generator().manual_seed(classes)
    logits, targets = torch.randn(2, 3, 7, classes, generator=generator, dtype=torch.double).mul_(5)
    labels, points = torch.randint(classes, (7,), generator=generator), torch.arange(7).expand(3, 7)
    fit: Any = SimpleNamespace(kept={"targets": targets, "labels": labels}, predict_batch=lambda _: logits)
    in_place = logits.mT.contiguous()
    logits.requires_grad_()
    wanted = DMM.losses(instantiate({**METHODS["dmm"], "margin_weight": weight}), fit, points)
    (gradient,) = torch.autograd.grad(wanted.sum(), logits)
    found = distances_(in_place, targets.mT, labels[points], weight)
    torch.testing.assert_close(found, wanted.detach())
    torch.testing.assert_close(in_place.mT, gradient)


@pytest.mark.parametrize("name", MATCHING)
@pytest.mark.parametrize(
    "settings",
    [{}, {"margin_weight": None}, {"clip_norm": 0.1}, {"optimizer": ADAM}],
    ids=str,
)
@pytest.mark.parametrize("network", [{}, CHAIN], ids=["mlp", "cnn"])
def test_networks_become_what_autograd_makes_of_them(network, settings, name):
    of_task = forgetting(digits(), range(0, 200, 10), members=3, network=network) if network else task()
    method = instantiate({**METHODS[name], "optimizer": sgd(momentum=0.9), **DOSE, **settings})
    (fused, quick), (plain, slow) = (fitted(method, with_members(way, of_task)) for way in ("auto", "together"))
    assert quick.fused
    assert not slow.fused
    assert largest(fused, plain) < 2e-3
    assert largest(fused, plain) < 0.01 * float((plain.logits - of_task.originals.logits(digits().inputs)).abs().max())
    assert fused.history == pytest.approx(plain.history, rel=1e-3)
    assert fused.sample_gradients == plain.sample_gradients
    assert all(value.grad is None for value in quick.ensemble.parameters())


def test_a_checkpoint_of_fused_steps_is_the_end_of_a_shorter_run():
    long, short = (instantiate({**METHODS["dmm"], "epochs": epochs}) for epochs in ([1, 2], [1]))
    (whole, fit), (part, _) = (fitted(method, task()) for method in (long, short))
    assert fit.fused
    assert same(whole.checkpoints[1], part)


class Shifted(DMM):
    """Changes something after every step."""

    def after_step(self, fit: Fit) -> None:
        fit.count_forward(1)


class Doubled(DMM):
    """Has a loss of its own."""

    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        return 2 * super().losses(fit, indices)


@pytest.mark.parametrize("kind", [Shifted, Doubled])
def test_a_method_that_changes_steps_has_plain_ones(kind):
    settings = {key: value for key, value in METHODS["dmm"].items() if key != "_target_"}
    parts = {key: instantiate(settings[key]) for key in ("optimizer", "schedule")}
    fit = fitted(kind(**{**settings, **parts, "epochs": 1}), task())[1]
    assert fit.at_once
    assert not fit.fused


@pytest.mark.parametrize("trainer", [{"max_steps": 10**6}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_other_trainers_have_plain_steps_too(trainer):
    fit = fitted(instantiate({**METHODS["dmm"], "epochs": 1}), with_members("fused", task(), trainer))[1]
    assert not fit.at_once
    assert not fit.fused


@pytest.mark.parametrize("name", [name for name in FINE_TUNING if name not in MATCHING])
def test_other_methods_have_plain_steps(name):
    assert in_place_of(get_class(METHODS[name]["_target_"]).losses) is None


def test_a_loop_that_goes_around_once_an_epoch_changes_nothing():
    method = instantiate({**METHODS["finetune"], "epochs": 2})
    (at_once, quick), (by_batch, slow) = (
        fitted(method, with_members("auto", task(), trainer)) for trainer in ({}, {"max_steps": 10**6})
    )
    assert quick.at_once
    assert not slow.at_once
    assert same(at_once, by_batch)
