"""Deletions that follow one another: a ledger, the network as it is now, and a word when retraining is due."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dmm_exp.deletion.deletion import Deletion, here
from dmm_exp.deletion.given import Given, given
from dmm_exp.deletion.pool import Pool
from dmm_exp.deletion.recipes import Recipe
from dmm_exp.deletion.request import Outcome, request
from dmm_exp.deletion.result import Unlearned, rows_digest
from dmm_exp.deletion.rows import Data, forget_rows, read
from dmm_exp.deletion.unlearning import validation_of
from dmm_exp.ensembles import Ensemble, member_seed
from dmm_exp.errors import UserError, storage_errors
from dmm_exp.pipeline import content_hash
from dmm_exp.report.progress import Console
from dmm_exp.store.files import checksum, write_tensors, write_text
from dmm_exp.store.lock import Lock
from dmm_exp.store.provenance import provenance
from dmm_exp.store.store import SEAL, is_intact, sealed

if TYPE_CHECKING:
    from dmm_exp.ensembles.work import Executor

FILE = "ledger.jsonl"
FORMAT = 1


@dataclass(frozen=True)
class Limits:
    """What a network may be off before retraining is due; each is compared with the attribute of :class:`Drift`.

    Attributes:
        doubt: of predictions.
        drift: of the network from them.
        accuracy: lost on unseen points.
        share: of the training set that is gone.
    """

    doubt: float = 1.0
    drift: float = 1.0
    accuracy: float = 0.02
    share: float = 0.2


@dataclass(frozen=True)
class Drift:
    """How far a network is from what is known of a retrained one; None where that cannot be told.

    Logits are measured in the spread of retraining: the root mean square, over retained and unseen points and classes,
    of the standard deviation of logits over networks trained alike (the pool's originals).

    Attributes:
        doubt: root mean square standard error of predicted logits.
        drift: root mean square distance of the network's logits to the predicted ones.
        accuracy: accuracy on unseen points that was lost since the network was given.
        share: of the training set that is gone.
    """

    doubt: float | None
    drift: float | None
    accuracy: float | None
    share: float

    def due(self, limits: Limits) -> list[str]:
        """Return why retraining is due, in sentences; nothing if it is not.

        >>> Drift(doubt=0.2, drift=0.1, accuracy=0.0, share=0.3).due(Limits(share=0.25))
        ['30.0% of the training set are gone (limit 0.25)']
        """
        said = {
            "doubt": "predictions are as uncertain as {value:.2f} times the spread of retraining",
            "drift": "the network is {value:.2f} times the spread of retraining away from what is predicted",
            "accuracy": "accuracy on unseen points fell by {value:.3f}",
            "share": "{value:.1%} of the training set are gone",
        }
        found = []
        for name, limit in asdict(limits).items():
            value = getattr(self, name)
            if value is not None and value > limit:
                found.append(f"{said[name].format(value=value)} (limit {limit:g})")
        return found


def drift_of(deletion: Deletion, gone: Tensor, origin: Tensor, now: Tensor, targets: Tensor | None) -> Drift:
    """Return how far networks are from what is known of retrained ones.

    Args:
        deletion: the pipeline.
        gone: sorted training indices that are gone.
        origin: logits ``[members, points, classes]`` of the networks as they were given.
        now: their logits now.
        targets: predicted logits, None where the method goes by none.
    """
    examples = deletion.examples
    others = torch.ones(examples.n_points, dtype=torch.bool)
    others[gone] = False
    doubt = drift = accuracy = None
    if targets is not None and deletion.pooled:
        logits = deletion.originals.stacked("logits")[:, others]
        spread = float(logits.var(0).mean().sqrt())
        drift = float((now - targets)[:, others].square().mean().sqrt()) / spread
        error = deletion.predicted(gone).get("standard_error")
        doubt = None if error is None else float(error[others].square().mean().sqrt()) / spread
    if examples.n_points > examples.n_train:
        labels = examples.labels[examples.n_train :]
        right = [(logits[:, examples.n_train :].argmax(-1) == labels).float().mean() for logits in (origin, now)]
        accuracy = float(right[0] - right[1])
    return Drift(doubt, drift, accuracy, len(gone) / examples.n_train)


class Ledger:
    """Deletes rows from a network, request after request, and keeps a record of all.

    Each request starts from the network as it is. A method that matches predictions matches, on everything that is
    gone, what is predicted for the network *as it was given* without all of it, so that errors do not add up.

    The folder holds ``ledger.jsonl``, a line a request, each with the checksum of the one before, and the numbers of
    the network after each request. What is there is gone on with.

    Args:
        folder: of the ledger; made by the first request.
        model: the network as it was trained; see :func:`dmm_exp.unlearn`, as for all that follow.
        train: what it was trained on.
        method: of all requests.
        recipe: how it was trained.
        pool: what predictions come from.
        seed: of all randomness.
        validation: unseen points.
        factory: makes an untrained network.
        prefix: of the network's names in a checkpoint.
        limits: when retraining is due.
        progress: whether to show on standard error what is being done.

    Raises:
        UserError: something does not fit, or the folder holds the ledger of something else, or was changed.

    >>> from tempfile import mkdtemp
    >>> import torch
    >>> from dmm_exp import Ledger, train
    >>> x = torch.randn(60, 3)
    >>> data = x, (x[:, 0] > 0).long()
    >>> net = train(torch.nn.Linear(3, 2), data, {"epochs": 20})
    >>> ledger = Ledger(mkdtemp(), net, data, method="finetune epochs=1", progress=False)
    >>> ledger.delete([4, 8]).forgotten, ledger.delete([15]).forgotten
    ([4, 8], [4, 8, 15])
    >>> ledger.gone, ledger.due
    ([4, 8, 15], [])
    """

    def __init__(
        self,
        folder: str | Path,
        model: nn.Module | str | Path,
        train: Data,
        *,
        method: str | Mapping[str, Any] = "dmm",
        recipe: Recipe | None = None,
        pool: Pool | str | Path | bool | None = None,
        seed: int = 0,
        validation: Data | None = None,
        factory: Callable[[], nn.Module] | None = None,
        prefix: str | None = None,
        limits: Limits | None = None,
        progress: bool = True,
    ) -> None:
        known = given(model, train, validation_of(validation, pool, train), factory, prefix)
        self._begin(Path(folder), known, (method, recipe, pool, seed), here(known), Console(quiet=not progress), limits)

    @classmethod
    def of(cls, folder: Path, known: Given, asking: tuple[Any, ...], executor: Executor, console: Console) -> Ledger:
        """Return the ledger of a network that was checked; ``asking`` are method, recipe, pool and seed."""
        ledger = cls.__new__(cls)
        ledger._begin(folder, known, asking, executor, console, None)
        return ledger

    def _begin(
        self,
        folder: Path,
        known: Given,
        asking: tuple[Any, ...],
        executor: Executor,
        console: Console,
        limits: Limits | None,
    ) -> None:
        self.folder = folder.expanduser()
        self.limits = limits or Limits()
        self._known, self._asking, self._executor, self._console = known, asking, executor, console
        self._identity = {
            "format": FORMAT,
            "data": content_hash(known.examples.inputs, known.examples.labels),
            "network": content_hash(*known.ensemble.tensors().values()),
        }
        self.entries = self._read()

    # ------------------------------------------------------------------ what there is

    @property
    def gone(self) -> list[int]:
        """Training indices that are gone, sorted."""
        return sorted(row for entry in self.entries for row in entry["rows"])

    @property
    def due(self) -> list[str]:
        """Why retraining is due, in sentences; nothing if it is not."""
        return self.entries[-1]["due"] if self.entries else []

    @property
    def model(self) -> nn.Module:
        """The network as it is now, like the one that was given."""
        return self._known.restore(self._current().member(0))

    def _current(self) -> Ensemble:
        """Return the network as it is now.

        Raises:
            UserError: its file was changed, or is gone.
        """
        if not self.entries:
            return self._known.ensemble
        from safetensors.torch import load_file

        path = self.folder / self.entries[-1]["file"]
        if not path.exists() or checksum(path) != self.entries[-1]["sha256"]:
            raise UserError(f"{path} is not what the ledger says it is (checksum); expected the file as it was written")
        return Ensemble.from_tensors(self._known.ensemble.skeleton, load_file(path))

    def _read(self) -> list[dict[str, Any]]:
        """Return the requests so far, after checking every line."""
        path, lines = self.folder / FILE, []
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
            try:
                line = json.loads(text)
            except ValueError:
                line = {}
            if SEAL not in line or not is_intact(line) or line["before"] != (lines[-1][SEAL] if lines else None):
                raise UserError(f"{path}: line {number} was changed; expected the ledger as it was written")
            lines.append(line)
        if lines and {key: lines[0].get(key) for key in self._identity} != self._identity:
            raise UserError(f"folder={self.folder}: holds the ledger of another network, or of other data")
        return lines[1:]

    # ------------------------------------------------------------------ deleting

    @storage_errors()
    def delete(self, rows: Any, *, whole_classes: bool = False, budget: float | str | None = None) -> Unlearned:
        """Delete rows from the network as it is, write the ledger, and return what came out.

        Args:
            rows: training rows that are still there, in any form that :func:`dmm_exp.unlearn` takes.
            whole_classes: whether a class may lose its last example.
            budget: as in :func:`dmm_exp.unlearn`.

        Raises:
            UserError: the rows are no such thing; nothing was written then.
        """
        with Lock(self.folder / ".lock", lambda holder: self._console.note(f"waiting for {holder}")):
            self.entries = self._read()
            gone = self.gone
            listed = read(rows, self._known.examples, "rows")
            new = forget_rows(listed, self._known.examples, whole_classes=whole_classes, gone=gone)
            if listed is not rows:
                self._console.note(f"rows to delete: {listed.read}")
            union = torch.tensor(sorted([*gone, *new.tolist()]))
            method, recipe, pool, seed = self._asking
            number = len(self.entries) + 1
            own_seed = member_seed(seed, "unlearned", number, "subset") if number > 1 else seed
            with request(
                self._known, method, recipe, pool, own_seed, 0, self._executor, self._console, budget
            ) as asked:
                outcome = asked.delete(union, new, self._current(), read=listed.read)
                drift = drift_of(asked.deletion, union, outcome.origin, outcome.made.logits, outcome.targets)
            self._append(number, new, outcome, drift)
        outcome.result.warnings.extend(f"retraining is due: {reason}" for reason in self.due)
        return outcome.result

    def _append(self, number: int, new: Tensor, outcome: Outcome, drift: Drift) -> None:
        """Write the network's numbers, then the line that makes them count."""
        assert outcome.made.ensemble is not None
        path = self.folder / f"network-{number:05d}.safetensors"
        write_tensors(path, outcome.made.ensemble.tensors())
        ledger, result = self.folder / FILE, outcome.result
        text = ledger.read_text(encoding="utf-8") if ledger.exists() else _line({**self._identity, "before": None})
        entry = {
            "number": number,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": new.tolist(),
            "digest": rows_digest(self._known, new),
            "method": result.method,
            "seed": result.seed,
            "seconds": round(result.cost.seconds, 3),
            "metrics": result.metrics,
            "drift": asdict(drift),
            "due": drift.due(self.limits),
            "file": path.name,
            "sha256": checksum(path),
            "versions": provenance(),
            "before": json.loads(text.splitlines()[-1])[SEAL],
        }
        write_text(ledger, text + _line(entry))
        self.entries = [*self.entries, json.loads(_line(entry))]


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(sealed(entry), sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
