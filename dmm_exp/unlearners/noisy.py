"""Noisy fine-tuning with a certificate: (ε, δ)-unlearning, proved in :mod:`dmm_exp.unlearners.certificate`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dmm_exp.ensembles import member_generator, member_seed
from dmm_exp.ensembles.optimisation import clip_norms
from dmm_exp.ensembles.seeds import global_numbers
from dmm_exp.errors import UserError
from dmm_exp.unlearners.certificate import NoisySteps, epsilon_of
from dmm_exp.unlearners.unlearner import FineTuning, Fit, cycled, descent, entropies


class NoisyFinetune(FineTuning):
    """Noisy steps on the retain set that certify (ε, δ)-unlearning, then ordinary ones that repair.

    The original is scaled into the ball of radius ``radius``. ``noisy_steps`` steps follow, each a gradient of the
    retain set's cross-entropy on a batch, clipped to ``noisy_clip``, weight decay, and normal noise on every parameter,
    as large as (ε, δ) asks for (:class:`~dmm_exp.unlearners.certificate.NoisySteps`; Koloskova et al., "Certified
    Unlearning for Neural Networks", ICML 2025, arXiv 2506.06985). What is done afterwards with the retain set alone
    costs none of the certificate: ``epochs`` epochs of ordinary fine-tuning.

    The certificate says: whatever the model was before, trained with the forget set or without it, the distribution of
    the result is the same up to (ε, δ). It compares with *this method* applied to a retrained model, and not with the
    retrained model. Statistics of BatchNorm, which know the forget set too, begin again before the noisy steps and
    after them; only epochs with ``batch_norm=train`` learn new ones.

    Args:
        epsilon: ε.
        delta: δ, in (0, 1).
        radius: of the ball, in the norm of all of a model's parameters.
        noisy_steps: their number.
        noisy_rate: their learning rate.
        noisy_clip: largest norm of their gradients.
        noisy_decay: their weight decay.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`; all but ``batch_size`` concern the epochs
            that follow.

    Raises:
        UserError: a number is out of range, or (when it unlearns) some parameters of the network are frozen.
    """

    losses = descent

    def __init__(
        self,
        *,
        epsilon: float = 1.0,
        delta: float = 1e-5,
        radius: float = 1.0,
        noisy_steps: int = 20,
        noisy_rate: float = 0.01,
        noisy_clip: float = 1.0,
        noisy_decay: float = 50.0,
        **optimisation: Any,
    ) -> None:
        super().__init__(**optimisation)
        if epsilon < 0 or not 0 < delta < 1:
            raise UserError(
                f"unlearner.epsilon={epsilon}, unlearner.delta={delta}: expected at least 0, and a number in (0, 1)"
            )
        self.delta = delta
        self.steps = NoisySteps(noisy_steps, noisy_rate, noisy_clip, noisy_decay, radius)
        self.noise = self.steps.noise_for(epsilon, delta)

    @property
    def certified(self) -> dict[str, float]:
        """ε and δ, of the noise that is added."""
        return {"epsilon": epsilon_of(self.delta, self.steps.mu(self.noise)), "delta": self.delta}

    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Take the noisy steps."""
        frozen = [name for name, value in fit.ensemble.skeleton.named_parameters() if not value.requires_grad]
        if frozen:
            raise UserError(
                f"unlearner=noisy_finetune: '{frozen[0]}' and other parameters ({len(frozen)}) are frozen, and may "
                "know what has to go; expected a network of which all parameters are trained"
            )
        parameters = [value for _, value in sorted(fit.ensemble.params.items())]
        _shrink(parameters, self.steps.radius)
        _begin_anew(fit)
        self._take_steps(fit, parameters)
        _begin_anew(fit)
        return {}

    @torch.enable_grad()
    def _take_steps(self, fit: Fit, parameters: list[nn.Parameter]) -> None:
        steps, task, device = self.steps, fit.task, fit.ensemble.device
        orders, noises = (
            [member_generator(task.seed, "unlearned", index, stream) for index in task.members]
            for stream in ("subset", "noise")
        )
        size = min(self.optimisation.batch_size, task.n_retain)
        rows = [cycled(task.of(row).retain, steps.count * size, order) for row, order in enumerate(orders)]
        fit.ensemble.train()
        with global_numbers(member_seed(task.seed, "unlearned", task.members[0], "noise")):
            for batch in torch.stack(rows).split(size, dim=1):
                labels = fit.labels[batch].to(device)
                entropies(fit.answer(fit.inputs[batch].to(device)), labels).mean(1).sum().backward()
                clip_norms(parameters, steps.clip)
                with torch.no_grad():
                    for value in parameters:
                        drawn = torch.stack([torch.randn(value.shape[1:], generator=one) for one in noises])
                        moved = steps.kept * value + self.noise * drawn.to(value)
                        value.copy_(moved if value.grad is None else moved - steps.rate * value.grad)
                        value.grad = None
        fit.sample_gradients += steps.count * size


@torch.no_grad()
def _shrink(parameters: list[nn.Parameter], radius: float) -> None:
    """Scale every member's parameters down to a norm of at most ``radius``, all by the same factor."""
    norms = torch.stack([value.flatten(1).norm(dim=1) for value in parameters]).norm(dim=0)
    factors = (radius / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)
    for value in parameters:
        value.mul_(factors.view(-1, *[1] * (value.ndim - 1)))


@torch.no_grad()
def _begin_anew(fit: Fit) -> None:
    """Set what is no parameter, such as BatchNorm's statistics, to what it is in a new network."""
    new = fit.task.untrained().stats
    for name, value in fit.ensemble.stats.items():
        value.copy_(new[name])
