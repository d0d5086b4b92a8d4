"""What a page says of one network alone, and of which KLoM it shows."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from dmm_exp.runs.page import render
from dmm_exp.runs.single import single_data, single_words

GROUPS = ("forget", "retain", "val")
ENDS = ("", "_floor", "_original")
TYPICAL = {"outside": (0.12, 0.05, 0.61), "distance": (1.04, 0.81, 2.93)}
FAR = {"outside": 0.7, "distance": 3.3}
MEASURED = {
    **{
        f"single/{measure}{end}/{group}": value
        for measure, values in TYPICAL.items()
        for end, value in zip(ENDS, values, strict=True)
        for group in GROUPS
    },
    **{f"single/{measure}{end}/{group}/p95": far for measure, far in FAR.items() for end in ENDS for group in GROUPS},
    "single/indistinguishable/forget": 0.43,
    "single/indistinguishable_floor/forget": 0.94,
    "single/indistinguishable_original/forget": 0.0,
}


@pytest.fixture
def measured(run):
    return replace(run, metrics={**run.metrics, **MEASURED})


def test_one_network_is_said_beside_retrained_ones_and_doing_nothing(measured):
    said = single_words(measured)
    assert said is not None
    assert "43 % of the unlearned networks are no further from the retrained ones" in said
    assert "of retrained networks themselves 94 % are, of networks left alone 0 %" in said
    assert "on 12 % of the forget points, the median retrained network on 5 %" in said


def test_the_table_has_the_floor_first_and_every_group(measured):
    table = single_data(measured)
    assert table is not None
    assert [row.label for row in table.rows] == ["independent retraining", "doing nothing", measured.method]
    assert [cell.value for cell in table.rows[2].cells] == ["12 %"] * 3 + ["1.04"] * 3 + ["43 %"]
    assert [cell.detail for cell in table.rows[0].cells[:4]] == ["70 %"] * 3 + ["3.30"]
    assert len({len(row.cells) for row in table.rows} | {len(table.columns)}) == 1


def test_the_page_has_it_only_where_it_was_measured(run, measured):
    assert "One network alone" not in render(run, [])
    page = re.sub(r"\s+|\u00a0", " ", render(measured, []))
    assert "<h2>One network alone</h2>" in page
    assert "Taken one at a time, 43 % of the unlearned networks" in page


def test_with_too_few_oracles_for_shares_of_points_there_are_dashes(measured):
    few = replace(measured, metrics={k: v for k, v in measured.metrics.items() if "single/outside" not in k})
    said, table = single_words(few), single_data(few)
    assert said is not None
    assert table is not None
    assert "The median" not in said
    assert [cell.value for cell in table.rows[2].cells[:3]] == ["–"] * 3


def test_a_klom_that_is_not_the_default_is_named_among_the_facts(run):
    assert "KLoM</span> as in" not in render(run, [])
    assert "KLoM</span> as in paper" in render(replace(run, choices={**run.choices, "evaluation/klom": "paper"}), [])


def test_the_other_direction_is_named_by_what_it_does(run):
    turned = {**run.config, "evaluation": {"klom": {"direction": "oracle_unlearned"}}}
    assert "which does not forgive too small a spread" in render(run, [])
    assert "which forgives too small a spread" in render(replace(run, config=turned), [])
