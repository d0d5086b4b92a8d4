"""Gradient features of one model, made of parts of the optional package ``dattri``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from dmm_exp.attribution.gradients import projection_block
from dmm_exp.data import Examples
from dmm_exp.ensembles.ensemble import is_of_stacking
from dmm_exp.errors import UserError, reason_of
from dmm_exp.models import functional_one_hot
from dmm_exp.store.temporary import temporary_folder

Batch = tuple[Tensor, ...]


def training_batches(examples: Examples, size: int) -> DataLoader[Any]:
    """Return all training examples and labels, in order, in batches of a size."""
    inputs, labels = (values[: examples.n_train] for values in (examples.inputs, examples.labels))
    return DataLoader(TensorDataset(inputs, labels), batch_size=size)


def classification_task(model: nn.Module) -> Any:
    """Return the package's description of a model whose loss is the mean cross-entropy, which is also its target."""
    from dattri.task import AttributionTask

    def loss(params: dict[str, Tensor], batch: Batch) -> Tensor:
        return functional.cross_entropy(functional_call(model, params, (batch[0],)), batch[1])

    return AttributionTask(loss, model, [model.state_dict()])


def logit_task(model: nn.Module) -> Any:
    """Return the package's description of a model whose target is one logit; batches are (inputs, their numbers)."""
    from dattri.task import AttributionTask

    def logit(params: dict[str, Tensor], batch: Batch) -> Tensor:
        logits = functional_call(model, params, (batch[0],))
        return (logits * functional_one_hot(batch[1], logits.shape[-1])).sum()

    return AttributionTask(logit, model, [model.state_dict()])


def gradients(task: Any, batch: Batch, layers: list[str] | None = None) -> Tensor:
    """Return each example's gradient of a task's target, ``[examples, parameters]``, by some parameters or by all."""
    params, _ = task.get_param(0, layer_name=layers)
    function = task.get_grad_target_func(layer_name=layers, ckpt_idx=0)
    try:
        return function(params, tuple(values.unsqueeze(0) for values in batch)).detach()
    except RuntimeError as error:
        if not is_of_stacking(error):
            raise
        raise UserError(
            f"attribution: dattri takes the gradients of several examples at once, which this network does not allow "
            f"({reason_of(error)}); expected attribution=trak, which takes one after another"
        ) from error


class DattriFeatures(ABC):
    """Features of losses and of logits.

    Args:
        model: the trained model.
        examples: the dataset, on the model's device.
    """

    def __init__(self, model: nn.Module, examples: Examples) -> None:
        self.model, self.examples = model, examples

    def train(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of losses ``[examples, width]``, and ``-1`` for each: training lowers a loss."""
        return self.of_losses(self.examples.inputs[points], self.examples.labels[points]), -torch.ones(len(points))

    def targets(self, points: Tensor) -> Tensor:
        """Return features of every logit, ``[examples, classes, width]``."""
        classes = self.examples.n_classes
        numbers = torch.arange(classes, device=points.device).repeat(len(points))
        features = self.of_logits(self.examples.inputs[points].repeat_interleave(classes, 0), numbers)
        return features.unflatten(0, (len(points), classes))

    @abstractmethod
    def of_losses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return features of losses ``[examples, width]``."""

    @abstractmethod
    def of_logits(self, inputs: Tensor, numbers: Tensor) -> Tensor:
        """Return features of one logit of each input, by its number; ``[examples, width]``."""


class ProjectedFeatures(DattriFeatures):
    """Gradients of all parameters, projected by the package's random projection.

    Args:
        model: the trained model.
        examples: the dataset, on the model's device.
        width: dimension after projection; gradients of fewer parameters are left as they are.
        seed: of the projection.
    """

    def __init__(self, model: nn.Module, examples: Examples, width: int, seed: int) -> None:
        super().__init__(model, examples)
        self.losses, self.logits = classification_task(model), logit_task(model)
        self.project = projection(sum(value.numel() for value in model.parameters()), width, seed, examples)

    def of_losses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return projected gradients of losses."""
        return self.project(gradients(self.losses, (inputs, labels)))

    def of_logits(self, inputs: Tensor, numbers: Tensor) -> Tensor:
        """Return projected gradients of logits."""
        return self.project(gradients(self.logits, (inputs, numbers)))


class ArnoldiFeatures(DattriFeatures):
    """Gradients in leading eigenvectors of the Hessian, each divided by the square root of its eigenvalue.

    Args:
        model: the trained model.
        examples: the dataset, on the model's device.
        make: makes the package's attributor of a task.
        width: number of features; where fewer eigenvalues are positive, the others are zero.
    """

    def __init__(self, model: nn.Module, examples: Examples, make: Callable[[Any], Any], width: int) -> None:
        super().__init__(model, examples)
        self.losses, self.logits, self.width = classification_task(model), logit_task(model), width
        self.attributor = make(self.losses)
        self.attributor.cache(training_batches(examples, examples.n_train))

    def of_losses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return features of losses."""
        return self._padded(self.attributor.transform_train_rep(0, gradients(self.losses, (inputs, labels))))

    def of_logits(self, inputs: Tensor, numbers: Tensor) -> Tensor:
        """Return features of logits."""
        return self._padded(self.attributor.transform_test_rep(0, gradients(self.logits, (inputs, numbers))))

    def _padded(self, features: Tensor) -> Tensor:
        features = features.masked_fill(features.isnan().all(0), 0)  # the root of a negative eigenvalue
        return functional.pad(features, (0, self.width - features.shape[1]))


class EKFACFeatures(DattriFeatures):
    """Gradients of linear layers times the square root of the inverse Fisher matrix, projected at random.

    Half of the inverse on either side: a projection keeps inner products up to the vectors' lengths, and a gradient
    times the whole inverse is almost all in directions that no gradient has.

    Args:
        model: the trained model.
        examples: the dataset, on the model's device.
        width: dimension after projection; gradients of fewer parameters are left as they are.
        damping: in multiples of the mean eigenvalue.
        seed: of the projection.
    """

    def __init__(self, model: nn.Module, examples: Examples, width: int, damping: float, seed: int) -> None:
        from dattri.algorithm import IFAttributorEKFAC

        super().__init__(model, examples)
        self.losses, self.logits = classification_task(model), logit_task(model)
        self.attributor = IFAttributorEKFAC(self.losses, device=examples.inputs.device.type)
        with eigenvectors_in_rows():
            self.attributor.cache(training_batches(examples, 256))
        fisher = self.attributor.cached_lambdas
        mean = float(torch.cat([values.flatten() for values in fisher.values()]).mean())
        self.attributor.cached_lambdas = {name: (values + damping * mean).sqrt() for name, values in fisher.items()}
        self.project = projection(sum(values.numel() for values in fisher.values()), width, seed, examples)

    def of_losses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return features of losses."""
        return self._whitened(self.losses, (inputs, labels))

    def of_logits(self, inputs: Tensor, numbers: Tensor) -> Tensor:
        """Return features of logits."""
        return self._whitened(self.logits, (inputs, numbers))

    def _whitened(self, task: Any, batch: Batch) -> Tensor:
        return self.project(self.attributor.transform_test_rep(0, gradients(task, batch, self.attributor.layer_name)))


@contextmanager
def eigenvectors_in_rows() -> Iterator[None]:
    """Let the package's EK-FAC find eigenvectors in rows while the body runs.

    It multiplies by them as if they were rows, but takes them as ``torch.linalg.eigh`` returns them, in columns: in
    version 0.3.0 its eigenvalues belong to a basis that has nothing to do with the Fisher matrix.
    """
    from dattri.func import fisher

    original = fisher.estimate_eigenvector

    def transposed(covariances: Any) -> dict[str, tuple[Tensor, ...]]:
        return {name: tuple(value.T for value in pair) for name, pair in original(covariances).items()}

    fisher.estimate_eigenvector = transposed
    try:
        yield
    finally:
        fisher.estimate_eigenvector = original


class CompressedFeatures(DattriFeatures):
    """Gradients of linear layers compressed factor by factor; those of losses times their inverse Fisher matrix.

    Args:
        model: the trained model.
        examples: the dataset, on the model's device.
        make: makes the package's attributor of keyword arguments.
        seed: of the compression.
    """

    def __init__(self, model: nn.Module, examples: Examples, make: Callable[..., Any], seed: int) -> None:
        super().__init__(model, examples)
        self.device = examples.inputs.device.type
        with temporary_folder() as folder, torch.compiler.set_stance("force_eager"):
            self.attributor = make(task=_MeanLoss(model), device=self.device, offload="none", cache_dir=str(folder))
            self.attributor.compressors = self._compressors(seed)
            self.attributor.cache(training_batches(examples, 256))
        layers = range(len(self.attributor.layer_names))
        inverses = [self.attributor.offload_manager.retrieve_preconditioner(layer) for layer in layers]
        self.inverse = torch.block_diag(*inverses).to(self.device)

    def of_losses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return compressed gradients of losses, times the inverse Fisher matrix of each layer."""
        return self._compressed(inputs, lambda logits: functional.cross_entropy(logits, labels)) @ self.inverse

    def of_logits(self, inputs: Tensor, numbers: Tensor) -> Tensor:
        """Return compressed gradients of logits."""
        return self._compressed(inputs, lambda logits: logits.gather(1, numbers[:, None]).mean())

    def _compressors(self, seed: int) -> Any:
        from dattri.algorithm.block_projected_if.core.compressor import setup_model_compressors

        stages = (self.attributor.sparsifier_kwargs, self.attributor.projector_kwargs)
        sparsifier, projector = ({**stage, "proj_seed": seed} for stage in stages)
        one: Any = self.examples.inputs[:1].unsqueeze(0)  # the package drops the first dimension
        names = self.attributor.layer_names
        return setup_model_compressors(self.model, names, sparsifier, projector, one, self.device)

    def _compressed(self, inputs: Tensor, output: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``[examples, width]`` of a mean over examples; the package multiplies by their number."""
        from dattri.algorithm.block_projected_if.core.hook import HookManager

        hooks = HookManager(self.model, self.attributor.layer_names, device=self.device)
        hooks.set_compressors(self.attributor.compressors)
        try:
            with torch.compiler.set_stance("force_eager"):
                output(self.model(inputs)).backward()
            return torch.cat([values.detach() for values in hooks.get_compressed_grads()], dim=1)
        finally:
            hooks.remove_hooks()


class _MeanLoss:
    """What of a task the package's compressed methods use."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def get_model(self) -> nn.Module:
        return self.model

    def _load_checkpoints(self, index: int) -> None:
        """Do nothing: the model is loaded."""

    def original_loss_func(self, model: nn.Module, batch: Batch, device: str) -> Tensor:
        inputs, labels = (values.to(device) for values in batch)
        return functional.cross_entropy(model(inputs), labels)


def projection(size: int, width: int, seed: int, examples: Examples) -> Callable[[Tensor], Tensor]:
    """Return the package's random projection of ``[rows, size]`` to ``[rows, width]``; what is not wider is left."""
    from dattri.func.projection import BasicProjector, ProjectionType

    if size <= width:
        return lambda values: values
    kind, block = ProjectionType("normal"), projection_block(size, width)
    projector = BasicProjector(size, width, seed, kind, examples.inputs.device, block)
    return lambda values: projector.project(values, ensemble_id=0)
