"""A word of the command line as an override, or a sentence that shows the word as it should be."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from dmm_exp.errors import UserError

DASHES = "‐‑‒–—―−"  # what editors make of the dashes of an option
QUOTES = "“”„‟‘’‚‛«»"  # and of quotes
EQUALS = "＝﹦"
MULTIRUN = "hydra.mode=MULTIRUN"  # which cells of a sweep have, and the command line that they come from


def parsed(texts: Sequence[str], loader: Any = None) -> list[Any]:
    """Return texts as Hydra's overrides.

    Args:
        texts: ``key=value``, ``+key=value``, ``++key=value`` or ``~key``.
        loader: of Hydra, where values such as ``glob(*)`` are to be looked up. One that keeps what it parsed
            (``parsed``) parses each text once.

    Raises:
        UserError: one of them is none; the sentence shows it quoted where that is what it needs.
    """
    parser, known = OverridesParser.create(loader), getattr(loader, "parsed", {})
    for place, text in enumerate(texts):
        if text in known:
            continue
        try:
            (override,) = parser.parse_overrides([text])
        except HydraException as error:
            raise UserError(_refusal(texts, place)) from error
        if not override.key_or_group:
            raise UserError(_refusal(texts, place))
        _check_value(override, text)
        known[text] = override
    return [known[text] for text in texts]


def cells_of(overrides: Sequence[Any], loader: Any, *, multirun: bool = False) -> Iterator[list[Any]]:
    """Yield the overrides of every cell of a sweep, as Hydra writes them for a cell; of what is none, its only cell.

    Args:
        overrides: parsed.
        loader: of Hydra, where values such as ``glob(*)`` are to be looked up.
        multirun: whether this is a sweep also where every key has one value.

    Raises:
        UserError: a sweep without values to list, such as ``interval(0,1)``, over none, such as ``range(0)``, or over
            settings of Hydra itself.
    """
    several = [override for override in overrides if override.is_sweep_override()]
    if not several and not multirun:
        yield list(overrides)
        return
    for override in several:
        if override.is_hydra_override():
            raise UserError(f"{override.input_line}: sets how Hydra itself works; expected one value")
        if not override.is_discrete_sweep():
            raise UserError(
                f"{override.input_line}: has no list of values to go through; expected key=a,b or range(a,b)"
            )
        if next(override.sweep_string_iterator(), None) is None:
            raise UserError(f"{override.input_line}: stands for no value; expected at least one to go through")
    parser = OverridesParser.create(loader)
    of_hydra = [override.input_line for override in overrides if override.is_hydra_override()]
    own = [override for override in overrides if not override.is_hydra_override()]
    (cells,) = BasicSweeper.split_arguments(own, None)
    yield from (parser.parse_overrides([*of_hydra, MULTIRUN, *cell]) for cell in cells)


def quoted(text: str) -> str:
    """Return a text as a value that Hydra takes for this very text, whatever it holds."""
    literal = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)
    return QuotedString(literal, Quote.double).with_quotes()


def in_shell(text: str) -> str:
    """Return ``key=value`` as it is typed into a shell when the value is just a text, whatever it holds.

    >>> print(in_shell("dataset.path=my photos (1), new"))
    'dataset.path="my photos (1), new"'
    """
    key, equals, value = text.partition("=")
    return shlex.quote(f"{key}{equals}{quoted(value)}")


def _check_value(override: Any, text: str) -> None:
    """Refuse a key without a value, as an unset variable of the shell leaves it."""
    if not text.startswith("~") and text.endswith("=") and override.value() == "":
        raise UserError(f"'{text}': has no value; expected {text}VALUE, or {text}'\"\"' for an empty text")


def _refusal(texts: Sequence[str], place: int) -> str:
    """Return the sentence for a text that is no override."""
    text = texts[place]
    said = f"'{text}' is not an override; expected key=value"
    if "=" in texts[place + 1 : place + 2]:
        joined = "".join(texts[place : place + 3])
        return f"{said} without spaces around the equals sign: {joined if _is_override(joined) else in_shell(joined)}"
    if text and text[0] in DASHES:
        return f"{said}, or an option; '{text[0]}' is a long dash: did you mean {_with_dashes(text)}?"
    mended = _mended(text)
    if mended != text and _is_override(mended):
        return f"{said}; did you mean {shlex.quote(mended)}?"
    inner, (key, equals, _) = _with_quoted_texts(mended), mended.partition("=")
    if equals and key and _is_override(f"{key}=x"):
        texts_alone = f" (or the texts in it: {shlex.quote(inner)})" if inner != mended and _is_override(inner) else ""
        return f"{said}; a value with such characters{texts_alone} is quoted, as in {in_shell(mended)}"
    return f"{said}, with a key of letters, digits, dots and underscores"


def _with_dashes(text: str) -> str:
    word = text.lstrip(DASHES + "-")
    return f"-{word}" if len(word) == 1 else f"--{word}"


def _mended(text: str) -> str:
    """Return what an editor or a habit of other programs may have changed, changed back."""
    key, sign, value = re.match(f"([^={EQUALS}:]*)([={EQUALS}:]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    smart = len(value) > 1 and value[0] in QUOTES and value[-1] in QUOTES
    return f"{key.strip()}={value[1:-1] if smart else value}" if sign else text


def _with_quoted_texts(text: str) -> str:
    """Return an override whose value is a list or a dictionary, with quotes around its texts with an equals sign."""
    key, equals, value = text.partition("=")
    if not value.startswith(("[", "{")):
        return text
    return key + equals + re.sub(r"[^][{},:]*=[^][{},:]*", lambda match: quoted(match[0].strip()), value)


def _is_override(text: str) -> bool:
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True
