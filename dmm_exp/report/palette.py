"""Colours, line styles and shapes of roles: one for the original, unlearned, oracle and floor ensembles everywhere."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's palette: colour-blind readers can tell these apart. Line styles say the same once more, for printers.
COLOURS = {"original": "#D55E00", "unlearned": "#0072B2", "oracle": "#009E73", "floor": "#6E6E6E"}
LINES: dict[str, Any] = {"original": (0, (5, 2)), "unlearned": "-", "oracle": "-", "floor": (0, (1.5, 1.2))}
WORDS = {
    "original": "original (doing nothing)",
    "unlearned": "unlearned (this run)",
    "oracle": "oracle (retrained)",
    "floor": "noise floor",
}
# What stands beside the ensembles: other runs, reference lines, and series that are no ensemble.
SERIES = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#1c1c1c")
LIGHT = {**COLOURS, "other": "#8a8f98", "guide": "#b9bdc4", "ink": "#1c1d1f"}
LIGHT |= {f"series{place}": colour for place, colour in enumerate(SERIES)}
# The same hues, lighter, for dark pages.
DARK = {"original": "#F08A4B", "unlearned": "#5DB4EE", "oracle": "#35C596", "floor": "#A9AEB6"}
DARK |= {"other": "#868c95", "guide": "#555b64", "ink": "#e9eaec"}
DARK |= dict(
    zip(
        (f"series{place}" for place in range(7)),
        ("#5DB4EE", "#EDB441", "#F08A4B", "#35C596", "#E39CC4", "#9AD5F5", "#e9eaec"),
        strict=True,
    )
)
# Matplotlib's marker of a role, and the same shape as a path of an SVG that starts in its middle.
MARKERS = {"original": "D", "oracle": "s", "floor": "^", "other": "o"}
MARKERS |= {f"series{place}": marker for place, marker in enumerate("os^DvPX")}
PATHS = {
    "o": "m-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0",
    "D": "m-4 0l4-4l4 4l-4 4z",
    "s": "m-3.2-3.2h6.4v6.4h-6.4z",
    "^": "m-3.8 3l3.8-6.6l3.8 6.6z",
    "v": "m-3.8-3l3.8 6.6l3.8-6.6z",
    "P": "m-4 0h8m-4-4v8",
    "X": "m-3.2-3.2l6.4 6.4m0-6.4l-6.4 6.4",
}
HOLLOW = {"original", "other"}


def marker(role: str) -> str:
    """Return matplotlib's marker of a role."""
    return MARKERS.get(role, "o")
