"""Tables of means for papers and pages: one number a cell, names that people read, a floor, no mark on a reference."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from dmm_exp.compare.comparison import compare
from dmm_exp.compare.looks import method_roles
from dmm_exp.compare.page import comparison_page, metrics_by_method
from dmm_exp.compare.paper import comparison_latex
from dmm_exp.compare.runs import find_folders, read_runs
from dmm_exp.compare.statistics import Estimate
from dmm_exp.compare.tables import comparison_markdown

FLOORS = (0.4, 0.6)


@pytest.fixture
def found(written, tmp_path):
    """Return a function that compares runs of three methods and a reference, the best of all."""

    def compared(*forgets, by=(), **changes):
        for forget in forgets or ("random",):
            for seed, floor in enumerate(FLOORS):
                for place, method in enumerate(("dmm", "finetune", "scrub", "retrain")):
                    kloms = {f"klom/{group}/p95": 4.0 - place + seed / 9 for group in ("forget", "retain", "val")}
                    floors = {f"klom_floor/{group}/p95": floor for group in ("forget", "retain", "val")}
                    written(method, seed, forget=forget, metrics={**kloms, **floors, "tow": place / 9}, **changes)
        runs, _ = read_runs(find_folders([str(tmp_path / "runs")]))
        return compare(runs, by=by)[0]

    return compared


def body(latex):
    """Return the rows of a table, each as its texts, without marks."""
    lines = [line for line in latex.splitlines() if line.endswith(r" \\")]
    plain = [re.sub(r"\\(?:textbf|underline){([^}]*)}", r"\1", line.removesuffix(r" \\")) for line in lines]
    return [line.split(" & ") for line in plain]


def tables(latex):
    """Return the tables of a text, each as a text."""
    return latex.split("\\end{table}")[:-1]


def test_a_table_has_three_numbers_in_a_row_and_scores_are_not_parted(found):
    every = tables(comparison_latex(found()))
    assert [len(body(table)[1]) for table in every] == [4, 3]
    for table in every:
        assert table.count(r"\begin{tabular}") == 1
        assert "All rows: dataset digits" in table


def test_what_all_rows_share_is_in_the_caption_and_groups_stand_below_their_score(found):
    text = comparison_latex(found())
    assert r"\multicolumn{3}{c}{P95 KLoM (nats) $\downarrow$}" in text
    assert r"\cmidrule(lr){2-4}" in text
    heads = [body(table)[1] for table in tables(text)]
    assert heads == [["method", "forget", "retain", "val"], ["method", r"ToW $\uparrow$", "unlearning"]]
    assert r"\multicolumn{1}{c}{cost $\downarrow$}" in text
    assert "Cost is in retrainings." in text
    assert "All rows: dataset digits, model mlp, forget random; 2 runs each." in text
    assert "klom" not in text
    assert "$\\pm$: half of the 95 \\% interval" in text


def test_each_block_has_one_floor_row_whose_blocks_count_once(found):
    one, other = map(body, tables(comparison_latex(found())))
    floor = str(Estimate.of(np.array(FLOORS))).replace("±", r"$\pm$")
    rows = [row for row in one if row[0].startswith("independent retraining")]
    assert [row[1:] for row in rows] == [[floor] * 3]
    assert not [row for row in other if row[0].startswith("independent retraining")]  # of none of these
    two, _ = tables(comparison_latex(found("class", "low")))
    assert two.count("independent retraining") == 3
    assert body(two)[1][:2] == ["forget", "method"]


def test_references_are_neither_bold_nor_underlined(found):
    text = comparison_latex(found())
    marked = [line.split(" & ")[0] for line in text.splitlines() if r"\textbf" in line or r"\underline" in line]
    assert set(marked) == {"dmm", "finetune", "scrub"}  # who all share their cost
    assert re.search(r"scrub & \\textbf{.*finetune", text) is None
    assert sum(line.count(r"\textbf") for line in text.splitlines() if line.startswith("scrub")) == 5
    assert "References (retrain) are neither." in text


def test_a_block_that_lacks_a_setting_has_its_floor_and_one_without_a_floor_no_row(written, tmp_path):
    for forget, floors in (("random", {"klom_floor/forget/p95": 0.5}), ("class", {})):
        for method in ("dmm", "finetune"):
            written(method, forget=forget, metrics=floors)
    for path in (tmp_path / "runs").glob("*random*/config.yaml"):
        path.write_text(path.read_text().replace("  seed: 0\n", "  seed: 0\n  fraction: 0.5\n", 1))
    runs, _ = read_runs(find_folders([str(tmp_path / "runs")]))
    rows = body(comparison_latex(compare(runs, by=["forget.fraction", "method"])[0]))
    assert [row[0] for row in rows[1:]].count("--") == 2
    assert [(row[0], row[2]) for row in rows if row[1].startswith("independent")] == [("0.5", "0.500")]


def test_captions_say_what_a_table_has_and_no_more(written, tmp_path):
    written("dmm")
    text = comparison_latex(compare(read_runs(find_folders([str(tmp_path / "runs")]))[0])[0])
    for words in ("interval", "Floor", "bold", "References", "runs each"):
        assert words not in text


def test_without_methods_in_the_groups_nothing_is_marked_and_floors_stay(found):
    text = comparison_latex(found(by=["seed"]))
    assert "textbf" not in text
    assert [row[0] for row in body(tables(text)[0])[2:]] == ["0", "0", "1", "1"]
    assert [row[2] for row in body(text)[2:] if row[1].startswith("independent")] == ["0.400", "0.600"]


def test_text_is_left_and_numbers_are_right_in_markdown(found):
    lines = comparison_markdown(found()).splitlines()
    for head, rule in itertools.pairwise(lines):
        if rule.startswith("| ---"):
            names, sides = head.strip("| ").split(" | "), rule.strip("| ").split(" | ")
            words = {"dataset", "model", "forget", "method", "metric", "over"}
            assert {name for name, side in zip(names, sides, strict=True) if side == "---"} == words & set(names)


def test_few_models_are_warned_of_where_klom_is_shown(found, written, tmp_path):
    few = found()
    for text in (comparison_page(few, tmp_path / "x.html", left_out=[], command=""), comparison_markdown(few)):
        assert "Only 20 models in an ensemble. With fewer than 80" in text
        assert "here the floor alone is 0.50 on forget points" in text
    assert found("many", n_models=100).warnings  # the smallest counts
    runs = [run for run in read_runs(find_folders([str(tmp_path / "runs")]))[0] if run.settings["n_models"] == 100]
    assert compare(runs)[0].warnings == []
    assert compare(read_runs(find_folders([str(tmp_path / "runs")]))[0], ["tow"])[0].warnings == []


def test_a_method_looks_as_in_all_figures_and_references_are_grey(found):
    for panel in metrics_by_method(found("random", "class")).panels:
        looks = {mark.label: mark.role for mark in panel.marks}
        assert looks == {**method_roles(["dmm", "finetune", "retrain", "scrub"]), "retrain": "other0"}
