"""Blocks of code in the documentation: collected, and told apart."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "RELEASING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = (
    *("python", "dmm-exp", "torchrun", "make", "pip", "apt", "git", "openssl", "wandb", "bash", "sbatch"),
    *("uv", ".", "cp", "cd", "scripts/wandb_sync.sh"),
)
OURS = ("python -m dmm_exp", "dmm-exp")  # what is taken for a command in running text, too
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w./-]+\.(?:py|ya?ml))( \(goes on\))?$")


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
