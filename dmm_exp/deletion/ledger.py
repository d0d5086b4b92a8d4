"""A ledger: deletions that follow one another, the network as it is now, and a notice when retraining is due."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dmm_exp.config.schema import Plain
from dmm_exp.console.progress import Console
from dmm_exp.data import Rows, content_hash
from dmm_exp.deletion.deletion import local_executor
from dmm_exp.deletion.drift import Drift, Limits, drift_of
from dmm_exp.deletion.given import Given, given
from dmm_exp.deletion.identity import content_without, digest_of_rows, row_digests, zeros_among
from dmm_exp.deletion.options import Options, check_chunk_size
from dmm_exp.deletion.pool import pool_of
from dmm_exp.deletion.recipes import Recipe, method_of, predicts
from dmm_exp.deletion.request import request
from dmm_exp.deletion.rows import Data, forget_rows, read
from dmm_exp.deletion.unlearning import validation_of
from dmm_exp.ensembles import member_seed
from dmm_exp.ensembles.engine import AUTO
from dmm_exp.errors import UserError, storage_errors
from dmm_exp.files.reading import Json
from dmm_exp.records.about import About
from dmm_exp.records.chain import CHAIN, FORMAT, HEADER, REQUEST, Chain, Receipt, request_name
from dmm_exp.records.chain_reading import read as read_chain
from dmm_exp.records.checkpoints import check_state, fill
from dmm_exp.records.files import CHECKPOINT, Unfit
from dmm_exp.records.pool import Pool
from dmm_exp.records.purge import Purge, purge_ledger
from dmm_exp.records.record import write_files
from dmm_exp.records.result import Place, Unlearned
from dmm_exp.records.signature import Key, private_key
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
    (:mod:`dmm_exp.records.chain`). All of it is on the disk before a request counts. Several processes may use
    one ledger; they take turns. A request that is in the ledger already, with the same rows, method, seed and budget,
    is not carried out again: its result is read from the ledger.

    Rows that are gone may be zeros in ``train``; all else has to be as it was.

    Args:
        folder: of the ledger; made by the first request.
        model: the network as it was trained; see :func:`dmm_exp.unlearn`, as for all that follow. Or a network and its
            data that were checked already, and then no ``train``, ``validation``, ``factory`` and ``prefix``.
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
        chunk_size: how many networks are trained together, see :func:`dmm_exp.prepare`.
        executor: where networks are trained; in this process by default.
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
        model: nn.Module | str | Path | Given,
        train: Data = None,
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
        chunk_size: int | str = AUTO,
        executor: Executor | None = None,
        progress: bool = True,
    ) -> None:
        sweep()
        self._console = Console(quiet=not progress)
        if isinstance(model, Given):
            self._given = model
        else:
            self._given = given(model, train, validation_of(validation, pool, train), factory, prefix)
            for sentence in self._given.examples.taken:
                self._console.note(sentence)
        self.folder = Path(folder).expanduser()
        self.limits = limits or Limits()
        check_chunk_size(chunk_size)
        self.options = Options(method, recipe, pool, seed, chunk_size=chunk_size)
        self._executor = executor or local_executor(self._given)
        self._key = None if key is None else private_key(key)
        self._receipt = None if receipt is None else Receipt.read(receipt)
        self._network = content_hash(*self._given.ensemble.tensors().values())
        self._contents: dict[tuple[int, ...], str] = {}
        self._chain: Chain | None = None
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
        """Shows later that the ledger had its last line: to be kept elsewhere. None before the first request."""
        return None if self._chain is None else self._chain.receipt

    @property
    def model(self) -> nn.Module:
        """The network as it is now, like the one that was given.

        Raises:
            UserError: its file was changed, or is gone.
        """
        self._read()
        return self._network_after(len(self.entries))

    @property
    def _gone(self) -> Rows:
        """The rows that are gone."""
        return Rows(torch.tensor(self.gone, dtype=torch.long), self._given.examples.n_train)

    def _network_after(self, number: int) -> nn.Module:
        """Return the network as a request left it; 0 is the one that was given."""
        network = self._given.restore(self._given.ensemble.member(0))
        return fill(network, self.folder / request_name(number) / CHECKPOINT) if number else network

    def _read(self) -> None:
        """Read the ledger and check it, also against the network and the data.

        Raises:
            UserError: something does not fit.
        """
        public = None if self._key is None else self._key.public
        self._chain = chain = read_chain(self.folder, public, self._receipt)
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
        """Return the digest of the data without some rows; the last one is remembered."""
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
    def delete(
        self,
        rows: Any,
        *,
        whole_classes: bool = False,
        budget: float | str | None = None,
        reference: str | None = None,
        requested_by: str | None = None,
        operator: str | None = None,
        reason: str | None = None,
        record_ids: Any = None,
    ) -> Unlearned:
        """Delete rows from the network as it is, write the ledger, and return the result.

        Args:
            rows: training rows that are still there, in any form that :func:`dmm_exp.unlearn` takes, or those of an
                earlier request to ask for it again.
            whole_classes: whether a class may lose its last example.
            budget: as in :func:`dmm_exp.unlearn`, as for all that follow.
            reference: such as the number of a ticket.
            requested_by: who asked for the deletion.
            operator: who carries it out.
            reason: why.
            record_ids: your own ids of these rows.

        Raises:
            UserError: the rows cannot be read, or they were deleted before and the facts about that request differ.
                Nothing is written then.
        """
        wanted = read(rows, self._given.examples, "rows")
        texts = {"reference": reference, "requested_by": requested_by, "operator": operator, "reason": reason}
        about = About.of(texts, record_ids, wanted.in_order, wanted.n_train)
        return self.carry_out(wanted, about, whole_classes, budget, is_read=wanted is not rows)

    def carry_out(
        self, wanted: Rows, about: About, whole_classes: bool, budget: float | str | None, *, is_read: bool = False
    ) -> Unlearned:
        """Delete rows as :meth:`delete` does.

        Args:
            wanted: the rows.
            about: facts about the request.
            whole_classes: as in :meth:`delete`, as for the budget.
            budget: see there.
            is_read: whether they were just read from a list, which is shown then.
        """
        found = self._same(wanted, about, budget)
        if found is not None and self._chain is not None and self._chain.is_headed:
            return found
        if found is None:
            self.check(wanted, whole_classes)
            if is_read:
                self._console.note(f"rows to delete: {wanted.read}")
        with self._held():
            found = self._same(wanted, about, budget)
            return self._delete(wanted, about, whole_classes, budget) if found is None else found

    def _same(self, rows: Rows, about: About, budget: float | str | None) -> Unlearned | None:
        """Return what is kept of the same request, None if there is nothing; raise if the facts about it differ."""
        found = self.recorded(rows, budget)
        if found is not None:
            about.check_same(found.about, f"the record in {found.place.folder if found.place else self.folder}")
        return found

    def recorded(self, rows: Rows, budget: float | str | None = None) -> Unlearned | None:
        """Return what is kept of a request that was carried out before, None if it was not.

        Raises:
            UserError: the network that came of it was purged.
        """
        self._read()
        for number, line in enumerate(self.entries, 1):
            if line["rows"] == rows.tolist() and line["asked"] == self._determining(budget):
                return self._kept(number)
        return None

    def _kept(self, number: int) -> Unlearned:
        assert self._chain is not None
        if f"{request_name(number)}/{CHECKPOINT}" in self._chain.purged:
            raise UserError(
                f"forget: these rows were deleted by request {number} of the ledger, whose network was purged since; "
                "expected rows that are still there (the network as it is now is in "
                f"{request_name(len(self.entries))}/{CHECKPOINT})"
            )
        receipt = self._chain.receipt_of(self._chain.requests[number - 1]["number"])
        place = Place(self.folder, number, self._chain.header["salt"], number - 1, receipt)
        return Unlearned.kept_by(place, self._network_after(number))

    def _determining(self, budget: float | str | None) -> Json:
        """Return what determines the result of a request, beside the rows."""
        return {"method": method_of(self.options.method), "seed": self.options.seed, "budget": budget}

    def check(self, rows: Rows, whole_classes: bool) -> None:
        """Raise ``UserError`` for what cannot be carried out, before anything is written."""
        forget_rows(rows, self._given.examples, whole_classes=whole_classes, gone=self._gone)
        check_state(self._network_after(0))
        if self._key is None and self._chain is not None and self._chain.is_signed:
            raise UserError(f"folder={self.folder}: this ledger is signed; give the key that it was begun with as key=")
        if self._given.blank and predicts(method_of(self.options.method)) and pool_of(self.options.pool) is None:
            raise UserError(
                f"train: row {self._given.blank[0]} was deleted before and is zeros now, and this method predicts from "
                "the inputs of all rows that are gone; give pool=, or the data as it was"
            )

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the ledger's lock; files that a killed process left are completed or removed."""
        with Lock(self.folder / ".lock", lambda holder: self._console.note(f"waiting for {holder}")):
            self._read()
            if self._chain is not None:
                self._chain.complete(self._key)
            yield

    def _delete(self, rows: Rows, about: About, whole_classes: bool, budget: float | str | None) -> Unlearned:
        self.check(rows, whole_classes)
        number, seed, current = len(self.entries) + 1, self.options.seed, None
        if number > 1:
            seed = member_seed(seed, "unlearned", number, "subset")
            current = self._given.stacked(self._network_after(number - 1))
        options = replace(self.options, seed=seed, budget=budget, about=about)
        with request(self._given, options, self._executor, self._console) as execution:
            outcome = execution.delete(self._gone | rows, rows, current)
            drift = drift_of(outcome.change)
        return self._append(number, rows, outcome.result, drift, budget)

    def _append(
        self, number: int, rows: Rows, result: Unlearned, drift: Drift, budget: float | str | None
    ) -> Unlearned:
        """Write the files of a request, then its line, which makes it count; returns the result as it is kept."""
        chain, due = self._chain or self._begun(), drift.due(self.limits)
        digests = row_digests(chain.header["salt"], self._given.examples, rows.tolist())
        result = self._placed(result, chain, number, dict(zip(rows.tolist(), digests, strict=True)), due)
        pool = result.pool
        facts = {
            "when": result.when,
            "rows": rows.tolist(),
            "digests": digests,
            "kept": self._content(result.forgotten),
            "asked": self._determining(budget),
            "method": result.method,
            "seed": result.seed,
            "seconds": round(result.cost.seconds, 3),
            "metrics": result.metrics,
            "drift": asdict(drift),
            "due": due,
            "pool": None if pool is None or not pool.folder.is_dir() else str(pool.folder.absolute()),
            "files": chain.keep(number, lambda draft: write_files(result, draft, self._key)),
            "versions": provenance(),
        }
        self._chain = chain.append(REQUEST, facts, self._key)
        assert result.place is not None
        return replace(result, place=replace(result.place, receipt=self._chain.receipt))

    def _begun(self) -> Chain:
        """Begin the ledger."""
        salt = secrets.token_hex(SALT)
        facts = {"format": FORMAT, "salt": salt, "data": self._content([]), "network": self._network}
        return Chain(self.folder).append(HEADER, facts, self._key)

    def _placed(
        self, result: Unlearned, chain: Chain, number: int, new: Mapping[int, str], due: list[str]
    ) -> Unlearned:
        """Return a result with the facts that only the ledger knows."""
        earlier = sum((chain.path(line) / CHECKPOINT).exists() for line in range(1, number))
        place = Place(self.folder, number, chain.header["salt"], earlier)
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
        pool = pool_of(self.options.pool)
        purge = purge_ledger(self.folder, self._key, [] if pool is None else [pool.folder], self._console)
        self._read()
        return purge
