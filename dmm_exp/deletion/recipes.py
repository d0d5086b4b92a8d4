"""How the given network was trained, so that it can be trained again: a recipe of ours, or a function of the user's."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import check_targets
from dmm_exp.config.preflight import check_overrides, has_choice
from dmm_exp.config.registered import register
from dmm_exp.config.schema import TrainingConfig
from dmm_exp.deletion.given import Given
from dmm_exp.errors import UserError, did_you_mean

Recipe = str | Mapping[str, Any] | Callable[..., nn.Module]


def training_of(recipe: Recipe, given: Given) -> dict[str, Any]:
    """Return the training configuration that a recipe stands for.

    Args:
        recipe: the name of a file in ``conf/training``; differences from the default one, as a mapping; or a function
            ``(model, dataset, seed) -> model`` that trains a fresh network on a part of the training set.
        given: the network and the data.

    Raises:
        UserError: there is no such recipe, or it has no such key.
    """
    if isinstance(recipe, str):
        if not has_choice(config_directory(), "training", recipe):
            from dmm_exp.config.preflight import config_loader, options_of

            with config_loader(config_directory()) as loader:
                names = options_of("training", loader)
            raise UserError(f"recipe={recipe}: expected one of {', '.join(names)}{did_you_mean(recipe, names)}")
        return composed([f"training={recipe}"])["training"]
    if isinstance(recipe, Mapping):
        return _differences(recipe)
    if callable(recipe):
        return {"function": register(f"recipe {_fingerprint(recipe)}", _teacher(recipe, given)), "epochs": 1}
    raise UserError(
        f"recipe is a {type(recipe).__name__}; expected the name of one of conf/training, a mapping, or a function "
        "(model, dataset, seed) -> model"
    )


def composed(overrides: Sequence[str], more: Sequence[str] = ()) -> dict[str, Any]:
    """Return the configuration that overrides of the command line compose to, as plain containers."""
    return check_overrides(config_directory(), overrides, more)[0]


def _differences(recipe: Mapping[str, Any]) -> dict[str, Any]:
    known = [field.name for field in fields(TrainingConfig)]
    for key in recipe:
        if key not in known:
            raise UserError(f"recipe: there is no key '{key}'; expected {', '.join(known)}{did_you_mean(key, known)}")
    training = composed([])["training"]
    for key, value in recipe.items():
        whole = not isinstance(value, Mapping) or "_target_" in value
        training[key] = value if whole else {**training[key], **value}
    if isinstance(training["optimizer"], Mapping):
        training["optimizer"] = {"_partial_": True, **training["optimizer"]}
    check_targets({"recipe": training})
    for key in ("epochs", "batch_size"):
        if not isinstance(training[key], int) or training[key] < 1:
            raise UserError(f"recipe: {key}={training[key]}; expected a whole number of at least 1")
    return training


def _teacher(recipe: Callable[..., nn.Module], given: Given) -> Callable[[nn.Module, Tensor, int], nn.Module]:
    """Return a function of training indices that hands the recipe the user's own kind of dataset."""
    return lambda network, rows, seed: recipe(network, given.rows(rows), seed)


def _fingerprint(recipe: Callable[..., Any]) -> str:
    """Return a short name of a function, from its code where that can be read."""
    name = f"{getattr(recipe, '__module__', '')}.{getattr(recipe, '__qualname__', type(recipe).__qualname__)}"
    with suppress(OSError, TypeError):
        name += inspect.getsource(recipe)
    return hashlib.sha256(name.encode()).hexdigest()[:16]
