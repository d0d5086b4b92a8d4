"""The nouns of WordNet: definitions, and the field of meaning that each belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dmm_exp.data.formats.format import TRAIN, Format, Part, Reading
from dmm_exp.data.words import HashedWords, Texts, WordEncoder
from dmm_exp.errors import UserError, did_you_mean

FILE = "data.noun"
FIELDS = (  # WordNet's files of lexicographers for nouns, numbers 3 to 28 (lexnames(5WN))
    *("tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "feeling"),
    *("food", "group", "location", "motive", "object", "person", "phenomenon", "plant", "possession", "process"),
    *("quantity", "relation", "shape", "state", "substance", "time"),
)
FIRST_FIELD = 3
LICENCE = "  "  # how the lines of the licence begin, at the head of the file
EXAMPLE = '; "'  # what stands between a definition and a sentence in which the word is used


@dataclass(frozen=True)
class WordNet(Format):
    """Definitions of nouns in WordNet's file ``data.noun`` (format: wndb(5WN)).

    Of a gloss the definition is taken, without examples. A definition that stood before in the file is passed over.

    Attributes:
        fields: of meaning that are the classes, in this order; others are passed over.
        text: how definitions become numbers of words.

    Raises:
        UserError: there is no such field, or there are fewer than two.
    """

    fields: Sequence[str] = FIELDS
    text: WordEncoder = field(default_factory=HashedWords)

    def __post_init__(self) -> None:
        for name in self.fields:
            if name not in FIELDS:
                hint = did_you_mean(name, FIELDS)
                raise UserError(f"dataset.formats.wordnet.fields: '{name}' is none of {', '.join(FIELDS)}{hint}")
        if len(set(self.fields)) < 2 or len(set(self.fields)) < len(self.fields):
            raise UserError(f"dataset.formats.wordnet.fields={list(self.fields)}: expected two or more, each once")

    @property
    def expected(self) -> str:
        """A description of the files, for errors."""
        return f"WordNet's file {FILE}, or a folder with it"

    def found(self, path: Path) -> bool:
        """Return whether ``path`` is the file, or a folder with it."""
        return (path / FILE).is_file() if path.is_dir() else path.name == FILE

    def read(self, path: Path) -> Reading:
        """Return definitions, in the order of the file."""
        file = path / FILE if path.is_dir() else path
        texts, labels, seen = [], [], set()
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if line.startswith(LICENCE):
                continue
            name, definition = _entry(line, f"{file}, line {number}")
            if name in self.fields and definition not in seen:
                texts.append(definition)
                labels.append(self.fields.index(name))
                seen.add(definition)
        part = Part(Texts(texts, self.text), np.array(labels, dtype=np.int64))
        return Reading({TRAIN: part}, list(self.fields), (file,), (f"{file.name}: words {self.text.described}",))


def _entry(line: str, where: str) -> tuple[str, str]:
    """Return the field of meaning and the definition of an entry."""
    head, bar, gloss = line.partition(" | ")
    number = head.split()[1] if bar and head.count(" ") else ""
    if not number.isdecimal() or not FIRST_FIELD <= int(number) < FIRST_FIELD + len(FIELDS):
        raise UserError(f"{where}: expected an entry of a noun (byte, number of its field, words … | definition)")
    return FIELDS[int(number) - FIRST_FIELD], gloss.partition(EXAMPLE)[0].strip()
