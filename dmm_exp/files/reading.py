"""Files that a stranger may have written: what is checked before any of their content counts.

A file is read only if it is an ordinary file and no larger than what its reader can use. What is nested too deeply is
refused like what is damaged. A name that stands in a file is the name of a file in the same folder, or it is refused.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import Any

Json = dict[str, Any]  # what a JSON object holds, or is to hold
JSON_BYTES = 1 << 26  # of a JSON file that is read; as objects it takes about ten times as much
YAML_BYTES = 1 << 24  # of a YAML file that is read: a configuration may list rows to forget
VALUES = 1 << 20  # values and keys in a YAML file, those that it repeats by alias counted each time
DEPTH = 100  # containers in one another
TOO_DEEP = f"its values are nested more than {DEPTH} deep"
NAME_BYTES = 255  # the longest name that file systems take
_PLAIN = re.compile(r"[^\x00-\x1f\x7f-\x9f/\\:]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices of Windows, in every folder


def plain_name(name: object) -> bool:
    """Say whether a name from a file is that of something directly in a folder.

    Refused are paths, ``.`` and ``..``, hidden names, control characters, and what some system reserves or cannot hold.

    >>> [plain_name(name) for name in ("shard-00000.json", "../x", "/etc/x", ".hidden", "")]
    [True, False, False, False, False]
    """
    if not isinstance(name, str) or not _PLAIN.fullmatch(name) or name[0] == "." or name != name.strip():
        return False
    try:
        fits = len(name.encode()) <= NAME_BYTES
    except UnicodeEncodeError:  # half a character
        return False
    return fits and name[-1] != "." and not _RESERVED.fullmatch(name)


def is_real_folder(path: Path) -> bool:
    """Say whether a path is a folder itself, and no link to one."""
    return _is(stat.S_ISDIR, path)


def is_real_file(path: Path) -> bool:
    """Say whether a path is an ordinary file itself, and no link to one, no folder and no device."""
    return _is(stat.S_ISREG, path)


def _is(kind: Any, path: Path) -> bool:
    try:
        return kind(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def read_bytes(path: Path, at_most: float, *, links: bool = True) -> bytes:
    """Return the content of an ordinary file; a pipe is not waited for.

    Args:
        path: the file.
        at_most: bytes that it may have.
        links: whether the file may be a link to another one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else, or larger.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW))
    with open(handle, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("it is no ordinary file")
        if facts.st_size > at_most:
            raise ValueError(f"it has {facts.st_size:,} bytes, more than the {at_most:,} that are read")
        return file.read()


def read_json(path: Path, *, links: bool = True) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, no ordinary file, too large, or nested too deeply.
    """
    return parse_json(read_bytes(path, JSON_BYTES, links=links).decode("utf-8"))


def parse_json(text: str) -> Any:
    """Return what a JSON text stands for. Raises ``ValueError`` for other texts, and for what is nested too deeply."""
    try:
        found = json.loads(text)
    except RecursionError:
        found = None
    if (found is None and text.strip() != "null") or _is_deep(found):
        raise ValueError(TOO_DEEP)
    return found


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH):
        inside = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list)))
        level = [child for children in inside for child in children if isinstance(child, (dict, list))]
        if not level:
            return False
    return True


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file of plain values.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no YAML of plain values, no ordinary file, too large, nested too deeply, or becomes too large
            by what it repeats.
    """
    return parse_yaml(read_bytes(path, YAML_BYTES).decode("utf-8"))


def parse_yaml(text: str, *, merges: bool = False) -> Any:
    """Return what a YAML text of plain values stands for; see :func:`check_yaml`, and :func:`read_yaml` for errors."""
    import yaml

    try:
        check_yaml(text, merges=merges)
        return yaml.load(text, Loader=_yaml_loader())
    except (yaml.YAMLError, RecursionError, AttributeError, TypeError, OverflowError) as error:
        if "nesting depth" in str(error):  # the parser looks ahead, and newer ones have a limit of their own
            raise ValueError(TOO_DEEP) from error
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def check_yaml(text: str, *, merges: bool = True) -> None:
    """Refuse a YAML text by its marks, before anything is made of it.

    Args:
        text: that is to be read.
        merges: whether mappings may be merged into one another (``<<``).

    Raises:
        ValueError: it is nested too deeply, holds itself, or becomes too large where all that it repeats is written
            out.
        yaml.YAMLError: it is no YAML.
    """
    import yaml

    sizes: dict[str, tuple[float, float]] = {}  # (values, characters) of what can be repeated
    begun: list[tuple[str | None, float, float]] = []  # containers that are open: their anchors, and what was before
    values = length = 0.0
    for event in yaml.parse(text, Loader=_yaml_loader()):
        if isinstance(event, yaml.AliasEvent):
            more = sizes.get(event.anchor, (1, 0))
            values, length = values + more[0], length + more[1]
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, values, length))
            sizes |= {event.anchor: (math.inf, 0)} if event.anchor else {}  # repeated within itself, it has no end
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, values_before, length_before = begun.pop()
            values += 1
            sizes |= {anchor: (values - values_before, length - length_before)} if anchor else {}
        elif isinstance(event, yaml.ScalarEvent):
            values, length = values + 1, length + len(event.value)
            sizes |= {event.anchor: (1, len(event.value))} if event.anchor else {}
            if not merges and event.value == "<<" and event.implicit[0]:
                raise ValueError("it merges mappings with '<<', which is not read")
        if len(begun) > DEPTH:
            raise ValueError(TOO_DEEP)
        if values > VALUES:
            raise ValueError(f"it holds itself, or more than {VALUES:,} values where all that it repeats is counted")
        if length > YAML_BYTES:
            raise ValueError(f"it has more than {YAML_BYTES:,} characters where all that it repeats is counted")


def _yaml_loader() -> Any:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built


def check_archive(path: Path) -> None:
    """Refuse a zip archive, as PyTorch and NumPy write them, that does not fit into memory; other files pass.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large when it is unpacked.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_memory(sum(member.file_size for member in archive.infolist()))


def check_parquet(path: Path) -> None:
    """Refuse a parquet file whose values would not fit into this machine's memory, before they are decoded.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: it is no parquet file.
        ValueError: it is too large.
    """
    import pyarrow.parquet as pq

    facts = pq.read_metadata(path)
    if facts.num_columns * facts.num_row_groups > VALUES:
        raise ValueError(f"it has {facts.num_columns:,} columns in {facts.num_row_groups:,} groups of rows")
    groups = [facts.row_group(number) for number in range(facts.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(facts.num_columns)]
    values = sum(8 * column.num_values + column.total_uncompressed_size for column in columns)
    check_memory(values + 8 * facts.num_rows)
    repeated = {
        column.path_in_schema
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and any("DICTIONARY" in str(one) for one in column.encodings)
    }
    check_memory(values + sum(_written_out(path, name) for name in repeated if "." not in name))


def _written_out(path: Path, name: str) -> int:
    """Return the bytes of a column of texts, each written out however often a dictionary repeats it."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    total = 0
    for chunk in pq.read_table(path, columns=[name], read_dictionary=[name]).column(0).chunks:
        lengths = pc.call_function("binary_length", [chunk.dictionary]).cast("int64")
        total += pc.call_function("sum", [lengths.take(chunk.indices)]).as_py() or 0
    return total


def check_memory(count: float) -> None:
    """Refuse what would take more bytes than this machine's memory has. Raises ``ValueError``."""
    if count > machine_memory():
        there = machine_memory() / 1e9
        raise ValueError(
            f"its content would take {count / 1e9:,.0f} GB of memory, and this machine has {there:,.0f} GB"
        )


def machine_memory() -> float:
    """Return the bytes of memory that this machine has, infinity where the operating system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf
