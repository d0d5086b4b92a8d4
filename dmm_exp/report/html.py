"""One HTML file a run: it opens offline, on a phone, in the dark and on paper."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2
import yaml

from dmm_exp.report.canvas import Drawn
from dmm_exp.report.figures import draw_all
from dmm_exp.report.result import RunResult, is_used
from dmm_exp.report.tables import headline_data, used_attribution
from dmm_exp.report.words import narrative
from dmm_exp.store.files import write_text

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(result: RunResult, folder: Path) -> Path:
    """Write ``report.html`` and ``figures/`` into a run's folder; returns the path of the page.

    The page makes no request to anything outside itself, and appears whole or not at all.
    """
    figures = draw_all(result)
    for figure in figures:
        figure.save(folder / "figures")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.html", render(result, figures))
    return folder / "report.html"


def render(result: RunResult, figures: list[Drawn]) -> str:
    """Return the page as text."""
    return page("report.html.j2", **_context(result, figures))


def page(template: str, **context: Any) -> str:
    """Fill a template; a name that it wants and does not get is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,  # by name, jinja2 would not recognise the suffix .j2 and would leave class names unescaped
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**context)


def _context(result: RunResult, figures: list[Drawn]) -> dict[str, Any]:
    """Collect what the template shows."""
    return {
        "result": result,
        "facts": _facts(result),
        "story": narrative(result),
        "figures": [(drawn, base64.b64encode(drawn.png).decode("ascii")) for drawn in figures],
        "headline": headline_data(result),
        "metrics": [(name, f"{value:.6g}") for name, value in sorted(result.metrics.items())],
        "seconds": sum(stage.seconds for stage in result.stages),
        "config": yaml.safe_dump(result.config, sort_keys=False, allow_unicode=True),
    }


def _facts(result: RunResult) -> list[tuple[str, str]]:
    """Return the short facts below the title: what was chosen, and how much of it."""
    attribution = used_attribution({"choices": result.choices, "metrics": result.metrics})
    choices = {**result.choices, "attribution": attribution or ""}
    facts = [(name, choice) for name, choice in choices.items() if is_used(choice)]
    facts += [(f"part {name}", method) for name, method in result.part_methods.items() if method]
    if result.n_models is not None:
        facts.append(("models", f"{result.n_models:,}"))
    return [*facts, ("forget points", f"{len(result.rows('forget')):,}"), ("points", f"{len(result.points):,}")]
