"""Blocks of code in the documentation: collected, and told apart."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "RELEASING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = (
    *("python", "dmm-exp", "torchrun", "make", "pip", "apt", "git", "openssl", "wandb", "bash", "sbatch"),
    *("uv", ".", "cp", "cd", "scripts/wandb_sync.sh"),
)
LESSONS = "docs/tutorials/"  # pages that are followed as a reader would, by test_tutorials
CODE = {  # page: first words of its code → what has to stand before it; test_tutorials runs it after the lessons
    "docs/datasets.md: np.savez": "x, y = np.random.default_rng(0).normal(size=(1000, 3)), np.arange(1000) % 2",
    "docs/unlearn_your_model.md: from dmm_exp.data import Dataset": """
from functools import partial
import torch
from dmm_exp import train, unlearn
from dmm_exp.data import Dataset, Split
from dmm_exp.data.formats import Table
data = Dataset({"table": Table(group_by=["user"])}, "rows.csv", split=Split(test=0.2))
net, unlearn = train(torch.nn.Linear(6, 2), data, {"epochs": 10}), partial(unlearn, method="finetune epochs=1")
""",
    "docs/unlearn_your_model.md: unlearn(": "",
    "docs/unlearn_your_model.md: from dmm_exp import Ledger": "",
    "docs/unlearn_your_model.md: done = ledger.purge()": "",
}
ELSEWHERE = {  # code that is not run with these → where it is
    "README.md: import torch": "tests/deletion/test_docstrings.py runs the file that it is",
    "docs/unlearn_your_model.md: import torch": "the same",
    "docs/configuration.md: from hydra": "tests/config/test_compose.py runs it",
    "docs/datasets.md: import yaml": "tests/data/test_image_folders.py runs it",
    "docs/extending.md: import timm": "the package is not among the locked ones",
}
OURS = ("python -m dmm_exp", "dmm-exp")  # what is taken for a command in running text, too
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w./-]+\.(?:py|ya?ml))( \(goes on\))?$")
SMALLEST = [  # bounds that win over whatever a page says
    "scale=tiny",
    "scale.n_models=2",
    "scale.pool.size=24",
    "scale.pool.held_out=2",
    "scale.pool.designs.each.members=4",
    "scale.model.chunk_size=24",
    "scale.training.epochs=1",
    "scale.training.batch_size=256",
    "scale.unlearner.epochs=1",
    "scale.unlearner.batch_size=256",
    "executor=local",
]


@dataclass(frozen=True)
class Block:
    """A block of code on a page, and the line where it begins."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that a block says it is, in one of its first two lines: ``# mine/unlearner/soften.yaml``."""
        found = [match[1] for line in self.text.split("\n")[:2] if (match := FILE.match(line))]
        return found[0] if found else None

    def commands(self) -> list[str]:
        """The commands of a block without a language, each in one line, without its comment."""
        if self.language not in ("", "bash", "console"):
            return []
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [command for line in lines if (command := without_comment(line)) and is_command(command)]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page.relative_to(ROOT).as_posix(), line, found[1], found[2])


def named(block: Block, names: Iterable[str]) -> bool:
    """Say whether a block is one of those named as ``page: first words``."""
    return any(block.page == page and block.text.lstrip().startswith(start) for page, start in map(_parts, names))


def _parts(name: str) -> tuple[str, str]:
    page, _, start = name.partition(": ")
    return page, start


def inline(page: Path) -> Iterator[str]:
    """Yield the commands of ours in running text, without those that leave words out."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for code in re.findall(r"`([^`]+)`", text):
        command = " ".join(code.split())
        if command.startswith(tuple(f"{one} " for one in OURS)) and "…" not in command:
            yield command


def without_comment(line: str) -> str:
    """Return a line of a shell without what follows a ``#`` outside of quotes."""
    return re.sub(r"""^((?:[^'"#]|'[^']*'|"[^"]*"|(?<=\S)#)*?)(?:(?:^|\s+)#.*)?$""", r"\1", line).strip()


def is_command(line: str) -> bool:
    """Say whether a line begins with a program, perhaps after variables of the environment."""
    words = split(line)
    return bool(words) and words[0] in PROGRAMS


def split(command: str) -> list[str]:
    """Return the words of a command, variables of the environment before it left out."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    return words
