"""Columns of a study whose parts have settings of their own, by method."""

from __future__ import annotations

import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides, compose_unlearner
from dmm_exp.config.schema import LeaderboardConfig, StudyConfig, StudyTableConfig, register
from dmm_exp.errors import UserError
from dmm_exp.leaderboard.board import compose_entries
from dmm_exp.study.study import compose_cells_of, reference_of

COLUMNS = {
    "whole": "forget=rum_mix_mem",
    "parts": "forget=rum_mix_mem refinement=rum refinement.low.unlearner={fair/random} "
    "refinement.mid.unlearner={fair/rum_mid_mem} refinement.high.unlearner={fair/rum_high_mem}",
    "shuffled": 'forget=rum_mix_mem refinement=shuffle "refinement.each={unlearner: {fair/random}}"',
}

wrong = {"a": StudyTableConfig(columns={"b": "refinement=rum refinement.low.unlearner={fair/rnadom}"})}


def test_a_table_in_braces_stands_for_the_rows_method_at_its_settings_there():
    register()
    check_overrides(config_directory(), [])
    study = StudyConfig(
        methods=["scrub", "do_nothing"],
        settings="parts_digits/whole",
        tables={"refinement": StudyTableConfig(columns=COLUMNS)},
    )
    cells = {(cell.row, cell.column): cell for cell in compose_cells_of(study, [])}
    texts = cells["scrub", "parts"].overrides
    assert "refinement.mid.unlearner=fair/rum_mid_mem/scrub" in texts
    assert "refinement.high.unlearner=fair/rum_high_mem/scrub" in texts
    assert cells["scrub", "parts"].config.refinement["high"]["unlearner"] == "fair/rum_high_mem/scrub"
    assert cells["scrub", "shuffled"].config.refinement["each"] == {"unlearner": "fair/random/scrub"}
    assert cells["scrub", "whole"].overrides[:1] == ["experiment=parts_digits/whole/scrub"]
    assert "refinement.low.unlearner=do_nothing" in cells["do_nothing", "parts"].overrides  # no table has it
    assert compose_unlearner(config_directory(), "fair/random/scrub")["_target_"].endswith("Scrub")


def test_a_reference_is_one_alone_and_in_every_part_but_not_beside_others():
    register()
    rows = {
        "alone": "unlearner=do_nothing",
        "method": "unlearner=scrub",
        "in parts": "unlearner=do_nothing refinement=rum_f",
        "of parts": "unlearner=do_nothing refinement=rum refinement.mid.unlearner=do_nothing "
        "refinement.high.unlearner=do_nothing",
        "beside others": "unlearner=do_nothing refinement=rum",
        "in a part": "unlearner=scrub refinement=rum refinement.low.unlearner=do_nothing",
    }
    study = StudyConfig(tables={"a": StudyTableConfig(rows=rows, columns={"here": "forget=rum_mix_mem"})})
    found = {cell.row: reference_of(cell.config, cell.choices) for cell in compose_cells_of(study, [])}
    assert {row for row, name in found.items() if name} == {"alone", "in parts", "of parts"}
    assert found["alone"] == "do_nothing"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": "parts_digits/whol"}, "study.settings=parts_digits/whol: there is no such table.*did you mean"),
        ({"tables": wrong}, r"study.tables.a.columns.b=fair/rnadom: there is no such table.*did you mean"),
    ],
)
def test_settings_that_are_nowhere_are_an_error_and_not_the_methods_own(changes, message):
    register()
    study = StudyConfig(**{"methods": ["scrub"], "tables": {"a": StudyTableConfig(columns={"b": ""})}, **changes})
    with pytest.raises(UserError, match=message):
        list(compose_cells_of(study, []))


def test_a_leaderboard_with_settings_that_are_nowhere_is_refused():
    register()
    board = LeaderboardConfig(methods=["scrub"], forget_sets={"random": ["random"]}, settings="fari")
    with pytest.raises(UserError, match=r"leaderboard\.settings=fari: there is no such table"):
        list(compose_entries(board, []))
