"""From pages and dictionaries to clean passages that no two splits share: pure functions, no files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from typing import Any, NamedTuple

from lss_rs.demo import paragraph_key


class Document(NamedTuple):
    """A text that is in one split alone, which its `id` decides."""

    id: str
    paragraphs: list[str]


_is_block = re.compile(
    "address|article|aside|blockquote|body|br|d[dlt]|div|figcaption|h[1-6r]|li|ol|p|section|tr|ul"
).fullmatch
_is_void = re.compile("area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr").fullmatch
# Code and tables are not English; the rest is navigation.
_is_skipped = re.compile("script|style|head|nav|header|footer|pre|table").fullmatch
_is_skipped_class = re.compile(
    "docnav|footer|footnotes|headerlink|indextable|navfooter|navheader|related|sig|sphinxsidebar|toc|"
    "toctree-wrapper|viewcode-link"
).fullmatch


class _TextParser(HTMLParser):
    """Paragraphs of a page: of its element with role="main" where there is one."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = []
        self._text: list[str] = []
        # The element being skipped, and the main element: its tag and how many of that tag are open.
        self._skip: list[Any] | None = None
        self._main: list[Any] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if _is_block(tag):
            self._flush()
        if _is_void(tag):
            return
        for region in (self._skip, self._main):
            if region and region[0] == tag and region[1]:
                region[1] += 1
        attributes = dict(attrs)
        classes = (attributes.get("class") or "").split()
        if self._skip is None and (_is_skipped(tag) or any(map(_is_skipped_class, classes))):
            self._flush()
            self._skip = [tag, 1]
        if self._main is None and attributes.get("role") == "main":
            self.paragraphs.clear()
            self._main = [tag, 1]

    def handle_endtag(self, tag: str) -> None:
        if _is_block(tag):
            self._flush()
        if self._skip and self._skip[0] == tag:
            self._skip[1] -= 1
            if not self._skip[1]:
                self._skip = None
        if self._main and self._main[0] == tag and self._main[1]:
            self._main[1] -= 1

    def handle_data(self, data: str) -> None:
        if self._skip is None and (self._main is None or self._main[1]):
            self._text.append(data)

    def _flush(self) -> None:
        text = " ".join("".join(self._text).split())
        self._text.clear()
        if text:
            self.paragraphs.append(text)

    def close(self) -> None:
        super().close()
        self._flush()


def html_paragraphs(page: str) -> list[str]:
    """Return the paragraphs of an HTML page, without code, tables and navigation."""
    parser = _TextParser()
    parser.feed(page)
    parser.close()
    return parser.paragraphs


def gcide_paragraphs(entry: str) -> list[str]:
    """Return definitions and quotations of a dictionary entry, without pronunciation and etymology."""
    # A sense begins a paragraph; bracketed letters are accents, any other brackets are remarks and sources.
    entry = re.sub(r"\n\s+(?=(?:\d+\.|\([a-z]\)) )", "\n\n", entry)
    entry = re.sub(r"\\[^\\]*\\|\(\S*[\"`*]\S*\)", "", entry)
    entry = re.sub(r"\[[^\w\s\]]?([A-Za-z]|ae|oe|AE|OE)\]", r"\1", entry)
    for _ in range(3):
        entry = re.sub(r"\[[^\[\]]*\]", "", entry)
    entry = re.sub(r"[{}]", "", entry)
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", entry))
    return [re.sub(r" +([,.;:])", r"\1", part) for part in paragraphs if part]


GCIDE = "usr/share/dictd/gcide.dict.dz"
"""Where the package dict-gcide keeps the dictionary."""


def gcide_blocks(text: str, paragraphs: Callable[[str], list[str]], size: int) -> Iterator[Document]:
    """Yield blocks of consecutive entries of at least `size` characters, by what `paragraphs` reads of each.

    A block is a document: neighbours treat related words, often with the same quotations.
    """
    block: list[str] = []
    for number, entry in enumerate(re.split(r"\n\s*\n(?=\S)", text)):
        if not entry.startswith("00-"):
            block += paragraphs(entry)
        if sum(map(len, block)) >= size:
            yield Document(f"gcide block ending with entry {number}", block)
            block = []


def deduplicated(documents: Iterable[Document], shortest: int = 60) -> Iterator[Document]:
    """Yield documents without the paragraphs that an earlier one had: no split repeats another's text.

    Paragraphs with fewer than `shortest` letters and digits are idiom (headings, imports), not leaks, and
    stay. A document of which nothing but those is left is dropped.
    """
    seen: set[bytes] = set()
    for document in documents:
        kept, substance = [], False
        for paragraph in document.paragraphs:
            key = paragraph_key(paragraph)
            if len(key) >= shortest:
                digest = hashlib.sha256(key.encode()).digest()[:12]
                if digest in seen:
                    continue
                seen.add(digest)
                substance = True
            kept.append(paragraph)
        if substance:
            yield document._replace(paragraphs=kept)


def hash_of(*parts: str) -> int:
    """Return a stable number in 0..2^32 for some text."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:4], "big")


def split_of(document_id: str) -> str:
    """Choose the split of a document from its id alone: 80 % train, 9 % val, 11 % test."""
    point = hash_of("split", document_id) % 100
    return "train" if point < 80 else "val" if point < 89 else "test"


def passage(document: Document, limit: int) -> str:
    """Return a document, or `limit` characters of a longer one from a paragraph that its id draws."""
    text = "\n\n".join(document.paragraphs)
    if len(text) <= limit:
        return text
    starts = [0]
    for paragraph in document.paragraphs[:-1]:
        starts.append(starts[-1] + len(paragraph) + 2)
    eligible = [start for start in starts if start + limit <= len(text)]
    start = eligible[hash_of("passage", document.id) % len(eligible)]
    return text[start : start + limit]


def interleaved(documents: dict[str, list[str]], shares: dict[str, float]) -> Iterator[tuple[str, str]]:
    """Yield (source, text) so that after any number of documents the characters stand near the shares.

    A source that runs out leaves its part to the others.
    """
    queues = {name: iter(texts) for name, texts in documents.items()}
    read = dict.fromkeys(queues, 0)
    while queues:
        name = min(queues, key=lambda name: (read[name] / shares[name], name))
        text = next(queues[name], None)
        if text is None:
            del queues[name]
        else:
            read[name] += len(text)
            yield name, text
