"""Where a key takes a text, a value is the text that was typed, even if YAML would read something else.

``dataset.path=2021`` names a folder and ``paths.outputs=1e3`` does, too: neither is a number. Numbers whose text is
plain (``2021``) become texts where objects are made (:func:`dmm_exp.config.instantiate.instantiate`); what YAML would
not give back as it was typed (``1e3``, ``1_000``, ``true``, ``null``, ``[a]``) is quoted here, before Hydra reads it.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from dmm_exp.config.instantiate import hint_of, takes_text
from dmm_exp.config.overrides import parsed, quoted
from dmm_exp.config.schema import Config, Plain
from dmm_exp.config.targets import TARGET, laid_over, together
from dmm_exp.errors import UserError

Compose = Callable[[], Plain]  # → what the chosen files compose to, as plain unresolved containers


def as_typed(values: Sequence[Any], compose: Compose) -> dict[str, str]:
    """Return override → the same with its value in quotes, of those whose key takes a text that YAML would change.

    Args:
        values: parsed overrides that set a value.
        compose: called only where the types of the root configuration do not decide.
    """
    base: Plain | None = None
    found = {}
    for override in values:
        elements = _elements(override)
        if not any(_changed(value, text) for value, text in elements):
            continue
        hint, open_ended = _typed(override.key_or_group)
        if not open_ended and any(value is None for value, _ in elements):
            continue
        if open_ended:
            base = compose() if base is None else base
            hint = _hint(override.key_or_group, elements, base, values)
        texts = [quoted(text) if takes_text(hint, value, text) else text for value, text in elements]
        if texts != [text for _, text in elements]:
            found[override.input_line] = f"{override.input_line.partition('=')[0]}={','.join(texts)}"
    return found


def value_of(text: str, hint: Any) -> Any:
    """Return the value of ``key=value`` that is not Hydra's: as it was typed, where its key takes a text and no number.

    A text may stand in quotes, as in Hydra's overrides. What cannot be read as anything else is a text, too.

    Raises:
        UserError: there is no value.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    typed = text.partition("=")[2]
    if not typed:
        raise UserError(f"'{text}': has no value; expected {text}VALUE")
    if len(typed) > 1 and typed[0] == typed[-1] and typed[0] in "\"'":
        return parsed([f"x={typed}"])[0].value()
    try:
        (value,) = OmegaConf.to_container(OmegaConf.from_dotlist([f"x={typed}"])).values()  # type: ignore[union-attr]
    except (OmegaConfBaseException, yaml.YAMLError):
        return typed
    return typed if isinstance(value, str) or takes_text(hint, value, typed) else value


def _elements(override: Any) -> list[tuple[Any, str]]:
    """Return the values of an override, several of a sweep, each with its text; none where they are not told apart."""
    if override.is_delete():
        return []
    text = override.input_line.partition("=")[2].strip()
    if not override.is_sweep_override():
        return [(override.value(), text)]
    if not override.is_choice_sweep() or "(" in text:
        return []
    values, texts = list(override.sweep_iterator()), [part.strip() for part in text.split(",")]
    return list(zip(values, texts, strict=True)) if len(values) == len(texts) else []


def _changed(value: Any, text: str) -> bool:
    """Say whether a value is something else than its text."""
    from hydra.core.override_parser.types import QuotedString

    return not isinstance(value, (str, QuotedString)) and (isinstance(value, bool) or str(value) != text)


def _typed(key: str) -> tuple[Any, bool]:
    """Return the type of a key of the root configuration, and whether that leaves it open."""
    hint: Any = Config
    for name in key.split("."):
        if is_dataclass(hint):
            hint = typing.get_type_hints(hint).get(name)
        elif typing.get_origin(hint) is dict:
            hint = typing.get_args(hint)[1]
        if hint is Any or hint is None:
            return hint, True
    return hint, False


def _hint(key: str, elements: Sequence[tuple[Any, str]], base: Plain, values: Sequence[Any]) -> Any:
    """Return the type of an argument of a class; None where its file says already that it is no text."""
    *parents, last = key.split(".")
    node, before = laid_over(base, together(values)), base
    for name in parents:
        node, before = _inner(node, name), _inner(before, name)
    preset = before.get(last)
    if TARGET not in node or all(_alike(value, text, preset) for value, text in elements):
        return None
    return hint_of(node[TARGET], last)


def _inner(node: Plain, name: str) -> Plain:
    found = node.get(name)
    return found if isinstance(found, Mapping) else {}


def _alike(value: Any, text: str, preset: Any) -> bool:
    """Say whether a value is of the kind that a file gives its key, and so is meant as it is."""
    if isinstance(preset, bool) or isinstance(value, bool):
        return isinstance(preset, bool) and isinstance(value, bool)
    if isinstance(preset, float) or (isinstance(preset, int) and isinstance(value, int) and "_" not in text):
        return isinstance(value, (int, float))
    return isinstance(preset, (list, dict, type(None))) and type(preset) is type(value)
