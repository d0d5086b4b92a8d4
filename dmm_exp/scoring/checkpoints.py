"""Folders of checkpoints of one network, which is asked about a dataset of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.config.schema import Config
from dmm_exp.data import Examples
from dmm_exp.ensembles import Ensemble
from dmm_exp.ensembles.work import model_factory
from dmm_exp.errors import UserError
from dmm_exp.models.normalised import Normalised
from dmm_exp.records.checkpoints import fill
from dmm_exp.scoring.arrays import ArrayFile
from dmm_exp.scoring.given import ENSEMBLES, Given, checked_ensemble, take_models
from dmm_exp.scoring.groups import KEYS, read_groups

ENDS = (".safetensors", ".pt", ".pth", ".ckpt")


def given_by_checkpoints(files: Mapping[str, ArrayFile], config: Config, models: int | None = None) -> Given:
    """Return the logits of networks whose weights lie in folders, a file for each, on all points of a dataset.

    Points are numbered as everywhere: training rows, then validation points. A state dict of PyTorch's is read with
    ``weights_only=True``.

    Args:
        files: folders by option, ``unlearned`` and ``retrained`` and perhaps ``retrained_again`` and ``originals``; and
            the file ``forget`` with training rows.
        config: whose ``dataset`` and ``model.network`` are taken.
        models: how many of every folder are compared, the first ones by name; None for all unlearned ones.

    Raises:
        UserError: something is missing or does not fit.
    """
    for key in ("unlearned", "retrained", "forget"):
        if key not in files:
            raise UserError(f"{key}: is missing; expected {key}={'FILE' if key == 'forget' else 'FOLDER'}")
    check_targets(config.dataset, "dataset")
    check_targets(config.model.network, "model.network")
    folders = {key: (files[key], _checkpoints(files[key])) for key in ENSEMBLES if key in files}
    examples: Examples = instantiate(config.dataset, "dataset").load()
    groups = np.full(examples.n_points, KEYS["validation"])
    groups[: examples.n_train] = read_groups({"forget": files["forget"]}, examples.n_train)
    factory = model_factory(config.model.network, examples)
    arrays = {key: checked_ensemble(file, _logits(paths, factory, examples)) for key, (file, paths) in folders.items()}
    taken, notes = take_models(arrays, {key: f"{key}={file.text}" for key, (file, _) in folders.items()}, models)
    return Given(taken, groups, examples.labels.numpy(), [*examples.taken, *notes])


def _checkpoints(file: ArrayFile) -> list[Path]:
    """Return the checkpoints in a folder by name, one or more."""
    if not file.path.is_dir():
        raise file.error("there is no such folder; expected one with a checkpoint for each model")
    found = sorted(path for path in file.path.iterdir() if path.suffix in ENDS)
    if not found:
        raise file.error(f"holds no checkpoint; expected files ending in {', '.join(ENDS)}")
    return found


def _logits(paths: list[Path], factory: Callable[[], Normalised], examples: Examples) -> NDArray[np.float32]:
    """Return the logits ``[models, points, classes]`` of the networks in files."""

    def answer(path: Path) -> NDArray[np.float32]:
        network = factory()
        fill(network.network, path)
        return Ensemble.stack([network]).logits(examples.inputs)[0].numpy()

    return np.stack([answer(path) for path in paths])
