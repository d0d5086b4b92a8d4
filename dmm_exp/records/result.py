"""The result of a deletion."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

import pandas as pd
from torch import nn

from dmm_exp.config.schema import Node
from dmm_exp.errors import REASON, UserError, explained
from dmm_exp.files.reading import Json, check_parquet
from dmm_exp.records.about import About, in_words
from dmm_exp.records.chain import Receipt, request_name
from dmm_exp.records.files import POINTS, read
from dmm_exp.records.pool import Pool, is_finished
from dmm_exp.records.record import content, read_attributes, write
from dmm_exp.records.signature import Key, private_key
from dmm_exp.records.words import headline


@dataclass(frozen=True)
class Cost:
    """What a deletion took.

    Attributes:
        seconds: wall time, without preparing a pool and without verification.
        sample_gradients: gradient evaluations of single examples.
        epochs: of the method; 0 where it does not go by epochs.
        ratio: of gradient evaluations to those of one retraining, None where the recipe is unknown or a function.
        retraining: wall seconds of one retraining, None where none was timed.
        verification: wall seconds of the verification.
    """

    seconds: float
    sample_gradients: int
    epochs: int
    ratio: float | None = None
    retraining: float | None = None
    verification: float = 0.0


@dataclass(frozen=True)
class Place:
    """Where a ledger keeps a deletion.

    Attributes:
        ledger: its folder.
        number: of the request, from 1.
        salt: of the digests of rows, in hexadecimal.
        earlier: number of networks of earlier requests that are still in the ledger.
        receipt: of the request's line; None before that is written.
    """

    ledger: Path
    number: int
    salt: str
    earlier: int
    receipt: Receipt | None = None

    @property
    def folder(self) -> Path:
        """The folder of the request."""
        return self.ledger / request_name(self.number)


@dataclass(frozen=True)
class Unlearned:
    """The result of a deletion: the unlearned network, and what is known of it.

    Attributes:
        model: of the type, mode, devices and dtypes of the network that was given, which is unchanged.
        metrics: those that need no retrained networks; see :func:`dmm_exp.deletion.quality.Change.metrics`.
        normalisation: ``scale``, ``mean`` and ``std`` that inputs of a dataset of this package go through before they
            reach the network, ``(input / scale - mean) / std``; None where the network gets them as they are.
        verification: the comparison with retrained networks (:func:`dmm_exp.deletion.quality.verify`), empty without.
        cost: what it took.
        warnings: what to beware of, in sentences.
        forgotten: sorted training indices that are gone.
        method: configuration of the unlearner.
        attribution: configuration of the estimator of effects; None where the method needs none.
        seed: of all randomness.
        examples: the number of training examples, of unseen ones, and of classes.
        rows: digest of the inputs and labels that are gone; of a ledger, that of their salted digests.
        read: the rows that were asked for, in words, as they were read: ``30, 7, 19 (3 rows) in rows.csv``.
        names: of the files that are gone, where training examples are files; None elsewhere.
        weights: digests of the network's tensors, ``before`` and ``after``.
        when: the moment at which it was done, in UTC, as ISO 8601 writes it.
        points: a row for every point; see :func:`dmm_exp.deletion.quality.Change.table`.
        pool: the source of predictions, None where it was no pool; one that was prepared for this call is gone.
        kept: names of tensors that a retrained network took over from the given one.
        place: where a ledger keeps the deletion, None where it is of no ledger.
        taken: how the files of the data were read where they leave it open, in sentences.
        about: what was said of the request.
        asked: digest of the command (:func:`dmm_exp.deletion.output.digest_of_command`), None without a command.
    """

    model: nn.Module
    metrics: dict[str, float]
    cost: Cost
    warnings: list[str]
    forgotten: list[int]
    method: Node
    attribution: Node | None
    seed: int
    examples: dict[str, int]
    rows: str
    weights: dict[str, str]
    when: str
    points: pd.DataFrame = field(repr=False, compare=False)
    pool: Pool | None = field(default=None, repr=False)
    verification: dict[str, float] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    read: str = ""
    names: list[str] | None = None
    normalisation: Json | None = None
    place: Place | None = field(default=None, repr=False)
    taken: list[str] = field(default_factory=list)
    asked: str | None = field(default=None, repr=False)
    about: About = field(default_factory=About, repr=False)

    @classmethod
    def kept_by(cls, place: Place, model: nn.Module) -> Unlearned:
        """Return what a ledger keeps of a request.

        Args:
            place: of the request.
            model: the network that came of it.

        Raises:
            UserError: the files do not fit together.
        """
        record, points = read(place.folder), place.folder / POINTS
        pool = None if record["pool"] is None else Path(record["pool"]["folder"])
        return cls(
            model=model,
            cost=Cost(**{part.name: record["cost"][part.name] for part in fields(Cost)}),
            weights={name: record["network"][name] for name in ("before", "after")},
            points=_table(points) if points.exists() else pd.DataFrame(),
            pool=Pool.open(pool) if pool is not None and is_finished(pool) else None,
            place=place,
            about=About.read(record.get("request")),
            **read_attributes({"taken": [], **record}),  # records of earlier versions do not have it
        )

    @property
    def receipt(self) -> Receipt | None:
        """Shows later that the ledger had this request; to be kept outside the ledger. None without a ledger."""
        return None if self.place is None else self.place.receipt

    def __str__(self) -> str:
        """Say what was done and how well, in sentences."""
        record = content(self, "")
        said = in_words(record["request"])
        about = [f"{said[:1].upper()}{said[1:]}."] if said else []
        return "\n".join([headline(record), *about, *record["quality"]["in_words"], *self.warnings])

    def save(self, folder: str | Path, key: str | Path | Key | None = None) -> Path:
        """Write ``unlearned.safetensors``, ``deletion.json``, ``report.html`` and ``points.parquet`` into a folder.

        The files of an earlier deletion there are replaced. See :mod:`dmm_exp.records.record`. From a ledger, its files
        are copied, and ``receipt.txt`` is written beside them.

        Args:
            folder: is made if it is not there.
            key: PEM file of a private Ed25519 key, to sign the record with; a ledger has its own.

        Returns:
            The folder.

        Raises:
            UserError: the folder cannot be written, or the key cannot be used.
        """
        if self.place is not None and key is not None:
            raise UserError("key: this deletion is in a ledger, and its record is copied; give the key to Ledger(key=)")
        return write(self, Path(folder).expanduser(), None if key is None else private_key(key))


def _table(path: Path) -> pd.DataFrame:
    damage = ValueError, LookupError, TypeError, NotImplementedError
    with explained(f"{path}: cannot be read as a table ({REASON}); restore it from a copy", *damage):
        check_parquet(path)
        return pd.read_parquet(path)
