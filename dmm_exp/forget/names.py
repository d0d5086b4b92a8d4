"""Names of training files, and the rows of these files."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from dmm_exp.data.split import TRAIN
from dmm_exp.errors import did_you_mean

COMPARED = 2000  # number of names with which an unknown name is compared to suggest one


class FileNames:
    """Finds rows by the names of their files.

    The name of a file is its path in the folder of training images (``cat/1.png``). It is found by this name, with
    ``train/`` before it, and by the last parts of the name (``1.png``) if no other file ends with them.

    Args:
        names: of the training files, in the order of rows.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._rows = {name: row for row, name in enumerate(names)}
        self._endings: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            for ending in _endings(name):
                self._endings.setdefault(ending, []).append(row)

    def find(self, text: str) -> list[int]:
        """Return the rows that a name may mean: one if it is clear, none if it is unknown."""
        for path in dict.fromkeys([text, text.replace("\\", "/")]):
            path = path.removeprefix("./")
            for name in (path, path.removeprefix(f"{TRAIN}/")):
                if name in self._rows:
                    return [self._rows[name]]
            found = self._endings.get(_composed(path), [])
            if found:
                return found
        return []

    def hint(self, text: str) -> str:
        """Return a question that suggests a file with a similar name, or an empty string."""
        path = text.replace("\\", "/").casefold()
        same = [name for name in self.names if name.casefold() == path]
        if same:
            return f"; did you mean '{same[0]}'?"
        alike = [name for name in self.names if name.rpartition("/")[2].casefold() == path.rpartition("/")[2]]
        return did_you_mean(text, (alike or self.names)[:COMPARED])


def _endings(name: str) -> list[str]:
    """Return a path, the path without its first folder, and so on."""
    parts = _composed(name).split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _composed(text: str) -> str:
    """Return text with letters and accents joined (NFC), since systems write the same name in two forms."""
    return unicodedata.normalize("NFC", text)
