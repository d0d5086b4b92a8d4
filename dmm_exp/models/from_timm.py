"""Networks of the package timm, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dmm_exp.errors import UserError, did_you_mean
from dmm_exp.models.requirements import need_images


class TimmModel(nn.Module):
    """A network that the package timm knows by name, freshly initialised.

    Args:
        input_shape: (channels, height, width) of one image.
        n_classes: number of logits.
        name: what timm calls it, as in ``resnet26`` or ``vit_tiny_patch16_224``.
        options: arguments of the network, as in ``{img_size: 32, patch_size: 4}``.

    Raises:
        UserError: the package is missing or does not know the name, or the network does not take the options or images.
    """

    def __init__(
        self, input_shape: Sequence[int], n_classes: int, name: str, options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        need_images("timm", input_shape, least=1)
        try:
            import timm
        except ImportError as error:
            raise UserError(f"model=timm needs a package: pip install 'dmm_exp[timm]' ({error})") from error
        if not timm.is_model(name):
            known = timm.list_models()
            raise UserError(f"model.network.name={name}: timm has no network of this name{did_you_mean(name, known)}")
        settings = {"num_classes": n_classes, "in_chans": input_shape[0], **(options or {})}
        try:
            self.network = timm.create_model(name, pretrained=False, **settings)
            self._try(input_shape)
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"model.network.name={name}, model.network.options={dict(options or {})}: timm's network does not take "
                f"images {list(input_shape)} with these options ({reason})"
            ) from error

    @torch.no_grad()
    def _try(self, input_shape: Sequence[int]) -> None:
        """Take an empty image through the network, which leaves it as it was."""
        self.network.eval()
        self.features(torch.zeros(1, *input_shape))
        self.network.train()

    def features(self, inputs: Tensor) -> Tensor:
        """Return the penultimate features ``[batch, width]``."""
        return self.network.forward_head(self.network.forward_features(inputs), pre_logits=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        return self.network(inputs)
