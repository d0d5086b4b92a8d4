"""``python -m dmm_exp.unlearn`` with a network, names and values as people have them."""

import pytest
import torch
from networks import trained

from dmm_exp.config.instantiate import instantiate
from dmm_exp.deletion.recipes import composed
from dmm_exp.ensembles.work import model_factory

OWN = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, input_shape, n_classes, width: int = 5):
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, n_classes))
"""
NET = ["model.network._target_=nets_of_mine.Net", "model.network.width=7"]
ASKED = ["forget.indices=rows.csv", "unlearner=gradient_ascent", "unlearner.epochs=1", "executor=local"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a network of one's own, its checkpoint, and rows."""
    (tmp_path / "nets_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    from nets_of_mine import Net

    config = composed([])
    examples = instantiate(config.dataset).load()
    torch.manual_seed(0)
    wrapped = model_factory({"_target_": "nets_of_mine.Net", "width": 7}, examples)()
    trained(wrapped, examples.inputs[: examples.n_train], examples.labels[: examples.n_train], steps=60)
    assert isinstance(wrapped.network, Net)
    torch.save(wrapped.network.state_dict(), tmp_path / "net (1), größe.pt")
    (tmp_path / "rows.csv").write_text("row\n3\n1\n4\n")
    return tmp_path


def test_the_documented_way_to_name_ones_own_network_works_with_any_names(command, folder):
    names = ["request.checkpoint=net (1), größe.pt", "request.output=007"]
    done = command("unlearn", *NET, *ASKED, *names, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "007"
    assert (folder / "007" / "deletion.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["checkpoint=net.pt"], "there is no key 'checkpoint'; did you mean 'request.checkpoint=net.pt'?"),
        (["verify=10"], "did you mean 'request.verify=10'?"),
        (["request.checkpoint=net.pt", "request.output="], "'request.output=': has no value"),
        (["request.checkpiont=net.pt"], "did you mean 'checkpoint'?"),
        (["unlearner.lr=1"], "did you mean 'unlearner.optimizer.lr'?"),
        (["forget.indices=größe (1).csv"], """as in 'forget.indices="größe (1).csv"'"""),
        (["--pool", "p"], "'--pool': there is no such option"),
    ],
)
def test_a_slip_is_one_sentence(command, folder, arguments, said):
    done = command("unlearn", *arguments, cwd=folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert said in done.stderr
