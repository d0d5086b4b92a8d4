"""``python -m dmm_exp.unlearn``: the configuration of experiments, and a few keys of the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.config.schema import check_ranges
from dmm_exp.config.texts import value_of
from dmm_exp.data import Examples
from dmm_exp.deletion.belonging import check_answers
from dmm_exp.deletion.given import Given, given_by_configuration
from dmm_exp.deletion.ledger import Ledger
from dmm_exp.deletion.pool import FILE, SIZE, Pool, prepare_given
from dmm_exp.deletion.recipes import composed
from dmm_exp.deletion.request import check_request, request
from dmm_exp.deletion.rows import forget_rows, read
from dmm_exp.errors import UserError, did_you_mean, storage_errors
from dmm_exp.executors import shared_executor
from dmm_exp.report.progress import Console

PREFIX = "request."
RECORD = "deletion.json"

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
    request.output=FOLDER       where results go; a new folder (unlearned)
    request.recipe=true         the network was trained as training=… says: a pool and a verification can be made
    request.pool=FOLDER         a prepared pool; it is prepared there if it is not (with request.recipe=true)
    request.size=1000           subset models of a pool that is to be prepared
    request.prepare_budget=2h   the most that preparing it may take: its size is cut to what fits
    request.budget=30           seconds that unlearning may take, "2min", or a share of a retraining ("10%")
    request.verify=100          networks to retrain and compare with
    request.keep=[NAMES]        tensors or layers that unlearner=retrain may take over, such as frozen ones
    request.ledger=FOLDER       delete from the network as earlier requests to this ledger left it
    request.whole_classes=true  a class may lose its last example
    seed=0                      of all randomness"""


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
    whole_classes: bool = False
    keep: list[str] = field(default_factory=list)


@storage_errors()
def unlearn_command(overrides: Sequence[str], more: Sequence[str] = ()) -> Path:
    """Do what a command line asks for, and return the folder of the results.

    Args:
        overrides: ``key=value`` of the configuration and of the request.
        more: further configuration folders.

    Raises:
        UserError: something does not fit; nothing was written then.
    """
    asked = _asked([text for text in overrides if text.startswith(PREFIX)])
    others = [text for text in overrides if not text.startswith(PREFIX)]
    _check_prefix(others)
    if not any(text.startswith("forget=") for text in others):
        others.insert(0, "forget=indices")
    config = composed(["logger=none", *others], more)
    check_ranges(config)
    check_targets(config)
    output = Path(asked.output).expanduser()
    if (output / RECORD).exists():
        raise UserError(f"request.output={asked.output}: holds the record of a deletion; expected a new folder")
    known = _given(config, asked)
    rows = read(instantiate(config["forget"]), known.examples)
    recipe = config["training"] if asked.recipe else None
    console, executor = Console(), shared_executor(config["executor"])
    gone = [] if asked.ledger is None else Ledger.of(Path(asked.ledger), known, (), executor, console).gone
    chosen = forget_rows(rows, known.examples, whole_classes=asked.whole_classes, gone=gone)
    if asked.ledger is not None and asked.verify:
        raise UserError("request.verify: is for single requests; expected no request.ledger beside it")
    kept = _kept(asked)
    training = kept.training if kept is not None else recipe
    check_request(config["unlearner"], training, asked.verify, asked.budget, known)
    for sentence in (*known.examples.taken, f"rows to delete: {rows.read}"):
        console.note(sentence)
    pool = kept or _prepared(config, asked, known, executor, console)
    if asked.ledger is not None:
        asking = (config["unlearner"], recipe, pool, config["seed"])
        ledger = Ledger.of(Path(asked.ledger), known, asking, executor, console)
        result = ledger.delete(rows, whole_classes=asked.whole_classes, budget=asked.budget)
    else:
        method = config["unlearner"]
        with request(
            known, method, recipe, pool, config["seed"], asked.verify, executor, console, asked.budget, asked.keep
        ) as work:
            result = work.delete(chosen, read=rows.read).result
    for warning in result.warnings:
        console.warn(warning)
    return result.save(output)


def _asked(texts: Sequence[str]) -> Asked:
    """Return the keys of a request."""
    hints = get_type_hints(Asked)
    values: dict[str, Any] = {}
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


def _given(config: Mapping[str, Any], asked: Asked) -> Given:
    """Return the trained network and its data."""
    if asked.checkpoint is None:
        raise UserError("request.checkpoint: has no value and needs one; give it as request.checkpoint=FILE")
    examples: Examples = instantiate(config["dataset"]).load()
    checkpoint = Path(asked.checkpoint).expanduser()
    return given_by_configuration(config["model"]["network"], examples, checkpoint, asked.prefix)


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


def _prepared(config: Mapping[str, Any], asked: Asked, known: Given, executor: Any, console: Console) -> Pool | None:
    """Return the pool that was asked for, prepared by the recipe; None where none was."""
    if asked.pool is None:
        return None
    if not (Path(asked.pool).expanduser() / FILE).exists():
        check_answers(known.answers, known.examples)  # before a pool is trained for nothing
    budget, folder, seed = asked.prepare_budget, Path(asked.pool), config["seed"]
    training = config["training"]
    return prepare_given(known, training, folder, executor, console, size=asked.size, budget=budget, seed=seed)
