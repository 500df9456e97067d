"""Build the bundle ``w2v-gcide``: word2vec (CBOW) on the text of a dictionary, context to word.

    python -m benchmarks.bundles.w2v_gcide [--train N] [--val N] [--test N] [--out DIR]

The text is that of Debian's ``dict-gcide``, fetched into the cache and unpacked there, never installed.
README.md beside this file has the layout, w2v_gcide.md the card.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from benchmarks.bundles import SPLITS, Labels
from benchmarks.bundles.debian import fetch, read_text
from benchmarks.bundles.text import Document, deduplicated, split_of
from benchmarks.bundles.training import Data, Examples, Plan, single_labels, take, vocabulary
from lss_rs.demo import cache_dir

# Raise it with any change of what text is read or how it is cut or trained: the bundle is then built anew.
RECIPE = 1
BLOCK = 2_000
MIN_COUNT = 3
# Words of context on either side.
WINDOW = 5
SIZES = {"train": 102_400, "val": 10_240, "test": 12_288}

_is_word = re.compile("[a-z]+")


def paragraphs(entry: str) -> list[str]:
    """Return an entry's paragraphs, etymologies too, without pronunciations and names of sources."""
    entry = re.sub(r"\\[^\\]*\\", "", entry)
    entry = re.sub(r"\[[^][]*(?:Webster|WordNet|PJC|Century)[^][]*\]", "", entry)
    # Bracketed letters are accents: "caf['e]", "[ae]ther".
    entry = re.sub(r"\[[^\w\s]?([A-Za-z]|ae|oe|AE|OE)[^\w\s]?\]", r"\1", entry)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", entry) if part.strip()]


def documents(root: Path) -> Iterator[Document]:
    """Blocks of consecutive entries: neighbours treat related words, often with the same quotations."""
    entries = re.split(r"\n\s*\n(?=\S)", read_text(root / "usr/share/dictd/gcide.dict.dz"))
    block: list[str] = []
    for number, entry in enumerate(entries):
        if not entry.startswith("00-"):
            block += paragraphs(entry)
        if sum(map(len, block)) >= BLOCK:
            yield Document(f"gcide block ending with entry {number}", block)
            block = []


def words(paragraph: str) -> list[str]:
    """Return the words of a text: runs of a to z."""
    return _is_word.findall(paragraph.lower())


def encode(some: list[Document], numbers: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words of the vocabulary in the order of the text, the paragraph and the document of each."""
    tokens: list[int] = []
    paragraph: list[int] = []
    document: list[int] = []
    for i, (_, parts) in enumerate(some):
        for part in parts:
            known = [numbers[word] for word in words(part) if word in numbers]
            paragraph += [paragraph[-1] + 1 if paragraph else 0] * len(known)
            document += [i] * len(known)
            tokens += known
    return np.array(tokens, np.int32), np.array(paragraph, np.int32), np.array(document, np.int32)


def contexts(tokens: np.ndarray, paragraph: np.ndarray, width: int) -> Labels:
    """Up to `width` words on either side of each, none from another paragraph."""
    n = len(tokens)
    offsets = [offset for offset in range(-width, width + 1) if offset]
    places = np.full((n, len(offsets)), -1, np.int32)
    for column, offset in enumerate(offsets):
        here = np.arange(max(0, -offset), min(n, n - offset))
        inside = here[paragraph[here] == paragraph[here + offset]]
        places[inside, column] = tokens[inside + offset]
    found = places >= 0
    return Labels(np.concatenate([[0], np.cumsum(found.sum(1))]), places[found])


def read(root: Path) -> Data:
    """Contexts of all words, by split."""
    by_split: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for document in deduplicated(tqdm(documents(root), desc="text", unit="doc")):
        by_split[split_of(document.id)].append(document)
    counts = Counter(word for one in by_split["train"] for part in one.paragraphs for word in words(part))
    numbers = vocabulary(counts, MIN_COUNT)
    splits = {}
    for split, some in by_split.items():
        tokens, paragraph, document = encode(some, numbers)
        bags = contexts(tokens, paragraph, WINDOW)
        rows = np.flatnonzero(np.diff(bags.indptr))
        splits[split] = Examples(take(bags, rows), single_labels(tokens[rows]), document[rows])
    return Data(splits, len(numbers), list(numbers))


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bundles.w2v_gcide",
        description="Build the bundle w2v-gcide, if it is not built.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    out = cache_dir() / "bundles" / "w2v-gcide"
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help="the bundle's folder")
    for split, size in SIZES.items():
        parser.add_argument(f"--{split}", type=int, default=size, metavar="N", help=f"queries in {split}")
    args = parser.parse_args(arguments)

    from benchmarks.bundles.bags import build

    root, package = fetch("dict-gcide", cache_dir() / "debian")
    build(
        args.out,
        {"recipe": RECIPE, "packages": [package]},
        {split: getattr(args, split) for split in SPLITS},
        lambda: read(root),
        Plan(epochs=3, batch=1024, negatives=1024, power=1.0, rate=0.004, word_dropout=0.1),
        d=128,
        relu=False,
        bias=False,
    )


if __name__ == "__main__":
    main()
