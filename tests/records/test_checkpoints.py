"""Checkpoints are read as numbers; a file that would run code is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from networks import Tied, batch_normed, blobs, mlp
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dmm_exp import unlearn
from dmm_exp.errors import UserError
from dmm_exp.records.checkpoints import fill

WIDTH, CLASSES = 4, 3


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


class Module(lightning.LightningModule):
    """A network as people train it with Lightning."""

    def __init__(self, width: int, classes: int, names: list[str]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = batch_normed(width, classes)
        self.register_buffer("weights_of_loss", torch.ones(classes))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1], weight=self.weights_of_loss)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 1e-3)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


def refused(path: Path, network: nn.Module | None = None) -> str:
    with pytest.raises(UserError) as error:
        fill(mlp(WIDTH, CLASSES) if network is None else network, path)
    said = str(error.value)
    assert len(said.splitlines()) == 1
    assert path.name in said
    return said


def same(one: nn.Module, other: nn.Module) -> bool:
    found, expected = one.state_dict(), other.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.ckpt", "a.bin", "a"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_is_read_whatever_the_file_is_called(tmp_path, name, legacy):
    network = batch_normed(WIDTH, CLASSES)
    torch.save(network.state_dict(), tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert same(fill(batch_normed(WIDTH, CLASSES), tmp_path / name), network)


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod.", "model._orig_mod.", "module.net."])
def test_names_may_have_something_in_front(tmp_path, prefix):
    network = mlp(WIDTH, CLASSES)
    tensors = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    tensors |= {"loss.x": torch.ones(2)} if prefix.replace("_orig_mod.", "") else {}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "a.ckpt")
    save_file(tensors, tmp_path / "a.safetensors")
    for name in ("a.ckpt", "a.safetensors"):
        assert same(fill(mlp(WIDTH, CLASSES), tmp_path / name), network)


def test_layers_may_be_compiled_one_by_one(tmp_path):
    network = mlp(WIDTH, CLASSES)
    torch.save({name.replace("1.", "1._orig_mod."): v for name, v in network.state_dict().items()}, tmp_path / "a.pt")
    assert same(fill(mlp(WIDTH, CLASSES), tmp_path / "a.pt"), network)


def test_wrapped_networks_are_saved_and_read(tmp_path):
    network = mlp(WIDTH, CLASSES)
    torch.save(nn.DataParallel(network).state_dict(), tmp_path / "parallel.pt")
    torch.save(torch.compile(network).state_dict(), tmp_path / "compiled.pt")
    for name in ("parallel.pt", "compiled.pt"):
        assert same(fill(mlp(WIDTH, CLASSES), tmp_path / name), network)


def test_tied_weights_are_read(tmp_path):
    network = Tied(WIDTH, CLASSES)
    torch.save(network.state_dict(), tmp_path / "a.pt")
    found = fill(Tied(WIDTH, CLASSES), tmp_path / "a.pt")
    assert same(found, network)
    assert found.second.weight is found.first.weight


@pytest.fixture(scope="module")
def lightning_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lightning")
    torch.manual_seed(0)
    module = Module(WIDTH, CLASSES, ["a", "b", "c"])
    trainer = lightning.Trainer(
        max_epochs=20, logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(*blobs(24, WIDTH, CLASSES)), batch_size=8))
    trainer.save_checkpoint(folder / "last.ckpt")
    return module, folder / "last.ckpt"


def test_a_checkpoint_of_lightning_fills_the_module_and_the_network_in_it(lightning_checkpoint):
    module, path = lightning_checkpoint
    assert "hyper_parameters" in torch.load(path, weights_only=True)
    assert same(fill(Module(WIDTH, CLASSES, []), path), module)
    assert same(fill(batch_normed(WIDTH, CLASSES), path), module.model)


def test_unlearning_begins_with_a_checkpoint(lightning_checkpoint):
    module, path = lightning_checkpoint
    data = blobs(24, WIDTH, CLASSES)
    options: dict[str, Any] = {"method": "finetune epochs=1", "progress": False}
    from_file = unlearn(path, data, [1, 2], factory=lambda: batch_normed(WIDTH, CLASSES), **options).model
    from_memory = unlearn(module.model, data, [1, 2], **options).model
    assert same(from_file, from_memory)
    assert not same(from_file, module.model)
    whole = unlearn(str(path), data, [1, 2], factory=lambda: Module(WIDTH, CLASSES, []), **options).model
    assert isinstance(whole, Module)
    assert same(whole.model, from_memory)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["a.pt", "a.ckpt", "a.pth", "a.bin", "a.safetensors", "a"])
@pytest.mark.parametrize("how", ["torch", "torch legacy", "within a state dict", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, name, how):
    marker, path = tmp_path / "marker", tmp_path / name
    evil: Any = Evil(marker)
    if how == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif how == "within a state dict":
        torch.save({"state_dict": mlp(WIDTH, CLASSES).state_dict(), "hyper_parameters": evil}, path)
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=how == "torch")
    said = refused(path)
    assert not marker.exists()
    assert ("cannot be read as safetensors" if name.endswith("safetensors") else "would run code") in said


def test_the_malicious_file_is_malicious(tmp_path):
    torch.save(Evil(tmp_path / "marker"), tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "marker").is_dir()


def test_unlearn_refuses_a_malicious_checkpoint_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil(tmp_path / "marker")}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="would run code"):
        unlearn("a.pt", blobs(24, WIDTH, CLASSES), [1], factory=lambda: mlp(WIDTH, CLASSES), progress=False)
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_pickled_network_is_refused(tmp_path):
    torch.save(mlp(WIDTH, CLASSES), tmp_path / "a.pt")
    assert "would run code" in refused(tmp_path / "a.pt")


def test_a_script_is_refused(tmp_path):
    torch.jit.trace(mlp(WIDTH, CLASSES), torch.zeros(2, WIDTH)).save(str(tmp_path / "a.pt"))
    refused(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
@pytest.mark.parametrize("content", [b"", b"\x00", b"no checkpoint", b"\xff" * 64, b"PK\x03\x04" + b"\x00" * 40])
def test_a_file_of_something_else_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_truncated_file_is_refused(tmp_path, name):
    tensors = mlp(WIDTH, CLASSES).state_dict()
    (save_file if name.endswith("safetensors") else torch.save)(tensors, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 9):
        (tmp_path / name).write_bytes(whole[:length])
        refused(tmp_path / name)


@pytest.mark.parametrize("name", ["", "missing.pt", "x" * 5000, "a\0b"])
def test_what_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="there is no such file"):
        fill(mlp(WIDTH, CLASSES), tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 3}, torch.ones(3), {"state_dict": {}}])
def test_a_file_without_tensors_by_name_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    assert "holds no tensors by name" in refused(tmp_path / "a.pt")


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    torch.save(mlp(WIDTH + 1, CLASSES).state_dict(), tmp_path / "wider.pt")
    assert f"'1.weight' is [8, {WIDTH + 1}], that of the network [8, {WIDTH}]" in refused(tmp_path / "wider.pt")
    torch.save(batch_normed(WIDTH, CLASSES).state_dict(), tmp_path / "other.pt")
    assert "has no tensor for '3.weight'" in refused(tmp_path / "other.pt")


def test_a_network_without_numbers_takes_no_checkpoint(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", nn.ReLU())
