"""A small vision transformer that consists of standard layers only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dmm_exp.errors import UserError
from dmm_exp.models.requirements import need_images, need_positive


class VisionTransformer(nn.Module):
    """A plain transformer on patches of an image (Dosovitskiy et al., arXiv 2010.11929).

    It follows Beyer et al., "Better plain ViT baselines" (arXiv 2205.01580): positions are fixed sines and cosines, and
    the features are the mean over tokens, so that there is neither a class token nor a learned table of positions, and
    all parameters are those of linear, convolutional and normalisation layers, which every estimator can take. There
    is no dropout, so that members can be trained together. The default size is ViT-Ti (Touvron et al., arXiv
    2012.12877). Linear layers are initialised by normal numbers of standard deviation 0.02, cut at two of them.

    Args:
        input_shape: (channels, height, width) of one image, whose sides are multiples of the patch.
        n_classes: number of logits.
        patch: pixels of a patch either way.
        width: of a token, a multiple of four times the heads.
        depth: number of blocks.
        heads: of attention in each block.

    Raises:
        UserError: inputs are not images, or sizes do not fit or are below 1.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        n_classes: int,
        patch: int = 4,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
    ) -> None:
        super().__init__()
        need_positive(patch=patch, width=width, depth=depth, heads=heads)
        need_images("vit_tiny", input_shape, least=patch)
        if input_shape[1] % patch or input_shape[2] % patch:
            raise UserError(
                f"model.network.patch={patch}: expected a divisor of both sides of the images, "
                f"{input_shape[1]}×{input_shape[2]}"
            )
        if width % 4 or width % heads:
            raise UserError(f"model.network.width={width}: expected a multiple of 4 and of model.network.heads={heads}")
        self.patches = nn.Conv2d(input_shape[0], width, patch, stride=patch)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
                nn.init.zeros_(layer.bias)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the penultimate features ``[batch, width]``, the mean over normalised tokens."""
        maps = self.patches(inputs)
        positions = sines_and_cosines(maps.shape[2], maps.shape[3], maps.shape[1], maps.device)
        tokens = maps.flatten(2).transpose(1, 2) + positions.to(maps.dtype)
        return self.norm(self.blocks(tokens)).mean(1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        return self.head(self.features(inputs))


class TransformerBlock(nn.Module):
    """Self-attention, then a network of two layers on each token, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor, real: Tensor | None = None) -> Tensor:
        """Return tokens ``[batch, tokens, width]`` of the same shape.

        Args:
            tokens: ``[batch, tokens, width]``.
            real: which tokens are attended to, ``[batch, tokens]`` bool; None for all.
        """
        norm, attention = self.attention
        tokens = tokens + attention(norm(tokens), real)
        return tokens + self.mlp(tokens)


class Attention(nn.Module):
    """Self-attention of several heads (Vaswani et al., arXiv 1706.03762) by two linear layers.

    Torch's own module has weights outside of layers, where estimators do not find them, and its fused operation runs
    one member at a time.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inwards = nn.Linear(width, 3 * width)
        self.outwards = nn.Linear(width, width)

    def forward(self, tokens: Tensor, real: Tensor | None = None) -> Tensor:
        """Return tokens ``[batch, tokens, width]`` of the same shape; see :class:`TransformerBlock`."""
        parts = self.inwards(tokens).unflatten(-1, (3, self.heads, -1))  # [batch, tokens, 3, heads, width / heads]
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        likeness = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        if real is not None:  # a finite number: a text may have no word at all
            likeness = likeness.masked_fill(~real[:, None, None, :], torch.finfo(likeness.dtype).min)
        return self.outwards((likeness.softmax(-1) @ values).transpose(1, 2).flatten(2))


def sines_and_cosines(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Return positions ``[height · width, channels]``: a quarter each of sines and cosines of columns and of rows.

    Frequencies fall from 1 to 1/10,000 (arXiv 2205.01580; Vaswani et al., section 3.5). They are computed in every
    call, since a stored table would be stored once for every member.
    """
    steps = torch.arange(channels // 4, device=device) / max(channels // 4 - 1, 1)
    frequencies = torch.exp(steps * -torch.log(torch.full((), 1e4, device=device)))
    columns = torch.arange(width, device=device).repeat(height)[:, None] * frequencies
    rows = torch.arange(height, device=device).repeat_interleave(width)[:, None] * frequencies
    return torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], dim=1)
