"""Build the bundle ``w2v-gcide``: word2vec (CBOW) on the text of a dictionary, context to word.

    python -m benchmarks.bundles.w2v_gcide [--train N] [--val N] [--test N] [--out DIR]

The text is that of Debian's ``dict-gcide``, fetched into the cache and unpacked there, never installed.
README.md beside this file has the layout, w2v_gcide.md the card.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from benchmarks.bundles import SPLITS, Labels
from benchmarks.bundles.debian import fetch, read_text
from benchmarks.bundles.text import GCIDE, Document, deduplicated, gcide_blocks, split_of
from benchmarks.bundles.training import Data, Examples, Plan, options, single_labels, take, vocabulary
from lss_rs.demo import cache_dir

# Raise it with any change of what text is read or how it is cut or trained: the bundle is then built anew.
RECIPE = 1
BLOCK = 2_000
MIN_COUNT = 3
# Words of context on either side.
WINDOW = 5
SIZES = {"train": 102_400, "val": 10_240, "test": 12_288}
# Training queries of the folder "long": how much more of them help.
LONG = 512_000

_is_word = re.compile("[a-z]+")


def paragraphs(entry: str) -> list[str]:
    """Return an entry's paragraphs, etymologies too, without pronunciations and names of sources."""
    entry = re.sub(r"\\[^\\]*\\", "", entry)
    entry = re.sub(r"\[[^][]*(?:Webster|WordNet|PJC|Century)[^][]*\]", "", entry)
    # Bracketed letters are accents: "caf['e]", "[ae]ther".
    entry = re.sub(r"\[[^\w\s]?([A-Za-z]|ae|oe|AE|OE)[^\w\s]?\]", r"\1", entry)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", entry) if part.strip()]


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
    blocks = gcide_blocks(read_text(root / GCIDE), paragraphs, BLOCK)
    for document in deduplicated(tqdm(blocks, desc="text", unit="doc")):
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
    out, sizes = options("w2v-gcide", SIZES, arguments)

    from benchmarks.bundles.bags import build

    root, package = fetch("dict-gcide", cache_dir() / "debian")
    build(
        out,
        {"recipe": RECIPE, "packages": [package]},
        sizes,
        lambda: read(root),
        Plan(epochs=3, batch=1024, negatives=1024, power=1.0, rate=0.004, word_dropout=0.1),
        d=128,
        relu=False,
        bias=False,
        long=LONG,
    )


if __name__ == "__main__":
    main()
