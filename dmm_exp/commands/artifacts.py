"""The command line of ``python -m dmm_exp.artifacts``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import yaml
from rich.table import Table

from dmm_exp.artifacts.inventory import Entry, Inventory, remove
from dmm_exp.console.command import Parser
from dmm_exp.console.progress import Console, duration
from dmm_exp.console.tables import print_table
from dmm_exp.errors import UserError, storage_errors
from dmm_exp.files.reading import is_real_folder
from dmm_exp.store import Store

DESCRIPTION = """\
Look at what runs have made: pools, models, effects, evaluations, each a folder below OUTPUTS/artifacts."""

EXAMPLES = """\
examples:
  python -m dmm_exp.artifacts list --kind ensemble
  python -m dmm_exp.artifacts explain 3f2a91
  python -m dmm_exp.artifacts verify
  python -m dmm_exp.artifacts prune          what would be removed
  python -m dmm_exp.artifacts prune --yes    remove it"""


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser.of("python -m dmm_exp.artifacts", DESCRIPTION, EXAMPLES)
    shared = Parser(add_help=False)
    shared.add_argument(
        "--outputs", metavar="DIR", default="outputs", help="the folder that paths.outputs names (default: outputs)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", parents=[shared], help="one line for each artifact")
    listing.add_argument("--kind", help="only these, such as ensemble, unlearned or evaluation")
    explaining = commands.add_parser("explain", parents=[shared], help="what made one, from what, and how long it took")
    explaining.add_argument("key", metavar="KEY", help="the beginning of its key")
    verifying = commands.add_parser("verify", parents=[shared], help="compare files with their checksums")
    verifying.add_argument("keys", metavar="KEY", nargs="*", help="only these (default: all)")
    pruning = commands.add_parser("prune", parents=[shared], help="remove what no run needs")
    pruning.add_argument("--yes", action="store_true", help="remove; otherwise it is only said what would be")
    pruning.add_argument("--unfinished", action="store_true", help="unfinished work, too: it could not be resumed")
    pruning.add_argument(
        "--unrecorded", action="store_true", help="although some runs have not recorded what they need"
    )
    return parser


@storage_errors()
def artifacts(words: Sequence[str]) -> int:
    """Do what a command line asks for, and return the exit code: 1 when ``verify`` finds damage.

    Raises:
        UserError: an argument is wrong, or nothing can be removed now.
    """
    options = _parser().parse_args(words)
    inventory = Inventory(Path(options.outputs).expanduser().absolute())
    if options.command == "list":
        return _list(inventory, options.kind)
    if options.command == "explain":
        return _explain(inventory, inventory.named(options.key))
    if options.command == "verify":
        return _verify([inventory.named(key) for key in options.keys] or inventory.entries)
    return _prune(inventory, options)


def _list(inventory: Inventory, kind: str | None) -> int:
    kinds = sorted({entry.kind for entry in inventory.entries})
    if kind is not None and kind not in kinds:
        raise UserError(f"--kind {kind}: there are none; expected one of {', '.join(kinds)}")
    table = Table("kind", "role", "key", "state", "members", "size", "took", "made", "runs")
    for entry in inventory.entries:
        if kind in (None, entry.kind):
            facts = ["", "", "", ""]
            if entry.state == "finished":
                members, runs = entry.artifact.members, len(inventory.users(entry))
                facts = [f"{members:,}" if members else "", duration(entry.artifact.seconds), _made(entry), f"{runs}"]
            table.add_row(entry.kind, entry.role, entry.key[:12], entry.state, facts[0], size(entry.bytes), *facts[1:])
    print_table(table)
    return 0


def _explain(inventory: Inventory, entry: Entry) -> int:
    print(f"{entry.kind} {entry.key}: {entry.state}, {size(entry.bytes)}, {entry.path}")
    if entry.spec is None:
        print("  nothing is known of it until the run that needs it is started again")
        return 0
    manifest = entry.artifact.manifest
    seconds = manifest["seconds"]
    print(f"  made {_made(entry)} in {duration(seconds['wall'])} ({duration(seconds['cpu'])} of processors)")
    print(f"  by dmm_exp {manifest['dmm_exp']}, commit {manifest['commit'] or 'unknown'}, on {manifest['device']}")
    if entry.artifact.members:
        print(f"  {entry.artifact.members:,} members in {len(entry.artifact.layout):,} shards")
    for digest, members in manifest.get("taken_over", {}).items():
        print(f"  {members:,} of them taken over from {_named(inventory, digest)}")
    _print_inputs(inventory, entry, "  ")
    for other in inventory.made_from(entry):
        print(f"  made from it: {other.kind} {other.key}")
    for folder in inventory.users(entry):
        print(f"  needed by {folder.relative_to(inventory.outputs)}")
    print("  configuration:")
    text = yaml.safe_dump(dict(entry.spec.config), sort_keys=False, allow_unicode=True)
    print("\n".join(f"    {line}" for line in text.splitlines()))
    return 0


def _print_inputs(inventory: Inventory, entry: Entry, indent: str) -> None:
    """Print what an artifact is made from, and what that is made from."""
    for name, digest in entry.spec.inputs.items() if entry.spec else ():
        print(f"{indent}from {name}: {_named(inventory, digest)}")
        if (source := inventory.of_digest(digest)) is not None:
            _print_inputs(inventory, source, indent + "  ")


def _named(inventory: Inventory, digest: str) -> str:
    entry = inventory.of_digest(digest)
    return f"{entry.kind} {entry.key}" if entry else f"{digest[:20]} (no artifact, or no longer there)"


def _verify(entries: Sequence[Entry]) -> int:
    console, damaged, unfinished = Console(), 0, 0
    with console.progress("artifacts", len(entries)) as advance:
        for entry in entries:
            if entry.state == "unfinished":
                unfinished += 1
            elif entry.state == "link":
                damaged += 1
                print(f"{entry.kind} {entry.key} is a link, which is not followed")
            else:
                store = Store(entry.path.parents[1], console, read_only=True)
                files = store.damaged_files(entry.spec) if entry.spec else ["manifest.json"]
                right = entry.spec is None or store.path(entry.spec) == entry.path
                if files or not right:
                    damaged += 1
                    said = ", ".join(files) if right else "its manifest is that of another"
                    print(f"{entry.kind} {entry.key} is damaged: {said}")
            advance()
    intact = len(entries) - damaged - unfinished
    print(f"{intact} intact, {damaged} damaged, {unfinished} unfinished")
    if damaged:
        print("damaged parts are made again when a run needs them", file=sys.stderr)
    return int(damaged > 0)


def _prune(inventory: Inventory, options: argparse.Namespace) -> int:
    unrecorded = [folder for folder, digests in inventory.uses.items() if digests is None]
    if unrecorded and not options.unrecorded:
        raise UserError(
            f"prune: {len(unrecorded)} runs have not recorded what they need, the first {unrecorded[0]}; start them "
            "again (what they made is reused), remove their folders, or give --unrecorded to prune nevertheless"
        )
    if options.yes and (busy := inventory.at_work()):
        raise UserError(f"prune: {busy[0]} is using these artifacts; wait until it has ended")
    if options.yes and not is_real_folder(inventory.root):
        raise UserError(
            f"--outputs {options.outputs}: {inventory.root} is a link, and prune follows none; give the folder that "
            "holds the artifacts themselves"
        )
    chosen = inventory.unneeded()
    chosen += [entry for entry in inventory.entries if options.unfinished and entry.state == "unfinished"]
    chosen = [entry for entry in chosen if not entry.is_beyond_a_link]
    total = sum(entry.freed for entry in chosen)
    for entry in (entry for entry in inventory.entries if entry.is_beyond_a_link):
        print(f"left alone {entry.kind} {entry.key}: it is a link, or lies in one", file=sys.stderr)
    for entry in chosen:
        print(f"{'removed' if options.yes else 'would remove'} {entry.kind} {entry.key}, {size(entry.bytes)}")
        if options.yes:
            remove(entry)
    print(f"{len(chosen)} of {len(inventory.entries)} artifacts, {size(total)}")
    if chosen and not options.yes:
        print("nothing was removed; --yes removes", file=sys.stderr)
    return 0


def _made(entry: Entry) -> str:
    """Return when an artifact was finished."""
    return datetime.fromtimestamp((entry.path / "manifest.json").stat().st_mtime).strftime("%Y-%m-%d %H:%M")


def size(count: int) -> str:
    """Format a number of bytes: ``12 B``, ``3.4 MB``."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{value / 1000:.3g} TB"
