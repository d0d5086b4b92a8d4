"""Every command in README and docs would be accepted: overrides compose, options are read, scripts and targets exist.

Every run is run at the smallest scale, too. Commands of the lessons are run by test_tutorials, leaderboards and studies
by tests/data/test_presets.py.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from snippets import CODE, ELSEWHERE, LESSONS, PAGES, ROOT, SMALLEST, blocks, inline, named, split

from dmm_exp.commands import compare, export, leaderboard, score
from dmm_exp.commands.options import read_options
from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import Composer, composer
from dmm_exp.config.schema import register
from dmm_exp.deletion.command import PREFIX, Keys
from dmm_exp.records import verify_command

NOT_HERE = {  # first words → why they are neither run nor looked at
    "git": "asks about the reader's checkout",
    ".": "changes the reader's shell",
    "cd": "changes the reader's shell",
    "mkdir": "makes the reader's folders",
    "uv": "builds and installs; tests/test_package.py builds a wheel and runs it",
    "/tmp/fresh/bin/pip": "the reader's fresh environment",
    "/tmp/fresh/bin/python": "the same",
    "apt": "installs as root",
    "openssl": "makes keys; tests/records has signatures",
    "wandb": "needs an account",
    "python -m venv": "makes the reader's environment",
    "python -m build": "as uv",
}
ELSEWHERE_RUN = {"executor=ray", "executor=submitit", "trainer=ddp", "hydra/launcher=submitit_slurm"}  # other machines
WITH = {"unlearner=rewind": ["unlearner.rewind_to=1"]}  # first word → what the smallest scale asks for beside it
LACKING = {"FOLDER", "NAME", "...", "--config-path", "hydra/launcher=joblib"}  # words of commands that are patterns
READERS_OWN = ("dataset.path=", "model.network._target_=mynets")  # data or a module that the reader has
LACKS = re.compile(r"does not exist; expected|cannot be imported")  # what is said where it is not there
TEXT = {  # blocks without a language that hold no command → what they are
    "README.md: KLoM P95": "a table that is printed; test_tutorials compares it",
    "docs/architecture.md: dataset": "a diagram",
    "docs/configuration.md: ✓ pool": "a line of progress",
    "docs/datasets.md: 'dataset.normalisation": "an override, read by tests/config/test_targets.py's neighbours",
    "docs/datasets.md: cat/1.jpg": "a list of rows",
    "docs/reproducing.md: one model": "a formula",
    "docs/unlearn_your_model.md: DMM made": "sentences that are printed; tests/deletion runs the example",
    "docs/unlearn_your_model.md: rows to delete": "a line that is printed; tests/deletion reads it",
}


def commands() -> list[tuple[str, str]]:
    """Return page and command, each once; commands of lessons are run elsewhere."""
    found = [(block.page, one) for page in PAGES for block in blocks(page) for one in block.commands()]
    found += [(page.relative_to(ROOT).as_posix(), one) for page in PAGES for one in inline(page)]
    return sorted({one: page for page, one in reversed(found) if not page.startswith(LESSONS)}.items())


@pytest.fixture(scope="module")
def compose() -> Iterator[Composer]:
    register()
    with composer(config_directory()) as found:
        yield found


def is_left_out(words: list[str]) -> bool:
    return any(words[: len(first.split())] == first.split() for first in NOT_HERE)


def overrides(words: list[str]) -> list[str]:
    """Return a command's words without those that stand for others, and a choice for what stands for one."""
    return [word.replace("=NAME", "=digits") for word in words if word not in ("...", "GROUP=CHOICE")]


def check_run(words: list[str], compose: Composer) -> None:
    if "FOLDER" in words:
        words = [str(ROOT) if word == "FOLDER" else word for word in words]
    options = read_options(overrides(words))
    if options.help or options.config_dir:
        return
    config = compose.first(options.overrides)
    assert config.job


def check_unlearn(words: list[str], compose: Composer) -> None:
    given = read_options(overrides(words)).overrides
    Keys.read([one for one in given if one.startswith(PREFIX)])
    others = [one for one in given if not one.startswith(PREFIX)]
    compose.first(others if any(one.startswith("forget=") for one in others) else ["forget=indices", *others])


def check_verify(words: list[str], compose: Composer) -> None:
    verify_command.parser().parse_args([word.strip("[]") for word in words])


def check_leaderboard(words: list[str]) -> None:
    assert words[0] in ("build", "check", "add")
    source = Path(leaderboard.__file__).read_text(encoding="utf-8")
    options = {word.removeprefix("--") for word in words if word.startswith("--")}
    assert all(f'"--{one}"' in source or f'"{one}"' in source for one in options)


def check_export(words: list[str], compose: Composer) -> None:
    folder, *rest = words
    assert folder.startswith("outputs/") or folder in ("FOLDER", "scored"), folder
    export.parse([str(ROOT), *rest])


COMMANDS: dict[str, Callable[[list[str], Composer], object]] = {
    "": check_run,
    "run": check_run,
    "scores": check_run,
    "unlearn": check_unlearn,
    "verify": check_verify,
    "compare": lambda words, _: compare._parser().parse_args(words),
    "export": check_export,
    "score": lambda words, _: score.parse(words),
    "leaderboard": lambda words, _: check_leaderboard(words),
    "artifacts": lambda words, _: words[0] in ("list", "explain", "verify", "prune"),
}


def check(words: list[str], compose: Composer) -> None:
    """Check one command.

    Raises:
        UserError, SystemExit, AssertionError: it would be refused.
    """
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]]
    if "NAME" in words or "dmm_exp.NAME" in words:
        return  # it stands for every command
    if words[:2] == ["python", "-m"] and words[2].partition(".")[0] == "dmm_exp":
        name, rest = words[2].partition(".")[2], words[3:]
        if not name and rest and rest[0] in COMMANDS:
            name, *rest = rest
        if rest or name in ("", "scores"):
            COMMANDS[name](rest, compose)
    elif words[0] == "dmm-exp":
        assert words[1] in COMMANDS
        if words[2:]:
            COMMANDS[words[1]](words[2:], compose)
    elif words[:3] == ["python", "-m", "benchmarks"]:
        assert all((ROOT / "benchmarks" / f"{word}.py").is_file() for word in words[3:])
    elif words[0] == "make":
        assert all(re.search(rf"^{one}:", makefile(), re.MULTILINE) for one in words[1:] if "=" not in one)
    elif words[0] == "pip":
        assert words[1] == "install"
        assert words[2] == "." or words[2] in extras() or any(words[2] in one for one in extras().values())
    else:
        (script,) = [word for word in words if word.startswith("scripts/")]
        assert (ROOT / script).is_file()


@cache
def makefile() -> str:
    return (ROOT / "Makefile").read_text()


@cache
def extras() -> dict[str, str]:
    """Return what is installed as ``dmm_exp[extra]`` → the packages that it brings."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return {f"dmm_exp[{name}]": " ".join(packages) for name, packages in found.items()}


def test_every_command_is_one_that_would_be_accepted(compose, monkeypatch):
    monkeypatch.chdir(ROOT / "examples")  # where the module of an example is
    refused = {}
    for text, page in commands():
        words = split(text)
        if is_left_out(words):
            continue
        try:
            check(words, compose)
        except (Exception, SystemExit) as error:
            refused[f"{page}: {text}"] = f"{type(error).__name__}: {error}"
    assert not refused, "\n".join(f"{command}\n  {why}" for command, why in refused.items())


def runs(page: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield every command that starts a run or a sweep, as it stands on a page, and its words after the program's."""
    for text, where in commands():
        words = split(text)
        if words[:3] == ["python", "-m", "dmm_exp"] and where.startswith(page) and not {*words} & LACKING:
            rest = overrides(words[3:])
            if rest and rest[0] not in COMMANDS:
                yield text, rest


def is_job_of_many(words: list[str], compose: Composer) -> bool:
    options = read_options(words)
    return not (options.help or options.cfg) and "Run" not in str(compose.first(options.overrides).job._target_)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that commands of all pages share: what one made, the others find."""
    return tmp_path_factory.mktemp("outputs")


@pytest.mark.parametrize("page", sorted({page.relative_to(ROOT).as_posix() for page in PAGES}))
def test_every_run_runs(page, compose, command, outputs, tmp_path, monkeypatch):
    """At the smallest scale. What goes to other machines, or searches, is planned; tests/search runs searches."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused = {}
    for text, words in runs(page):
        if is_job_of_many(words, compose):
            continue
        only_planned = {*words} & ELSEWHERE_RUN or any(word.startswith("hparams_search=") for word in words)
        smaller = ["dry_run=true"] if only_planned else [*SMALLEST, *WITH.get(words[0], [])]
        done = command(*words, *smaller, "logger=none", f"paths.outputs={outputs}", cwd=ROOT / "examples")
        readers_own = any(word.startswith(READERS_OWN) for word in words) and LACKS.search(done.stderr)
        if done.returncode and not readers_own:
            refused[text] = done.stderr.strip()
    assert not refused, "\n".join(f"{text}\n  {why}" for text, why in refused.items())
    if page == "README.md":  # its last command
        assert command("compare", outputs / "runs", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_other_block_is_tested_or_named(page: Path):
    """Code of Python is run, YAML is read, and what is neither code nor a command is said to be something else."""
    for block in blocks(page):
        if block.language == "python":
            is_lesson = block.page.startswith(LESSONS)
            assert is_lesson or block.file or named(block, [*CODE, *ELSEWHERE]), f"{block.page}, line {block.line}"
        elif block.language in ("yaml", "json"):
            assert yaml.safe_load(block.text)
        elif block.language == "" and not block.commands():
            assert named(block, TEXT), f"{block.page}, line {block.line}"


def test_what_is_left_out_is_there():
    every = [block for page in PAGES for block in blocks(page)]
    for names in (TEXT, CODE, ELSEWHERE):
        assert {name for name in names if not any(named(block, [name]) for block in every)} == set()
