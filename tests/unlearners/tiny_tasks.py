"""Small unlearning tasks, and the methods as their YAML files describe them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import instantiate
from dmm_exp.data import Digits, Examples, Normalisation
from dmm_exp.ensembles import AllBut, Ensemble, EnsembleTraining, member_seed
from dmm_exp.ensembles.schedules import OneCycle, Part
from dmm_exp.ensembles.work import model_factory, trainer_factory
from dmm_exp.unlearners import Fit, UnlearningResult, UnlearningTask
from dmm_exp.unlearners.distillation import divergence

CONF = Path(config_directory())
Loader = Iterable[tuple[Tensor, Tensor]]
METHODS: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CONF / "unlearner").glob("*.yaml"))
}
METHODS["function"] |= {"function": "tiny_tasks.noisily", "call": {"_target_": "tiny_tasks.noisily", "_partial_": True}}
FINE_TUNING = [name for name, config in METHODS.items() if "epochs" in config]
UNTRAINED = [name for name in METHODS if name not in FINE_TUNING]
STILL = ["dm_direct", "do_nothing"]
ANSWERS = ["dm_direct", "sisa"]  # these give answers, and no model
ON_IMAGES = ["ct"]  # these need convolutions
ON_CLASSES = ["unsir"]  # these need whole classes
IN_PART = ["cf_k", "eu_k", "jit"]  # these leave some tensors as they are
FADING = ["l1_sparse", "sfron"]  # what these do falls to nothing over the whole run
ELSEWHERE = ["eu_k", "msg", "ct", "noisy_finetune"]  # these begin at other networks than the originals

TRAINER = yaml.safe_load((CONF / "trainer" / "default.yaml").read_text(encoding="utf-8")) | {"accelerator": "cpu"}
TRAINING = {
    "epochs": 4,
    "batch_size": 16,
    "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0.9},
    "schedule": {"_target_": "dmm_exp.ensembles.schedules.OneCycle"},
}
MLP = {"_target_": "dmm_exp.models.MLP", "hidden": [16]}
CNN = {"_target_": "dmm_exp.models.CNN", "channels": [4], "batch_norm": True}

SMALLER = {  # what the settings of full-sized data become on a hundred examples
    "ssd": {"alpha": 1.5},
    "rewind": {"rewind_to": 2},
    "influence": {"curvature_sample": 30, "iterations": 4, "scale": 1.0, "damping": 0.01},
    **{name: {"epochs": 2, "batch_size": 32} for name in FINE_TUNING},
    "unsir": {"epochs": 2, "batch_size": 32, "noise_size": 6, "noise_steps": 5},
    **{name: {"epochs": 2, "batch_size": 32, "forget_batch_size": 8} for name in ("ascent_descent", "scrub", "sfron")},
}


def noisily(net: torch.nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
    """Disturb a network, and fine-tune it for an epoch, as somebody outside the package would write it."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    net.train()
    for inputs, labels in retain_loader:
        optimizer.zero_grad()
        functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()


@cache
def digits() -> Examples:
    """Return all 1,797 digits."""
    return Digits(Normalisation(16, [0.305], [0.376])).load()


@cache
def few_digits() -> Examples:
    """Return a hundred training digits and thirty for validation."""
    everything = digits()
    tensors = {name: getattr(everything, name)[:130] for name in ("inputs", "labels", "corrupted")}
    return replace(everything, **tensors, n_train=100)


def forgetting(examples: Examples, forget: Iterable[int], *, members: int, network: dict[str, Any]) -> UnlearningTask:
    """Return originals that were trained on everything, also early, and targets that tell less of what has to go."""
    points, which, build = torch.tensor(sorted(forget)), range(members), model_factory(network, examples)
    recipe = {
        "epochs": TRAINING["epochs"],
        "batch_size": 64 if examples.n_train > 500 else 16,
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        "schedule": OneCycle(),
    }
    originals, early = (trained(build, examples, which, part) for part in (recipe, beginning(recipe, 2)))
    targets = originals.logits(examples.inputs)
    drops = torch.rand(members, len(points), generator=torch.Generator().manual_seed(0))
    targets[:, points, examples.labels[points]] -= 4 * drops
    return UnlearningTask(
        originals=originals,
        examples=examples,
        forget=points,
        retain=AllBut(examples.n_train, points).indices(range(1))[0],
        seed=0,
        members=which,
        targets=targets,
        build=build,
        recipe=recipe,
        make_trainer=trainer_factory(TRAINER),
        early=early,
    )


def trained(
    build: Callable[[], torch.nn.Module], examples: Examples, which: Sequence[int], recipe: dict[str, Any]
) -> Ensemble:
    """Return originals: models that were trained on everything."""
    originals = Ensemble.initialise(build, [member_seed(0, "original", i, "initialisation") for i in which])
    training = EnsembleTraining(subsets=AllBut(examples.n_train, []).indices(which), **recipe)
    training.attach(originals, examples, seed=0, role="original", members=which)
    training.fit(trainer_factory(TRAINER))
    return originals


def beginning(recipe: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Return the first epochs of a recipe."""
    return {**recipe, "epochs": epochs, "schedule": Part(recipe["schedule"], 0, recipe["epochs"])}


@cache
def tiny(network: str = "mlp", forget: int = 20) -> UnlearningTask:
    """Return three small originals and the first examples to forget."""
    return forgetting(few_digits(), range(forget), members=3, network={"mlp": MLP, "cnn": CNN}[network])


def fitting(name: str, network: str = "mlp", forget: int = 20) -> UnlearningTask:
    """Return :func:`tiny` with a network and a forget set that a method can be applied to."""
    some = tiny("cnn" if name in ON_IMAGES else network, forget)
    return as_a_class(some) if name in ON_CLASSES else some


def as_a_class(task: UnlearningTask) -> UnlearningTask:
    """Return a task whose forget set is the whole of class 0: all other examples of it are called 1."""
    labels = task.examples.labels.clamp(min=1)
    labels[task.forget] = 0
    return replace(task, examples=replace(task.examples, labels=labels))


def chunk(task: UnlearningTask, start: int, stop: int) -> UnlearningTask:
    """Return the task of some members only."""
    assert task.targets is not None
    return replace(
        task,
        originals=task.originals[start:stop],
        members=task.members[start:stop],
        targets=task.targets[start:stop],
        early=task.early and task.early[start:stop],
    )


def configured(name: str, **settings: Any) -> dict[str, Any]:
    """Return a method's configuration, for small data."""
    return {**METHODS[name], **SMALLER.get(name, {}), **settings}


def make(name: str, **settings: Any) -> Any:
    """Return a method for small data."""
    return instantiate(configured(name, **settings))


def unlearn(name: str, task: UnlearningTask, **settings: Any) -> UnlearningResult:
    """Return what a method for small data makes of a task."""
    return make(name, **settings).unlearn(task)


@cache
def usual(name: str, network: str = "mlp", forget: int = 20) -> UnlearningResult:
    """Return what a method makes of a tiny task; tests share it, so they must not change it."""
    return unlearn(name, fitting(name, network, forget))


def sgd(**settings: Any) -> dict[str, Any]:
    """Return the configuration of plain gradient descent."""
    return {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.01, **settings}


def adam(**settings: Any) -> dict[str, Any]:
    """Return the configuration of Adam."""
    return {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.003, **settings}


def everything(result: UnlearningResult) -> dict[str, Tensor]:
    """Return all tensors of a result."""
    return {"logits": result.logits} | ({} if result.ensemble is None else result.ensemble.tensors())


def same(left: UnlearningResult, right: UnlearningResult) -> bool:
    """Say whether two results have the same tensors, bit for bit."""
    first, second = everything(left), everything(right)
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def movement(result: UnlearningResult, task: UnlearningTask) -> Tensor:
    """Return how far every member's parameters are from its original's ``[members]``."""
    assert result.ensemble is not None
    before = task.originals.params
    parts = [(value - before[name]).detach().flatten(1) for name, value in result.ensemble.params.items()]
    return torch.cat(parts, dim=1).norm(dim=1)


@cache
def task() -> UnlearningTask:
    """Return three originals trained on all digits, and 20 examples to forget."""
    return forgetting(digits(), range(0, 200, 10), members=3, network={**MLP, "hidden": [24]})


def full(name: str, task: UnlearningTask, **settings: Any) -> UnlearningResult:
    """Return what a method makes of a task with the settings of its file."""
    return instantiate({**METHODS[name], **settings}).unlearn(task)


def ready(name: str, task: UnlearningTask, **settings: Any) -> Any:
    """Return a method at work on a task, before its first step."""
    return Fit(instantiate({**METHODS[name], **settings}), task)


def loss(logits: Tensor, points: Tensor) -> float:
    """Return the mean cross-entropy of all members on points of the digits."""
    return float(functional.cross_entropy(logits[:, points].flatten(0, 1), digits().labels[points].repeat(len(logits))))


def entropies(task: UnlearningTask, points: Tensor) -> Tensor:
    """Return every original's cross-entropy on its points ``[members, points]``, one ordinary model at a time."""
    examples, models = task.examples, [task.originals.member(row).train() for row in range(len(points))]
    return torch.stack(
        [
            functional.cross_entropy(model(examples.inputs[own]), examples.labels[own], reduction="none")
            for model, own in zip(models, points, strict=True)
        ]
    )


def apart(teacher: Tensor, student: Tensor, points: Tensor) -> Tensor:
    """Return the members' mean divergence between two answers ``[members]``."""
    return divergence(teacher[:, points], student[:, points], 1.0).mean(1)


def originals(task: UnlearningTask) -> Tensor:
    """Return what the originals answer."""
    return task.originals.logits(task.examples.inputs)
