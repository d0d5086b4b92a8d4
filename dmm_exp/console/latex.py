"""Tables for papers: LaTeX with booktabs, the best number of a column bold and the second underlined."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "±": r"$\pm$", "−": "$-$", "–": "--", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "÷": r"$\div$", "‖": r"$\Vert$",
    "<": "$<$", ">": "$>$", "²": "$^2$", "“": "``", "”": "''",
}  # fmt: skip
NARROW = r"\small\setlength{\tabcolsep}{3pt}"  # so three numbers with intervals fit the width of an article
NOTE = "Needs \\usepackage{booktabs}."


def latex_table(
    rows: Sequence[Sequence[str]],
    caption: str,
    *,
    marks: Mapping[tuple[int, int], str] | None = None,
    words: int = 1,
    above: Sequence[tuple[str, int]] = (),
    ends: Collection[int] = (),
) -> str:
    """Return texts as a LaTeX table, the head first; the first ``words`` columns are words, the others numbers.

    Args:
        rows: texts, all rows of one length.
        caption: of the table.
        marks: (row, column), counted from 0 with the head as row 0 → ``textbf`` or ``underline``.
        words: number of columns of words.
        above: a line above the head: texts from left to right, each with the number of columns that it stands above.
        ends: rows with a rule below them; the head has one anyway.
    """
    columns = "l" * words + "r" * (len(rows[0]) - words)
    inside = [r"\toprule", *_line_above(above), *_body(rows, marks or {}, {0, *ends} - {len(rows) - 1}), r"\bottomrule"]
    table = [rf"\begin{{tabular}}{{{columns}}}", *inside, r"\end{tabular}"]
    begin = [f"% {NOTE}", r"\begin{table}", rf"\centering{NARROW}", rf"\caption{{{escaped(caption)}}}"]
    return "\n".join([*begin, *table, r"\end{table}"]) + "\n"


def _body(rows: Sequence[Sequence[str]], marks: Mapping[tuple[int, int], str], ends: Collection[int]) -> Iterator[str]:
    """Yield the lines of all rows, and the rules between them."""
    for place, row in enumerate(rows):
        cells = (_marked(escaped(text), marks.get((place, column))) for column, text in enumerate(row))
        yield " & ".join(cells) + r" \\"
        if place in ends:
            yield r"\midrule"


def _line_above(above: Sequence[tuple[str, int]]) -> Iterator[str]:
    """Yield the line above the head and the rules below its texts; nothing where there is none."""
    cells, rules, place = [], [], 1
    for text, width in above:
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(text)}}}" if text else " & " * (width - 1))
        rules += [rf"\cmidrule(lr){{{place}-{place + width - 1}}}"] * bool(text)
        place += width
    if rules:
        yield " & ".join(cells) + r" \\"
        yield " ".join(rules)


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
