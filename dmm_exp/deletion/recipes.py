"""How the given network was trained, so that it can be trained again: a recipe of ours, or a function of the user's."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from functools import cache, partial
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor, nn

from dmm_exp.config.folders import config_directory, further_folders
from dmm_exp.config.instantiate import check_targets, instantiate
from dmm_exp.config.loader import config_loader
from dmm_exp.config.loading import options_of
from dmm_exp.config.preflight import check_overrides, unlearner_overrides
from dmm_exp.config.registered import register
from dmm_exp.config.schema import Config, Node, Plain, TrainingConfig, plain
from dmm_exp.deletion.given import Given
from dmm_exp.ensembles.when_made import EnsembleTraining
from dmm_exp.ensembles.work import recipe as parts_of
from dmm_exp.errors import REASON, UserError, did_you_mean, explained, shown
from dmm_exp.unlearners import Unlearner

Recipe = str | Plain | Callable[..., nn.Module]


def training_of(recipe: Recipe, given: Given) -> Node:
    """Return the training configuration that a recipe stands for.

    Args:
        recipe: the name of a file in ``conf/training``; differences from the default one, as a mapping; or a function
            ``(model, dataset, seed) -> model`` that trains a fresh network on a part of the training set.
        given: the network and the data.

    Raises:
        UserError: there is no such recipe, or it has no such key.
    """
    if isinstance(recipe, str):
        return _checked(_named(recipe))
    if isinstance(recipe, Mapping):
        return _checked(_differences(recipe))
    if callable(recipe) and not isinstance(recipe, (type, nn.Module)):
        return {"function": register(f"recipe {_fingerprint(recipe)}", _training_function(recipe, given)), "epochs": 1}
    raise UserError(
        f"recipe is a {type(recipe).__name__}; expected the name of one of conf/training, a mapping, or a function "
        "(model, dataset, seed) -> model"
    )


def composed(overrides: Sequence[str], more: Sequence[str] = ()) -> Config:
    """Return the configuration that overrides of the command line compose to.

    Composing takes much longer than answering a small request, so a process composes each once.

    Raises:
        UserError: an override is wrong, or stands for several configurations.
    """
    return copy.deepcopy(_composed(tuple(overrides), tuple(more or further_folders())))


@cache
def _composed(overrides: tuple[str, ...], folders: tuple[str, ...]) -> Config:
    found = check_overrides(config_directory(), overrides, folders)
    if len(found) > 1:
        raise UserError(f"{' '.join(overrides)}: stands for {len(found)} configurations; expected one")
    return found[0]


def method_of(method: str | Plain) -> Node:
    """Return the configuration of an unlearner.

    Args:
        method: the name of a file in ``conf/unlearner``, with settings if need be, or a configuration.

    Raises:
        UserError: there is no such unlearner, or it does not take such settings.
    """
    if isinstance(method, str):
        settings = composed(unlearner_overrides(method)).unlearner
    elif isinstance(method, Mapping) and "_target_" in method:
        settings = dict(method)
    else:
        raise UserError(
            f"method={shown(method)}: expected the name of one of conf/unlearner, or a mapping with a _target_"
        )
    check_targets({"method": settings})
    with _usable_settings("method"):
        kind = kind_of(settings)
    if not issubclass(kind, Unlearner):
        raise UserError(f"method: {settings['_target_']} is no unlearner; expected a class derived from Unlearner")
    with _usable_settings("method"):
        instantiate(settings, "method")
    return settings


def kind_of(settings: Node) -> type[Unlearner]:
    """Return the class of an unlearner that :func:`method_of` returned the configuration of."""
    return get_class(settings["_target_"])


def predicts(settings: Node) -> bool:
    """Return whether such an unlearner matches predictions."""
    return kind_of(settings).target == "predicted"


def _named(recipe: str) -> Node:
    """Return the training configuration of a name."""
    folders = further_folders()
    with config_loader(config_directory(), folders) as loader:
        names = options_of("training", loader)
    if recipe not in names:
        raise UserError(f"recipe={shown(recipe)}: expected one of {', '.join(names)}{did_you_mean(recipe, names)}")
    return plain(composed([f"training={recipe}"]).training)


def _differences(recipe: Plain) -> Node:
    """Return the default training configuration with some keys changed."""
    known = [field.name for field in fields(TrainingConfig)]
    for key in recipe:
        if key not in known:
            hint = did_you_mean(key, known)
            raise UserError(f"recipe: there is no key '{shown(key)}'; expected {', '.join(known)}{hint}")
    training = plain(composed([]).training)
    for key, value in recipe.items():
        whole = not isinstance(value, Mapping) or "_target_" in value
        training[key] = value if whole else {**training[key], **value}
    if isinstance(training["optimizer"], Mapping):
        training["optimizer"] = {"_partial_": True, **training["optimizer"]}
    return training


def _checked(training: Node) -> Node:
    """Return a training configuration, by which networks can be trained.

    Raises:
        UserError: a value is not what is expected.
    """
    with _usable_settings("recipe"):
        typed: Any = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(TrainingConfig), training))
    for key in ("epochs", "batch_size"):
        if isinstance(training[key], bool) or typed[key] < 1:
            raise UserError(f"recipe: {key}={training[key]}; expected a whole number of at least 1")
    check_targets({"recipe": training})
    with _usable_settings("recipe"):
        EnsembleTraining(subsets=torch.zeros(1, 1), **parts_of(training))
    return typed


def _usable_settings(key: str) -> AbstractContextManager[None]:
    return explained(f"{key}: cannot be made from these settings ({REASON}); expected those of conf/")


def _training_function(recipe: Callable[..., nn.Module], given: Given) -> Callable[[nn.Module, Tensor, int], nn.Module]:
    """Return a function of training indices that hands the recipe the user's own kind of dataset."""
    return lambda network, rows, seed: recipe(network, given.rows(rows), seed)


def _fingerprint(recipe: Callable[..., Any]) -> str:
    """Return a short name of a function: of its code, and of the plain values that it was made with."""
    return hashlib.sha256("\n".join(_described(recipe)).encode()).hexdigest()[:16]


def _described(thing: Any) -> Iterator[str]:
    """Yield what tells one function from another, and from one run of a program to the next is the same."""
    if isinstance(thing, partial):
        yield from _described(thing.func)
        yield from _plain_values({**dict(enumerate(thing.args)), **thing.keywords})
        return
    function = inspect.unwrap(thing)
    if not inspect.isroutine(function):  # an object that can be called
        yield from _plain_values(getattr(function, "__dict__", {}))
        function = type(function).__call__
    yield f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    code = getattr(function, "__code__", None)
    if code is None:
        return
    try:
        yield inspect.getsource(function)
    except (OSError, TypeError):
        yield f"{code.co_code.hex()} {code.co_names}"
        yield from _plain_values(dict(enumerate(code.co_consts)))
    yield from _plain_values(inspect.getclosurevars(function).nonlocals)
    yield from _plain_values(dict(enumerate(getattr(function, "__defaults__", None) or ())))
    yield from _plain_values(getattr(function, "__kwdefaults__", None) or {})


def _plain_values(values: Mapping[Any, Any]) -> Iterator[str]:
    """Yield names and values, of those that are numbers, texts or functions."""
    for name, value in values.items():
        if isinstance(value, (int, float, str, type(None))):
            yield f"{name}={value!r}"
        elif inspect.isfunction(value) or isinstance(value, partial):
            yield f"{name}="
            yield from _described(value)
