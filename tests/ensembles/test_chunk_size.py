"""``model.chunk_size=auto``: measured, remembered, and said."""

import pytest
from torch import nn

from dmm_exp.data import Digits, Normalisation
from dmm_exp.ensembles import chunk_size
from dmm_exp.ensembles.chunk_size import fastest, said_of, seconds_per_member
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


def measured(target: str, **options):
    examples = Digits(Normalisation(16, [0.305], [0.376])).load()
    build = model_factory({"_target_": target, **options}, examples)
    return seconds_per_member(build, examples, TRAINING, {"accelerator": "cpu"}, sizes=(1, 2, 20))


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
    def seconds(build, examples, training, trainer, size):
        if size > 2:
            raise error
        return 1.0

    monkeypatch.setattr(chunk_size, "_seconds", seconds)
    assert measured("dmm_exp.models.MLP", hidden=[8]) == {1: 1.0, 2: 0.5}


def test_what_was_chosen_is_said():
    assert said_of({"chosen": 50, "seconds": {"1": 0.01, "50": 0.0005}}) == (
        "50 members together are fastest on this device (0.5 ms a step and member, 20.0 times as fast as one at a time)"
    )
    assert "1 member at a time is fastest" in said_of({"chosen": 1, "seconds": {"1": 0.01}})
