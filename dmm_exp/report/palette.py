"""Colours, line styles and shapes of roles: whatever has a role looks the same on every page and in every file."""

from __future__ import annotations

# Okabe and Ito's palette: colour-blind readers can tell these apart. Line styles say the same once more, for printers.
COLOURS = {"original": "#D55E00", "unlearned": "#0072B2", "oracle": "#009E73", "floor": "#6E6E6E"}
# Lengths of dashes and gaps, in widths of the line; nothing is a whole line. Of two lines that coincide, the one below
# is seen through the gaps of the other.
DASHES: dict[str, tuple[float, ...]] = {"original": (5, 2), "floor": (1.5, 1.2)}
_SERIES_DASHES: tuple[tuple[float, ...], ...] = (
    (), (6, 3), (2, 2), (8, 2, 2, 2), (12, 4), (4, 1.5), (6, 2, 1.5, 2, 1.5, 2),
)  # fmt: skip
# What stands beside the ensembles: other runs, reference lines, and series that are no ensemble.
SERIES = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#1c1c1c")
LIGHT = {**COLOURS, "other": "#8a8f98", "guide": "#b9bdc4", "ink": "#1c1d1f"}
LIGHT |= {f"series{place}": colour for place, colour in enumerate(SERIES)}
# The same hues, lighter, for dark pages.
DARK = {"original": "#F08A4B", "unlearned": "#5DB4EE", "oracle": "#35C596", "floor": "#A9AEB6"}
DARK |= {"other": "#868c95", "guide": "#555b64", "ink": "#e9eaec"}
_DARK_SERIES = ("#5DB4EE", "#EDB441", "#F08A4B", "#35C596", "#E39CC4", "#9AD5F5", "#e9eaec")
DARK |= {f"series{place}": colour for place, colour in enumerate(_DARK_SERIES)}
# Matplotlib's marker of a role, and the same shape as a path of an SVG that starts in its middle.
MARKERS = {"original": "D", "oracle": "s", "floor": "^"}
PATHS = {
    "o": "m-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0",
    "D": "m-4 0l4-4l4 4l-4 4z",
    "s": "m-3.2-3.2h6.4v6.4h-6.4z",
    "^": "m-3.8 3l3.8-6.6l3.8 6.6z",
    "v": "m-3.8-3l3.8 6.6l3.8-6.6z",
    "P": "m-4 0h8m-4-4v8",
    "X": "m-3.2-3.2l6.4 6.4m0-6.4l-6.4 6.4",
}
_SHAPES = "os^DvPX"  # of series, and of what is numbered otherwise
LOOKS = len(SERIES) * len(_SHAPES)  # series that differ in colour or shape
_HOLLOW = {"original", "other"}


def colour_of(role: str) -> str:
    """Return the name of a role's colour.

    A role may end in a number, which tells it from others of its kind: of series by colour and shape, of the rest, such
    as ``other3``, by shape alone.

    >>> [colour_of(role) for role in ("oracle", "series2", "series9", "other3")]
    ['oracle', 'series2', 'series2', 'other']
    """
    kind, place = _parts(role)
    return f"series{(place or 0) % len(SERIES)}" if kind == "series" else kind


def marker(role: str) -> str:
    """Return matplotlib's marker of a role."""
    kind, place = _parts(role)
    if place is None:
        return MARKERS.get(kind, "o")
    return _SHAPES[(place + (place // len(SERIES) if kind == "series" else 0)) % len(_SHAPES)]


def dashes(role: str) -> tuple[float, ...]:
    """Return the lengths of dashes and gaps of a role's lines, in widths of the line; nothing for a whole line."""
    kind, place = _parts(role)
    if kind != "series" or place is None:
        return DASHES.get(kind, ())
    return _SERIES_DASHES[(place + place // len(SERIES)) % len(_SERIES_DASHES)]


def varied(role: str) -> str:
    """Return a role of the same colour with another shape and other dashes.

    >>> varied("series2")
    'series8'
    """
    kind, place = _parts(role)
    return f"{kind}{(place or 0) + len(SERIES)}"


def is_dashed(role: str) -> bool:
    """Say whether a role's lines have gaps."""
    return bool(dashes(role))


def is_hollow(role: str) -> bool:
    """Say whether a role's dots, where they are neither few nor very many, are outlines."""
    return _parts(role)[0] in _HOLLOW


def _parts(role: str) -> tuple[str, int | None]:
    kind = role.rstrip("0123456789")
    return kind, int(role[len(kind) :]) if kind != role else None
