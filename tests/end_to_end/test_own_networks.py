"""A network of one's own: any module trains, and scores that read its features say so when it has none."""

import pytest

from dmm_exp.console import progress
from dmm_exp.errors import UserError

OWN = """
from torch import nn

class Own(nn.Sequential):
    def __init__(self, input_shape, n_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, n_classes))


class Recurrent(nn.Module):
    def __init__(self, input_shape, n_classes):
        super().__init__()
        self.layer, self.head = nn.GRU(8, 4), nn.Linear(4, n_classes)

    def forward(self, inputs):
        return self.head(self.layer(inputs[:, 0])[0][:, -1])
"""
CHOICES = ["model=logistic", "~model.network.hidden", "model.network._target_=own_network.Own", "training.epochs=1"]


@pytest.fixture(autouse=True)
def own_network(tmp_path, monkeypatch):
    (tmp_path / "own_network.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_module_without_features_trains(start, tmp_path):
    found = start(tmp_path / "out", *CHOICES, "forget=random", "n_models=2", "unlearner=do_nothing")
    assert found.metrics["cost/unlearning"] == 0


def test_entanglement_is_refused_before_anything_is_made(start, tmp_path):
    with pytest.raises(UserError, match=r"own_network\.Own has no method features\(inputs\)"):
        start(tmp_path / "out", *CHOICES, "forget=rum_high_es")
    assert not list(tmp_path.glob("out/artifacts/*/*"))


def test_networks_that_cannot_be_stacked_are_trained_one_at_a_time(start, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_NOTED", set())
    choices = [choice.replace("Own", "Recurrent") for choice in CHOICES]
    choices += ["forget=random", "n_models=2", "unlearner=finetune", "unlearner.epochs=1", "training.batch_size=500"]
    assert start(tmp_path / "out", *choices).metrics["cost/unlearning"] > 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "one at a time" in line)
    assert line.strip().startswith("this network cannot be trained stacked (gru has no stacked form)")
    with pytest.raises(UserError, match=r"^engine\.members=together: this network cannot be trained stacked"):
        start(tmp_path / "other", *choices, "engine.members=together")
