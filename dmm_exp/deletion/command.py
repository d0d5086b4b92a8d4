r"""Delete rows from a trained network.

    python -m dmm_exp.unlearn dataset=folder dataset.path=photos model.network._target_=my_package.Net \
        request.checkpoint=net.safetensors forget.indices=rows.csv

Writes unlearned.safetensors, deletion.json (what was removed, how, how well, and what that does not guarantee) and
report.html into a folder, whose name is the last line on standard output.

Data, network and method are the groups of experiments (python -m dmm_exp --help): dataset, model, unlearner,
attribution, training, executor. forget.indices is a file of training indices, of true and false, or of file names of a
folder of images: .txt, .csv, .tsv, .json, .npy or .parquet. Of several columns forget.column=NAME is read. All rows of
a user are forget=group forget.column=user forget.value=17, where the dataset says whose a row is (its group_by).

    request.checkpoint=FILE     of the trained network: safetensors, a state dict, or Lightning's
    request.prefix=student.     which network of the file, where it holds several: what stands before its names
    request.output=FOLDER       where results go; a new folder (unlearned), or that of the same command: what is there
                                of its results is not made again
    request.recipe=true         the network was trained as training=… says: a pool and a verification can be made
    request.pool=FOLDER         a prepared pool; it is prepared there if it is not (with request.recipe=true)
    request.size=1000           subset models of a pool that is to be prepared
    request.attribution=best    what predicts from it: best, or empirical_bayes, from a smaller pool without models by
                                design, which knows less of groups of rows
    request.prepare_budget=2h   the most that preparing it may take: its size is cut to what fits
    request.budget=30           seconds that unlearning may take, "2min", or a share of a retraining ("10%")
    request.verify=100          networks to retrain and compare with
    request.keep=[NAMES]        tensors or layers that unlearner=retrain may take over, such as frozen ones
    request.ledger=FOLDER       delete from the network as earlier requests to this ledger left it; the same request
                                again gives what the ledger keeps of it
    request.receipt=TEXT        of an earlier request: a ledger that was rolled back to before it is refused
    request.key=FILE            private Ed25519 key (PEM) to sign the record, and the ledger, with
    request.whole_classes=true  a class may lose its last example
    request.reference=TEXT      the number of a ticket; this and what follows stand in the record, and change no network
    request.requested_by=TEXT   who asked for the deletion
    request.operator=TEXT       who carries it out
    request.reason=TEXT         why
    request.record_ids=FILE     your own ids of the rows: one for each row in the order of their list, or one for each
                                training row; a file as for forget.indices, of texts or whole numbers
    request.id_column=NAME      which of several columns of that file; its first line names them, then
    model.chunk_size=auto       how many networks of a pool or a verification are trained together
    seed=0                      of all randomness

Remove what is known of deleted rows, and is not needed for further requests:

    python -m dmm_exp.unlearn request.purge=LEDGER [request.pool=POOL] [request.key=FILE]
    python -m dmm_exp.unlearn request.purge=POOL [forget.indices=rows.csv]

    request.purge=FOLDER        a ledger, with the pools that its requests used, or a pool alone. Networks, effects and
                                what verifications made go; of a pool, the inputs of the ledger's rows, or of those
                                named, are overwritten. What remains is printed

python -m dmm_exp.verify FOLDER checks a ledger or a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.config.ranges import check_config
from dmm_exp.config.schema import Config, Node, plain
from dmm_exp.config.texts import value_of
from dmm_exp.console.progress import Console
from dmm_exp.data import Examples, Rows
from dmm_exp.deletion.belonging import check_answers
from dmm_exp.deletion.given import Given, given_by_configuration
from dmm_exp.deletion.ledger import Ledger
from dmm_exp.deletion.options import Options, check_request
from dmm_exp.deletion.output import Output, digest_of_command
from dmm_exp.deletion.pool import SIZE, prepare_given
from dmm_exp.deletion.purge_command import purge_command
from dmm_exp.deletion.recipes import composed
from dmm_exp.deletion.record_ids import ids_in
from dmm_exp.deletion.request import request
from dmm_exp.deletion.rows import forget_rows, read
from dmm_exp.errors import UserError, did_you_mean, storage_errors
from dmm_exp.executors import shared_executor
from dmm_exp.files.reading import Json
from dmm_exp.records.about import WORDS, About
from dmm_exp.records.chain import Receipt
from dmm_exp.records.pool import Pool, is_finished
from dmm_exp.records.result import Unlearned
from dmm_exp.records.signature import Key, private_key
from dmm_exp.store.temporary import sweep

PREFIX = "request."

HELP = (__doc__ or "").rstrip()


@dataclass(frozen=True)
class Keys:
    """The keys of a request; the docstring of this module explains them."""

    checkpoint: str | None = None
    prefix: str | None = None
    output: str = "unlearned"
    recipe: bool = False
    pool: str | None = None
    size: int = SIZE
    attribution: str | None = None
    prepare_budget: float | str | None = None
    budget: float | str | None = None
    verify: int = 0
    ledger: str | None = None
    receipt: str | None = None
    key: str | None = None
    purge: str | None = None
    whole_classes: bool = False
    keep: list[str] = field(default_factory=list)
    reference: str | None = None
    requested_by: str | None = None
    operator: str | None = None
    reason: str | None = None
    record_ids: str | None = None
    id_column: str | None = None

    @classmethod
    def read(cls, texts: Sequence[str]) -> Keys:
        """Return the keys that words ``request.KEY=VALUE`` of a command line set."""
        hints = get_type_hints(cls)
        values: Node = {}
        for text in texts:
            key, equals, _ = text.removeprefix(PREFIX).partition("=")
            if key not in hints or not equals:
                hint = did_you_mean(key, hints)
                raise UserError(f"'{text}': expected request.KEY=VALUE with a KEY of {', '.join(hints)}{hint}")
            values[key] = value_of(text, hints[key])
        check_targets({"request": {"_target_": f"{__name__}.Keys", **values}})
        return cls(**values)

    @property
    def changed(self) -> list[str]:
        """The keys that have another value than by default."""
        usual = Keys()
        return [part.name for part in fields(self) if getattr(self, part.name) != getattr(usual, part.name)]

    @property
    def determining(self) -> Json:
        """The keys that change what comes of a request of no ledger, beside the network and the rows."""
        names = ("recipe", "size", "prepare_budget", "budget", "verify", "keep")
        pool = None if self.pool_folder is None else str(self.pool_folder.absolute())
        own = {} if self.attribution is None else {"attribution": self.attribution}
        return {name: getattr(self, name) for name in names} | own | {"pool": pool}

    def about(self, rows: Rows) -> About:
        """Return what is said of the request.

        Raises:
            UserError: something of it is no text, or too long, or there are not as many ids as rows.
        """
        if self.record_ids is None and self.id_column is not None:
            raise UserError(f"{PREFIX}id_column: is a column of {PREFIX}record_ids; expected that beside it")
        ids = None if self.record_ids is None else ids_in(self.record_ids, self.id_column)
        return About.of({name: getattr(self, name) for name in WORDS}, ids, rows.in_order, rows.n_train, PREFIX)

    @property
    def signing(self) -> Key | None:
        """The private key, None where none was given."""
        return None if self.key is None else private_key(self.key, "request.key")

    @property
    def pool_folder(self) -> Path | None:
        """The folder of the pool, None where none was given."""
        return None if self.pool is None else Path(self.pool).expanduser()


@storage_errors()
def unlearn_command(overrides: Sequence[str], more: Sequence[str] = ()) -> Path:
    """Carry out a command line, and return the folder of the results.

    Args:
        overrides: ``key=value`` of the configuration and of the request.
        more: further configuration folders.

    Raises:
        UserError: something does not fit; nothing was written then.
    """
    sweep()
    keys = Keys.read([text for text in overrides if text.startswith(PREFIX)])
    others = [text for text in overrides if not text.startswith(PREFIX)]
    if keys.purge is not None:
        return purge_command(keys.purge, keys.pool, keys.key, others, keys.changed)
    _check_prefix(others)
    if not any(text.startswith("forget=") for text in others):
        others.insert(0, "forget=indices")
    config = composed(["logger=none", *others], more)
    check_config(config)
    command = _Command(config, keys, _given(config, keys), Console())
    rows = read(instantiate(config.forget, "forget"), command.known.examples)
    return command.delete(rows) if keys.ledger is None else command.delete_by_ledger(rows)


def _check_prefix(texts: Sequence[str]) -> None:
    """Refuse a key of the request that lacks its ``request.``."""
    for text in texts:
        key, equals, value = text.partition("=")
        if equals and key in get_type_hints(Keys):
            raise UserError(f"{text}: there is no key '{key}'; did you mean '{PREFIX}{key}={value}'?")


def _given(config: Config, keys: Keys) -> Given:
    """Return the trained network and its data."""
    if keys.checkpoint is None:
        raise UserError("request.checkpoint: has no value and needs one; give it as request.checkpoint=FILE")
    examples: Examples = instantiate(config.dataset, "dataset").load()
    return given_by_configuration(config.model.network, examples, Path(keys.checkpoint).expanduser(), keys.prefix)


@dataclass(frozen=True)
class _Command:
    """A command that deletes rows from a network."""

    config: Config
    keys: Keys
    known: Given
    console: Console

    def delete(self, rows: Rows) -> Path:
        """Carry out a request that is of no ledger, unless its folder holds the results already."""
        keys = self.keys
        if keys.receipt is not None:
            raise UserError("request.receipt: is of a ledger; expected request.ledger=FOLDER beside it")
        rows = forget_rows(rows, self.known.examples, whole_classes=keys.whole_classes)
        about = keys.about(rows)
        determining = {**keys.determining, **({"about": about.said} if about.said else {})}
        digest = digest_of_command(self.config, determining, self.known, rows)
        output = Output(keys.output, digest, keys.signing)
        if (record := output.finished()) is not None:
            self.console.note(f"{keys.output}: holds this deletion already, of {record['when']}")
            self._warn(record["warnings"])
            return output.folder
        options, executor = replace(self._options(rows, output), about=about), shared_executor(self.config.executor)
        with request(self.known, options, executor, self.console) as execution:
            result = replace(execution.delete(rows).result, asked=digest)
        self._warn(result.warnings)
        return result.save(output.folder, output.key)

    def delete_by_ledger(self, rows: Rows) -> Path:
        """Carry out a request to a ledger, or take the results that it keeps of the same one."""
        keys = self.keys
        for name in ("verify", "keep"):
            if getattr(keys, name):
                raise UserError(f"request.{name}: is for single requests; expected no request.ledger beside it")
        about = keys.about(rows)
        receipt = None if keys.receipt is None else Receipt.read(keys.receipt, "request.receipt")
        method, seed, executor = self.config.unlearner, self.config.seed, shared_executor(self.config.executor)
        ledger = Ledger(
            keys.ledger or "",
            self.known,
            method=method,
            seed=seed,
            key=keys.signing,
            receipt=receipt,
            executor=executor,
        )
        if (found := ledger.recorded(rows, keys.budget)) is not None:
            about.check_same(found.about, "the ledger's record", PREFIX)
            Output(keys.output, place=found.place).check()
        else:
            ledger.check(rows, keys.whole_classes)
            ledger.options = self._options(rows, Output(keys.output))
        result = ledger.carry_out(rows, about, keys.whole_classes, keys.budget)
        self._warn(result.warnings)
        self.console.note(f"receipt of the ledger, to be kept elsewhere: {result.receipt}")
        return self._copied(result)

    def _copied(self, result: Unlearned) -> Path:
        output = Output(self.keys.output, place=result.place)
        return result.save(output.folder) if output.finished() is None else output.folder

    def _warn(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self.console.warn(warning)

    def _options(self, rows: Rows, output: Output) -> Options:
        """Return the options of a request, after checking that its results can be written; prepares its pool."""
        keys, config = self.keys, self.config
        pool, recipe = self._finished_pool(), plain(config.training) if keys.recipe else None
        options = Options(config.unlearner, recipe, pool, config.seed, keys.verify, keys.budget, keys.keep)
        options = replace(options, chunk_size=config.model.chunk_size)
        check_request(config.unlearner, recipe if pool is None else pool.training, options, self.known)
        output.check()
        for sentence in (*self.known.examples.taken, f"rows to delete: {rows.read}"):
            self.console.note(sentence)
        return options if pool is not None else replace(options, pool=self._prepared_pool())

    def _finished_pool(self) -> Pool | None:
        """Return the pool that is there; None where none was named, or it is to be prepared."""
        folder = self.keys.pool_folder
        if folder is None or self.keys.recipe:
            return None
        if not is_finished(folder):
            raise UserError(
                f"request.pool={self.keys.pool}: holds no finished pool; give request.recipe=true, if the network was "
                "trained as training=… says, and it is prepared"
            )
        return Pool.open(folder)

    def _prepared_pool(self) -> Pool | None:
        """Return the pool that was named, prepared by the recipe; None where none was."""
        folder, config, keys = self.keys.pool_folder, self.config, self.keys
        if folder is None:
            return None
        if not is_finished(folder):
            check_answers(self.known.answers, self.known.examples)  # before a pool is trained for nothing
        training, executor = plain(config.training), shared_executor(config.executor)
        more: dict[str, Any] = {"size": keys.size, "budget": keys.prepare_budget, "seed": config.seed}
        more |= {"attribution": keys.attribution, "chunk_size": config.model.chunk_size}
        return prepare_given(self.known, training, folder, executor, self.console, **more)
