"""Hooks of mkdocs: what the documentation's site has beside the files in ``docs/``.

Pages of the reference are made from ``conf/`` (scripts/docs_reference.py), a page from the notebook, and files of the
repository that a page links to (``../CHANGELOG.md``) become part of the site, which therefore needs no other host.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docs_reference  # mkdocs finds what lies beside a hook
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from dmm_exp.commands import cli

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = "repository"  # folder of the site for files that lie beside docs/
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)

CONFIGURATION = "reference/configuration"
HELP = re.compile(r"<!-- help: (\w+) -->")
FIRST_CELL = re.compile(r"<tr>\s*<td[^>]*>.*?</td>", re.DOTALL)
INLINE = re.compile(r"(?<=<code>)[^<]+(?=</code>)")
JOINT = re.compile(r"(?<=[\w}])([/._,])(?=[\w{])")  # between the parts of a key


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the configuration's groups into the navigation, behind their index.

    The page for a wrong address is left out: its links hold on a server alone, and the site is read from the disk too.
    """
    config.theme.static_templates.discard("404.html")
    for section in config.nav or []:
        for entry in next(iter(section.values())):
            if isinstance(entry, dict) and "Configuration" in entry:
                entry["Configuration"] += [f"{CONFIGURATION}/{group}.md" for group in docs_reference.groups()]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files of the repository that pages link to."""
    for name, text in docs_reference.pages().items():
        files.append(File.generated(config, f"{CONFIGURATION}/{name}.md", content=text))
    files.append(File.generated(config, "tour.md", content=notebook(ROOT / "docs" / "tour.ipynb")))
    known: set[Path] = set()
    waiting = [ROOT / "docs" / one.src_uri for one in files.documentation_pages() if not one.generated_by]
    while waiting:
        for target in _outside(waiting.pop()):
            if target not in known:
                known.add(target)
                waiting += [target] if target.suffix == ".md" else []
                files.append(_file(target, config))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files beside ``docs/`` lead to their places in the site."""
    uri = page.file.src_uri
    inside = uri.startswith(f"{ELSEWHERE}/")
    source = ROOT / uri.removeprefix(f"{ELSEWHERE}/") if inside else ROOT / "docs" / uri

    def replaced(match: re.Match[str]) -> str:
        target = (source.parent / match[1]).resolve()
        place = posixpath.relpath(_place(target), posixpath.dirname(uri) or ".")
        return f"]({place}{match[2] or ''})"

    parts = (part if row % 2 else LINK.sub(replaced, part) for row, part in enumerate(CODE.split(markdown)))
    return HELP.sub(lambda match: f"```text\n{help_of(match[1])}\n```", "".join(parts))


def on_page_content(html: str, **_: Any) -> str:
    """Let keys in the first column of a table break between their parts, where a screen is narrow."""
    return FIRST_CELL.sub(lambda cell: INLINE.sub(lambda code: JOINT.sub(r"\1<wbr>", code[0]), cell[0]), html)


def help_of(name: str) -> str:
    """Return what a command prints with ``--help``."""
    said = io.StringIO()
    before = sys.argv, os.environ.get("COLUMNS")
    sys.argv, os.environ["COLUMNS"] = ["dmm-exp", name, "--help"], "110"
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            cli.main()
    finally:
        sys.argv = before[0]
        os.environ.pop("COLUMNS") if before[1] is None else os.environ.update(COLUMNS=before[1])
    return said.getvalue().rstrip()


def notebook(path: Path) -> str:
    """Return a notebook as Markdown, with what its cells printed and showed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _cell(cell))


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            image = "".join(data["image/png"]).replace("\n", "")
            yield f"![What this cell shows](data:image/png;base64,{image})"
        elif "text/html" in data:
            yield re.sub(r"<style.*?</style>\n?", "", "".join(data["text/html"]), flags=re.DOTALL)
        else:
            text = "".join(output.get("text") or data.get("text/plain", ""))
            yield f"```text\n{text.rstrip()}\n```"


def _outside(page: Path) -> Iterator[Path]:
    """Yield the files of the repository, outside of ``docs/``, that a page links to."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for match in LINK.finditer(text):
        target = (page.parent / match[1]).resolve()
        if target.is_file() and target.is_relative_to(ROOT) and not target.is_relative_to(ROOT / "docs"):
            yield target


def _file(path: Path, config: MkDocsConfig) -> File:
    if path.suffix == ".md":
        return File.generated(config, _place(path), content=path.read_text(encoding="utf-8"))
    return File.generated(config, _place(path), abs_src_path=str(path))


def _place(path: Path) -> str:
    """Return where a file of the repository stands in the site."""
    docs = ROOT / "docs"
    if path in (docs, ROOT / "README.md"):
        return "index.md"
    if path.is_relative_to(docs):
        return path.relative_to(docs).as_posix()
    return f"{ELSEWHERE}/{path.relative_to(ROOT).as_posix()}"
