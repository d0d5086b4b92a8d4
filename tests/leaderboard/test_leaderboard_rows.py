"""Rows of the leaderboard: what is accepted of a stranger's, what all rows say together, and a row made again."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmm_exp.errors import UserError
from dmm_exp.leaderboard import checking
from dmm_exp.leaderboard.build import build, overall_rows
from dmm_exp.leaderboard.checking import compared, half_interval
from dmm_exp.leaderboard.recipe import Recipe, written
from dmm_exp.leaderboard.rows import SCORES, Row, forget_digest, read_row, read_rows, rounded, row_of
from dmm_exp.leaderboard.standings import Board, Standings

CHOICES = {"dataset": "digits", "model": "mlp", "forget": "random", "unlearner": "finetune", "pool": "halves"}
SETTINGS = {"n_models": 80, "unlearner.epochs": [1, 2], "unlearner.optimizer.lr": 0.5, "forget.seed": 1}
SETS = [("random", "random seed=0"), ("random", "random seed=1"), ("class", "class label=2")]


def row(
    method: str = "finetune", kind: str = "random", forget: str = "random seed=1", value: float = 2.0, **more: Any
) -> Row:
    """Return a row whose three P95 KLoM are ``value``."""
    parts = {"value": value, "low": value - 0.5, "high": value + 0.5, "floor": 0.7}
    scores = {name: parts for name in SCORES if name.startswith("klom/")} | {"tow": {"value": 0.9, "floor": 0.97}}
    recipe = more.pop("recipe", Recipe(CHOICES, SETTINGS))
    of_forget = more.pop("forget_digest", None) or forget_digest(list(forget.encode()))
    own = {
        "board": "digits", "reference": False, "source": "run", "id": "0123456789",
        "run": f"digits-{method}__0123456789", "forget_digest": of_forget,
        "points": {"forget": 50, "retain": 1388, "val": 359}, "n_models": 80, "seed": 0,
        "scores": scores, "cost": {"ratio": 0.25, "unlearning": 2580.0}, "settings_from": "fair/random/finetune",
        "contents": {}, "made_with": {"torch": "2.13.0+cpu", "device": "a CPU, 1 threads"}, "command": recipe.command,
    }  # fmt: skip
    return Row(method=method, kind=kind, forget=forget, recipe=recipe, **{**own, **more})


def given(**more: Any) -> Row:
    return row("mine", recipe=Recipe(), source="elsewhere", command="dmm-exp score unlearned=u.npy", **more)


def plain(one: Row) -> dict[str, Any]:
    return json.loads(one.text())


@pytest.mark.parametrize("one", [row(), given(), row(made_with={}, cost={}, settings_from="")])
def test_a_row_is_read_as_it_was_written(one: Row, tmp_path: Path) -> None:
    path = one.write(tmp_path)
    assert read_row(path) == one
    assert read_rows(tmp_path) == [one]
    assert read_row(path).text() == path.read_text() == one.text()
    assert path.stat().st_size <= 3000
    assert list(plain(one)) == sorted(plain(one))


def test_numbers_keep_six_digits() -> None:
    assert [rounded(value) for value in (1.23456789, 123456.7, -0.000012345678)] == [1.23457, 123457, -1.23457e-05]


@pytest.mark.parametrize("name", sorted(plain(row())))
def test_a_row_without_one_of_its_fields_is_refused(name: str) -> None:
    found = {key: value for key, value in plain(row()).items() if key != name}
    with pytest.raises(UserError, match=f"{name}"):
        row_of(found)


@pytest.mark.parametrize("name", sorted(plain(row())))
@pytest.mark.parametrize("value", [None, math.nan, {"x": "<script>"}, ["rm -rf /"], "../../etc/passwd\n", -1.5])
def test_a_field_of_another_kind_is_refused_with_its_name(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{name}|settings|scores|choices"):
        row_of({**plain(row()), name: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methd": "x"}, "methd: no row has such a field; did you mean 'method'?"),
        ({"format": 2}, "format=2: expected 1"),
        ({"format": True}, "format=True: expected 1"),
        ({"scores": {}}, "scores: klom/forget/p95 is missing; methods are ranked by it"),
        (
            {"scores": {**plain(row())["scores"], "tow": {"value": math.nan}}},
            'scores: tow={"value": NaN}: expected value',
        ),
        ({"scores": {**plain(row())["scores"], "tow": {"low": 1.0}}}, "scores: tow="),
        ({"scores": {**plain(row())["scores"], "tow": {"value": 1, "low": 2, "high": 1}}}, "the lower end first"),
        ({"scores": {**plain(row())["scores"], "best": {"value": 1}}}, "scores="),
        ({"command": "rm -rf /"}, "command=rm -rf /: is not that of choices and settings"),
        ({"n_models": 100}, "n_models=100: settings say 80; expected the same"),
        ({"choices": {}}, "choices: dataset is missing"),
        ({"source": "elsewhere"}, "source=elsewhere: such models have no choices and settings"),
    ],
)
def test_a_row_that_does_not_agree_with_itself_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        row_of({**plain(row()), **change})
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "nul", '{"a": ' * 200, "\x00", "9" * 20000])
def test_what_is_no_row_is_one_sentence_with_the_name_of_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_row(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


HOSTILE_SETTINGS = [
    ("unlearner._target_", "os.system"),
    ("model.network._target_", "subprocess.Popen"),
    ("training.optimizer._partial_", True),
    ("unlearner.function", "os.system"),
    ("unlearner.call._target_", "os.system"),
    ("unlearner.call.x", 1),
    ("dataset.path", "photos"),
    ("dataset.folders", ["data"]),
    ("dataset.hub.name", "somebody"),
    ("dataset.formats.folder.groups", "x.csv"),
    ("forget.indices", "forget.npy"),
    ("paths.outputs", "here"),
    ("executor.workers", 8),
    ("executor", "submitit"),
    ("logger", "wandb"),
    ("hydra.run.dir", "x"),
    ("hydra/launcher", "submitit"),
    ("hydra.searchpath", ["file"]),
    ("job", "leaderboard"),
    ("leaderboard.methods", ["dmm"]),
    ("study.seeds", [1]),
    ("experiment", "quick"),
    ("trainer.callbacks", "x"),
    ("model.chunk_size", 5),
    ("evaluation.report", True),
    ("+unlearner.x", 1),
    ("~unlearner", 1),
    ("unlearner.epochs=1 paths", 1),
    ("unlearner.epochs;rm", 1),
    ("unlearner.a b", 1),
    ("unlearner", {"epochs": 1}),
    ("unlearner.optimizer", {"_target_": "os.system"}),
    ("unlearner.name", "${oc.env:HOME}"),
    ("unlearner.name", "a,b"),
    ("unlearner.name", "$(rm -rf /)"),
    ("unlearner.name", "../x"),
    ("unlearner.name", "x..y"),
    ("unlearner.name", "/etc/passwd"),
    ("unlearner.name", "a\nb"),
    ("unlearner.epochs", math.inf),
    ("unlearner.epochs", [[[[1]]]]),
    ("unlearner.epochs", list(range(1500))),
    ("unlearner.epochs", [{"_target_": "os.system"}]),
]
HOSTILE_CHOICES = [
    ("unlearner", "../x"),
    ("unlearner", "finetune,dmm"),
    ("unlearner", "own/finetune"),
    ("unlearner", "finetune unlearner._target_=os.system"),
    ("unlearner", ["finetune"]),
    ("executor", "submitit"),
    ("logger", "wandb"),
    ("experiment", "quick"),
    ("hydra/launcher", "submitit"),
    ("job", "leaderboard"),
    ("hparams_search", "grid"),
]


def refused_before_it_runs(found: dict[str, Any], folder: Path, command: Any) -> str:
    """Return the sentence that ``check`` ends in; nothing of the row was composed or run."""
    path = folder / "row.json"
    path.write_text(json.dumps(found))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "made_again", None)
        done = command("leaderboard", "check", path, cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert not (folder / "outputs").exists()
    assert done.stderr.startswith(f"error: {path}: ")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


@pytest.mark.parametrize(("key", "value"), HOSTILE_SETTINGS)
def test_a_setting_that_names_classes_files_or_places_is_refused_before_anything_is_run(
    key: str, value: object, tmp_path: Path, command: Any
) -> None:
    found = plain(row())
    found["settings"][key] = value
    said = refused_before_it_runs(found, tmp_path, command)
    assert "settings: " in said


@pytest.mark.parametrize(("group", "choice"), HOSTILE_CHOICES)
def test_a_choice_of_another_group_or_form_is_refused_before_anything_is_run(
    group: str, choice: object, tmp_path: Path, command: Any
) -> None:
    found = plain(row())
    found["choices"][group] = choice
    assert "choices: " in refused_before_it_runs(found, tmp_path, command)


def test_a_recipe_is_composed_of_our_own_choices_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unlearner=mine: expected one of"):
        Recipe({**CHOICES, "unlearner": "mine"}).composed()
    with pytest.raises(UserError, match=r"unlearner\.epocs=3: there is no key 'unlearner\.epocs'"):
        Recipe(CHOICES, {"unlearner.epocs": 3}).composed()


@pytest.mark.parametrize(
    "word", ["unlearner.epochs=3", "unlearner=dmm", "paths.outputs", "seed=1", "hydra.mode=MULTIRUN"]
)
def test_beside_a_row_only_places_are_taken(word: str, tmp_path: Path, command: Any) -> None:
    path = row().write(tmp_path)
    done = command("leaderboard", "check", path, word, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {word}: says not where something is")


def test_a_recipe_composes_to_what_it_was_taken_from() -> None:
    recipe = Recipe(CHOICES, SETTINGS)
    config, choices = recipe.composed(["paths.outputs=/tmp/elsewhere"])
    from dmm_exp.compare.runs import flat
    from dmm_exp.config.identity import identifying
    from dmm_exp.config.schema import plain as as_plain

    again = Recipe.of(dict(flat(identifying(as_plain(config)))), choices)
    assert again == recipe
    assert config.unlearner["epochs"] == [1, 2]
    assert config.n_models == 80


def test_a_class_of_ones_own_makes_no_row() -> None:
    config, choices = Recipe(CHOICES, {}).composed(["paths.outputs=x"])
    from dmm_exp.compare.runs import flat
    from dmm_exp.config.identity import identifying
    from dmm_exp.config.schema import plain as as_plain

    settings = dict(flat(identifying(as_plain(config)))) | {"unlearner.optimizer._target_": "torch.optim.Adam"}
    with pytest.raises(UserError, match=r"settings: unlearner\.optimizer\._target_=torch\.optim\.Adam: is no key"):
        Recipe.of(settings, choices)


@pytest.mark.parametrize(
    "value", [1, 1e-05, 0.1, True, None, "kl", "16 bits", "true", "null", [1, [2, "a b"]], "1", "1e5"]
)
def test_a_value_is_typed_so_that_it_is_read_as_it_is(value: object) -> None:
    from dmm_exp.config.overrides import parsed

    (override,) = parsed([f"unlearner.x={written(value)}"])
    assert json.loads(json.dumps(override.value(), default=lambda one: one.text)) == value


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (row("dmm", n_models=100, recipe=Recipe(CHOICES, {**SETTINGS, "n_models": 100})), "n_models is 80, and 100 in"),
        (row("dmm", recipe=Recipe({**CHOICES, "model": "cnn"}, SETTINGS)), "model is mlp, and cnn in"),
        (row("dmm", recipe=Recipe(CHOICES, {**SETTINGS, "pool.size": 9})), "pool.size is left out, and 9 in"),
        (row("dmm", forget_digest="0" * 16), "'random seed=1' is another forget set than in"),
        (row(forget="random seed=0", reference=True), "reference=false, and not in"),
    ],
)
def test_rows_that_answer_other_questions_are_not_on_one_board(second: Row, said: str, tmp_path: Path) -> None:
    row().write(tmp_path)
    second.write(tmp_path)
    with pytest.raises(UserError) as error:
        read_rows(tmp_path)
    assert said in str(error.value)


def test_methods_may_differ_in_what_is_theirs(tmp_path: Path) -> None:
    row().write(tmp_path)
    own = {**CHOICES, "unlearner": "dmm", "attribution": "empirical_bayes"}
    row("dmm", recipe=Recipe(own, {**SETTINGS, "unlearner.epochs": 9})).write(tmp_path)
    given().write(tmp_path)
    assert {one.method for one in read_rows(tmp_path)} == {"finetune", "dmm", "mine"}


def test_a_row_lies_where_it_belongs(tmp_path: Path) -> None:
    path = row().write(tmp_path)
    assert path.relative_to(tmp_path).as_posix() == "digits/finetune/random-seed-1.json"
    moved = path.with_name("better.json")
    path.rename(moved)
    with pytest.raises(
        UserError, match=r"better\.json: is the row of digits/finetune/random-seed-1\.json; expected it there"
    ):
        read_rows(tmp_path)


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no row"):
        read_rows(tmp_path)


def board(values: dict[str, list[float]], name: str = "digits", sets: list[tuple[str, str]] = SETS) -> Board:
    """Return a board by the values of its methods on its forget sets; NaN leaves a row out."""
    return Board(name, [
        row(method, kind, forget, value, board=name)
        for method, found in values.items() for (kind, forget), value in zip(sets, found, strict=True)
        if not math.isnan(value)
    ])  # fmt: skip


def test_a_method_that_always_wins_has_an_interval_of_no_length() -> None:
    table = board({"good": [1, 1, 1], "bad": [2, 2, 2]}).standing
    assert table.loc["good", ["mean_rank", "low", "high"]].tolist() == [1, 1, 1]
    assert table.loc["bad", ["mean_rank", "low", "high"]].tolist() == [2, 2, 2]


def test_an_interval_goes_over_kinds_and_over_sets_of_a_kind() -> None:
    sets = [("one", "one"), ("two", "two")]
    table = board({"a": [1, 2], "b": [2, 1]}, sets=sets).standing  # each kind alone has a chance of a quarter
    assert table.loc["a", ["mean_rank", "low", "high"]].tolist() == [1.5, 1, 2]
    sets = [("one", "x"), ("one", "y")]
    table = board({"a": [1, 2], "b": [2, 1]}, sets=sets).standing
    assert table.loc["a", ["mean_rank", "low", "high"]].tolist() == [1.5, 1, 2]


def test_the_interval_is_that_of_means_over_draws() -> None:
    """Of 12 sets of one kind, a wins 6: the mean rank is 1.5 with a standard error of 0.5 / √12 = 0.144."""
    sets = [("one", f"set {place}") for place in range(12)]
    table = board({"a": [1, 2] * 6, "b": [2, 1] * 6}, sets=sets).standing
    low, high = table.loc["a", ["low", "high"]]
    assert low == pytest.approx(1.5 - 1.96 * 0.144, abs=0.06)
    assert high == pytest.approx(1.5 + 1.96 * 0.144, abs=0.06)


def test_one_set_tells_no_interval_and_a_gap_no_rank() -> None:
    assert np.isnan(board({"a": [1], "b": [2]}, sets=SETS[:1]).standing[["low", "high"]]).all(axis=None)
    table = board({"a": [1, 1, 1], "b": [2, math.nan, 2]}).standing
    assert table.loc["a", "mean_rank"] == 1
    assert table.loc["b", ["mean_rank", "low", "high"]].isna().all()


def test_the_overall_rank_is_the_mean_over_boards() -> None:
    found = Standings(
        [board({"a": [1, 1, 1], "b": [2, 2, 2]}), board({"a": [2, 2, 2], "b": [1, 1, 1], "c": [3, 3, 3]}, "letters")]
    )
    table = found.overall
    assert table.loc["a", ["mean_rank", "digits", "letters"]].tolist() == [1.5, 1, 2]
    assert table.loc["a", ["low", "high"]].tolist() == [1, 2]
    assert table.loc["c", ["mean_rank", "digits"]].isna().all()
    assert list(found.ranked.index) == ["a", "b"]
    own = [one.standing["cost/ratio"] for one in found.boards]
    assert table.loc["a", "cost/ratio"] == pytest.approx((own[0]["a"] + own[1]["a"]) / 2)
    assert table.loc["c", "cost/ratio"] == own[1]["c"]  # the mean over the boards that it is on
    head, *rows = overall_rows(found)
    assert head == ["", "mean rank", "95 % interval", "cost", "further models", "digits", "letters"]
    assert rows[0][:3] == ["a", "1.50", "[1.00, 2.00]"]
    assert all(row[3] != "–" for row in rows)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    found = [
        row(method, kind, forget, value + place, reference=method == "retrain", board=name)
        for name in ("digits", "letters")
        for value, method in enumerate(("dmm", "finetune", "retrain"))
        for place, (kind, forget) in enumerate(SETS)
    ]
    return [*found, given(kind="class", forget="class label=2", value=9.0)]


@pytest.fixture(scope="module")
def built(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for one in rows:
        one.write(folder)
    run = folder / "runs" / rows[0].run
    run.mkdir(parents=True)
    (run / "points.parquet").touch()
    return build(read_rows(folder), folder / "site", title="All <b>", runs=folder / "runs", command="again").parent


def test_the_page_holds_every_cell_and_asks_for_nothing(built: Path, rows: list[Row]) -> None:
    page = (built / "leaderboard.html").read_text()
    data = json.loads(page.partition('<script type="text/json" id="rows">')[2].partition("</script>")[0])
    assert len(data["cells"]) == len(rows)
    told = {(cell["board"], cell["method"], cell["forget"]): cell for cell in data["cells"]}
    for one in rows:
        cell = told[one.board, one.method, one.forget]
        assert cell["command"] == one.command
        assert cell["scores"]["klom/forget/p95"] == list(one.scores["klom/forget/p95"].values())
        assert cell["link"] == ("../runs/digits-dmm__0123456789/points.parquet" if one.method == "dmm" else None)
    assert "All &lt;b&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_the_table_of_cells_has_a_row_for_each(built: Path, rows: list[Row]) -> None:
    found = list(csv.DictReader(io.StringIO((built / "leaderboard.csv").read_text())))
    assert len(found) == len(rows)
    (best,) = [
        one for one in found if (one["board"], one["method"], one["forget"]) == ("letters", "dmm", "class label=2")
    ]
    assert float(best["klom/forget/p95"]) == 2.0
    assert float(best["klom/forget/p95_low"]) == 1.5
    assert float(best["rank"]) == 1


def test_the_documents_have_every_board_and_every_method(built: Path) -> None:
    markdown, latex = (built / "leaderboard.md").read_text(), (built / "leaderboard.tex").read_text()
    for text in (markdown, latex):
        for name in ("digits", "letters", "dmm", "finetune", "retrain", "mine"):
            assert name in text
    kinds = 2  # of each of two boards
    assert latex.count(r"\begin{tabular}") == 2 + 2 * (1 + kinds)
    assert "| dmm | 1.00 | [1.00, 1.00] |" in markdown


def test_the_same_rows_make_the_same_files(built: Path, rows: list[Row], tmp_path: Path) -> None:
    build(rows, tmp_path / "site", title="All <b>", runs=tmp_path, command="again")
    for name in ("leaderboard.md", "leaderboard.csv", "leaderboard.tex"):
        assert (tmp_path / "site" / name).read_text() == (built / name).read_text()


def test_the_page_may_stand_beside_the_rows_and_be_made_again(rows: list[Row], tmp_path: Path, command: Any) -> None:
    for one in rows:
        one.write(tmp_path / "leaderboard")
    for _ in range(2):
        done = command("leaderboard", "build", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "leaderboard\n"), done.stderr
    names = {path.name for path in (tmp_path / "leaderboard").iterdir() if path.is_file()}
    assert names == {f"leaderboard.{end}" for end in ("html", "md", "csv", "tex")} | {"figures.json"}


def test_the_page_is_built_without_torch() -> None:
    lines = "import sys, dmm_exp.leaderboard.build, dmm_exp.leaderboard.rows; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", lines], check=False).returncode == 0


def test_a_number_that_was_changed_is_told_from_one_that_is_uncertain() -> None:
    one = row()
    same = {found.name: found.verdict for found in compared(one, row())}
    assert set(same.values()) == {"same"}

    def verdicts(name: str, **parts: float) -> dict[str, str]:
        scores = {**one.scores, name: {**one.scores[name], **parts}}
        return {found.name: found.verdict for found in compared(one, dataclasses.replace(one, scores=scores))}

    assert verdicts("klom/forget/p95", value=2.00001)["klom/forget/p95"] == "same"
    assert verdicts("klom/forget/p95", value=2.4)["klom/forget/p95"] == "within its interval"
    assert verdicts("klom/forget/p95", value=2.6)["klom/forget/p95"] == "differs"
    assert verdicts("klom/forget/p95", floor=1.3)["klom/forget/p95 (floor)"] == "differs"
    assert verdicts("tow", value=0.901)["tow"] == "differs"  # it has no interval here
    changed = dataclasses.replace(one, cost={**one.cost, "ratio": 0.26}, id="f" * 10)
    told = {found.name: found.verdict for found in compared(one, changed)}
    assert told["cost/ratio"] == told["id"] == "differs"


def test_the_sum_of_both_directions_is_twice_as_uncertain_as_one() -> None:
    one = row()
    assert [half_interval(one, f"{name}/val/p95") for name in ("klom", "klom_reverse", "klom_sum")] == [0.5, 0.5, 1.0]
    assert half_interval(one, "tow") == 0.0


def test_models_made_elsewhere_cannot_be_made_again(tmp_path: Path, command: Any) -> None:
    done = command("leaderboard", "check", given().write(tmp_path), cwd=tmp_path)
    assert done.returncode == 1
    assert "models that were made elsewhere, which cannot be made again here" in done.stderr


def test_a_plan_is_the_command_and_nothing_else(tmp_path: Path, command: Any) -> None:
    path = row().write(tmp_path)
    done = command("leaderboard", "check", "--plan", path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{path}:\n  {row().command}\n")
    assert {entry.name for entry in tmp_path.iterdir()} == {"digits"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["biuld"], "biuld: expected one of build, check, add; did you mean 'build'?"),
        (["build", "nowhere"], "FOLDER 'nowhere': there is no such folder"),
        (["build", "--too", "x"], "unrecognized arguments"),
        (["check"], "the following arguments are required: ROW"),
        (["check", "nowhere.json"], "nowhere.json: cannot be read as a row of the leaderboard"),
        (["check", "executor=local"], "ROW: is missing"),
        (["add", "nowhere"], "RUN 'nowhere': there is no such folder"),
        (["add", "."], "cannot be read as a finished run"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], said: str, tmp_path: Path, command: Any) -> None:
    done = command("leaderboard", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
