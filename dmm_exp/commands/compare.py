"""The command line of ``python -m dmm_exp.compare``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dmm_exp.console.command import Parser
from dmm_exp.errors import UserError
from dmm_exp.files.writing import write_table, write_text

if TYPE_CHECKING:
    from dmm_exp.compare.tables import Comparison

DESCRIPTION = """\
Compare finished runs: means over seeds and forget-set draws, ranks of methods, paired tests between them.

Nothing is computed again: what is compared is what run folders hold. Unfinished and damaged runs are named on
standard error and left out. Methods are compared where they had the same forget set, seed and oracles."""

EXAMPLES = """\
examples:
  python -m dmm_exp.compare outputs/runs
  python -m dmm_exp.compare 'outputs/runs/*salun*' 'outputs/runs/*dmm*' --metric tow --metric klom/forget/p95
  python -m dmm_exp.compare outputs/runs --where forget=random --where unlearner!=retrain --baseline finetune
  python -m dmm_exp.compare outputs/runs --where unlearner=dmm --by pool.size --by forget
  python -m dmm_exp.compare outputs/runs --csv runs.csv --latex means.tex --html compare.html"""

OPTIONS: dict[str, tuple[str, str]] = {
    "--where": (
        "KEY=VALUE",
        "keep runs with this choice (unlearner=dmm) or setting (pool.size=3000); KEY!=VALUE leaves them out. "
        "Repeat it: different keys must all hold, one key any of its values",
    ),
    "--metric": (
        "NAME",
        "a name of metrics.json; repeat it for several (default: klom/forget/p95, klom/retain/p95, klom/val/p95, tow, "
        "cost/ratio)",
    ),
    "--by": (
        "KEY",
        "group means by this choice or setting, or by method; repeat it for several (default: dataset, model, forget, "
        "method, and whatever else differs except seed and forget.seed)",
    ),
}


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser.of("python -m dmm_exp.compare", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="a run's folder, a folder of runs such as outputs/runs, or a pattern of either",
    )
    for option, (value, text) in OPTIONS.items():
        parser.add_argument(option, metavar=value, action="append", default=[], help=text)
    parser.add_argument(
        "--baseline",
        metavar="METHOD",
        help="method the others are tested against (default: the one with the best mean rank)",
    )
    parser.add_argument("--csv", metavar="FILE", help="write one row a run here, with its settings and all its metrics")
    parser.add_argument("--parquet", metavar="FILE", help="the same as parquet")
    parser.add_argument("--markdown", metavar="FILE", help="write the printed tables here, for a document")
    parser.add_argument("--latex", metavar="FILE", help="write the table of means here, for a paper (booktabs)")
    parser.add_argument("--html", metavar="FILE", help="write tables and a figure here, as one page that opens offline")
    return parser


def compare_runs(words: Sequence[str]) -> int:
    """Do what a command line asks for, and return the exit code.

    Raises:
        UserError: an argument is wrong; nothing was written.
    """
    options = _parser().parse_args(words)
    given = {name: getattr(options, name) for name in ("csv", "parquet", "markdown", "latex", "html")}
    targets = {name: _target(name, value) for name, value in given.items() if value}
    from dmm_exp.compare.comparison import compare
    from dmm_exp.compare.labels import filtered
    from dmm_exp.compare.runs import find_folders, read_runs
    from dmm_exp.compare.tables import print_comparison

    folders = find_folders(options.paths)
    runs, left_out = read_runs(folders)
    if not runs:
        raise UserError(
            f"PATH {' '.join(options.paths)}: none of {len(folders)} runs can be compared; the first: {left_out[0]}"
        )
    found, repeated = compare(filtered(runs, options.where), options.metric, options.by, options.baseline)
    for line in (*left_out, *repeated):
        print(line, file=sys.stderr)
    print_comparison(found)
    _write(found, targets, [*left_out, *repeated], shlex.join(["python", "-m", "dmm_exp.compare", *words]))
    return 0


def _target(name: str, value: str) -> Path:
    path = Path(value).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--{name} '{value}' cannot be written; expected a file in a folder that exists")
    return path


def _write(found: Comparison, targets: dict[str, Path], left_out: Sequence[str], command: str) -> None:
    from dmm_exp.compare.paper import comparison_latex
    from dmm_exp.compare.tables import comparison_markdown

    if "csv" in targets:
        write_text(targets["csv"], found.runs.to_csv(index=False))
    if "parquet" in targets:
        write_table(targets["parquet"], found.runs)
    if "markdown" in targets:
        write_text(targets["markdown"], comparison_markdown(found))
    if "latex" in targets:
        write_text(targets["latex"], comparison_latex(found))
    if "html" in targets:
        from dmm_exp.compare.page import comparison_page

        write_text(targets["html"], comparison_page(found, targets["html"], left_out=left_out, command=command))
    for path in targets.values():
        print(f"  written: {path}", file=sys.stderr)
