"""``python -m dmm_exp.unlearn``: the configuration of experiments, and a few keys of the request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.config.ranges import check_ranges
from dmm_exp.config.schema import Config, Node, plain
from dmm_exp.config.texts import value_of
from dmm_exp.console.progress import Console
from dmm_exp.data import Examples
from dmm_exp.deletion.belonging import check_answers
from dmm_exp.deletion.given import Given, given_by_configuration
from dmm_exp.deletion.ledger import Ledger
from dmm_exp.deletion.ledger_files import Receipt
from dmm_exp.deletion.output import Output, asked_for
from dmm_exp.deletion.pool import FILE, SIZE, Pool, prepare_given
from dmm_exp.deletion.purge_command import purge_command
from dmm_exp.deletion.recipes import composed
from dmm_exp.deletion.request import check_request, request
from dmm_exp.deletion.rows import forget_rows, read
from dmm_exp.deletion.signature import Key, private_key
from dmm_exp.errors import UserError, did_you_mean, storage_errors
from dmm_exp.executors import shared_executor
from dmm_exp.files.reading import Json
from dmm_exp.forget import Rows
from dmm_exp.store.temporary import sweep

PREFIX = "request."

HELP = """\
Delete rows from a trained network.

    python -m dmm_exp.unlearn dataset=folder dataset.path=photos model.network._target_=my_package.Net \\
        request.checkpoint=net.safetensors forget.indices=rows.csv

Writes unlearned.safetensors, deletion.json (what was removed, how, how well, and what that does not guarantee) and
report.html into a folder, whose name is the last line on standard output.

Data, network and method are the groups of experiments (python -m dmm_exp --help): dataset, model, unlearner,
attribution, training, executor. forget.indices is a file of training indices, of true and false, or of file names of a
folder of images: .txt, .csv, .tsv, .json, .npy or .parquet. Of several columns forget.column=NAME is read.

    request.checkpoint=FILE     of the trained network: safetensors, a state dict, or Lightning's
    request.prefix=student.     which network of the file, where it holds several: what stands before its names
    request.output=FOLDER       where results go; a new folder (unlearned), or that of the same command: what is there
                                of its results is not made again
    request.recipe=true         the network was trained as training=… says: a pool and a verification can be made
    request.pool=FOLDER         a prepared pool; it is prepared there if it is not (with request.recipe=true)
    request.size=1000           subset models of a pool that is to be prepared
    request.prepare_budget=2h   the most that preparing it may take: its size is cut to what fits
    request.budget=30           seconds that unlearning may take, "2min", or a share of a retraining ("10%")
    request.verify=100          networks to retrain and compare with
    request.keep=[NAMES]        tensors or layers that unlearner=retrain may take over, such as frozen ones
    request.ledger=FOLDER       delete from the network as earlier requests to this ledger left it; the same request
                                again gives what the ledger keeps of it
    request.receipt=TEXT        of an earlier request: a ledger that was rolled back to before it is refused
    request.key=FILE            private Ed25519 key (PEM) to sign the record, and the ledger, with
    request.whole_classes=true  a class may lose its last example
    seed=0                      of all randomness

Remove what is known of deleted rows, and is not needed for further requests:

    python -m dmm_exp.unlearn request.purge=LEDGER [request.pool=POOL] [request.key=FILE]
    python -m dmm_exp.unlearn request.purge=POOL [forget.indices=rows.csv]

    request.purge=FOLDER        a ledger, with the pools that its requests used, or a pool alone. Networks, effects and
                                what verifications made go; of a pool, the inputs of the ledger's rows, or of those
                                named, are overwritten. What remains is printed

python -m dmm_exp.verify FOLDER checks a ledger or a record."""


@dataclass(frozen=True)
class Asked:
    """The keys of a request; :data:`HELP` says what they are."""

    checkpoint: str | None = None
    prefix: str | None = None
    output: str = "unlearned"
    recipe: bool = False
    pool: str | None = None
    size: int = SIZE
    prepare_budget: float | str | None = None
    budget: float | str | None = None
    verify: int = 0
    ledger: str | None = None
    receipt: str | None = None
    key: str | None = None
    purge: str | None = None
    whole_classes: bool = False
    keep: list[str] = field(default_factory=list)

    @property
    def given(self) -> list[str]:
        """The keys that have another value than by default."""
        usual = Asked()
        return [part.name for part in fields(self) if getattr(self, part.name) != getattr(usual, part.name)]

    @property
    def determining(self) -> Json:
        """The keys that change what comes of a request of no ledger, beside the network and the rows."""
        names = ("recipe", "size", "prepare_budget", "budget", "verify", "keep")
        pool = None if self.pool is None else str(Path(self.pool).expanduser().absolute())
        return {name: getattr(self, name) for name in names} | {"pool": pool}

    @property
    def signing(self) -> Key | None:
        """The private key, None where none was given."""
        return None if self.key is None else private_key(self.key, "request.key")


@storage_errors()
def unlearn_command(overrides: Sequence[str], more: Sequence[str] = ()) -> Path:
    """Do what a command line asks for, and return the folder of the results.

    Args:
        overrides: ``key=value`` of the configuration and of the request.
        more: further configuration folders.

    Raises:
        UserError: something does not fit; nothing was written then.
    """
    sweep()
    asked = _asked([text for text in overrides if text.startswith(PREFIX)])
    others = [text for text in overrides if not text.startswith(PREFIX)]
    if asked.purge is not None:
        return purge_command(asked.purge, asked.pool, asked.key, others, asked.given)
    _check_prefix(others)
    if not any(text.startswith("forget=") for text in others):
        others.insert(0, "forget=indices")
    config = composed(["logger=none", *others], more)
    check_ranges(config)
    check_targets(config)
    known = _given(config, asked)
    rows, console = read(instantiate(config.forget), known.examples), Console()
    carry_out = _single if asked.ledger is None else _of_ledger
    return carry_out(config, asked, known, rows, console)


def _single(config: Config, asked: Asked, known: Given, rows: Rows, console: Console) -> Path:
    """Carry out a request that is of no ledger, unless its folder holds what came of it already."""
    if asked.receipt is not None:
        raise UserError("request.receipt: is of a ledger; expected request.ledger=FOLDER beside it")
    chosen = forget_rows(rows, known.examples, whole_classes=asked.whole_classes)
    output = Output(asked.output, asked_for(config, asked.determining, known, chosen), asked.signing)
    if (record := output.finished()) is not None:
        console.note(f"{asked.output}: holds this deletion already, of {record['when']}")
        for warning in record["warnings"]:
            console.warn(warning)
        return output.folder
    pool, recipe, executor = _pool_of(config, asked, known, rows, console, output)
    with request(
        known,
        config.unlearner,
        recipe,
        pool,
        config.seed,
        asked.verify,
        executor,
        console,
        asked.budget,
        asked.keep,
    ) as work:
        result = replace(work.delete(chosen, read=rows.read).result, asked=output.asked)
    for warning in result.warnings:
        console.warn(warning)
    return result.save(output.folder, output.key)


def _of_ledger(config: Config, asked: Asked, known: Given, rows: Rows, console: Console) -> Path:
    """Carry out a request to a ledger, or take what it keeps of the same one."""
    if asked.verify:
        raise UserError("request.verify: is for single requests; expected no request.ledger beside it")
    if asked.keep:
        raise UserError("request.keep: is for single requests; expected no request.ledger beside it")
    folder, executor = Path(asked.ledger or "").expanduser(), shared_executor(config.executor)
    receipt = None if asked.receipt is None else Receipt.read(asked.receipt, "request.receipt")

    def ledger(recipe: Any, pool: Pool | None) -> Ledger:
        asking = (config.unlearner, recipe, pool, config.seed)
        return Ledger.of(folder, known, asking, executor, console, asked.signing, receipt)

    work = ledger(None, None)
    if (found := work.recorded(rows, asked.budget)) is not None:
        Output(asked.output, place=found.place).check()
    else:
        forget_rows(rows, known.examples, whole_classes=asked.whole_classes, gone=work.gone)
        pool, recipe, _ = _pool_of(config, asked, known, rows, console, Output(asked.output))
        work = ledger(recipe, pool)
    result = work.delete(rows, whole_classes=asked.whole_classes, budget=asked.budget)
    for warning in result.warnings:
        console.warn(warning)
    console.note(f"receipt of the ledger, to be kept elsewhere: {result.receipt}")
    output = Output(asked.output, place=result.place)
    return result.save(output.folder) if output.finished() is None else output.folder


def _pool_of(
    config: Config, asked: Asked, known: Given, rows: Rows, console: Console, output: Output
) -> tuple[Pool | None, Node | None, Any]:
    """Return a request's pool, recipe and executor, after checking that what comes of it can be written."""
    kept, recipe = _kept(asked), plain(config.training) if asked.recipe else None
    check_request(config.unlearner, recipe if kept is None else kept.training, asked.verify, asked.budget, known)
    output.check()
    for sentence in (*known.examples.taken, f"rows to delete: {rows.read}"):
        console.note(sentence)
    executor = shared_executor(config.executor)
    return kept or _prepared(config, asked, known, executor, console), recipe, executor


def _asked(texts: Sequence[str]) -> Asked:
    """Return the keys of a request."""
    hints = get_type_hints(Asked)
    values: Node = {}
    for text in texts:
        key, equals, _ = text.removeprefix(PREFIX).partition("=")
        if key not in hints or not equals:
            hint = did_you_mean(key, hints)
            raise UserError(f"'{text}': expected request.KEY=VALUE with a KEY of {', '.join(hints)}{hint}")
        values[key] = value_of(text, hints[key])
    check_targets({"request": {"_target_": f"{__name__}.Asked", **values}})
    return Asked(**values)


def _check_prefix(texts: Sequence[str]) -> None:
    """Refuse a key of the request that lacks its ``request.``."""
    for text in texts:
        key, equals, value = text.partition("=")
        if equals and key in get_type_hints(Asked):
            raise UserError(f"{text}: there is no key '{key}'; did you mean '{PREFIX}{key}={value}'?")


def _given(config: Config, asked: Asked) -> Given:
    """Return the trained network and its data."""
    if asked.checkpoint is None:
        raise UserError("request.checkpoint: has no value and needs one; give it as request.checkpoint=FILE")
    examples: Examples = instantiate(config.dataset).load()
    checkpoint = Path(asked.checkpoint).expanduser()
    return given_by_configuration(config.model.network, examples, checkpoint, asked.prefix)


def _kept(asked: Asked) -> Pool | None:
    """Return the pool that is there; None where none was asked for, or it is to be prepared."""
    if asked.pool is None or asked.recipe:
        return None
    if not (Path(asked.pool).expanduser() / FILE).exists():
        raise UserError(
            f"request.pool={asked.pool}: holds no finished pool; give request.recipe=true, if the network was trained "
            "as training=… says, and it is prepared"
        )
    return Pool.open(asked.pool)


def _prepared(config: Config, asked: Asked, known: Given, executor: Any, console: Console) -> Pool | None:
    """Return the pool that was asked for, prepared by the recipe; None where none was."""
    if asked.pool is None:
        return None
    if not (Path(asked.pool).expanduser() / FILE).exists():
        check_answers(known.answers, known.examples)  # before a pool is trained for nothing
    budget, folder, seed = asked.prepare_budget, Path(asked.pool), config.seed
    training = plain(config.training)
    return prepare_given(known, training, folder, executor, console, size=asked.size, budget=budget, seed=seed)
