"""Deletions that follow one another: a ledger, the network as it is now, and a word when retraining is due."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dmm_exp.config.schema import Plain
from dmm_exp.console.progress import Console
from dmm_exp.data import content_hash
from dmm_exp.deletion import ledger_files
from dmm_exp.deletion.checkpoints import check_state, fill
from dmm_exp.deletion.deletion import here
from dmm_exp.deletion.drift import Drift, Limits, drift_of
from dmm_exp.deletion.given import Given, given
from dmm_exp.deletion.identity import content_without, digest_of_rows, row_digests, zeros_among
from dmm_exp.deletion.ledger_files import CHAIN, CHECKPOINT, REQUEST, Chain, Receipt, Unfit
from dmm_exp.deletion.pool import Pool, opened
from dmm_exp.deletion.purge import Purge, purge_ledger
from dmm_exp.deletion.recipes import Recipe, method_of
from dmm_exp.deletion.record import write_files
from dmm_exp.deletion.request import Outcome, predicts, request
from dmm_exp.deletion.result import Place, Unlearned
from dmm_exp.deletion.rows import Data, forget_rows, read
from dmm_exp.deletion.signature import SIGNER, Key, private_key
from dmm_exp.deletion.stored import stored
from dmm_exp.deletion.unlearning import validation_of
from dmm_exp.ensembles import member_seed
from dmm_exp.errors import UserError, storage_errors
from dmm_exp.files.reading import Json
from dmm_exp.forget import Rows
from dmm_exp.store.lock import Lock
from dmm_exp.store.provenance import provenance
from dmm_exp.store.temporary import sweep

if TYPE_CHECKING:
    from dmm_exp.ensembles.work import Executor

SALT = 16  # random bytes


class Ledger:
    """Deletes rows from a network, request after request, and keeps a record of all.

    Each request starts from the network as it is. A method that matches predictions matches, on everything that is
    gone, what is predicted for the network *as it was given* without all of it, so that errors do not add up.

    The folder holds the chain of requests and, for each, the network, its record and its page
    (:mod:`dmm_exp.deletion.ledger_files`). All of it is on the disk before a request counts. Several processes may use
    one ledger; they take turns. A request that is in the ledger already, with the same rows, method, seed and budget,
    is not carried out again: what is kept of it comes back.

    Rows that are gone may be zeros in ``train``; all else has to be as it was.

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
        key: PEM file of a private Ed25519 key that every line and record is signed with; the first request decides.
        receipt: of an earlier request (:attr:`receipt`): a ledger that does not have it is refused.
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
        method: str | Plain = "dmm",
        recipe: Recipe | None = None,
        pool: Pool | str | Path | bool | None = None,
        seed: int = 0,
        validation: Data | None = None,
        factory: Callable[[], nn.Module] | None = None,
        prefix: str | None = None,
        limits: Limits | None = None,
        key: str | Path | Key | None = None,
        receipt: Receipt | str | None = None,
        progress: bool = True,
    ) -> None:
        known = given(model, train, validation_of(validation, pool, train), factory, prefix)
        asking, console = (method, recipe, pool, seed), Console(quiet=not progress)
        self._begin(Path(folder), known, asking, here(known), console, limits, key, receipt)
        for sentence in known.examples.taken:
            console.note(sentence)

    @classmethod
    def of(
        cls,
        folder: Path,
        known: Given,
        asking: tuple[Any, ...],
        executor: Executor,
        console: Console,
        key: str | Path | Key | None = None,
        receipt: Receipt | str | None = None,
    ) -> Ledger:
        """Return the ledger of a network that was checked; ``asking`` are method, recipe, pool and seed."""
        ledger = cls.__new__(cls)
        ledger._begin(folder, known, asking, executor, console, None, key, receipt)
        return ledger

    def _begin(
        self,
        folder: Path,
        known: Given,
        asking: tuple[Any, ...],
        executor: Executor,
        console: Console,
        limits: Limits | None,
        key: str | Path | Key | None,
        receipt: Receipt | str | None,
    ) -> None:
        sweep()
        self.folder = folder.expanduser()
        self.limits = limits or Limits()
        self._given, self._asking, self._executor, self._console = known, asking, executor, console
        self._key: Key | None = None if key is None else private_key(key)
        self._network = content_hash(*known.ensemble.tensors().values())
        self._chain: Chain | None = None
        self._contents: dict[tuple[int, ...], str] = {}
        self._receipt = None if receipt is None else Receipt.read(receipt)
        self._read()

    # ------------------------------------------------------------------ what there is

    @property
    def entries(self) -> list[Json]:
        """The requests so far, as they stand in ``ledger.jsonl``."""
        return [] if self._chain is None else self._chain.requests

    @property
    def gone(self) -> list[int]:
        """Training indices that are gone, sorted."""
        return [] if self._chain is None else self._chain.gone

    @property
    def due(self) -> list[str]:
        """Why retraining is due, in sentences; nothing if it is not."""
        return self.entries[-1]["due"] if self.entries else []

    @property
    def receipt(self) -> Receipt | None:
        """What shows later that the ledger had its last line: to be kept elsewhere. None before the first request."""
        return None if self._chain is None else self._chain.receipt

    @property
    def model(self) -> nn.Module:
        """The network as it is now, like the one that was given.

        Raises:
            UserError: its file was changed, or is gone.
        """
        self._read()
        return self._network_after(len(self.entries))

    def _network_after(self, number: int) -> nn.Module:
        """Return the network as a request left it; 0 is the one that was given."""
        network = self._given.restore(self._given.ensemble.member(0))
        return fill(network, self.folder / ledger_files.request_name(number) / CHECKPOINT) if number else network

    def _read(self) -> None:
        """Read the ledger and check it, also against the network and the data.

        Raises:
            UserError: something does not fit.
        """
        public = None if self._key is None else self._key.public
        self._chain = chain = ledger_files.read(self.folder, public, self._receipt)
        if chain is None:
            return
        kept = chain.requests[-1]["kept"] if chain.requests else chain.header["data"]
        if chain.header["network"] != self._network or kept != self._content(chain.gone):
            raise UserError(
                f"folder={self.folder}: holds the ledger of another network, or of other data; expected the network as "
                "it was first given, and the data as it was (inputs of deleted rows may be zeros)"
            )
        if (blank := self._blank(chain)) != self._given.blank:
            self._given = replace(self._given, blank=blank)

    def _content(self, gone: list[int]) -> str:
        """Return the digest of the data without some rows, from memory if it was asked for before."""
        if tuple(gone) not in self._contents:
            self._contents = {tuple(gone): content_without(self._given.examples, gone)}
        return self._contents[tuple(gone)]

    def _blank(self, chain: Chain) -> tuple[int, ...]:
        """Return the rows that are gone from the data, too.

        Raises:
            Unfit: a row that was deleted is neither what it was nor zeros.
        """
        digests = chain.digests
        found = row_digests(chain.header["salt"], self._given.examples, digests)
        other = [row for row, digest in zip(digests, found, strict=True) if digest != digests[row]]
        blank = zeros_among(self._given.examples.inputs, other)
        if wrong := sorted(set(other) - set(blank)):
            raise Unfit(
                f"{self.folder / CHAIN}: row {wrong[0]} of train is neither zeros nor what was deleted; expected the "
                "data as it was: if it is, the ledger was changed, and has to be restored from a backup"
            )
        return tuple(sorted(blank))

    # ------------------------------------------------------------------ deleting

    @storage_errors()
    def delete(self, rows: Any, *, whole_classes: bool = False, budget: float | str | None = None) -> Unlearned:
        """Delete rows from the network as it is, write the ledger, and return what came out.

        Args:
            rows: training rows that are still there, in any form that :func:`dmm_exp.unlearn` takes, or those of an
                earlier request to ask for it again.
            whole_classes: whether a class may lose its last example.
            budget: as in :func:`dmm_exp.unlearn`.

        Raises:
            UserError: the rows are no such thing; nothing was written then.
        """
        listed = read(rows, self._given.examples, "rows")
        found = self.recorded(listed, budget)
        if found is not None and self._chain is not None and self._chain.is_headed:
            return found
        if found is None:
            self._check(listed, whole_classes)
            if listed is not rows:
                self._console.note(f"rows to delete: {listed.read}")
        with self._held():
            found = self.recorded(listed, budget)
            return self._delete(listed, whole_classes, budget) if found is None else found

    def recorded(self, rows: Any, budget: float | str | None = None) -> Unlearned | None:
        """Return what is kept of a request that was carried out before, None if it was not.

        Raises:
            UserError: the rows are no such thing, or the network that came of it was purged.
        """
        self._read()
        wanted = forget_rows(rows, self._given.examples, whole_classes=True).tolist()
        for number, line in enumerate(self.entries, 1):
            if line["rows"] == wanted and line["asked"] == self._asked(budget):
                return self._stored(number)
        return None

    def _stored(self, number: int) -> Unlearned:
        assert self._chain is not None
        if f"{ledger_files.request_name(number)}/{CHECKPOINT}" in self._chain.purged:
            raise UserError(
                f"forget: these rows were deleted by request {number} of the ledger, whose network was purged since; "
                f"expected rows that are still there (the network as it is now is in {self._current_name()})"
            )
        line = self._chain.requests[number - 1]
        receipt = Receipt(line["number"], line["checksum"])
        place = Place(self.folder, number, self._chain.header["salt"], number - 1, receipt)
        return stored(place, self._network_after(number))

    def _current_name(self) -> str:
        return f"{ledger_files.request_name(len(self.entries))}/{CHECKPOINT}"

    def _asked(self, budget: float | str | None) -> Json:
        method, _, _, seed = self._asking
        return {"method": method_of(method), "seed": seed, "budget": budget}

    def _check(self, rows: Rows, whole_classes: bool) -> None:
        """Raise ``UserError`` for what cannot be carried out, before anything is written."""
        forget_rows(rows, self._given.examples, whole_classes=whole_classes, gone=self.gone)
        check_state(self._network_after(0))
        if self._lacks_key():
            raise UserError(f"folder={self.folder}: this ledger is signed; give the key that it was begun with as key=")
        method, _, pool, _ = self._asking
        if self._given.blank and predicts(method_of(method)) and opened(pool) is None:
            raise UserError(
                f"train: row {self._given.blank[0]} was deleted before and is zeros now, and this method predicts from "
                "the inputs of all rows that are gone; give pool=, or the data as it was"
            )

    def _lacks_key(self) -> bool:
        return self._key is None and self._chain is not None and self._chain.header[SIGNER] is not None

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the ledger, after completing or removing what a killed process left."""
        with Lock(self.folder / ".lock", lambda holder: self._console.note(f"waiting for {holder}")):
            self._read()
            if self._chain is not None:
                if not self._chain.is_headed and not self._lacks_key():
                    ledger_files.write_head(self._chain, self._key)
                ledger_files.tidy(self._chain)
            yield

    def _delete(self, rows: Rows, whole_classes: bool, budget: float | str | None) -> Unlearned:
        self._check(rows, whole_classes)
        known, gone = self._given, self.gone
        new = forget_rows(rows, known.examples, whole_classes=whole_classes, gone=gone)
        union = torch.tensor(sorted([*gone, *new.tolist()]))
        method, recipe, pool, seed = self._asking
        number = len(self.entries) + 1
        own_seed = member_seed(seed, "unlearned", number, "subset") if number > 1 else seed
        current = known.stacked(self._network_after(number - 1)) if number > 1 else known.ensemble
        with request(known, method, recipe, pool, own_seed, 0, self._executor, self._console, budget) as asked:
            outcome = asked.delete(union, new, current, read=rows.read)
            drift = drift_of(asked.deletion, union, outcome.origin, outcome.made.logits, outcome.targets)
        return self._append(number, new, outcome, drift, budget)

    def _append(
        self, number: int, new: Tensor, outcome: Outcome, drift: Drift, budget: float | str | None
    ) -> Unlearned:
        """Write all that came of a request, then the line that makes it count, and return it as it is kept."""
        chain, due, rows = self._chain or self._begun(), drift.due(self.limits), new.tolist()
        digests = row_digests(chain.header["salt"], self._given.examples, rows)
        result = self._placed(outcome.result, chain, number, dict(zip(rows, digests, strict=True)), due)
        files = ledger_files.keep(chain, number, lambda draft: write_files(result, draft, self._key))
        facts = {
            "when": result.when,
            "rows": rows,
            "digests": digests,
            "kept": self._content(result.forgotten),
            "asked": self._asked(budget),
            "method": result.method,
            "seed": result.seed,
            "seconds": round(result.cost.seconds, 3),
            "metrics": result.metrics,
            "drift": asdict(drift),
            "due": due,
            "pool": _kept(result.pool),
            "files": files,
            "versions": provenance(),
        }
        self._chain = ledger_files.append(chain, REQUEST, facts, self._key)
        assert result.place is not None
        return replace(result, place=replace(result.place, receipt=self._chain.receipt))

    def _begun(self) -> Chain:
        """Begin the ledger."""
        facts = {"salt": secrets.token_hex(SALT), "data": self._content([]), "network": self._network}
        return ledger_files.begin(self.folder, facts, self._key)

    def _placed(
        self, result: Unlearned, chain: Chain, number: int, new: Mapping[int, str], due: list[str]
    ) -> Unlearned:
        """Return a result with what only the ledger knows."""
        there = [line for line in range(1, number) if (chain.path(line) / CHECKPOINT).exists()]
        place = Place(self.folder, number, chain.header["salt"], len(there))
        warnings = [*result.warnings, *(f"retraining is due: {reason}" for reason in due)]
        return replace(result, rows=digest_of_rows({**chain.digests, **new}), warnings=warnings, place=place)

    # ------------------------------------------------------------------ removing

    @storage_errors()
    def purge(self) -> Purge:
        """Remove what is known of deleted rows and is not needed for further requests; what remains comes back.

        These are, in the ledger, earlier networks, pages and tables of points; in the pool, the rows' inputs, all
        networks, effects, and what verifications made. A pool that was purged answers further requests, but trains
        nothing: it does not grow, and verifies nothing.

        Raises:
            UserError: there is no ledger yet, or the pool is in use.
        """
        self._read()
        if self._chain is None:
            raise UserError(f"folder={self.folder}: holds no ledger yet; expected one with requests in it")
        kept = opened(self._asking[2])
        pools = [] if kept is None else [kept.folder]
        done = purge_ledger(self.folder, self._key, pools, self._console)
        self._read()
        return done


def _kept(pool: Pool | None) -> str | None:
    """Return the folder of a pool that outlives the request."""
    return None if pool is None or not pool.folder.is_dir() else str(pool.folder.absolute())
