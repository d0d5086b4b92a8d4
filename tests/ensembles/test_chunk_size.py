"""``model.chunk_size=auto``: measured, remembered, and said."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dmm_exp.data import Digits, Normalisation
from dmm_exp.ensembles import chunk_size
from dmm_exp.ensembles.chunk_size import Measurement, chosen_among, fastest, in_words
from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.work import model_factory
from dmm_exp.errors import UserError

TRAINING = {
    "epochs": 1,
    "batch_size": 32,
    "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1},
    "schedule": {"_target_": "dmm_exp.ensembles.schedules.Constant"},
}


class Dropping(nn.Sequential):
    def __init__(self, input_shape, n_classes) -> None:
        super().__init__(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, n_classes))


PLAIN = Engine().settled()


def measurement(target: str, engine=None, **options) -> Measurement:
    examples = Digits(Normalisation(16, [0.305], [0.376])).load()
    build = model_factory({"_target_": target, **options}, examples)
    return Measurement(build, examples, TRAINING, {"accelerator": "cpu", "engine": engine or {}})


def measured(target: str, **options):
    return measurement(target, **options).seconds_per_member(PLAIN, (1, 2, 20))


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [({1: 3.0}, 1), ({1: 3.0, 2: 2.0, 5: 1.0}, 5), ({1: 1.0, 2: 0.96}, 1), ({1: 3.0, 2: 1.0, 5: 0.99, 10: 1.4}, 2)],
)
def test_the_smallest_size_that_is_nearly_the_fastest_is_chosen(seconds, chosen):
    assert fastest(seconds) == chosen


def test_small_networks_train_faster_together(monkeypatch):
    monkeypatch.setattr(chunk_size, "LEAST_SECONDS", 0.02)
    seconds = measured("dmm_exp.models.MLP", hidden=[8])
    assert list(seconds) == [1, 2, 20]
    assert fastest(seconds) == 20  # by a factor of about ten


def test_what_cannot_train_together_trains_alone(monkeypatch):
    monkeypatch.setattr(chunk_size, "LEAST_SECONDS", 0.0)
    assert list(measured(f"{__name__}.Dropping")) == [1]


@pytest.mark.parametrize("error", [MemoryError(), UserError("refused")])
def test_measuring_ends_at_a_size_that_fails(monkeypatch, error):
    def seconds(self, engine, size):
        if size > 2:
            raise error
        return 1.0

    monkeypatch.setattr(Measurement, "_seconds", seconds)
    assert measured("dmm_exp.models.MLP", hidden=[8]) == {1: 1.0, 2: 0.5}


def test_one_long_measurement_neither_ends_the_search_nor_decides_it(monkeypatch):
    calls: list[int] = []

    def seconds(self, engine, size):
        calls.append(size)
        return {1: 1.0, 2: 1.2, 20: 5.0}[size] * (10 if size > 1 and calls.count(size) == 1 else 1)

    monkeypatch.setattr(Measurement, "_seconds", seconds)
    assert measured("dmm_exp.models.MLP", hidden=[8]) == {1: 1.0, 2: 0.6, 20: 0.25}


@pytest.mark.parametrize(("noisy", "rounds", "chosen"), [(1, 2, 20), (2, 3, 20), (99, 2, 2)])
def test_it_is_measured_again_until_that_does_not_change_the_choice(monkeypatch, noisy, rounds, chosen):
    """The times of 20 are too long until another program ends."""
    calls: list[int] = []

    def seconds(self, engine, size):
        calls.append(size)
        return {1: 1.0, 2: 1.8, 20: 14.0 if calls.count(20) > noisy else 20.0}[size]

    monkeypatch.setattr(Measurement, "_seconds", seconds)
    found = measured("dmm_exp.models.MLP", hidden=[8])
    assert calls.count(20) == 1 + rounds
    assert fastest(found) == chosen


def test_a_size_that_is_slow_twice_ends_the_search(monkeypatch):
    calls: list[int] = []

    def seconds(self, engine, size):
        calls.append(size)
        return {1: 1.0, 2: 4.0, 20: 1.0}[size]

    monkeypatch.setattr(Measurement, "_seconds", seconds)
    assert measured("dmm_exp.models.MLP", hidden=[8]) == {1: 1.0, 2: 2.0}
    assert calls == [1, 2, 2, 1, 1]


def test_what_was_chosen_is_said():
    found = chosen_among([(PLAIN, {1: 0.01, 50: 0.0005})])
    assert in_words(found) == (
        "50 members together are fastest on this device (0.5 ms a step and member, 20.0 times as fast as one at a time)"
    )
    assert "1 member at a time is fastest" in in_words(chosen_among([(PLAIN, {1: 0.01})]))


def test_the_fastest_engine_is_chosen_and_named():
    other = Engine("graph", "apart", "rows")
    found = chosen_among([(PLAIN, {1: 3.0, 2: 2.0}), (other, {1: 3.0, 2: 1.0})])
    assert (found["chosen"], Engine(**found["engine"])) == (2, replace(other, measured=True))
    assert "by step=graph, members=apart, memory=rows (1e+03 ms a step and member, 3.0 times" in in_words(found)


def test_a_host_looks_at_stacked_members_and_at_images_that_are_channels_last():
    images = measurement("dmm_exp.models.CNN", channels=[4])
    assert [engine.words() for engine in images.engines()] == [
        "step=eager, members=together, memory=rows",
        "step=eager, members=fused, memory=rows",
        "step=eager, members=apart, memory=channels_last",
    ]


def test_a_gpu_looks_at_recorded_steps_and_streams_too():
    images = measurement("dmm_exp.models.CNN", channels=[4])
    images.device = torch.device("cuda")
    found = [(engine.step, engine.members, engine.memory) for engine in images.engines()]
    assert found == [
        (step, *layout)
        for step in ("eager", "graph")
        for layout in (("together", "rows"), ("apart", "rows"), ("apart", "channels_last"))
    ]


def test_an_engine_that_was_asked_for_is_the_only_one():
    asked = {"step": "eager", "members": "apart", "memory": "rows"}
    assert measurement("dmm_exp.models.CNN", asked, channels=[4]).engines() == [Engine(**asked)]


def test_an_engine_that_trains_wrongly_is_left_out(monkeypatch):
    images = measurement("dmm_exp.models.CNN", channels=[4])
    monkeypatch.setattr(Measurement, "seconds_per_member", lambda self, engine, sizes: {1: 1.0})
    monkeypatch.setattr(Measurement, "losses", lambda self, engine: [1.0, 2.0 if engine.members == "apart" else 1.0])
    found = list(images.everything(None))
    assert [engine.members for engine, _ in found] == ["together", "fused"]
    (reason,) = images.left_out.values()
    assert reason == "its loss after a few steps is 2 instead of 1"
    said = in_words(chosen_among(found) | {"left out": images.left_out})
    assert said.endswith(f"; left out: step=eager, members=apart, memory=channels_last ({reason})")


def test_a_given_size_that_does_not_fit_is_measured_in_halves(monkeypatch):
    def seconds(self, engine, size):
        if size > 3:
            raise MemoryError
        return float(size)

    monkeypatch.setattr(Measurement, "_seconds", seconds)
    small = measurement("dmm_exp.models.MLP", {"members": "together"}, hidden=[8])
    assert list(small.everything(10)) == [(Engine("eager", "together", "rows"), {10: 1.0})]


def test_engines_agree_on_the_loss_after_a_few_steps():
    images = measurement("dmm_exp.models.CNN", channels=[4])
    (first, last), *others = (images.losses(engine) for engine in images.engines())
    assert len(others) == 2
    for other in others:
        assert other == pytest.approx([first, last], rel=1e-4)
    assert last < 2.3  # of ten classes, at first
