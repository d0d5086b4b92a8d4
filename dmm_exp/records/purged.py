"""What was removed from a pool for good, so that no later request brings it back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dmm_exp.errors import explained
from dmm_exp.files.writing import write_durably
from dmm_exp.records.files import read_whole
from dmm_exp.store.store import sealed

FILE = "purged.json"
FORMAT = 1


@dataclass(frozen=True)
class Purged:
    """What was removed from a pool: rows' inputs, and all networks. It trains no more networks.

    Attributes:
        rows: training indices whose inputs are zeros in the pool's copy of the data, sorted.
        content: digest of the data as the pool was made for it, by which its artifacts are addressed.
        blank: digest of the same data with zeros in the place of these rows.
    """

    rows: tuple[int, ...]
    content: str
    blank: str


def purged_of(folder: Path) -> Purged | None:
    """Return what was removed from a pool, None if nothing was.

    Raises:
        UserError: the file that says so is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    sentence = (
        f"{path}: is damaged, and without it rows that were purged could come back; purge the pool again with all rows "
        "that are gone, after removing this file, or prepare another pool"
    )
    with explained(sentence, OSError, ValueError, LookupError, TypeError):
        facts = read_whole(path)
        if facts["format"] != FORMAT:
            raise LookupError(facts["format"])
        return Purged(tuple(facts["rows"]), facts["content"], facts["blank"])


def write_purged(folder: Path, purged: Purged) -> None:
    """Write what is going to be removed; this comes before anything is."""
    facts = {"format": FORMAT, "rows": list(purged.rows), "content": purged.content, "blank": purged.blank}
    write_durably(folder / FILE, json.dumps(sealed(facts), indent=2, sort_keys=True) + "\n")
