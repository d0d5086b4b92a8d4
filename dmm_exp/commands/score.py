"""Score models that were made elsewhere, as runs are scored.

usage: dmm-exp score unlearned=FILE retrained=FILE forget=FILE output=FOLDER [KEY=VALUE ...]

A FILE is .npy, .npz, .parquet or .safetensors, and is never unpickled. One of models holds margins [models, points], or
logits [models, points, classes], which need labels=FILE; point i is the same in all of them. An archive holds one
array, or one that is named like its option.

  unlearned=FILE         the models to score
  retrained=FILE         as many models trained without the forget set; of twice as many the second half is the floor
  retrained_again=FILE   further ones, trained with other seeds: the floor of every score
  originals=FILE         models before unlearning: what doing nothing scores
  labels=FILE            the class index of every point
  forget=FILE            indices of forget points, or true and false for every point; also a .json list
  validation=FILE        those of points that no model was trained on
  retain=FILE            those of other training points (default: all points that are left)
  groups=FILE            instead of these three: 0 (forget), 1 (retain) or 2 (validation) for every point
  models=N               compare the first N models of each file (default: all unlearned ones)
  method=NAME            what made the unlearned models, for table and page (default: the name of their file)
  output=FOLDER          where results go: a new folder, or an empty one

KLoM and membership inference have the settings of runs: evaluation/klom=paper (or easydub_v1, easydub_v2),
evaluation.klom.bins=20, evaluation.mia.feature=confidence and the like, and seed=0.

Beside the folder that EasyDUB publishes, with margins of retrained models and of originals:

  easydub=FOLDER         EasyDUB-dataset; it takes the place of all files but unlearned=
  forget_set=Z           the number of one of its forget sets
  unlearned=FILE         margins [models, points] of retained, forget and validation points, in this order; or a FOLDER
                         like that of an oracle: {retain,forget,val}/resnet9/id_X_epoch_Y.npy

From checkpoints of one network, a folder for each ensemble with a .safetensors or a state dict (.pt) for each model, in
the order of their names:

  dataset=NAME           and model=NAME, as in runs, with dataset.KEY= and model.KEY=
  unlearned=FOLDER       and retrained=FOLDER, retrained_again=FOLDER, originals=FOLDER
  forget=FILE            indices of training rows; labels and validation points are those of the dataset

Examples:
  dmm-exp score unlearned=u.npy retrained=r.npy forget=forget.npy output=scored
  dmm-exp score unlearned=u.npz retrained=r.npz originals=o.npz labels=y.npy groups=g.npy output=scored
  dmm-exp score easydub=EasyDUB-dataset forget_set=2 unlearned=u.npy evaluation/klom=easydub_v2 output=scored
  dmm-exp score dataset=digits model=mlp unlearned=mine retrained=theirs forget=forget.json output=scored
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dmm_exp.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from dmm_exp.config.schema import Config
    from dmm_exp.scoring.arrays import ArrayFile
    from dmm_exp.scoring.given import Given

FILES = (
    "unlearned", "retrained", "retrained_again", "originals", "labels", "forget", "validation", "retain", "groups",
)  # fmt: skip
OTHERS = ("models", "method", "output", "easydub", "forget_set")
EVALUATION = ("evaluation/klom=", "evaluation.klom.", "evaluation.mia.", "seed=")
NETWORKS = ("dataset=", "dataset.", "model=", "model.")
SIDES = {  # what else the models can come from → the files that are then given
    "easydub": ("unlearned",),
    "dataset": ("unlearned", "retrained", "retrained_again", "originals", "forget"),
}


@dataclass(frozen=True)
class Request:
    """What a command line asks for.

    Attributes:
        files: by option.
        output: the folder of results.
        models: how many of each are compared; None for all unlearned ones.
        method: what made the unlearned models; None for the name of their file.
        easydub: the folder that EasyDUB publishes, None for none.
        forget_set: the number of one of its forget sets.
        networks: whether models come as checkpoints, of a network and a dataset that ``settings`` name.
        settings: overrides of the configuration.
    """

    files: Mapping[str, str]
    output: Path
    models: int | None = None
    method: str | None = None
    easydub: str | None = None
    forget_set: int | None = None
    networks: bool = False
    settings: Sequence[str] = field(default_factory=tuple)


def score(words: Sequence[str]) -> int:
    """Do what a command line asks for, print the table and the folder of results, and return the exit code.

    Raises:
        UserError: an argument is wrong, or a file does not fit; nothing was written.
    """
    if {"-h", "--help"} & set(words):
        print(str(__doc__).strip())
        return 0
    request = parse(words)
    from dmm_exp.config.folders import config_directory
    from dmm_exp.config.preflight import compose_cells
    from dmm_exp.config.ranges import check_ranges
    from dmm_exp.console.progress import Console
    from dmm_exp.console.tables import print_table
    from dmm_exp.metrics.settings import check_settings
    from dmm_exp.runs.tables import headline_data, numbers_table
    from dmm_exp.scoring.scoring import Scoring, check_output, result_of, write

    check_output(request.output)
    cells = compose_cells(config_directory(), request.settings)
    if len(cells) > 1:
        raise UserError(f"{' '.join(request.settings)}: stands for {len(cells)} configurations; expected one")
    config, choices = cells[0]
    check_ranges(config)
    check_settings(config.evaluation)
    given, inputs = _read(request, config)
    scoring = Scoring(given, config.evaluation, choices["evaluation/klom"], config.seed)
    method = request.method or Path(request.files["unlearned"]).stem
    command = shlex.join(["dmm-exp", "score", *words])
    console = Console()
    with console.stage("scores", given.summary):
        result = result_of(scoring, request.output.absolute().name, method, command, inputs)
    write(replace(result, stages=list(console.stages)), request.output, console)
    print_table(numbers_table(headline_data(result)))
    print(request.output)
    return 0


def _read(request: Request, config: Config) -> tuple[Given, dict[str, object]]:
    """Return the models, and what they were read from in plain values."""
    from dmm_exp.config.schema import plain
    from dmm_exp.scoring.arrays import ArrayFile
    from dmm_exp.scoring.easydub import EasyDub
    from dmm_exp.scoring.given import read_given

    files = {key: ArrayFile(key, text) for key, text in request.files.items()}
    if request.networks:
        from dmm_exp.scoring.checkpoints import given_by_checkpoints  # which needs torch

        given = given_by_checkpoints(files, config, request.models)
        return given, {"inputs": _facts(files), **{key: plain(config)[key] for key in ("dataset", "model")}}
    if request.easydub is None or request.forget_set is None:
        return read_given(files, request.models), {"inputs": _facts(files)}
    published = EasyDub(request.easydub, request.forget_set)
    place = {"easydub": {"folder": request.easydub, "forget_set": request.forget_set}}
    return published.given(files["unlearned"], request.models), {"inputs": _facts(files) | place}


def _facts(files: Mapping[str, ArrayFile]) -> dict[str, dict[str, str]]:
    return {key: {"folder": file.text} if file.path.is_dir() else file.facts() for key, file in files.items()}


def parse(words: Sequence[str]) -> Request:
    """Return what the words of a command line ask for.

    Raises:
        UserError: an argument is missing, unknown, given twice or no number.
    """
    settings = [word for word in words if word.startswith((*EVALUATION, *NETWORKS))]
    values = _values([word for word in words if word not in settings])
    if "output" not in values:
        raise UserError("output: is missing; expected output=FOLDER for the results; --help shows what is accepted")
    files = {key: values[key] for key in FILES if key in values}
    easydub, forget_set = values.get("easydub"), _number(values, "forget_set", 0)
    networks = _has_networks(settings)
    if (easydub is None) != (forget_set is None):
        raise UserError("easydub=FOLDER and forget_set=Z: expected both, or neither")
    for side in [side for side, given in (("easydub", easydub), ("dataset", networks)) if given]:
        _check_files(side, files)
    if easydub is not None and networks:
        raise UserError(f"easydub={easydub}: has margins of networks; expected no dataset= or model= beside it")
    models, output = _number(values, "models", 2), Path(values["output"]).expanduser()
    return Request(files, output, models, values.get("method"), easydub, forget_set, networks, settings)


def _has_networks(settings: Sequence[str]) -> bool:
    """Return whether settings name a network and a dataset."""
    given = [word for word in settings if word.startswith(NETWORKS)]
    for key in ("dataset=", "model="):
        if given and not any(word.startswith(key) for word in given):
            raise UserError(f"{given[0]}: is for checkpoints; expected dataset=NAME and model=NAME, {key} is missing")
    return bool(given)


def _values(words: Sequence[str]) -> dict[str, str]:
    """Return the values of all keys but settings."""
    values: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in (*FILES, *OTHERS):
            known = (*FILES, *OTHERS, "dataset", "model", "evaluation/klom", "seed")
            raise UserError(f"{word}: expected KEY=VALUE with a KEY of {', '.join(known)}{did_you_mean(key, known)}")
        if key in values:
            raise UserError(f"{key}: is given twice; expected one value")
        if not value:
            raise UserError(f"{key}: has no value; expected {key}=VALUE")
        values[key] = value
    return values


def _check_files(side: str, files: Mapping[str, str]) -> None:
    """Raise ``UserError`` for a file that says what the dataset says, or without unlearned models."""
    for key in files:
        if key not in SIDES[side]:
            raise UserError(
                f"{key}={files[key]}: is of what {side}= holds; expected {', '.join(SIDES[side])} alone beside it"
            )
    if "unlearned" not in files:
        raise UserError("unlearned: is missing; expected unlearned= with the models to score")


def _number(values: Mapping[str, str], key: str, least: int) -> int | None:
    if key not in values:
        return None
    text = values[key]
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise UserError(f"{key}={text}: expected a whole number of at least {least}")
    return int(text)
