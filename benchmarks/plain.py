"""The plain way to train one model: a LightningModule, a DataLoader, a Trainer, by the recipe of the configuration.

``python -m benchmarks.plain MODEL SEED`` trains one in a process of its own and prints its validation accuracy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.schema import Config, plain, register
from dmm_exp.data import Examples
from dmm_exp.ensembles import Ensemble, EnsembleModule, EnsembleTraining, member_seed
from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.work import model_factory, recipe, trainer_factory


class PlainModule(LightningModule):
    """One network under cross-entropy, with the optimizer and schedule of a recipe."""

    def __init__(self, network: nn.Module, parts: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.parts = network, parts

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        """Return the mean loss of a batch of inputs and labels."""
        inputs, labels = batch
        return functional.cross_entropy(self.network(inputs), labels)

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and its schedule stepped every batch."""
        optimizer = self.parts["optimizer"](self.network.parameters())
        steps, epochs = int(self.trainer.estimated_stepping_batches), self.parts["epochs"]
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.parts["schedule"](step / steps * epochs, epochs)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class Work:
    """What is trained: a model of the configuration on the digits, by its recipe; the engine's way and two plain ones.

    Attributes:
        config: the composed configuration.
        examples: the digits.
    """

    config: Config
    examples: Examples

    @classmethod
    @cache
    def of(cls, model: str, *overrides: str) -> Work:
        """Return the work that a choice of ``model`` stands for."""
        register()
        chosen = [f"model={model}", "trainer.accelerator=cpu", *overrides]
        (config,) = check_overrides(config_directory(), chosen)
        return cls(config, instantiate(config.dataset).load())

    def fresh(self, seed: int) -> nn.Module:
        """Return the network that the engine starts member ``seed`` from."""
        return Ensemble.initialise(self._build, [self._initialisation(seed)]).member(0).train()

    def engine(self, members: range, chunk_size: int) -> list[Ensemble]:
        """Train members in chunks by the engine."""
        return [self.chunk(members[start : start + chunk_size])[0] for start in range(0, len(members), chunk_size)]

    def chunk(self, members: range) -> tuple[Ensemble, EnsembleModule]:
        """Train some members together, on the whole training set; return them and the module that did it."""
        subsets = torch.arange(self.examples.n_train).expand(len(members), -1)
        module = EnsembleTraining(subsets=subsets, **recipe(plain(self.config.training)))
        ensemble = Ensemble.initialise(self._build, map(self._initialisation, members))
        module.attach(ensemble, self.examples, seed=0, role="original", members=members)
        engine = asdict(Engine(**plain(self.config.engine)).settled())
        module.fit(trainer_factory({**self.config.trainer, "engine": engine}))
        return ensemble, module

    def lightning(self, seed: int) -> nn.Module:
        """Train one model by a Trainer of its own, on a DataLoader that shuffles."""
        torch.manual_seed(seed)
        batch_size = self.config.training.batch_size
        return self._fit(self.fresh(seed), DataLoader(self._data, batch_size=batch_size, shuffle=True))

    def lightning_over(self, module: EnsembleModule, network: nn.Module) -> nn.Module:
        """Train a network by a Trainer of its own, over the batches of the first member of ``module``."""
        return self._fit(network, DataLoader(self._data, batch_sampler=_Batches(module)))

    def _fit(self, network: nn.Module, loader: DataLoader) -> nn.Module:
        parts = recipe(plain(self.config.training))
        trainer_factory(self.config.trainer)(max_epochs=parts["epochs"]).fit(PlainModule(network, parts), loader)
        return network.eval()

    def loop(self, seed: int) -> nn.Module:
        """Train one model by a bare loop over tensors: neither Trainer nor DataLoader."""
        torch.manual_seed(seed)
        parts, network, n_train = recipe(plain(self.config.training)), self.fresh(seed), self.examples.n_train
        optimizer = parts["optimizer"](network.parameters())
        for epoch in range(parts["epochs"]):
            batches = torch.randperm(n_train).split(parts["batch_size"])
            for step, batch in enumerate(batches):
                rate = parts["schedule"](epoch + step / len(batches), parts["epochs"])
                for group in optimizer.param_groups:
                    group["lr"] = parts["optimizer"].keywords["lr"] * rate
                optimizer.zero_grad()
                functional.cross_entropy(network(self.examples.inputs[batch]), self.examples.labels[batch]).backward()
                optimizer.step()
        return network.eval()

    @torch.no_grad()
    def logits(self, networks: list[nn.Module]) -> Tensor:
        """Return logits ``[models, points, classes]`` on all points."""
        return torch.stack([network(self.examples.inputs) for network in networks])

    def accuracy(self, logits: Tensor) -> Tensor:
        """Return the accuracy of every model ``[models]`` on the validation points, from its logits on all."""
        validation = slice(self.examples.n_train, None)
        return (logits[:, validation].argmax(2) == self.examples.labels[validation]).double().mean(1)

    @property
    def _data(self) -> TensorDataset:
        n_train = self.examples.n_train
        return TensorDataset(self.examples.inputs[:n_train], self.examples.labels[:n_train])

    @property
    def _build(self) -> Any:
        return model_factory(self.config.model.network, self.examples)

    def _initialisation(self, index: int) -> int:
        return member_seed(0, "original", index, "initialisation")


class _Batches:
    """A batch sampler: what the first row of a module sees, an epoch after the other."""

    def __init__(self, module: EnsembleModule) -> None:
        self.module, self.epoch = module, 0

    def __iter__(self) -> Iterator[list[int]]:
        self.epoch += 1
        for batch in self.module.batches(self.epoch - 1):
            yield batch[0].tolist()

    def __len__(self) -> int:
        return sum(1 for _ in self.module.batches(0))


if __name__ == "__main__":
    torch.set_num_threads(1)
    work = Work.of(sys.argv[1])
    print(float(work.accuracy(work.logits([work.lightning(int(sys.argv[2]))]))))
