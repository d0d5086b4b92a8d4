"""Words of the command line that are no overrides: one sentence, which shows the word as it works."""

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dmm_exp.config.overrides import in_shell, parsed
from dmm_exp.config.preflight import forget_overrides, unlearner_overrides
from dmm_exp.errors import UserError

PATHS = [
    "my photos (1), new", "größe.csv", "it's.csv", 'say "x".csv', "a=b.csv", "a,b.csv", "[a].csv", "{x}.csv", "~/a.csv",
    "a#b", "a&b", "a;b", "${x}.csv", "back\\slash", 'both "\'', "日本.csv", "rows(1).csv", "ends\\", "a: b", "'", '"',
    "*?", " spaces ", "line\nbreak", "\\${x}", "null", "007",
]  # fmt: skip


def taken(argument):
    """Return the value that Hydra makes of an argument as it stands in a shell, once it is resolved."""
    (word,) = shlex.split(argument)
    (override,) = parsed([word])
    config = OmegaConf.create({})
    OmegaConf.update(config, "value", override.value())
    return OmegaConf.to_container(config, resolve=True)["value"]


@pytest.mark.parametrize("path", PATHS)
def test_a_suggested_argument_stands_for_the_very_path(path):
    assert taken(in_shell(f"dataset.path={path}")) == path


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_survives_the_shell_and_hydra(path):
    assert taken(in_shell(f"dataset.path={path}")) == path


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="“”„‟‘’‚‛«»"), min_size=1))
def test_a_refusal_shows_an_argument_that_stands_for_what_was_typed(path):
    try:
        parsed([f"dataset.path={path}"])
    except UserError as error:
        said = str(error)
        assert "as in " in said
        assert taken(said.split("as in ", 1)[1]) == path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset.path=größe (1), neu"], """as in 'dataset.path="größe (1), neu"'"""),
        (["forget.indices=it's.csv"], """as in 'forget.indices="it'"'"'s.csv"'"""),
        (
            ["leaderboard.forget_sets={class: [class label=1]}"],
            """(or the texts in it: 'leaderboard.forget_sets={class: ["class label=1"]}') is quoted, as in""",
        ),
        (["+forget.file=[a].csv"], """as in '+forget.file="[a].csv"'"""),
        (["forget.indices", "=", "rows.csv"], "without spaces around the equals sign: forget.indices=rows.csv"),
        (["forget.indices", "=", "a (1)"], """equals sign: 'forget.indices="a (1)"'"""),
        (["seed =3"], "did you mean seed=3?"),
        (["seed＝3"], "did you mean seed=3?"),
        (["forget=“rum_high_mem”"], "did you mean forget=rum_high_mem?"),
        (["unlearner:dmm"], "did you mean unlearner=dmm?"),
        (["–m"], "'–' is a long dash: did you mean -m?"),
        (["—multirun"], "did you mean --multirun?"),
        (["−−config-dir"], "did you mean --config-dir?"),
        (["seed"], "expected key=value, with a key of letters"),
        (["=3"], "expected key=value, with a key of letters"),
        (["größe=3"], "expected key=value, with a key of letters"),
        (["dataset.path="], """'dataset.path=': has no value; expected dataset.path=VALUE, or dataset.path='""'"""),
        (["+x="], "'+x=': has no value"),
    ],
)
def test_the_sentence_shows_what_was_meant(words, said):
    with pytest.raises(UserError) as error:
        parsed(words)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_text_in_quotes_is_one():
    assert parsed(['dataset.path=""'])[0].value() == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--foo"], "'--foo': there is no such option; expected key=value or one of --help"),
        (["--seed=3"], "a key stands without dashes: seed=3"),
        (["--mulitrun"], "did you mean '--multirun'?"),
        (["-m", "--dry-run"], "'--dry-run': there is no such option"),
        (["--config-dir", "nowhere"], "--config-dir nowhere: there is no such folder"),
        (["--config-path", "nowhere"], "--config-path nowhere: there is no such folder"),
        (["--config-name", "nothing"], "Cannot find primary config 'nothing'"),
        (["--cfg", "everything"], "invalid choice: 'everything'"),
        (["--hydra-help", "seed=3"], "Key 'seed' is not in struct"),
        (
            ["forget=indices", "forget.indices=a,b.csv"],
            """add -m to run it, or quote a text with commas: 'forget.indices="a,b.csv"'""",
        ),
        (["seed=interval(0,1)", "-m"], "seed=interval(0,1): has no list of values"),
        (["seed=range(0)"], "seed=range(0): stands for no value"),
        (
            ["-m", "hydra.verbose=true,false"],
            "hydra.verbose=true,false: sets how Hydra itself works; expected one value",
        ),
        (["unlearner.epochs=glob(*)", "-m"], "unlearner.epochs=glob(*): stands for no value"),
        (["unlearner@elsewhere=dmm"], "Could not override 'unlearner@elsewhere'"),
        (["~seed"], "~seed: every run has seed"),
        (["~unlearner"], "~unlearner: every run has unlearner"),
        (["forget=indices", "forget.indices=${x}"], """for this very text: 'forget.indices="\\${x}"'"""),
        (["dry_run=true", "dry_run=maybe"], "dry_run=maybe: Value 'maybe' is not a valid bool"),
    ],
)
def test_a_command_that_cannot_be_is_one_sentence_and_exit_code_2(command, tmp_path, words, said):
    done = command(*words, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_options_may_stand_anywhere(command, tmp_path):
    words = ["unlearner=do_nothing", "-m", "seed=0,1", "--config-dir", ".", "forget=random", "dry_run=true"]
    done = command(*words, "executor=local", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("plan (nothing was made)") == 1
    assert "runs: 2, of which 0 were finished before" in done.stdout


def test_a_forget_set_in_a_text_is_quoted_as_in_a_shell():
    assert forget_overrides("indices indices='a b.csv'") == ["forget=indices", "forget.indices=a b.csv"]
    assert unlearner_overrides("finetune epochs=2") == ["unlearner=finetune", "unlearner.epochs=2"]
    with pytest.raises(UserError, match="quote values as in a shell"):
        forget_overrides("indices indices=it's.csv")
