"""The tutorials, followed as a reader would, with fewer and smaller models: code, commands, and what they print."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from snippets import ROOT, Block, blocks, split

TUTORIALS = ROOT / "docs" / "tutorials"
SMALLEST = [  # bounds that win over whatever a page says
    "scale=tiny",
    "scale.n_models=2",
    "scale.pool.size=24",
    "scale.pool.held_out=2",
    "scale.pool.designs.each.members=4",
    "scale.training.epochs=1",
    "scale.training.batch_size=256",
    "scale.unlearner.epochs=1",
    "scale.unlearner.batch_size=256",
    "executor=local",
]
FEWER = {  # text of a page → what is run instead
    "delete_rows": {
        "size=600": "size=40",
        "verify=20": "verify=3",
        "images[:1400], labels[:1400]": "images[:300], labels[:300]",
        "images[1400:], labels[1400:]": "images[1400:1500], labels[1400:1500]",
        '"sgd_one_cycle"': '{"epochs": 4}',
        "train(net, known)": 'train(net, known, {"epochs": 4})',
    },
    "method": {"[1,2,4]": "[1]"},
    "paper_table": {"[0, 1, 2]": "[0]", "fine-tuning: unlearner=finetune, SCRUB: unlearner=scrub, ": ""},
}
NOT_RUN = {
    "make install": "makes an environment and downloads packages",
    ". .venv/bin/activate": "changes the reader's shell",
    "hparams_search=grid": "searches; tests/search has searches, and the command is composed in test_documented_commands",
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder that the lessons share, as a reader's would."""
    return tmp_path_factory.mktemp("reader")


@pytest.mark.parametrize("name", ["demo", "method", "data", "paper_table", "delete_rows"])
def test_a_reader_can_follow_the_lesson(name, command, folder):
    reader = Reader(command, folder)
    reader.follow(name)


def test_every_lesson_is_followed():
    followed = {"demo", "method", "data", "paper_table", "delete_rows", "index"}
    assert {path.stem for path in TUTORIALS.glob("*.md")} == followed
