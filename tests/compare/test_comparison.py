"""Runs in, means, ranks and tests out: equal to plain calculations, and only on what can be compared."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from dmm_exp.compare.comparison import compare
from dmm_exp.compare.labels import REFERENCES, filtered
from dmm_exp.compare.runs import find_folders, read_run, read_runs, runs_beside
from dmm_exp.compare.tables import legend, means_texts, unranked_lines, untested_lines
from dmm_exp.config.folders import config_directory
from dmm_exp.errors import UserError


def runs_below(folder):
    runs, left_out = read_runs(find_folders([str(folder)]))
    assert left_out == []
    return runs


@pytest.fixture
def runs(written, tmp_path):
    for seed, value in enumerate((0.90, 0.95, 0.94)):
        written("dmm", seed, metrics={"tow": value})
        written("finetune", seed, metrics={"tow": value - 0.1, "cost/ratio": 0.1})
    return runs_below(tmp_path / "runs")


def test_means_have_students_interval_over_seeds(runs):
    means = compare(runs)[0].means
    row = means[(means["method"] == "dmm") & (means["metric"] == "tow")].iloc[0]
    values = np.array([0.90, 0.95, 0.94])
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((values.mean(), low, high))
    assert (row["runs"], row["over"]) == (3, "runs")


def test_a_single_run_shows_its_own_interval_over_members(written, tmp_path):
    written("dmm", metrics={"klom/forget/p95_low": 1.5, "klom/forget/p95_high": 2.5})
    found = compare(runs_below(tmp_path / "runs"))[0]
    assert found.means["over"].tolist() == ["members", "", ""]
    assert "2.000 [1.500, 2.500]" in means_texts(found)[1]
    assert found.ranks.empty
    assert found.baseline == ""


def test_methods_are_ranked_by_what_is_better_in_each_metric(runs):
    found = compare(runs)[0]
    ranks = found.ranks.set_index(["method", "metric"])["rank"]
    assert ranks["dmm", "tow"] == 1.0
    assert ranks["dmm", "cost/ratio"] == 2.0
    assert ranks["dmm", "klom/forget/p95"] == ranks["finetune", "klom/forget/p95"] == 1.5
    assert ranks["dmm", "all"] == 1.25  # without the cost
    assert (found.baseline, found.n_blocks) == ("dmm", 3)


def test_without_members_blocks_are_paired(runs):
    row = compare(runs, ["tow"])[0].tests.iloc[0]
    assert (row["over"], row["blocks"]) == ("blocks", 3)
    assert row["difference"] == pytest.approx(-0.1)


def test_with_members_members_are_paired(written, tmp_path):
    draw = np.random.default_rng(0)
    for seed in (0, 1):
        base = draw.uniform(0.5, 0.9, 40)
        written("dmm", seed, tow=base)
        written("finetune", seed, tow=base - 0.05 + 0.01 * draw.normal(size=40))
        written("scrub", seed, tow=draw.uniform(0.3, 0.7, 40))
    found = compare(runs_below(tmp_path / "runs"), ["tow"], baseline="dmm")[0]
    tests = found.tests.set_index("method")
    assert set(tests["over"]) == {"members"}
    paired, loose = tests.loc["finetune"], tests.loc["scrub"]
    assert paired["low"] < -0.05 < paired["high"]
    assert paired["high"] - paired["low"] < 0.2 * (loose["high"] - loose["low"])
    assert (tests["p_holm"] >= tests["p"]).all()
    again = compare(runs_below(tmp_path / "runs"), ["tow"], baseline="dmm")[0]
    assert again.tests.equals(found.tests)
    assert again.ranks.equals(found.ranks)


def test_members_measured_against_other_oracles_are_not_paired(written, tmp_path):
    written("dmm", tow=np.linspace(0.5, 0.6, 20))
    written("finetune", tow=np.linspace(0.4, 0.5, 20), oracle=np.full(20, 0.5))
    row = compare(runs_below(tmp_path / "runs"), ["tow"])[0].tests.iloc[0]
    assert row["over"] == "blocks"
    assert math.isnan(row["p"])


def test_runs_of_other_seeds_forget_sets_or_ensembles_share_no_block(written, tmp_path):
    written("dmm", 0)
    written("finetune", 1)
    written("finetune", 0, size=80)
    written("scrub", 0, n_models=100)
    found = compare(runs_below(tmp_path / "runs"))[0]
    assert found.ranks.empty
    assert set(found.by) == {"dataset", "model", "forget", "n_models", "forget.size", "method"}


def test_settings_that_differ_within_a_method_are_part_of_its_name(written, tmp_path):
    written("finetune", lr=0.1)
    written("finetune", lr=0.2)
    written("dmm", lr=0.3)
    found = compare(runs_below(tmp_path / "runs"))[0]
    assert set(found.runs["method"]) == {"dmm", "finetune unlearner.lr=0.1", "finetune unlearner.lr=0.2"}
    assert found.by == ["dataset", "model", "forget", "method"]


def test_settings_that_a_run_searched_for_itself_do_not_split_its_method(written, tmp_path):
    for seed, found in enumerate((0.1, 0.2)):
        written("finetune", seed, lr=found, choices={"hparams_search": "grid"})
    assert set(compare(runs_below(tmp_path / "runs"))[0].runs["method"]) == {"finetune"}


def test_a_method_missing_from_most_blocks_has_no_rank_and_is_no_default_baseline(written, tmp_path):
    for seed in range(3):
        written("dmm", seed, metrics={"tow": 0.8})
        written("finetune", seed, metrics={"tow": 0.7})
    written("scrub", 0, metrics={"tow": 0.9})
    found = compare(runs_below(tmp_path / "runs"), ["tow"])[0]
    assert list(dict.fromkeys(found.ranks["method"])) == ["dmm", "finetune"]
    assert found.ranks.set_index(["method", "metric"])["rank"]["dmm", "tow"] == 1.0
    assert found.unranked == {"scrub": "in 1 of 3 blocks"}
    assert unranked_lines(found) == ["not ranked: scrub (in 1 of 3 blocks)"]
    assert found.baseline == "dmm"
    assert found.tests.set_index("method")["blocks"].to_dict() == {"finetune": 3, "scrub": 1}


def test_half_of_the_blocks_is_enough_and_blocks_with_one_method_count(written, tmp_path):
    for seed in range(4):
        written("dmm", seed)
    for seed in (0, 1):
        written("finetune", seed)
    found = compare(runs_below(tmp_path / "runs"), ["tow"])[0]
    assert (found.n_blocks, found.unranked) == (4, {})
    written("dmm", 4)
    found = compare(runs_below(tmp_path / "runs"), ["tow"])[0]
    assert (found.n_blocks, found.unranked) == (5, {"finetune": "in 2 of 5 blocks"})


def test_references_have_no_rank_change_none_and_are_tested(written, tmp_path):
    for seed in range(3):
        written("dmm", seed, metrics={"tow": 0.8})
        written("finetune", seed, metrics={"tow": 0.7 + 0.01 * seed})
    before = compare(runs_below(tmp_path / "runs"), ["tow"])[0]
    for seed in range(3):
        written("retrain", seed, metrics={"tow": 0.9 + 0.01 * seed})
    found = compare(runs_below(tmp_path / "runs"), ["tow"])[0]
    assert found.ranks.equals(before.ranks)
    assert found.unranked == {"retrain": "a reference"}
    assert found.baseline == "dmm"
    assert set(found.tests["method"]) == {"finetune", "retrain"}


def test_a_refined_reference_is_a_method(written, tmp_path):
    written("do_nothing", choices={"refinement": "rum"})
    written("dmm")
    assert compare(runs_below(tmp_path / "runs"), ["tow"])[0].unranked == {}


def test_the_references_are_those_that_their_classes_say():
    from hydra.utils import get_class

    files = Path(config_directory(), "unlearner").glob("*.yaml")
    targets = {yaml.safe_load(file.read_text())["_target_"] for file in files}
    assert {target for target in targets if getattr(get_class(target), "reference", False)} == REFERENCES


def test_what_was_not_tested_is_said_with_its_reason(written, tmp_path):
    written("dmm", 0, tow=np.linspace(0.5, 0.6, 20))
    written("finetune", 0, tow=np.linspace(0.4, 0.55, 20))
    written("scrub", 1)
    written("dmm", 1)
    (tmp_path / "runs" / "digits-mlp-random-scrub__1-50-0" / "metrics.json").write_text(json.dumps({"tow": 0.5}))
    found = compare(runs_below(tmp_path / "runs"), ["tow", "klom/forget/p95"], baseline="dmm")[0]
    assert untested_lines(found) == [
        "not tested: finetune on klom/forget/p95 (one block with dmm; without values by member it takes two)",
        "not tested: scrub on tow (one block with dmm; without values by member it takes two)",
        "not tested: scrub on klom/forget/p95 (no block where it and dmm have a value)",
    ]


def test_the_floor_stands_beside_what_has_one_and_signs_are_explained(written, tmp_path):
    for seed, floor in enumerate((0.4, 0.6)):
        written("dmm", seed, metrics={"klom_floor/forget/p95": floor})
    found = compare(runs_below(tmp_path / "runs"))[0]
    head, row = means_texts(found)
    assert head[-4:] == ["klom/forget/p95 ↓", "floor", "tow ↑", "cost/ratio ↓"]
    assert row[head.index("floor")] == "0.500"
    assert [line.partition(":")[0] for line in legend(found)] == ["±", "floor"]
    written("finetune", 7, metrics={"klom/forget/p95_low": 1.5, "klom/forget/p95_high": 2.5})
    assert "[ ]" in [line.partition(":")[0] for line in legend(compare(runs_below(tmp_path / "runs"))[0])]


def test_a_baseline_that_shares_no_block_leaves_no_tests(written, tmp_path):
    written("dmm", 0)
    written("finetune", 0)
    written("scrub", 1)
    found = compare(runs_below(tmp_path / "runs"), ["tow"], baseline="scrub")[0]
    assert found.tests.empty
    assert found.baseline == "scrub"


def test_given_keys_replace_the_groups(written, tmp_path):
    for size in (50, 80, 200):
        written("dmm", size=size)
        written("finetune", size=size)
    means = compare(runs_below(tmp_path / "runs"), ["tow"], ["forget.size"])[0].means
    assert means["forget.size"].tolist() == [50, 80, 200]  # by size, not by text
    assert means["runs"].tolist() == [2, 2, 2]


def test_an_attribution_that_was_not_used_does_not_tell_runs_apart(written, tmp_path):
    for seed, attribution in enumerate(("trak", "debiased")):
        written("finetune", choices={"attribution": attribution}, name=f"a{seed}")
        written("dmm", choices={"attribution": attribution}, metrics={"lds": 0.5}, name=f"b{seed}")
    found, left_out = compare(runs_below(tmp_path / "runs"))
    assert set(found.runs["method"]) == {"finetune", "dmm attribution=trak", "dmm attribution=debiased"}
    assert len(left_out) == 1  # the two finetunes are the same run


def test_conditions_on_one_key_widen_and_on_several_narrow(written, tmp_path):
    for unlearner in ("dmm", "finetune", "scrub"):
        for size in (50, 80):
            written(unlearner, size=size)
    runs = runs_below(tmp_path / "runs")
    assert len(filtered(runs, ["unlearner=dmm", "unlearner=scrub", "forget.size=80"])) == 2
    assert len(filtered(runs, ["unlearner!=dmm"])) == 4
    assert {run.choices["unlearner"] for run in filtered(runs, ["unlearner!=dmm", "unlearner!=scrub"])} == {"finetune"}


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("unlearner=dm", "unlearner is dmm"),
        ("unlearnr=dmm", "did you mean 'unlearner'?"),
        ("unlearner", "expected key=value"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(written, tmp_path, condition, said):
    written("dmm")
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        filtered(runs_below(tmp_path / "runs"), [condition])


def test_folders_patterns_and_parents_find_each_run_once(written, tmp_path):
    folder = written("dmm")
    written("finetune")
    (tmp_path / "runs" / "notes.txt").write_text("not a run")
    assert find_folders([str(tmp_path / "runs"), str(folder), str(tmp_path / "ru*" / "*dmm*")]) == sorted(
        path for path in (tmp_path / "runs").iterdir() if path.is_dir()
    )
    with pytest.raises(UserError, match="holds no run"):
        find_folders([str(tmp_path / "runs" / "*salun*")])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("status.json", '{"state": "running"}', "did not finish"),
        ("status.json", "{", "status.json is damaged"),
        ("metrics.json", '{"tow": NaN}', "tow is no number"),
        ("metrics.json", None, "metrics.json is missing"),
        ("config.yaml", "a: [", "while parsing"),
        ("config.yaml", "", "holds no keys"),
        ("choices.json", "{}", "has no dataset"),
        ("forget.json", None, "forget.json"),
    ],
)
def test_what_is_not_whole_is_named_and_left_out(written, name, content, said):
    folder = written("dmm")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    runs, left_out = read_runs([folder])
    assert runs == []
    assert len(left_out) == 1
    assert said in left_out[0]
    assert str(folder) in left_out[0]
    assert "\n" not in left_out[0]


def test_the_newer_of_equal_runs_counts(written, tmp_path):
    written("dmm", name="first", metrics={"tow": 0.1})
    newer = written("dmm", name="second", metrics={"tow": 0.9})
    (newer / "status.json").write_text(json.dumps({"state": "finished", "updated": 2.0}))
    found, left_out = compare(runs_below(tmp_path / "runs"))
    assert found.runs["tow"].tolist() == [0.9]
    assert "first" in left_out[0]
    assert "second" in left_out[0]


def test_runs_beside_one_are_the_finished_ones_on_the_same_question(written):
    own = read_run(written("dmm"))
    same = [written("finetune"), written("finetune", lr=0.5)]
    written("finetune", 1)  # another seed has other oracles
    written("finetune", forget="class")
    written("finetune", size=60)
    written("finetune", n_models=30, name="more-models")
    written("scrub", state="running")
    (written("scrub", lr=2) / "metrics.json").write_text("damaged")
    (written("scrub", lr=3) / "forget.json").unlink()
    assert [run.folder for run in runs_beside(own)] == sorted(same)
