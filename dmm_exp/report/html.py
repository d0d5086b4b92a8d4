"""One HTML file: it opens offline, on a phone, in the dark and on paper."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dmm_exp.console.tables import HeadlineData
from dmm_exp.files.writing import write_text
from dmm_exp.report import svg
from dmm_exp.report.charts import Chart
from dmm_exp.report.figures import keep
from dmm_exp.report.palette import DARK, LIGHT

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Tile:
    """A number that is read from afar, with what it is and what to compare it with."""

    value: str
    words: str
    note: str = ""


@dataclass(frozen=True)
class Link:
    """A text that leads to another file."""

    text: str
    address: str

    def __str__(self) -> str:
        """Return the text alone."""
        return self.text


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, then a rule, a table of results, a chart and a table, each where there is one.

    Attributes:
        title: the heading; that of its chart where it is "".
        rule: how to read it.
        data: a table of results; those with a note stand back, and the first of them is apart.
        chart: a figure, whose caption stands below it.
        rows: texts or links, the head first; a table with a head alone is left out.
        words: how many leading columns are words; the others are numbers.
        notes: lines below the table.
    """

    title: str = ""
    rule: str = ""
    data: HeadlineData | None = None
    chart: Chart | None = None
    rows: Sequence[Sequence[str | Link]] = ()
    words: int = 1
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A page that consists of sections.

    Attributes:
        title: of the page.
        command: what to type to get it again.
        facts: how much of what is shown.
        sections: its parts.
        story: sentences at the top.
        gaps: a line for each thing that is missing.
        warnings: what to beware of, above everything else.
    """

    title: str
    command: str
    facts: Sequence[tuple[str, Any]]
    sections: Sequence[Section]
    story: Sequence[str] = ()
    gaps: Sequence[str] = ()
    warnings: Sequence[str] = ()


def write_sections(shown: Page, path: Path) -> Path:
    """Write a page of sections, and beside it what its figures show; returns its path.

    It makes no request to anything outside itself.
    """
    write_text(path, sections_page(shown))
    keep([section.chart for section in shown.sections if section.chart is not None], path.parent)
    return path


def sections_page(shown: Page) -> str:
    """Return a page of sections as text."""
    return page(_TEMPLATES / "sections.html.j2", page=shown)


def page(template: Path, *, script: str = "", **context: Any) -> str:
    """Fill a template, which may use those of the kit; a name that it wants and does not get is an error.

    Args:
        template: its file.
        script: what the page runs beside the kit's own script; nothing else is run.
        context: by name, what the template uses.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _TEMPLATES]),
        autoescape=True,  # by name, jinja2 would not recognise the suffix .j2 and would leave class names unescaped
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8") + script
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    known = {"light": LIGHT, "dark": DARK, "script": Markup(script), "allowed": Markup(allowed)}
    return environment.get_template(template.name).render(**known, svg=svg, **context)
