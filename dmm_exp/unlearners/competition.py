"""Methods that did best in the NeurIPS 2023 competition: disturb the kernels, then descend on the retain set.

They have their names from Cadet et al., "Deep Unlearn: Benchmarking Machine Unlearning for Image Classification",
arXiv 2410.01276, who compare 18 methods; its published code (methods "KGL Top 2" and "KGL Top 5") is what is meant
where words leave something open. The competition: Triantafillou et al., arXiv 2406.09073.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dmm_exp.ensembles import member_generator
from dmm_exp.errors import UserError
from dmm_exp.unlearners.gradients import mean_gradients
from dmm_exp.unlearners.unlearner import FineTuning, Fit, descent, shuffled

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class MSG(FineTuning):
    """Begin again with the weights that neither set needs, and descend on the retain set (masked small gradients, MSG).

    In every convolution these are the share ``fraction`` of its weights with the smallest absolute gradient of
    ``CE_R' − CE_F`` at the original, with a random part ``R'`` of the retain set as large as the forget set. They
    become normal numbers of variance two over the number of outputs that a weight takes part in. While the network is
    fine-tuned, the gradients of the convolutions' other weights are multiplied by ``damping``. In a network without
    convolutions, linear layers take their place (an extension of ours: the method was made for images).

    Args:
        fraction: share of a kernel's weights that begin again, in [0, 1].
        damping: factor of the gradients of the other ones, in [0, 1].
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`.

    Raises:
        UserError: a share is out of range, or (when it unlearns) the network has neither kind of layer.
    """

    losses = descent

    def __init__(self, *, fraction: float = 0.3, damping: float = 0.1, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        if not (0 <= fraction <= 1 and 0 <= damping <= 1):
            raise UserError(
                f"unlearner.fraction={fraction}, unlearner.damping={damping}: expected numbers between 0 and 1"
            )
        self.fraction, self.damping = fraction, damping

    @torch.no_grad()
    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Begin again with some weights; return factors of the gradients of all weights of these layers, by name."""
        names = self._kernels(fit)
        gradients, factors = self._gradients(fit), {}
        generators = [member_generator(fit.task.seed, "unlearned", index, "noise") for index in fit.task.members]
        for name in names:
            value = fit.ensemble.params[name]
            new = smallest(gradients[name].abs(), self.fraction)
            drawn = torch.stack([torch.randn(value.shape[1:], generator=generator) for generator in generators])
            spread = (2 * value.shape[2] / value[0].numel()) ** 0.5  # He et al., arXiv 1502.01852, by outputs
            value.copy_(torch.where(new, spread * drawn.to(value), value))
            factors[name] = torch.where(new, 1.0, self.damping)
        return factors

    @torch.enable_grad()
    def _gradients(self, fit: Fit) -> dict[str, Tensor]:
        """Return the gradient of the retain set's cross-entropy, on a part, less the forget set's."""
        task, at_once = fit.task, self.optimisation.batch_size
        generators = (member_generator(task.seed, "unlearned", index, "subset") for index in task.members)
        parts = [shuffled(task.of(row).retain, generator) for row, generator in enumerate(generators)]
        retain = mean_gradients(fit, torch.stack(parts)[:, : task.n_forget], at_once)
        forget = mean_gradients(fit, task.forget, at_once)
        return {name: value - forget[name] for name, value in retain.items()}

    def _kernels(self, fit: Fit) -> list[str]:
        network, trained = fit.ensemble.skeleton, fit.ensemble.params
        found = weights_of(network, CONVOLUTIONS) or weights_of(network, (nn.Linear,))
        kernels = [name for name in found if name in trained]
        if not kernels:
            raise UserError(
                "unlearner=msg: begins again with parts of convolutions or linear layers; this network has none"
            )
        return kernels

    def before_step(self, fit: Fit, indices: Tensor) -> None:
        """Damp the gradients of weights that were kept."""
        for name, value in fit.ensemble.params.items():
            if name in fit.kept and value.grad is not None:
                value.grad.mul_(fit.kept[name])


class CT(FineTuning):
    """Transpose the kernels of all convolutions, and descend on the retain set (convolution transpose, CT).

    Args:
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`.

    Raises:
        UserError: (when it unlearns) the network has no kernels that can be transposed.
    """

    losses = descent

    @torch.no_grad()
    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Exchange rows and columns of every kernel."""
        kernels = [fit.ensemble.params.get(name) for name in weights_of(fit.ensemble.skeleton, (nn.Conv2d,))]
        larger = [value for value in kernels if value is not None and value.shape[-1] > 1]
        if not larger or any(value.shape[-1] != value.shape[-2] for value in larger):
            raise UserError(
                "unlearner=ct: transposes the kernels of convolutions of images; expected a network with such "
                "convolutions, all kernels of them square and some larger than 1×1"
            )
        for value in larger:
            value.copy_(value.mT.clone())
        return {}


def weights_of(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    """Return the names of the weights of some kinds of layers."""
    return [f"{name}.weight".lstrip(".") for name, module in network.named_modules() if isinstance(module, kinds)]


def smallest(values: Tensor, share: float) -> Tensor:
    """Return which of every member's numbers ``[members, ...]`` are among the smallest share of its own."""
    flat = values.flatten(1)
    wanted = flat.topk(round(share * flat.shape[1]), dim=1, largest=False).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, wanted, True).view_as(values)
