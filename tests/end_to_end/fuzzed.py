"""What fuzzed inputs are made of: valid files of every format, and the ways in which they are damaged."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from dmm_exp.store.manifest import SEAL, sealed

Tree = dict[str, bytes]  # name of a file, with slashes → content
NUMBER = re.compile(rb"-?\d+(\.\d+)?")
NUMBERS = [
    b"-1",
    b"0",
    b"1e999",
    b"-1e400",
    b"NaN",
    b"Infinity",
    b"9" * 30,
    b"9" * 5000,
    b"1.5",
    b"2147483648",
    b"null",
]
PIECES = [
    b"\0", b"\x1b[2J", b"\x1b]0;title\x07", b"\r", b"\n", b"\r\n", b'"', b"'", b",", b";", b"\t", b"{", b"[" * 100_000,
    b'{"a":' * 20_000, b"\xff\xfe", b"\xef\xbb\xbf", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff" * 8, b"\x80",
    "\N{RIGHT-TO-LEFT OVERRIDE}".encode(), "\N{LINE SEPARATOR}".encode(), b"\xed\xa0\x80", b"${seed}", b"&a [*a]",
    b"<<: *x", b"!!python/object/apply:os.getcwd []", b"../../../", b"x" * 70_000,
]  # fmt: skip
NAMES = [b"\x1b[31m", b"\n", b"\xff\xfe", b" ", b"\xe2\x80\xae", b"%s", b"'", b"-"]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([2**31, 2**63, 10**30, 1e308, -1, 0, 0.5]),
    st.text(max_size=6),
    st.sampled_from(["\x1b[2J", "a\nb", "\0", "../x", "/etc/passwd", "\ud800", "x" * 3000, "${a}", "nan", "1e5"]),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=2)), max_size=3),
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=2)), max_size=2),
)


def tree_of(folder: Path) -> Tree:
    """Return the files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def listing(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Return everything below a folder: its kind, size and target; no link is followed."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            facts = os.lstat(path)
            target = os.readlink(path) if stat.S_ISLNK(facts.st_mode) else ""
            found[path] = (facts.st_mode, 0 if stat.S_ISDIR(facts.st_mode) else facts.st_size, target)
    return found


# ---------------------------------------------------------------------- content


def paths_in(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value in plain containers."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in children:
        yield (*at, key)
        yield from paths_in(inner, (*at, key))


def changed(draw: st.DrawFn, value: Any) -> Any:
    """Put something else in the place of a value in plain containers, or remove it."""
    places = list(paths_in(value))
    if not places:
        return draw(JUNK)
    *path, last = draw(st.sampled_from(places))
    node = value
    for key in path:
        node = node[key]
    if draw(st.integers(0, 4)) == 0:
        del node[last]
    elif draw(st.integers(0, 4)) == 0:
        node[last] = [node[last]]
    else:
        node[last] = draw(JUNK)
    return value


def resealed(draw: st.DrawFn, content: bytes) -> bytes:
    """Change a value of a JSON file, or of a line of one, and seal it again, as a stranger can."""
    lines = content.decode().splitlines() if b"\n{" in content.strip() else [content.decode()]
    place = draw(st.sampled_from(range(len(lines)))) if lines else 0
    try:
        value = json.loads(lines[place])
    except (ValueError, IndexError):
        return content
    value = changed(draw, value)
    if isinstance(value, dict) and SEAL in value:
        with contextlib.suppress(ValueError):
            value = sealed({key: inner for key, inner in value.items() if key not in (SEAL, "signature")})
    lines[place] = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n" * content.endswith(b"\n")


def rechained(draw: st.DrawFn, chain: Path, head: Path) -> None:
    """Change a value in a ledger, and compute all checksums of the ledger again, as a stranger can."""
    try:
        lines = [json.loads(line) for line in chain.read_text(encoding="utf-8").splitlines()]
        place = draw(st.sampled_from(range(len(lines))))
        lines[place] = changed(draw, lines[place])
        before = None
        for place, line in enumerate(lines):
            whole = {key: inner for key, inner in line.items() if key != SEAL}
            lines[place] = sealed({**whole, "before": before})
            before = lines[place][SEAL]
        text = "".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in lines)
        found = sealed({"lines": len(lines), "last": before, "signed_by": lines[0].get("signed_by")})
        chain.write_bytes(text.encode())
        head.write_bytes((json.dumps(found, sort_keys=True, ensure_ascii=False) + "\n").encode())
    except (ValueError, OSError, AttributeError):
        return  # it was damaged already, or no checksum can be computed of it


def damaged(draw: st.DrawFn, content: bytes, others: list[bytes]) -> bytes:
    """Return content that was damaged in one way."""
    place = draw(st.integers(0, len(content)))
    kind = draw(st.sampled_from(["cut", "flip", "insert", "overwrite", "splice", "number", "number", "seal", "seal"]))
    if kind == "cut":
        return content[:place]
    if kind == "flip":
        found = bytearray(content)
        for where in draw(st.lists(st.integers(0, max(0, len(content) - 1)), min_size=1, max_size=4)):
            if where < len(found):
                found[where] ^= draw(st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 255]))
        return bytes(found)
    if kind in ("insert", "overwrite"):
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(min_size=1, max_size=8)))
        return content[:place] + piece + content[place + (len(piece) if kind == "overwrite" else 0) :]
    if kind == "splice":
        other = draw(st.sampled_from(others))
        return content[:place] + other[draw(st.integers(0, len(other))) :]
    if kind == "number" and (found := list(NUMBER.finditer(content[:100_000]))):
        one = draw(st.sampled_from(found))
        return content[: one.start()] + draw(st.sampled_from(NUMBERS)) + content[one.end() :]
    with contextlib.suppress(UnicodeDecodeError):
        return resealed(draw, content)
    return content[:place] + content[place + 1 :]


# ---------------------------------------------------------------------- files


def write(folder: Path, tree: Tree) -> None:
    """Write files into a folder."""
    for name, content in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def misplaced(draw: st.DrawFn, path: Path, elsewhere: Path) -> None:
    """Put something else in the place of a file, or the file under a name that nobody expects."""
    kinds: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "empty": lambda: path.write_bytes(b""),
        "folder": path.mkdir,
        "nowhere": lambda: path.symlink_to("nowhere"),
        "itself": lambda: path.symlink_to(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "null": lambda: path.symlink_to("/dev/null"),
        "outside": lambda: path.symlink_to(elsewhere),
        "above": lambda: path.symlink_to(path.parent),
        "pipe": lambda: os.mkfifo(path),
        "unreadable": lambda: (path.write_bytes(b"x"), path.chmod(0)),
    }
    kind = draw(st.sampled_from([*kinds, "renamed"]))
    if kind == "renamed":
        name = os.fsencode(path.stem) + draw(st.sampled_from(NAMES)) + os.fsencode(path.suffix)
        os.rename(os.fsencode(path), os.path.join(os.fsencode(path.parent), name))
        return
    path.unlink()
    kinds[kind]()


def damage(draw: st.DrawFn, folder: Path, tree: Tree, others: list[bytes], elsewhere: Path) -> None:
    """Write files into a folder, some of them damaged or misplaced."""
    names = sorted(tree)
    ways = draw(st.lists(st.sampled_from(["content"] * 4 + ["place"]), max_size=3))
    content, moved = dict(tree), []
    for way in ways:
        name = draw(st.sampled_from(names))
        if way == "content":
            content[name] = damaged(draw, content[name], others)
        else:
            moved.append(name)
    write(folder, content)
    for name in dict.fromkeys(moved):
        misplaced(draw, folder / name, elsewhere)


def emptied(folder: Path) -> Path:
    """Return a folder with nothing in it."""
    if folder.exists():
        for path in folder.rglob("*"):
            if not path.is_symlink() and path.exists() and not os.access(path, os.R_OK):
                path.chmod(0o700)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
