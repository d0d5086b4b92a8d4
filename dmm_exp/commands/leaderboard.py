"""The command ``dmm-exp leaderboard``: the page of all rows, a row made again, a row of a run."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from dmm_exp.console.command import Parser
from dmm_exp.errors import UserError, did_you_mean

FOLDER = "leaderboard"  # of all rows, in the folder where the command is typed
TEXTS = {
    "build": (
        "Make the page leaderboard.html, and leaderboard.md, .csv and .tex, of all rows in a folder; no run is needed.",
        "examples:\n  dmm-exp leaderboard build\n  dmm-exp leaderboard build leaderboard --to site --runs outputs/runs",
    ),
    "check": (
        "Do the run of a row again, and compare every number. What the row says is checked before: only choices and\n"
        "settings of our own are accepted. What outputs/ has already is used; --anew makes everything again.\n"
        "The exit code is 1 where a number is not reproduced.",
        "examples:\n  dmm-exp leaderboard check leaderboard/digits/salun/class-label-2.json\n"
        "  dmm-exp leaderboard check leaderboard/*/dmm/*.json --anew executor=local\n"
        "  dmm-exp leaderboard check ROW.json dataset.path=FOLDER paths.outputs=DIR",
    ),
    "add": (
        "Write the rows of finished runs, or of results of dmm-exp score.",
        "examples:\n  dmm-exp leaderboard add outputs/runs/digits-mlp-class-salun__0123456789\n"
        "  dmm-exp leaderboard add scored --board digits --method mine --kind class --forget 'class label=2'",
    ),
}


def leaderboard(words: Sequence[str]) -> int:
    """Do what a command line asks for, and return the exit code.

    Raises:
        UserError: an argument is wrong, or a row.
    """
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        print("usage: dmm-exp leaderboard {build,check,add} ...\n")
        print("\n".join(f"  {name:<6} {said.splitlines()[0]}" for name, (said, _) in TEXTS.items()))
        print("\ndmm-exp leaderboard build --help says more of one of them.")
        return 0
    if name not in TEXTS:
        raise UserError(f"{name}: expected one of {', '.join(TEXTS)}{did_you_mean(name, TEXTS)}")
    parser = Parser.of(f"dmm-exp leaderboard {name}", *TEXTS[name])
    return {"build": _build, "check": _check, "add": _add}[name](parser, words[1:])


def _build(parser: ArgumentParser, words: Sequence[str]) -> int:
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", default=FOLDER, help="of all rows (default: leaderboard)"
    )
    parser.add_argument("--to", metavar="DIR", help="where the files go (default: the folder of the rows)")
    parser.add_argument("--title", default="Leaderboard", help="of the page")
    parser.add_argument(
        "--runs", metavar="DIR", default="outputs/runs", help="runs that are there are linked (default: outputs/runs)"
    )
    options = parser.parse_args(words)
    from dmm_exp.leaderboard.build import build
    from dmm_exp.leaderboard.rows import read_rows

    folder = _folder(options.folder)
    rows = read_rows(folder)
    target = Path(options.to or folder).expanduser()
    command = shlex.join(["dmm-exp", "leaderboard", "build", *words])
    page = build(rows, target, title=options.title, runs=Path(options.runs).expanduser(), command=command)
    print(f"  {len(rows)} rows: {page}", file=sys.stderr)
    print(target)
    return 0


def _check(parser: ArgumentParser, words: Sequence[str]) -> int:
    parser.add_argument(
        "rows", metavar="ROW", nargs="+", help="a row's file, or KEY=VALUE of a place (paths.outputs=DIR)"
    )
    parser.add_argument("--anew", action="store_true", help="use nothing that is stored")
    parser.add_argument("--exact", action="store_true", help="a number within the interval of its row is not enough")
    parser.add_argument("--plan", action="store_true", help="print the commands, and run nothing")
    options = parser.parse_intermixed_args(words)
    from dmm_exp.leaderboard.recipe import check_places
    from dmm_exp.leaderboard.rows import read_row

    paths = [Path(text).expanduser() for text in options.rows if text.endswith(".json")]
    places = [text for text in options.rows if not text.endswith(".json")]
    check_places(places)
    if not paths:
        raise UserError("ROW: is missing; expected a row's file, such as leaderboard/digits/salun/class-label-2.json")
    rows = {path: read_row(path) for path in paths}
    from dmm_exp.leaderboard.checking import check

    how = {"anew": options.anew, "exact": options.exact, "plan": options.plan}
    found = [check(path, row, places, **how) for path, row in rows.items()]
    if len(found) > 1 and not options.plan:
        print(f"{sum(found)} of {len(found)} rows reproduced")
    return int(not all(found))


def _add(parser: ArgumentParser, words: Sequence[str]) -> int:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the folder of a run, or of results of dmm-exp score")
    parser.add_argument("--to", metavar="FOLDER", default=FOLDER, help="of all rows (default: leaderboard)")
    for name, said in (
        ("board", "the board (default: the dataset)"),
        ("method", "the method's name (default: the unlearner)"),
        ("kind", "of forget set (default: the choice of forget)"),
        ("forget", "the forget set in words (default: the choice and its settings)"),
    ):
        parser.add_argument(f"--{name}", help=said)
    options = parser.parse_args(words)
    from dmm_exp.leaderboard.making import Place, row_in

    place = Place(options.board, options.method, options.kind, options.forget)
    for row in [row_in(_run(text), place) for text in options.runs]:
        print(row.write(Path(options.to).expanduser()))
    return 0


def _run(text: str) -> Path:
    return _existing(text, "RUN", "the folder of a finished run")


def _folder(text: str) -> Path:
    return _existing(text, "FOLDER", "the folder of all rows")


def _existing(text: str, key: str, expected: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise UserError(f"{key} '{text}': there is no such folder; expected {expected}")
    return path
