"""Texts as numbers of words: what networks for texts see of a row.

A word is a run of letters and digits (of any script, as Unicode counts them) in lower case; everything else separates
words, and Unicode's several ways to write the same letter are one (NFC). A text becomes the numbers of its first words.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from dmm_exp.errors import UserError

WORD = re.compile(r"[^\W_]+")
PADDING, UNKNOWN = 0, 1  # behind a text's last word; a word without a number, or a text without words
FIRST = 2  # the smallest number that stands for words


def words_of(text: str) -> list[str]:
    """Return the words of a text in order.

    >>> words_of("The cat's 2 HATS, e.g. snake_case")
    ['the', 'cat', 's', '2', 'hats', 'e', 'g', 'snake', 'case']
    """
    return WORD.findall(unicodedata.normalize("NFC", text).lower())


@dataclass(frozen=True)
class Words:
    """What numbers of words mean in a dataset.

    Attributes:
        count: of different numbers, those for padding and for unknown words included; inputs are below it.
        learnt: whether training rows decided which words have a number; None where that is not known, since whoever
            hands over the numbers made them.
    """

    count: int
    learnt: bool | None


class WordEncoder(ABC):
    """How texts become numbers of words, ``[texts, length]`` int32.

    Longer texts are cut, shorter ones end with 0. The number 1 stands for a word without a number of its own, and for a
    text without words.

    Args:
        column: of the table, which holds the texts; null where a format has but one.
        length: number of words of a text.

    Raises:
        UserError: the length is below 1.
    """

    learnt: ClassVar[bool]  # whether training rows decide which words have a number

    def __init__(self, column: str | None = None, length: int = 32) -> None:
        if length < 1:
            raise UserError(f"length={length}: expected a number of words of at least 1")
        self.column, self.length = column, length

    @property
    @abstractmethod
    def count(self) -> int:
        """How many different numbers there can be, 0 and 1 included."""

    @property
    @abstractmethod
    def described(self) -> str:
        """How words get their numbers, as a clause."""

    @abstractmethod
    def numbering(self, training: Sequence[list[str]]) -> Callable[[str], int]:
        """Return what gives every word a number.

        Args:
            training: the words of every training text.
        """

    def encoded(self, texts: Sequence[str], n_train: int) -> np.ndarray:
        """Return texts as numbers of words ``[texts, length]`` int32; the first ``n_train`` are training texts."""
        split = [words_of(text) for text in texts]
        number = self.numbering(split[:n_train])
        result = np.full((len(texts), self.length), PADDING, dtype=np.int32)
        for row, words in enumerate(split):
            numbers = [number(word) for word in words[: self.length]] or [UNKNOWN]
            result[row, : len(numbers)] = numbers
        return result


class HashedWords(WordEncoder):
    """Every word has the number that a hash gives it: ``2 + CRC-32 of its UTF-8 bytes, modulo buckets``.

    Different words may have the same number. No row decides anything, so that nothing of a row stays in the numbers of
    others when it is deleted (Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009).

    Args:
        column: see :class:`WordEncoder`.
        length: see :class:`WordEncoder`.
        buckets: how many numbers words share.

    Raises:
        UserError: a number is below 1.
    """

    learnt = False

    def __init__(self, column: str | None = None, length: int = 32, buckets: int = 4096) -> None:
        super().__init__(column, length)
        if buckets < 1:
            raise UserError(f"buckets={buckets}: expected at least 1")
        self.buckets = buckets

    @property
    def count(self) -> int:
        """The buckets, and the numbers 0 and 1."""
        return FIRST + self.buckets

    @property
    def described(self) -> str:
        """How words get their numbers, as a clause."""
        return f"each hashed into one of {self.buckets:,} numbers"

    def numbering(self, training: Sequence[list[str]]) -> Callable[[str], int]:
        """Return the hash; training texts play no part."""
        return lambda word: FIRST + crc32(word.encode("utf-8", "surrogatepass")) % self.buckets


class FrequentWords(WordEncoder):
    """The words that are most frequent in training texts have numbers, from 2 on; of equal ones, by the alphabet.

    Which words these are is learnt from the training rows that there are when the dataset is read. Models that are
    retrained without some of these rows keep the list: what it tells of deleted rows stays (:class:`HashedWords` has
    none).

    Args:
        column: see :class:`WordEncoder`.
        length: see :class:`WordEncoder`.
        vocabulary: how many words have a number, at most.
        min_count: how often a word has to be in the training texts.

    Raises:
        UserError: a number is below 1.
    """

    learnt = True

    def __init__(self, column: str | None = None, length: int = 32, vocabulary: int = 4096, min_count: int = 2) -> None:
        super().__init__(column, length)
        if vocabulary < 1 or min_count < 1:
            raise UserError(f"vocabulary={vocabulary}, min_count={min_count}: expected at least 1 of each")
        self.vocabulary, self.min_count = vocabulary, min_count

    @property
    def count(self) -> int:
        """The vocabulary, and the numbers 0 and 1, however many words there are."""
        return FIRST + self.vocabulary

    @property
    def described(self) -> str:
        """How words get their numbers, as a clause."""
        return (
            f"the {self.vocabulary:,} most frequent of the training rows that are there {self.min_count:,} times or "
            "more; this list stays as it is when rows are deleted"
        )

    def numbering(self, training: Sequence[list[str]]) -> Callable[[str], int]:
        """Return the place in the list of frequent words; others are unknown."""
        counts = Counter(word for words in training for word in words)
        frequent = [word for word, times in counts.items() if times >= self.min_count]
        frequent.sort(key=lambda word: (-counts[word], word))
        numbers = {word: FIRST + place for place, word in enumerate(frequent[: self.vocabulary])}
        return lambda word: numbers.get(word, UNKNOWN)


@dataclass(frozen=True)
class Texts:
    """Texts of a part of the files, to be encoded when it is known which rows are trained on.

    Attributes:
        texts: of every example.
        encoder: gives their words numbers.
    """

    texts: Sequence[str]
    encoder: WordEncoder

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def facts(self) -> Words:
        """What the numbers will mean."""
        return Words(self.encoder.count, self.encoder.learnt)


def encoded(chosen: Sequence[tuple[Texts, np.ndarray]]) -> np.ndarray:
    """Return chosen rows of texts as numbers of words, joined; the first ones are the training rows."""
    texts = [source.texts[int(row)] for source, rows in chosen for row in rows]
    return chosen[0][0].encoder.encoded(texts, len(chosen[0][1]))


def vectors(inputs: Tensor, words: Words | None) -> Tensor:
    """Return inputs as rows of real numbers ``[points, values]`` float32, in which rows that are alike are near.

    Numbers are flattened. Of words these are counts: how often each number but that of padding is in a text.

    Args:
        inputs: ``[points, ...]``.
        words: what they mean, None for inputs that are numbers.
    """
    if words is None:
        return inputs.flatten(1).float()
    counts = torch.zeros(len(inputs), words.count)
    counts.scatter_add_(1, inputs.long(), torch.ones(inputs.shape))
    return counts[:, UNKNOWN:]
