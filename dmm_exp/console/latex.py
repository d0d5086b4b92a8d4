"""Tables for papers: LaTeX with booktabs, the best number of a column bold and the second underlined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "±": r"$\pm$", "−": "$-$", "–": "--", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "÷": r"$\div$", "‖": r"$\Vert$",
    "<": "$<$", ">": "$>$", "²": "$^2$",
}  # fmt: skip
NOTE = "Needs \\usepackage{booktabs}."


def latex_table(
    rows: Sequence[Sequence[str]], caption: str, *, marks: Mapping[tuple[int, int], str] | None = None, words: int = 1
) -> str:
    """Return texts as a LaTeX table, the head first; the first ``words`` columns are words, the others numbers.

    Args:
        rows: texts, all rows of one length.
        caption: of the table.
        marks: (row, column), counted from 0 with the head as row 0 → ``textbf`` or ``underline``.
        words: number of columns of words.
    """
    marks = marks or {}
    lines = [
        " & ".join(_marked(escaped(text), marks.get((place, column))) for column, text in enumerate(row)) + r" \\"
        for place, row in enumerate(rows)
    ]
    head, *body = lines
    columns = "l" * words + "r" * (len(rows[0]) - words)
    inside = [r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    table = [rf"\begin{{tabular}}{{{columns}}}", *inside, r"\end{tabular}"]
    whole = [f"% {NOTE}", r"\begin{table}", r"\centering", rf"\caption{{{escaped(caption)}}}", *table, r"\end{table}"]
    return "\n".join(whole) + "\n"


def escaped(text: str) -> str:
    """Return a text that LaTeX prints as it is."""
    return "".join(SPECIAL.get(sign, sign) for sign in text)


def _marked(text: str, mark: str | None) -> str:
    return f"\\{mark}{{{text}}}" if mark else text


def best_two(values: Sequence[float], *, lower: bool) -> dict[int, str]:
    """Return the marks of the best and the second best of a column by place; equal values share a mark.

    Args:
        values: one a row; NaN takes no part.
        lower: whether smaller is better.
    """
    known = sorted({value for value in values if not math.isnan(value)}, reverse=not lower)
    found = dict(zip(known, ("textbf", "underline"), strict=False))
    return {place: found[value] for place, value in enumerate(values) if value in found}
