"""Steps that are recorded once and replayed, as CUDA graphs are, do what steps carried out one by one do.

The recorder of these tests keeps the list of operations and the memory they work on, and replays them there: a number
that Python computed while recording stays what it was, and reading a number back is refused, as on a GPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from tiny_tasks import CNN, FINE_TUNING, METHODS, MLP, SMALLER, TRAINER, adam, digits, few_digits, fitting, make, tiny
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dmm_exp.data import Augmentation
from dmm_exp.ensembles import AllBut, Ensemble, EnsembleModule, EnsembleTraining, module
from dmm_exp.ensembles.engine import Engine, TrainerFactory
from dmm_exp.ensembles.schedules import Cosine
from dmm_exp.ensembles.steps import Replayed
from dmm_exp.ensembles.trajectory import Trajectory
from dmm_exp.ensembles.work import model_factory, trainer_factory
from dmm_exp.errors import UserError

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)


class HostRecorder(TorchDispatchMode):
    """What a CUDA graph does, on the host."""

    executes: ClassVar[bool] = True
    refused = ("aten::_local_scalar_dense", "aten::lift_fresh")  # reading a number back, and bringing one from the host

    def warm_up(self, function: Callable[[], int]) -> int:
        return function()

    def record(self, function: Callable[[], int]) -> tuple[Callable[[], None], int]:
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        with self:
            returned = function()
        operations = self.operations

        @torch.no_grad()
        def replay() -> None:
            for operation, args, kwargs, made in operations:
                found = [value for value in tree_leaves(operation(*args, **kwargs)) if isinstance(value, Tensor)]
                for place, value in zip(made, found, strict=True):
                    if value.data_ptr() != place.data_ptr():
                        place.copy_(value)

        return replay, returned

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.name() in self.refused:
            raise RuntimeError(f"{operation.name()} is not permitted while a step is recorded")
        result = operation(*args, **(kwargs or {}))
        self.operations.append(
            (operation, args, kwargs or {}, [v for v in tree_leaves(result) if isinstance(v, Tensor)])
        )
        return result


@pytest.fixture
def recorded(monkeypatch):
    """Record steps on the host; optimizers whose recorded steps are for GPUs take the fused ones here."""
    monkeypatch.setattr(EnsembleModule, "recorder", HostRecorder)
    monkeypatch.setattr(module, "replayable", lambda make: {"fused": True})


def engine(step: str):
    return trainer_factory({**TRAINER, "engine": {"step": step, "members": "together"}})


@pytest.mark.parametrize("name", FINE_TUNING)
def test_every_method_can_be_recorded(name, recorded):
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 8} | (
        {"forget_batch_size": 6} if "forget_batch_size" in SMALLER[name] else {}
    )
    if METHODS[name]["optimizer"]["_target_"] == "torch.optim.Adam":  # larger steps make rounding larger
        settings["optimizer"] = adam()
    some = fitting(name, "cnn")
    results = [make(name, **settings).unlearn(replace(some, make_trainer=engine(step))) for step in ("eager", "graph")]
    torch.testing.assert_close(results[1].logits, results[0].logits, atol=2e-2, rtol=1e-2)
    assert results[1].history == pytest.approx(results[0].history, rel=1e-3, abs=1e-3)
    assert results[1].sample_gradients == results[0].sample_gradients


def trained(step: str, network: dict[str, Any], examples, **options):
    ensemble = Ensemble.initialise(model_factory(network, examples), range(3))
    trajectory = Trajectory(3, examples.n_train)
    subsets = AllBut(examples.n_train, range(7)).indices(range(3))
    settings = {"epochs": 3, "batch_size": 16, "optimizer": SGD, "schedule": Cosine(), **options}
    training = EnsembleTraining(subsets=subsets, trajectory=trajectory, **settings)
    training.attach(ensemble, examples, seed=0, role="original", members=range(3))
    training.fit(engine(step))
    return ensemble, training, trajectory


@pytest.mark.parametrize(
    "options",
    [{}, {"clip_norm": 0.5}, {"augmentation": Augmentation(flip=True, crop_padding=1, cutout=2)}],
    ids=["plain", "clipped", "augmented"],
)
@pytest.mark.parametrize("network", [MLP, CNN], ids=["mlp", "cnn"])
def test_training_can_be_recorded(network, options, recorded):
    examples = few_digits()
    (eager, first, seen), (graph, second, also_seen) = (
        trained(step, network, examples, **options) for step in ("eager", "graph")
    )
    torch.testing.assert_close(graph.logits(examples.inputs), eager.logits(examples.inputs), atol=1e-3, rtol=1e-3)
    for name, value in eager.stats.items():
        torch.testing.assert_close(graph.stats[name], value, atol=1e-3, rtol=1e-3)
    assert second.history() == pytest.approx(first.history(), rel=1e-4)
    assert second.sample_gradients == first.sample_gradients == 3 * 93
    for name, value in seen.mean().items():
        torch.testing.assert_close(also_seen.mean()[name], value, atol=1e-3, rtol=1e-3, equal_nan=True)


def test_a_step_is_recorded_once_for_every_shape_of_its_batch(recorded, monkeypatch):
    recordings = []
    record = HostRecorder.record
    monkeypatch.setattr(HostRecorder, "record", lambda self, step: recordings.append(1) or record(self, step))
    _, training, _ = trained("graph", MLP, few_digits())  # 93 points are 3 batches of 16 and 3 of 15 in every epoch
    assert training._batches_done == 18
    assert len(recordings) == 2


def test_a_number_that_python_computes_in_a_step_is_caught():
    total, calls = torch.zeros(()), []

    def step(batch: Tensor) -> int:
        calls.append(1)
        total.add_(batch.sum() * len(calls))
        return 1

    replayed = Replayed(step, HostRecorder())
    for _ in range(6):
        replayed(torch.ones(2))
    assert len(calls) == 4  # three to warm up, one to record
    assert total == 2 * (1 + 2 + 3 + 4 + 4 + 4)


def test_reading_a_number_back_is_caught():
    replayed = Replayed(lambda batch: int(batch.sum()), HostRecorder())
    for _ in range(3):
        replayed(torch.ones(2))
    with pytest.raises(RuntimeError, match="not permitted"):
        replayed(torch.ones(2))


def test_constants_by_channel_can_be_recorded(recorded):
    base = few_digits()
    three = replace(
        base,
        inputs=base.inputs.expand(-1, 3, -1, -1).contiguous(),
        normalisation=replace(base.normalisation, mean=[0.1, 0.2, 0.3], std=[0.3, 0.4, 0.5]),
    )
    (eager, *_), (graph, *_) = (trained(step, CNN, three) for step in ("eager", "graph"))
    torch.testing.assert_close(graph.logits(three.inputs), eager.logits(three.inputs), atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------------- what is refused, and other engines


def test_a_graph_needs_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    with pytest.raises(UserError, match="needs a CUDA device"):
        trained("graph", MLP, few_digits())


def test_an_optimizer_that_cannot_be_recorded_is_refused(monkeypatch):
    monkeypatch.setattr(EnsembleModule, "recorder", HostRecorder)
    with pytest.raises(UserError, match="keeps numbers on the host"):
        trained("graph", MLP, few_digits(), optimizer=partial(type("RMSprop2", (torch.optim.Adagrad,), {}), lr=0.1))


def test_where_recording_was_measured_an_optimizer_that_cannot_be_steps_eagerly(monkeypatch):
    monkeypatch.setattr(EnsembleModule, "recorder", HostRecorder)
    adagrad = partial(torch.optim.Adagrad, lr=0.1)
    plain, _, _ = trained("eager", MLP, few_digits(), optimizer=adagrad)
    measured = TrainerFactory(engine("eager").make, Engine("graph", "together", "rows", measured=True))
    monkeypatch.setattr(f"{__name__}.engine", lambda step: measured)
    chosen, _, _ = trained("graph", MLP, few_digits(), optimizer=adagrad)
    inputs = few_digits().inputs
    assert torch.equal(chosen.logits(inputs), plain.logits(inputs))


class Dropping(torch.nn.Sequential):
    def __init__(self, input_shape, n_classes) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, n_classes))


def test_members_apart_that_draw_random_numbers_are_refused_and_one_alone_is_not():
    examples, network = few_digits(), {"_target_": f"{__name__}.Dropping"}
    for members in (1, 2):
        ensemble = Ensemble.initialise(model_factory(network, examples), range(members))
        ensemble.use(Engine("eager", "apart", "rows")).train()
        batch = examples.inputs[:10].expand(members, -1, -1, -1, -1)
        if members == 1:
            ensemble(batch)
            continue
        with pytest.raises(UserError, match=r"use model\.chunk_size=1"):
            ensemble(batch)
        assert ensemble.eval()(batch).shape == (2, 10, 10)  # outside training nothing is drawn


def test_accumulated_gradients_are_not_recorded(recorded):
    factory = trainer_factory({**TRAINER, "engine": {"step": "graph"}, "accumulate_grad_batches": 2})
    with pytest.raises(UserError, match="accumulate_grad_batches"):
        make("finetune").unlearn(replace(tiny(), make_trainer=factory))


@pytest.mark.parametrize("engine", [{"members": "apart"}, {"members": "apart", "memory": "channels_last"}], ids=str)
@pytest.mark.parametrize("network", [MLP, CNN], ids=["mlp", "cnn"])
def test_members_apart_become_what_they_become_together(network, engine):
    def made(factory):
        ensemble = Ensemble.initialise(model_factory(network, digits()), range(3))
        recipe = {"epochs": 1, "batch_size": 64, "optimizer": SGD, "schedule": None}
        training = EnsembleTraining(subsets=AllBut(400, ()).indices(range(3)), **recipe)
        training.attach(ensemble, digits(), seed=0, role="original", members=range(3))
        training.fit(factory)
        return ensemble

    together, apart = made(trainer_factory(TRAINER)), made(trainer_factory({**TRAINER, "engine": engine}))
    inputs = digits().inputs[:200]
    torch.testing.assert_close(apart.logits(inputs), together.logits(inputs), atol=1e-3, rtol=1e-3)
    for name, value in together.stats.items():
        torch.testing.assert_close(apart.stats[name], value, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(apart.features(inputs), together.features(inputs), atol=1e-3, rtol=1e-3)


def test_convolutions_apart_are_kept_channels_last():
    ensemble = Ensemble.initialise(model_factory(CNN, digits()), range(2))
    before = {name: value.detach().clone() for name, value in ensemble.params.items()}
    weight = ensemble.use(
        trainer_factory({**TRAINER, "engine": {"members": "apart", "memory": "channels_last"}}).engine
    )
    assert weight.params["network.body.0.weight"][0].is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(value, ensemble.params[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"step": "fast"}, "engine.step=fast"),
        ({"members": "alone"}, "engine.members=alone"),
        ({"memory": "nhwc"}, "engine.memory=nhwc"),
        ({"members": "together", "memory": "channels_last"}, "needs engine.members=apart"),
    ],
    ids=str,
)
def test_unknown_choices_of_the_engine_are_refused(engine, message):
    with pytest.raises(UserError, match=message):
        trainer_factory({**TRAINER, "engine": engine})


@pytest.mark.slow
@pytest.mark.parametrize("members", ["together", "apart"])
@pytest.mark.skipif(shutil.which("c++") is None, reason="compiling for the host needs a C++ compiler")
def test_a_compiled_network_trains_as_the_plain_one_and_is_compiled_once_for_all_chunks(members):
    from torch._dynamo.utils import counters

    examples, chunks = few_digits(), {}
    for step in ("eager", "compiled", "compiled"):
        chunks[step] = _chunk(examples, {"step": step, "members": members})
        graphs = counters["stats"]["unique_graphs"]
    torch.testing.assert_close(chunks["compiled"], chunks["eager"], atol=1e-3, rtol=1e-3)
    _chunk(examples, {"step": "compiled", "members": members})
    assert 0 < counters["stats"]["unique_graphs"] == graphs


def _chunk(examples, engine) -> Tensor:
    ensemble = Ensemble.initialise(model_factory(CNN, examples), range(2))
    recipe = {"epochs": 2, "batch_size": 25, "optimizer": SGD, "schedule": None}
    training = EnsembleTraining(subsets=AllBut(50, ()).indices(range(2)), **recipe)
    training.attach(ensemble, examples, seed=0, role="original", members=range(2))
    training.fit(trainer_factory({**TRAINER, "engine": engine}))
    return ensemble.logits(examples.inputs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("members", ["together", "apart"])
@pytest.mark.parametrize("memory", ["rows", "channels_last"])
@pytest.mark.parametrize("optimizer", [SGD, partial(torch.optim.Adam, lr=1e-3)], ids=["sgd", "adam"])
def test_cuda_graphs_train_as_steps_one_by_one(members, memory, optimizer):
    if members == "together" and memory == "channels_last":
        pytest.skip("there is no such layout")
    results = []
    for step in ("eager", "graph"):
        ensemble = Ensemble.initialise(model_factory(CNN, digits()), range(3))
        recipe = {"epochs": 2, "batch_size": 64, "optimizer": optimizer, "schedule": Cosine()}
        training = EnsembleTraining(subsets=AllBut(400, ()).indices(range(3)), **recipe)
        training.attach(ensemble, digits(), seed=0, role="original", members=range(3))
        engine = {"step": step, "members": members, "memory": memory}
        training.fit(trainer_factory({**TRAINER, "accelerator": "gpu", "engine": engine}))
        results.append(ensemble.logits(digits().inputs[:500]))
    torch.testing.assert_close(results[1], results[0], atol=2e-2, rtol=2e-2)
