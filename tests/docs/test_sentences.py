"""README and docs are written in short sentences: at most 40 words, and 16 or fewer in the middle.

What is counted: running text and items of lists. Code, tables, HTML, headings, pictures and the addresses of links are
not. A block of text ends at an empty line, a heading, a table, or the next item of a list. In a block, a sentence ends
at a full stop, a question mark or an exclamation mark, with the quotes, brackets and stars behind it, if a capital, a
digit or inline code comes next. Colons, semicolons and abbreviations such as "e.g." end none. A piece of inline code or
a formula is one word; other words are what stands between spaces and holds a letter or a digit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MOST, MIDDLE = 40, 16  # words
ABBREVIATIONS = ("e.g", "i.e", "cf", "vs", "al", "Fig", "Eq", "Nos", "pp")
NO_TEXT = re.compile(r"#{1,6} |\||</?[A-Za-z!].*>$|[-*_=]{3,}$|!!! |\?\?\? |::: |\[[^\]]+\]: ")  # starts of lines
ITEM = re.compile(r"(?:[-*+]|\d+\.) +")
END = re.compile(r"""(?<=[.!?])["'”’)\]*_]*\s+(?=["'“‘(\[*_]*[^\W_a-z])""")
TEMPORARY = {  # pages that are being rewritten elsewhere → how their long sentences begin; to be emptied
    "docs/rum.md": (
        "RUM (Zhao et al., NeurIPS",
        "Whether refining a set by",
        "**Settings** were searched on other",
        "A set of 17 examples",
        "**It is not the leave-one-out",
    ),
    "docs/unlearners.md": (
        "**Options of all methods that",
        "*Loss*: mean of",
        "Before every",
        "A layer of both is",
        "Checkpoints are made by training",
        "Whatever two models the steps",
        "*When it works*: strong certificates need",
        "In every convolution the",
        "Code (N = 100;",
        "Searched with",
        "Code (configuration.md): 24 trials",
    ),
}


def blocks(page: str) -> Iterator[str]:
    """Yield the blocks of running text of a page, each in one line."""
    lines: list[str] = []
    fence = ""
    for line in re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL).split("\n"):
        text = line.strip()
        mark = re.match(r"`{3,}|~{3,}", text)
        is_text = text and not fence and mark is None and NO_TEXT.match(text) is None
        begins = ITEM.match(text) if is_text else None
        if not is_text or begins:
            yield " ".join(lines)
            lines = []
        if is_text:
            lines.append(text[begins.end() if begins else 0 :].lstrip("> "))
        elif mark is not None and (not fence or text.startswith(fence)):
            fence = "" if fence else mark[0]
    yield " ".join(lines)


def plain(block: str) -> str:
    """Return a block without pictures, addresses and HTML; inline code and formulas are one word each."""
    block = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", block)
    block = re.sub(r"(`+)(.+?)\1", "Code", block)
    block = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", block)
    return re.sub(r"\$[^$]+\$", "Formula", re.sub(r"<[^>]+>", "", block))


def sentences(page: str) -> list[str]:
    """Return the sentences of a page."""
    found: list[str] = []
    for block in blocks(page):
        joins = False
        for part in filter(None, map(str.strip, END.split(plain(block)))):
            found[-1:] = [f"{found[-1]} {part}"] if joins else [*found[-1:], part]
            joins = part.endswith(tuple(f"{short}." for short in ABBREVIATIONS))
    return found


def words(sentence: str) -> int:
    return sum(re.search(r"\w", word) is not None for word in sentence.split())


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_sentence_is_longer_than_forty_words(page):
    known = TEMPORARY.get(name(page), ())
    long = [one for one in sentences(page.read_text(encoding="utf-8")) if words(one) > MOST]
    assert [one for one in long if not one.startswith(known or "\0")] == []


def test_half_of_all_sentences_have_sixteen_words_or_fewer():
    assert median(words(one) for page in PAGES for one in sentences(page.read_text(encoding="utf-8"))) <= MIDDLE


def test_readme_is_written_in_short_sentences():
    assert median(words(one) for one in sentences(PAGES[0].read_text(encoding="utf-8"))) <= MIDDLE


def test_a_sentence_is_found_where_it_ends():
    page = """# A heading. With stops. No sentence.

One is here, e.g. This one; and it goes on: to
its end (as it is meant.) *Two* has `code. Here` and [a link. In it](https://x.org/a.b). `three` begins with code.

| a table. Is | none |
|---|---|

```
code. Is. None.
```

* four?
* Five! $a. B$ is
  the sixth.
"""
    assert [(words(one), one) for one in sentences(page)] == [
        (17, "One is here, e.g. This one; and it goes on: to its end (as it is meant."),
        (6, "*Two* has Code and a link."),
        (2, "In it."),
        (4, "Code begins with code."),
        (1, "four?"),
        (1, "Five!"),
        (4, "Formula is the sixth."),
    ]
