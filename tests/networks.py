"""Small networks and data that tests delete rows from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from dmm_exp.config.instantiate import instantiate
from dmm_exp.deletion.recipes import composed
from dmm_exp.ensembles.work import model_factory

IMAGE = (1, 6, 6)


class Tied(nn.Module):
    """Two layers that share one matrix."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, classes)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.second(self.first(inputs.flatten(1)).relu()).relu())


class Scaled(nn.Module):
    """A layer that PyTorch cannot initialise anew."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.scale


class Casting(nn.Sequential):
    """Takes inputs of any type, as networks in half precision need."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.to(self[-1].weight.dtype))


def mlp(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, classes))


def batch_normed(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


def dropping(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, classes))


def casting(width: int, classes: int) -> nn.Module:
    return Casting(nn.Flatten(), nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, classes))


def frozen(width: int, classes: int) -> nn.Module:
    network = mlp(width, classes)
    network[1].requires_grad_(False)  # pyright: ignore[reportIndexIssue]
    return network


def scaled(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(width, classes), Scaled())


def cnn(classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, classes))


NETWORKS: list[Callable[[int, int], nn.Module]] = [
    nn.Linear,
    mlp,
    batch_normed,
    dropping,
    casting,
    frozen,
    Tied,
    scaled,
]


class Pairs(TorchDataset[tuple[Tensor, int]]):
    """A map-style dataset of a person's own."""

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs[index], int(self.labels[index])


def blobs(count: int, width: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return (inputs, labels): a normal cloud a class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = 3 * torch.randn(classes, width, generator=torch.Generator().manual_seed(1))
    return centres[labels] + torch.randn(count, width, generator=generator), labels


def checkpoint(words: Sequence[str], steps: int) -> nn.Module:
    """Train the network that a command line names on its dataset, save it as ``net.pt`` here, and return it."""
    config = composed(list(words))
    torch.manual_seed(0)
    examples = instantiate(config.dataset).load()
    network = model_factory(config.model.network, examples)()
    trained(network, examples.inputs[: examples.n_train], examples.labels[: examples.n_train], steps=steps)
    torch.save(network.network.state_dict(), "net.pt")
    return network.network


def trained(network: nn.Module, inputs: Tensor, labels: Tensor, steps: int = 100, lr: float = 0.1) -> nn.Module:
    """Train a network a little, and return it in eval mode."""
    optimizer = torch.optim.SGD((value for value in network.parameters() if value.requires_grad), lr=lr, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network.train()(inputs), labels).backward()
        optimizer.step()
    return network.eval()
