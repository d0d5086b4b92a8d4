"""Networks for texts: inputs are numbers of words ``[batch, length]``, 0 behind the last word of a text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from dmm_exp.errors import UserError
from dmm_exp.models.requirements import need_positive
from dmm_exp.models.vit import TransformerBlock

PADDING = 0


class EmbeddingBag(nn.Module):
    """The sum or mean of a text's embedded words, then fully connected layers with rectified linear units.

    The order of words plays no part (Joulin et al., "Bag of tricks for efficient text classification", arXiv
    1607.01759, without pairs of words). Embeddings begin with normal numbers of standard deviation 0.1.

    Args:
        input_shape: (length,) of one text.
        n_classes: number of logits.
        words: number of different numbers in inputs.
        width: of an embedding.
        hidden: width of every hidden layer; an empty list is one linear layer.
        pooling: ``sum`` or ``mean`` of embedded words. A mean needs about ten times the learning rate, in training and
            in unlearning, since every word has only its share of the gradient.

    Raises:
        UserError: a width is below 1, or there is no such pooling.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        n_classes: int,
        words: int,
        width: int = 16,
        hidden: Sequence[int] = (),
        pooling: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__()
        need_positive(width=width)
        if pooling not in ("sum", "mean"):
            raise UserError(f"model.network.pooling={pooling}: expected sum or mean")
        if any(one < 1 for one in hidden):
            raise UserError(f"model.network.hidden={list(hidden)}: expected widths of at least 1")
        self.pooling = pooling
        self.embedding = nn.Embedding(words, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        widths = [width, *hidden]
        layers = [layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), nn.ReLU())]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], n_classes)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the penultimate features ``[batch, width]``."""
        tokens, real = self.embedding(inputs.long()), inputs != PADDING
        return self.body(masked_sum(tokens, real) if self.pooling == "sum" else masked_mean(tokens, real))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        return self.head(self.features(inputs))


class Transformer(nn.Module):
    """A small transformer encoder for texts (Vaswani et al., arXiv 1706.03762), with the mean over words.

    Positions are learnt; normalisation stands before attention and before the layers of each word, as in Xiong et al.
    (arXiv 2002.04745). Words attend to all words of their text and not to what fills it up. There is no dropout, so
    that members can be trained together. Embeddings and linear layers begin with normal numbers of standard deviation
    0.02, cut at two of them.

    Args:
        input_shape: (length,) of one text.
        n_classes: number of logits.
        words: number of different numbers in inputs.
        width: of a word, a multiple of the heads.
        depth: number of blocks.
        heads: of attention in each block.

    Raises:
        UserError: sizes do not fit or are below 1.
    """

    def __init__(
        self, input_shape: Sequence[int], n_classes: int, words: int, width: int = 32, depth: int = 1, heads: int = 2
    ) -> None:
        super().__init__()
        need_positive(width=width, depth=depth, heads=heads)
        if width % heads:
            raise UserError(f"model.network.width={width}: expected a multiple of model.network.heads={heads}")
        self.embedding = nn.Embedding(words, width)
        self.positions = nn.Embedding(input_shape[0], width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the penultimate features ``[batch, width]``, the mean over normalised words."""
        real = inputs != PADDING
        tokens = self.embedding(inputs.long()) + self.positions(torch.arange(inputs.shape[1], device=inputs.device))
        for block in self.blocks:
            tokens = block(tokens, real)
        return masked_mean(self.norm(tokens), real)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[batch, classes]``."""
        return self.head(self.features(inputs))


def masked_mean(tokens: Tensor, real: Tensor) -> Tensor:
    """Return the mean ``[batch, width]`` of tokens ``[batch, length, width]`` that are real; 0 where none is."""
    return masked_sum(tokens, real) / real.sum(-1, keepdim=True).clamp(min=1)


def masked_sum(tokens: Tensor, real: Tensor) -> Tensor:
    """Return the sum ``[batch, width]`` of tokens ``[batch, length, width]`` that are real."""
    return (tokens * real[..., None]).sum(-2)
