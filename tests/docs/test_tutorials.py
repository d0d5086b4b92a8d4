"""The tutorials, followed as a reader would, with fewer and smaller models: code, commands, and what they print."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from snippets import CODE, LESSONS, ROOT, SMALLEST, Block, blocks, named, split

TUTORIALS = ROOT / LESSONS
FEWER = {  # text of a page → what is run instead
    "delete_rows": {
        "size=600": "size=40",
        "verify=20": "verify=3",
        "images[:1400], labels[:1400]": "images[:300], labels[:300]",
        "images[1400:], labels[1400:]": "images[1400:1500], labels[1400:1500]",
        '"sgd_one_cycle"': '{"epochs": 4}',
        "train(net, known)": 'train(net, known, {"epochs": 4})',
    },
    "method": {"hparams_search=grid": "hparams_search=grid dry_run=true"},
    "paper_table": {"[0, 1, 2]": "[0]", "fine-tuning: unlearner=finetune, SCRUB: unlearner=scrub, ": ""},
}
NOT_RUN = {
    "make install": "makes an environment and downloads packages",
    ". .venv/bin/activate": "changes the reader's shell",
    "dataset.path=tumours.npz forget=random forget.size=10 pool=halves attribution=empirical_bayes pool.size=500$": (
        "the same as the dry run before it, which is run"
    ),
    "experiment=three_methods$": "the same as the run with scale=tiny before it, which is run",
}


def words(text: str) -> list[str]:
    """Return the words of what is printed: numbers and rules are left out, since digits depend on the processor."""
    return re.findall(r"[A-Za-z_]{2,}", text)


class Reader:
    """Follows a page in a folder: writes its files, runs its code and its commands, and keeps what they print."""

    def __init__(self, command: Any, folder: Path) -> None:
        self.command, self.folder, self.names, self.printed = command, folder, {"__name__": "__main__"}, ""

    def follow(self, name: str) -> None:
        found = [self.smaller(name, block) for block in blocks(TUTORIALS / f"{name}.md")]
        for block in found:
            self.write(block)
        for block, after in zip(found, [*found[1:], None], strict=True):
            if block.language == "text":
                self.compare(block)
            elif block.language == "python" and block.file is None:
                self.execute(block)
            else:
                refused = after is not None and after.text.startswith("error: ")
                self.start(block, code=2 if refused else 0)

    def smaller(self, name: str, block: Block) -> Block:
        text = block.text
        for full, fewer in FEWER.get(name, {}).items():
            text = text.replace(full, fewer)
        return Block(block.page, block.line, block.language, text)

    def write(self, block: Block) -> None:
        if block.file is None:
            return
        path = self.folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        goes_on = "(goes on)" in block.text.split("\n")[0]
        path.write_text((path.read_text() + "\n\n" if goes_on else "") + block.text)

    def execute(self, block: Block) -> None:
        said = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(said):
            exec(compile("\n" * block.line + block.text, block.page, "exec"), self.names)
        self.printed = said.getvalue()

    def start(self, block: Block, code: int) -> None:
        self.printed = ""
        for text in block.commands():
            if any(re.search(pattern.replace(".", r"\."), text) for pattern in NOT_RUN):
                continue
            assert text.startswith("python -m dmm_exp"), text
            module, *rest = split(text)[2:]
            name = module.removeprefix("dmm_exp").removeprefix(".")
            rest = [self.actual(word) for word in rest]
            given = [name, *rest] if name else [*rest, *(word for word in SMALLEST if word not in rest)]
            done = self.command(*given, cwd=self.folder)
            self.printed += done.stdout + done.stderr
            assert done.returncode == code, (text, done.stderr)

    def actual(self, word: str) -> str:
        """Return a word of a command with the folder that a name in capitals stands for."""
        if "STUDY" not in word:
            return word
        (study,) = (self.folder / "outputs" / "studies").iterdir()
        return word.replace("STUDY", study.name)

    def compare(self, block: Block) -> None:
        """What is shown was printed, in its words and their order; fewer models leave some of the printed lines out."""
        printed = iter(words(self.printed))
        for word in words(block.text):
            assert word in printed, (word, self.printed)


FOLLOWED = ("demo", "method", "data", "paper_table", "delete_rows")


@pytest.fixture(scope="module")
def reader(command, tmp_path_factory):
    """Return a reader with a folder that all lessons share."""
    return Reader(command, tmp_path_factory.mktemp("reader"))


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_reader_can_follow_the_lesson(name, reader):
    reader.follow(name)


def test_every_lesson_is_followed():
    assert {path.stem for path in TUTORIALS.glob("*.md")} == {*FOLLOWED, "index"}


def test_every_metric_of_these_runs_has_a_row(reader):
    """What the page has besides, test_metrics_page looks at."""
    from test_metrics_page import measured, pattern, rows

    patterns = [pattern(name) for name in rows()]
    for path in (reader.folder / "outputs" / "runs").glob("*/metrics.json"):
        names = map(measured, json.loads(path.read_text()))
        assert not [name for name in names if not any(re.fullmatch(one, name) for one in patterns)]


@pytest.mark.parametrize("name", CODE)
def test_code_of_other_pages_runs_after_the_lessons(name, reader):
    page = ROOT / name.partition(": ")[0]
    (block,) = [block for block in blocks(page) if named(block, [name])]
    before = dict(reader.names)
    reader.execute(replace(block, text=f"{CODE[name]}\n{block.text}"))
    reader.names = before


@pytest.mark.parametrize("choice", ["--config-dir conf unlearner=shrink", "--config-dir DIR unlearner=descend"])
def test_methods_of_the_page_on_extending_run(choice, reader):
    for block in blocks(ROOT / "docs" / "extending.md"):
        reader.write(block)
    done = reader.command(*choice.split(), *SMALLEST, "forget=random", cwd=reader.folder)
    assert done.returncode == 0, done.stderr


def test_the_readme_shows_the_table_of_the_demo():
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    tables = [block.text for block in blocks(TUTORIALS / "demo.md") if block.language == "text"]
    assert tables
    assert all(table in shown for table in tables)
