"""Tables for papers."""

from __future__ import annotations

import math
import shutil
import subprocess

import pytest

from dmm_exp.console.latex import best_two, escaped, latex_table

ROWS = [["method", "ToW ↑", "cost"], ["a_b", "0.912 ± 0.010", "50%"], ["c & d", "0.800 ± 0.020", "–"]]


def test_what_latex_would_read_is_printed_as_it_is():
    assert escaped(r"a_b & 50% #1 {x} \ ~ ^ $") == (
        r"a\_b \& 50\% \#1 \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \$"
    )
    assert escaped("0.9 ± 0.1, −2 – 3") == r"0.9 $\pm$ 0.1, $-$2 -- 3"


def test_a_table_has_rules_and_marks():
    text = latex_table(ROWS, "Tug-of-war", marks={(1, 1): "textbf", (2, 1): "underline"})
    assert r"\begin{tabular}{lrr}" in text
    assert r"a\_b & \textbf{0.912 $\pm$ 0.010} & 50\% \\" in text
    assert r"c \& d & \underline{0.800 $\pm$ 0.020} & -- \\" in text
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")


def test_a_line_stands_above_the_head_and_rules_below_rows():
    lines = latex_table(ROWS, "", above=[("", 1), ("Scores ↑", 2)], ends=[1, 2]).splitlines()
    place = lines.index(r" & \multicolumn{2}{c}{Scores $\uparrow$} \\")
    assert lines[place - 1 : place + 2 : 2] == [r"\toprule", r"\cmidrule(lr){2-3}"]
    rules = [line for line in lines if line in (r"\midrule", r"\bottomrule")]
    assert rules == [r"\midrule", r"\midrule", r"\bottomrule"]  # none twice in a row


def test_the_best_and_the_second_are_marked_and_ties_share():
    assert best_two([3.0, 1.0, 2.0, 1.0, math.nan], lower=True) == {1: "textbf", 3: "textbf", 2: "underline"}
    assert best_two([3.0, 1.0, 2.0], lower=False) == {0: "textbf", 2: "underline"}
    assert best_two([math.nan], lower=True) == {}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
def test_a_table_compiles(tmp_path):
    text = latex_table(ROWS, "A “caption” with 50% & more", above=[("", 1), ("of both", 2)], ends=[1])
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + text + "\\end{document}\n"
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    subprocess.run(["pdflatex", "-halt-on-error", "table.tex"], cwd=tmp_path, check=True, capture_output=True)
