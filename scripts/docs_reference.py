"""The reference of the configuration: a page for every group, made from files of ``conf/`` and the classes they name.

``make docs`` writes these pages into the site (scripts/docs_site.py). What a key is for is its comment in the file or,
where there is none, what the docstring of the class says of the argument.
"""

from __future__ import annotations

import csv
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from dmm_exp.config.folders import config_directory
from dmm_exp.config.schema import Config, _hints
from dmm_exp.config.tables import tables_of
from dmm_exp.ensembles.optimisation import Optimisation

CONF = Path(config_directory())
OVERLAYS = ("experiment", "scale", "hparams_search")  # lists of changes: shown as they are written
HEADS = {
    "experiment": "An experiment is a set of changes: `experiment=NAME`. What stands on the command line still wins."
}
WORDS = {  # (pattern of group.key) → what it is for, where neither the file nor a docstring of ours says it
    r".*\._partial_": "the other arguments are added when it is used",
    r".*\.lr": "learning rate",
    r".*\.momentum": "share of the last step that goes on in the next",
    r".*\.nesterov": "momentum in the form of Nesterov",
    r".*\.weight_decay": "share of each weight that is added to its gradient",
    r".*\.milestones": "epochs after which the learning rate is multiplied by `factor`",
    r".*\.factor": "of the learning rate at each milestone",
    r"dataset\.checksums\..*": "published checksum of this file",
    r"dataset\.normalisation\.(scale|mean|std)": "the network gets (input / scale − mean) / std",
    r"dataset\.published\.(train|test)": "how many examples the published files have",
    r"evaluation\.bins": "equal bins of the histogram of a point's margins",
    r"evaluation\.clip": "margins are cut at ± this, in nats",
    r"evaluation\.eps": "floor of a bin's share",
    r"model\.chunk_size": "members that train together",
    r"paths\.outputs": "folder of runs and artifacts",
    r"pool\.size": "models on random subsets",
    r"pool\.alpha": "share of the training set in a subset",
    r"pool\.complementary": "subsets come in pairs; the second of a pair is what the first leaves out",
    r"pool\.larger\.size": "further models, on larger subsets",
    r"pool\.larger\.alpha": "share of the training set in these",
    r"pool\.designs\..*\.alike": "in what rows are alike that go together",
    r"refinement\..*\.unlearner": "what unlearns this part",
    r"(training|scores\.held_out)\.epochs": "passes over a member's training set",
    r"(training|scores\.held_out)\.batch_size": "of a member, in a step",
    r"training\.label_smoothing": "share of the target that goes to all classes alike",
    r"trainer\..*": "of Lightning's Trainer",
}
INDEX = """\
# Configuration

Everything that a run depends on is a key. These pages are made from the files in `conf/` when the site is built, so
they are complete. [How do I configure a run?](../../configuration.md) explains how keys are set;
[everything there is to choose](../../choices.md) is the short list.

| group | default | choices |
|---|---|---|
{groups}

## Keys at the root

| key | default | meaning |
|---|---|---|
{root}

## Keys with types

All keys that `dmm_exp/config/schema.py` declares, also those that files seldom name. *Mark* says what a key is to a
result. A key without a mark identifies it: another value is another result.

| mark | meaning |
|---|---|
| `presentation` | changes what is shown of a result |
| `place` | changes where and how fast it is computed |
| `job` | says which runs there are |
| `later` | came after results existed; counts as absent while it is null |

| key | type | default | mark |
|---|---|---|---|
{schema}
"""


@dataclass(frozen=True)
class Key:
    """A key of a file: dotted name, value as written, and what it is for (or nothing)."""

    name: str
    value: str
    meaning: str


def pages() -> dict[str, str]:
    """Return name of a page → its Markdown: ``index``, and one for each group."""
    return {"index": _index(), **{group: _page(group) for group in groups()}}


def groups() -> list[str]:
    """Return the groups of ``conf/`` that stand at its root."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


def choices(group: str) -> dict[str, Path]:
    """Return choice → file of a group, choices of groups within it as ``inner/choice``."""
    if not (CONF / group).is_dir():
        return {}
    files = sorted((CONF / group).rglob("*.yaml"), key=lambda path: (len(path.parts), path.stem))
    return {path.relative_to(CONF / group).with_suffix("").as_posix(): path for path in files}


def keys(path: Path) -> list[Key]:
    """Return the keys of a file, in its order; a key within a class that it names has the class's words."""
    found = _keys_of(path)
    group = path.relative_to(CONF).parts[0]
    said = {key.name: key.meaning for one in choices(group).values() for key in _keys_of(one) if key.meaning}
    return [replace(key, meaning=key.meaning or said.get(key.name) or _words(f"{group}.{key.name}")) for key in found]


@cache
def _keys_of(path: Path) -> list[Key]:
    text = path.read_text(encoding="utf-8")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    found = list(_keys(node, "", _comments(text), None))
    return [key for key in found if key.name != "defaults" and not key.name.startswith("defaults.")]


def _words(name: str) -> str:
    return next((words for pattern, words in WORDS.items() if re.fullmatch(pattern, name)), "")


def description(path: Path) -> str:
    """Return what the first lines of a file say, as Markdown: sentences, and commands in blocks."""
    parts: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words = line.removeprefix("#")
        if words.strip().startswith("@package"):
            continue
        is_code = words.startswith("   ")
        parts.append(f"    {words.strip()}" if is_code else words.strip())
    paragraphs: list[str] = []
    for part in parts:
        same = paragraphs and part and paragraphs[-1].startswith("    ") == part.startswith("    ")
        if same:
            paragraphs[-1] += f"\n{part}"
        elif part:
            paragraphs.append(part)
    return "\n\n".join(_safe(one) if not one.startswith("    ") else one for one in paragraphs)


def _index() -> str:
    rows = [f"| [`{group}`]({group}.md) | {_default(group)} | {_listed(group)} |" for group in groups()]
    root = [f"| `{key.name}` | `{key.value}` | {_cell(key.meaning)} |" for key in keys(CONF / "config.yaml")]
    return INDEX.format(groups="\n".join(rows), root="\n".join(root), schema="\n".join(_schema(Config, "", "")))


def _page(group: str) -> str:
    head = HEADS.get(group, f"`python -m dmm_exp {group}=CHOICE` takes one of these. The default is {_default(group)}.")
    lines = [f"# {group}", "", head, ""]
    for choice, path in choices(group).items():
        inner, _, name = choice.rpartition("/")
        lines += [f"## `{group}{inner and '/'}{inner}={name}`", "", description(path), ""]
        lines += _written(path) if group in OVERLAYS else _table(path)
    return "\n".join(lines + (_settings() if group == "experiment" else []))


def _table(path: Path) -> list[str]:
    found = keys(path)
    if not found:
        return ["It sets no key.", ""]
    rows = [f"| `{key.name}` | {_code(key.value)} | {_cell(key.meaning)} |" for key in found]
    return ["| key | default | meaning |", "|---|---|---|", *rows, ""]


def _written(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8").splitlines()
    first = next((row for row, line in enumerate(text) if not line.startswith("#")), len(text))
    return ["```yaml", *text[first:], "```", ""]


def _settings() -> list[str]:
    lines = [
        "## Settings in tables",
        "",
        "A row of a table is chosen as `experiment=TABLE/UNLEARNER`.",
        "",
        "| table | unlearners |",
        "|---|---|",
    ]
    for name, path in tables_of(CONF).items():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row["unlearner"] for row in csv.DictReader(file)]
        lines.append(f"| `{name}` | {', '.join(f'`{row}`' for row in rows)} |")
    return [*lines, ""]


def _default(group: str) -> str:
    (found,) = [one for one in _defaults() if group in one] or [{group: None}]
    return f"`{found[group]}`" if found[group] is not None else "none"


@cache
def _defaults() -> list[dict[str, Any]]:
    written = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return [one for one in written if isinstance(one, dict)]


def _listed(group: str) -> str:
    return ", ".join(f"`{choice}`" for choice in choices(group))


def _keys(node: Any, before: str, comments: dict[int, str], owner: type | None) -> Iterator[Key]:
    """Yield the keys of a mapping, those of mappings within it dotted."""
    values = {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
    target = values.get("_target_")
    owner = _class(target.value) if target is not None else owner
    for name, value in node.value if isinstance(node, yaml.MappingNode) else []:
        path = f"{before}{name.value}"
        said = comments.get(value.end_mark.line if isinstance(value, yaml.ScalarNode) else name.start_mark.line, "")
        meaning = said or _argument(owner, name.value)
        if isinstance(value, yaml.MappingNode) and value.value:
            inner = {key.value for key, _ in value.value}
            if "_target_" not in inner and meaning:
                yield Key(path, "…", meaning)
            yield from _keys(value, f"{path}.", comments, None)
        else:
            yield Key(path, _text(value), "the class" if name.value == "_target_" and not said else meaning)


def _comments(text: str) -> dict[int, str]:
    """Return line number → the comment that ends the line, or the lines of comment above it."""
    found: dict[int, str] = {}
    above: list[str] = []
    for row, line in enumerate(text.splitlines()):
        stripped = line.strip()
        if stripped.startswith("#"):
            above.append(stripped.lstrip("# "))
            continue
        match = re.search(r"\s#\s(.*)$", line)
        if match:
            found[row] = match[1]
        elif above and stripped and row > len(above):  # the first lines describe the file
            found[row] = " ".join(above)
        above = []
    return found


def _text(node: Any) -> str:
    if isinstance(node, yaml.ScalarNode):
        return node.value if node.value else '""'
    plain = yaml.SafeLoader("").construct_document(node)
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False).strip()


@cache
def _class(path: str) -> type | None:
    """Return what a ``_target_`` names; None where that is another key's value, or a package that is not installed."""
    module, _, name = path.rpartition(".")
    if "$" in path:
        return None
    try:
        return getattr(import_module(module), name, None)
    except ImportError:
        return None


def _argument(owner: Any, name: str) -> str:
    """Return what the docstring of a class of ours, of a base of it, or of its recipe says of an argument."""
    if owner is None or not getattr(owner, "__module__", "").startswith("dmm_exp"):
        return ""
    bases = inspect.getmro(owner) if inspect.isclass(owner) else (owner,)
    said = (_arguments(base).get(name, "") for base in (*bases, Optimisation))
    return next((one for one in said if one and not one.startswith("see ")), "")


@cache
def _arguments(thing: Any) -> dict[str, str]:
    """Return argument → what the section ``Args`` or ``Attributes`` of a docstring says of it."""
    found: dict[str, str] = {}
    for section in re.findall(
        r"^(?:Args|Attributes):\n((?:    .*\n?|\n)*)", inspect.cleandoc(thing.__doc__ or "") + "\n", re.MULTILINE
    ):
        for names, words in re.findall(r"^    (\w+(?:, \w+)*): ((?:.*\n?)(?:      .*\n?)*)", section, re.MULTILINE):
            for name in names.split(", "):
                found.setdefault(name, " ".join(words.split()).rstrip("."))
    return found


def _schema(cls: type, before: str, mark: str) -> Iterator[str]:
    for one in fields(cls):
        hint, inside = _hints(cls)[one.name], one.metadata.get("marks", {})
        own = inside.get("", mark)
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _schema(hint, f"{before}{one.name}.", own)
            continue
        name = (
            hint.__name__
            if isinstance(hint, type) and not hasattr(hint, "__args__")
            else str(hint).replace("typing.", "")
        )
        yield f"| `{before}{one.name}` | {_code(name)} | {_code(_shown_default(one))} | {own} |"


def _shown_default(one: Any) -> str:
    if one.default is not MISSING:
        return "a file sets it" if one.default == "???" else str(one.default)
    return str(one.default_factory()) if one.default_factory is not MISSING else "a file sets it"


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`" if text != "a file sets it" else text


def _cell(text: str) -> str:
    plain = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`")
    return _safe(plain).replace("|", "\\|")


def _safe(text: str) -> str:
    """Return words of a comment as Markdown that shows them as they are: outside of code, no mark has a meaning."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(one if one.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", one) for one in parts)
