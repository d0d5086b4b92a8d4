"""The one place where configuration becomes objects."""

from __future__ import annotations

import inspect
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from dmm_exp.config.folders import config_directory
from dmm_exp.config.places import TARGET, check_place
from dmm_exp.config.schema import Hints, Plain, plain
from dmm_exp.config.trust import check_found, check_names, is_restricted
from dmm_exp.errors import UserError, did_you_mean, reason_of, shown
from dmm_exp.files.digests import canonical
from dmm_exp.files.reading import parse_yaml

SPECIAL = {  # Hydra's own keys, and their types
    "_target_": str,
    "_partial_": bool,
    "_args_": list[Any],
    "_convert_": typing.Literal["none", "partial", "object", "all"],
    "_recursive_": bool,
}
SUPPLIED = {"network": ("input_shape", "n_classes", "words")}  # arguments that code gives, by the name of the node


def instantiate(node: Plain, path: str = "", **extra: Any) -> Any:
    """Make the object that ``node`` describes: ``_target_`` names the class, the other keys are its arguments.

    Containers arrive as plain lists and dicts, and numbers as texts where the class takes nothing but a text.

    Args:
        node: configuration of an object.
        path: what the user calls it, such as ``forget``; errors name keys within it. Empty where nobody wrote it.
        extra: arguments that come from code and win over configuration.

    Raises:
        UserError: raised by the class itself, with the key that the user wrote where it begins with an argument; or the
            class cannot be made from these arguments.
    """
    if OmegaConf.is_config(node):
        config = OmegaConf.merge(node, {"_convert_": "all"})
    else:  # as an argument, Hydra would merge it, which takes longer
        config = OmegaConf.create(_with_texts({**node, "_convert_": "all"}))
    _check_trust(config)
    try:
        return hydra.utils.instantiate(config, **extra)
    except InstantiationException as error:
        raise _in_full(error, config, path) from error


def _in_full(error: InstantiationException, config: Any, path: str) -> UserError:
    """Return what is wrong with a class or its arguments, with the keys that the user wrote."""
    inner = re.search(r"\nfull_key: (\S+)$", str(error))
    node = OmegaConf.select(config, inner[1]) if inner else config
    place = ".".join(filter(None, [path, inner[1] if inner else ""]))
    cause = error.__cause__ or error
    if not isinstance(cause, UserError):
        target = node.get(TARGET) if OmegaConf.is_dict(node) else config.get(TARGET)
        return UserError(f"{place}{place and ': '}{target}: cannot be made from these settings ({reason_of(cause)})")
    argument = re.match(r"((?:\w+\.)*)(\w+)(?=[=:\[])", str(cause))
    if not (place and argument and OmegaConf.is_dict(node) and argument[2] in node):
        return cause
    usual = argument[1]  # where such a class usually stands, if it says so
    return UserError(str(cause).replace(usual, f"{place}.") if usual else f"{place}.{cause}")


def _check_trust(config: Any) -> None:
    """Where only some classes are accepted, refuse others: first by name, then by what the name leads to."""
    if is_restricted():
        plain = OmegaConf.to_container(config)
        check_names(plain)
        for _, node in _targets(plain, ""):
            _inspected(node["_target_"])


def _with_texts(value: Any) -> Any:
    """Return plain configuration in which arguments that have to be texts are."""
    if isinstance(value, list):
        return [_with_texts(element) for element in value]
    if not isinstance(value, Mapping):
        return value
    hints = _known_hints(value.get("_target_"))
    return {key: _with_texts(as_text(inner, hints[key]) if key in hints else inner) for key, inner in value.items()}


def as_text(value: Any, hint: Any) -> Any:
    """Return a number as the text that it was, where a type hint takes texts and no such number; lists element-wise."""
    if isinstance(value, list):
        several = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        kinds = [typing.get_args(kind)[0] for kind in several if typing.get_origin(kind) in (list, Sequence, tuple)]
        return [as_text(element, kinds[0]) for element in value] if len(kinds) == 1 else value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if number and _is_text(hint) and not fits(value, hint) else value


def takes_text(hint: Any, value: Any, text: str) -> bool:
    """Say whether a type hint takes the text that was typed, rather than the value that YAML makes of it.

    What takes a text or a number (``30`` or ``10%``) is meant as a number; what takes true and false as well is a name.
    """
    arguments = typing.get_args(hint)
    if not _is_text(hint) or (float in arguments and bool not in arguments):
        return False
    return not fits(value, hint) or (isinstance(value, (bool, int, float)) and str(value) != text)


def _is_text(hint: Any) -> bool:
    return hint is str or str in typing.get_args(hint)


def hint_of(target: Any, argument: str) -> Any:
    """Return the type hint of an argument of a class that is given by its name; None where there is none."""
    return _known_hints(target).get(argument)


def _known_hints(target: Any) -> Hints:
    try:
        return _inspected(target)[1] if isinstance(target, str) else {}
    except Exception:  # check_targets says what is wrong with it
        return {}


def takes(target: Any, argument: str) -> bool:
    """Say whether what a target names has an argument of this name."""
    try:
        return isinstance(target, str) and argument in _inspected(target)[0].parameters
    except Exception:  # check_targets says what is wrong with it
        return False


def check_targets(config: Any, prefix: str = "") -> None:
    """Compare every ``_target_`` of a configuration with the signature it names, before any work is done.

    Args:
        config: a configuration or a part of one, typed or as plain containers.
        prefix: where the part stands.

    Raises:
        UserError: a target that cannot be imported, a key it does not take or lacks, or a value of the wrong type.
    """
    resolved = plain(config)
    check_names(resolved, prefix)
    for path, node in _targets(resolved, prefix):
        if path == "trainer" and canonical(node) == _preset_trainer():
            continue
        signature, hints = _signature(path, node["_target_"])
        open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
        names = None if open_ended else list(signature.parameters)
        _check_given(path, node, names, hints, node["_target_"])
        _check_complete(path, node, signature)
        check_place(path, node["_target_"], _object(node["_target_"]))


@cache
def _preset_trainer() -> str:
    """Return the trainer of ``conf/trainer/default.yaml``: to compare it with its class would import Lightning."""
    return canonical(parse_yaml(Path(config_directory(), "trainer", "default.yaml").read_text(encoding="utf-8")))


def check_options_of(path: str, node: Any, options: Any) -> None:
    """Compare a node that one of our functions takes as its options with a typed dictionary, or with the function.

    Raises:
        UserError: it is no mapping, or has a key that is no option, or a value of the wrong type.
    """
    if not isinstance(node, Mapping):
        raise UserError(f"{path}={shown(node)}: expected keys with values")
    hints = {name: hint for name, hint in typing.get_type_hints(options).items() if name != "return"}
    _check_given(path, node, list(hints), hints, path)


def _check_given(path: str, node: Plain, names: Sequence[str] | None, hints: Plain, taker: str) -> None:
    """Refuse a key that is not among the names of arguments (None takes any), or a value of the wrong type."""
    for key, value in node.items():
        if key in SPECIAL:
            if not fits(value, SPECIAL[key]):
                raise UserError(f"{path}.{key}={shown(value)}: expected {describe(SPECIAL[key])}")
            continue
        if names is not None and key not in names:
            accepted = ", ".join(names) or "nothing"
            raise UserError(f"{path}.{key}: {taker} takes no '{key}', it takes {accepted}{did_you_mean(key, names)}")
        hint = hints.get(key)
        if hint is not None and not fits(as_text(value, hint), hint):
            raise UserError(f"{path}.{key}={value}: expected {describe(hint)}{_in_quotes(value, hint)}")
        if isinstance(value, Mapping) and TARGET in value and not value.get("_partial_"):
            _check_kind(f"{path}.{key}", value[TARGET], hint)


def _check_kind(path: str, target: Any, hint: Any) -> None:
    """Refuse a class that makes something else than one of our classes, where the hint of an argument asks for one."""
    accepted = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [kind for kind in accepted if inspect.isclass(kind) and kind is not type(None)]
    kinds = [] if any(getattr(kind, "_is_protocol", False) for kind in kinds) else kinds
    ours = kinds and all(kind.__module__.split(".")[0] == __name__.split(".")[0] for kind in kinds)
    if not ours or not isinstance(target, str) or not target:
        return
    _signature(path, target)  # which refuses what cannot be imported
    found = _object(target)
    if inspect.isclass(found) and not issubclass(found, tuple(kinds)):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{path}.{TARGET}={target}: expected a class that derives from {wanted}")


def _in_quotes(value: Any, hint: Any) -> str:
    """Return what to do about a text that YAML took for something else."""
    elements = value if isinstance(value, list) else [value]
    if not any(isinstance(element, bool) or element is None for element in elements) or not _holds_text(hint):
        return ""
    return "; a text that looks like something else stands in quotes"


def _holds_text(hint: Any) -> bool:
    return _is_text(hint) or any(_is_text(argument) for argument in typing.get_args(hint))


def _check_complete(path: str, node: Plain, signature: inspect.Signature) -> None:
    """Refuse a node that lacks an argument which its class needs."""
    if node.get("_partial_") or "_args_" in node:
        return
    given = {*node, *SUPPLIED.get(path.rpartition(".")[2], ())}
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    lacking = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.default is parameter.empty and parameter.kind not in variable and name not in given
    ]
    if lacking:
        values = " ".join(f"{path}.{name}=VALUE" for name in lacking)
        raise UserError(f"{path}: {node['_target_']} needs {' and '.join(lacking)}; give {values}")


def _targets(node: Any, path: str) -> Iterator[tuple[str, Plain]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _targets(value, f"{path}[{index}]")


def _signature(path: str, target: str) -> tuple[inspect.Signature, Hints]:
    if not isinstance(target, str):
        raise UserError(f"{path}._target_={shown(target)}: expected the name of a class, such as torch.nn.Linear")
    try:
        return _inspected(target)
    except UserError:
        raise
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(error).__name__
        raise UserError(f"{path}._target_={target}: cannot be imported ({reason})") from error


def _inspected(target: str) -> tuple[inspect.Signature, Hints]:
    """Return the arguments of what a target names; refuse it, where only some are accepted, before it is imported."""
    if is_restricted():
        check_names({"_target_": target})
        check_found(target, _object(target))
    return _inspect(target)


@cache
def _inspect(target: str) -> tuple[inspect.Signature, Hints]:
    found = _object(target)
    if not inspect.isclass(found):
        return inspect.signature(found), _hints(found)
    return _constructor(found)


def _object(target: str) -> Any:
    return hydra.utils.get_object(target)


def _constructor(cls: type) -> tuple[inspect.Signature, Hints]:
    """Return the arguments of a class; those that it hands on as ``**arguments`` are looked up in its bases.

    A class without such bases takes whatever it is given.
    """
    parameters: dict[str, inspect.Parameter] = {}
    hints: Hints = {}
    owners = [base for base in cls.__mro__ if "__init__" in vars(base) and base is not object]
    for owner in owners:
        own = dict(list(inspect.signature(owner.__init__).parameters.items())[1:])
        hands_on = [name for name, parameter in own.items() if parameter.kind is parameter.VAR_KEYWORD]
        parameters = own | parameters
        hints = _hints(owner.__init__) | hints
        if not hands_on or owner is owners[-1]:
            break
        for name in hands_on:
            del parameters[name]
    return inspect.Signature(sorted(parameters.values(), key=lambda parameter: parameter.kind)), hints


def _hints(function: Any) -> Hints:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Say whether a plain configuration value can be what ``hint`` asks for; what cannot be judged is accepted."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if origin in (typing.Union, types.UnionType):
        if isinstance(value, str) and {int, float} & set(arguments):
            arguments = tuple(argument for argument in arguments if argument is str or typing.get_origin(argument))
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin in (list, Sequence, tuple):
        element = arguments[0] if arguments else Any
        return isinstance(value, (list, tuple)) and all(fits(item, element) for item in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    if is_dataclass(hint):  # one of our classes: made by a node that names it, and never a plain value
        return not isinstance(value, (bool, int, float, str, list, Mapping, type(None)))
    return True


def describe(hint: Any) -> str:
    """Return what a type hint accepts, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin in (list, Sequence, tuple):
        return f"a list of {describe(arguments[0])}" if arguments else "a list"
    words = {float: "a finite number", int: "a whole number", bool: "true or false", str: "a text", type(None): "null"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))
