"""Build the bundle ``xmc-contents``: from words in the paths of a few files to the packages that ship them.

    python -m benchmarks.bundles.xmc_contents [--train N] [--val N] [--test N] [--out DIR]

The paths are those of Debian's archive: its Contents indices, which apt fetches into a folder of the cache.
README.md beside this file has the layout, xmc_contents.md the card.
"""

from __future__ import annotations

import functools
import gzip
import heapq
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from benchmarks.bundles import SPLITS, Labels, load
from benchmarks.bundles import groups as groups_of
from benchmarks.bundles.debian import apt_get
from benchmarks.bundles.text import hash_of, split_of
from benchmarks.bundles.training import Data, Examples, Plan, options, take, vocabulary, write_split
from lss_rs.demo import cache_dir, sha256

# Raise it with any change of what is read or how it is cut or trained: the bundle is then built anew.
RECIPE = 1
SIZES = {"train": 120_000, "val": 10_240, "test": 12_288}
# Paths an example has at most, and examples a directory gives at most.
HANDFUL = 6
HANDFULS = 2
# A directory with files of more packages is shared, as usr/bin is. An example of it has two files each of
# three packages.
SHARED = 8
OF_EACH = 2
# Examples of a package in a split: else a few packages of icons and headers were most of the data.
PER_LABEL = 32
MIN_COUNT = 2
# Share of the queries in the domain of sections that an index is fitted without.
REST = 0.2


class File(NamedTuple):
    """A path and the packages that ship it, each after its section: ("libs/libfoo1",)."""

    path: str
    owners: tuple[str, ...]


class Handful(NamedTuple):
    """A few files of a directory, where they come from, and the split which that decides."""

    source: str
    split: str
    files: list[File]


class Example(NamedTuple):
    """The words of a handful, the packages that ship its files, and where they come from."""

    source: str
    split: str
    words: frozenset[str]
    owners: tuple[str, ...]


# --- reading ---------------------------------------------------------------------------------------------


def fetch_contents(folder: Path) -> list[Path]:
    """Contents indices of Debian's main component, those of amd64 and of all architectures.

    apt fetches them, the first time, into a folder of its own: the system's lists are not touched.
    """

    def found() -> list[Path]:
        # Not those of bookworm-updates and the like, which repeat packages.
        is_suite = re.compile(r".*_dists_[a-z]+_main_Contents-(all|amd64)\.gz").fullmatch
        return [path for path in sorted(folder.glob("*_Contents-*.gz")) if is_suite(path.name)]

    if len(found()) != 2:
        (folder / "partial").mkdir(parents=True, exist_ok=True)
        target = "Acquire::IndexTargets::deb::Contents-deb"
        options = {
            "Dir::State::lists": folder,
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            f"{target}::MetaKey": "$(COMPONENT)/Contents-$(ARCHITECTURE)",
            f"{target}::ShortDescription": "Contents-$(ARCHITECTURE)",
            f"{target}::Description": "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Contents",
            f"{target}::KeepCompressed": "true",
            f"{target}::KeepCompressedAs": "gz",
        }
        apt_get("update", *(f"-o{name}={value}" for name, value in options.items()), cwd=folder)
    if len(found()) != 2:
        names = ", ".join(path.name for path in found()) or "none"
        raise RuntimeError(f"apt must know one release of Debian for amd64; its Contents are: {names}")
    return found()


@functools.cache  # the same few packages again and again: millions of tuples else
def _owners(text: str) -> tuple[str, ...]:
    return tuple(map(sys.intern, text.split(",")))


def parse(line: str) -> File:
    """Parse a line of a Contents index: a path, which may have spaces, and its packages."""
    path, _, owners = line.rstrip("\n").rpartition(" ")
    return File(path.rstrip(), _owners(owners))


def read_contents(indices: Iterable[Path]) -> Iterator[File]:
    """Lines of the indices, one after another."""
    for path in indices:
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as lines:
            yield from map(parse, lines)


def package(owner: str) -> str:
    """Name of a package, without its section."""
    return owner.rpartition("/")[2]


# What every package has tells none from another.
_is_boilerplate = re.compile(
    r"usr/share/doc/[^/]+/(copyright|changelog|NEWS)|usr/share/lintian/overrides/"
).match

Places = dict[str, dict[str, list[tuple[int, File]]]]


def read_places(files: Iterable[File]) -> Places:
    """Files by directory and by the first package that ships them; of very many, a sample by hash."""
    places: Places = {}
    for file in files:
        if _is_boilerplate(file.path):
            continue
        place = places.setdefault(file.path.rpartition("/")[0], {}).setdefault(file.owners[0], [])
        # A heap of those with the smallest hashes, largest first.
        item = (-zlib.crc32(file.path.encode()), file)
        if len(place) < HANDFUL * HANDFULS:
            heapq.heappush(place, item)
        else:
            heapq.heappushpop(place, item)
    return places


def handfuls(directory: str, places: dict[str, list[tuple[int, File]]]) -> Iterator[Handful]:
    """Cut a directory into handfuls of files.

    The source is the directory. Of a shared directory each handful is a source: its files are of packages
    that are in no other handful.
    """
    if len(places) <= SHARED:
        files = [file for _, file in sorted(item for place in places.values() for item in place)[::-1]]
        for i in range(0, min(len(files), HANDFUL * HANDFULS), HANDFUL):
            yield Handful(directory, split_of(directory), files[i : i + HANDFUL])
        return
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    for owner in sorted(places, key=lambda owner: hash_of("order", directory, owner)):
        by_split[split_of(f"{directory} {owner}")].append(owner)
    for split, owners in by_split.items():
        for i in range(0, len(owners), HANDFUL // OF_EACH):
            some = owners[i : i + HANDFUL // OF_EACH]
            files = [file for owner in some for _, file in sorted(places[owner])[: -OF_EACH - 1 : -1]]
            yield Handful(f"{directory} {some[0]}", split, files)


# "GNUstep", "libFoo2" and "foo-bar_baz" are several words each.
_words = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+").findall


def path_words(file: File) -> set[str]:
    """Words of a path, without the names of the packages that ship it."""
    names = {package(owner) for owner in file.owners}
    found: set[str] = set()
    for part in file.path.split("/"):
        if part not in names:
            stem, _, suffix = part.partition(".")
            found.update(word.lower() for word in _words(suffix if stem in names else part))
    return found - names


def examples(handful: Iterable[Handful]) -> list[Example]:
    """Examples in a random order that is the same everywhere, no two of which have the same words but digits.

    Of each package there are PER_LABEL in a split, more where it comes with others.
    """
    seen: set[frozenset[str]] = set()
    counts: Counter[tuple[str, str]] = Counter()
    kept = []
    order = sorted(handful, key=lambda one: (hash_of("order", one.source), one.files[0].path))
    for source, split, files in order:
        words = frozenset().union(*map(path_words, files))
        owners = tuple(dict.fromkeys(owner for file in files for owner in file.owners))
        key = frozenset(word for word in words if not word.isdigit())
        if key in seen or all(counts[split, owner] >= PER_LABEL for owner in owners):
            continue
        seen.add(key)
        counts.update((split, owner) for owner in owners)
        kept.append(Example(source, split, words, owners))
    return kept


# --- building --------------------------------------------------------------------------------------------


def read(indices: list[Path]) -> Data:
    """Examples by split, their words and packages as numbers.

    Words are those that train has MIN_COUNT times or more, packages those it has at all.
    """
    files = tqdm(read_contents(indices), desc="paths", unit="path", unit_scale=True, mininterval=1)
    places = read_places(files)
    some = (one for item in tqdm(places.items(), desc="directories", unit="dir") for one in handfuls(*item))
    kept = examples(some)
    counts = Counter(word for one in kept if one.split == "train" for word in one.words)
    words = vocabulary(counts, MIN_COUNT)
    names = {package(owner) for one in kept if one.split == "train" for owner in one.owners}
    labels = {name: number for number, name in enumerate(sorted(names))}
    sections = sorted({owner.rpartition("/")[0] for one in kept for owner in one.owners})
    splits = {
        split: encode([one for one in kept if one.split == split], words, labels, sections)
        for split in SPLITS
    }
    return Data(splits, len(words), list(labels), {"sections": sections})


def encode(
    some: list[Example], words: dict[str, int], labels: dict[str, int], sections: list[str]
) -> Examples:
    """Examples as numbers, without those that have no known word or no known label."""
    bags, Y, groups, section = [], [], [], []
    numbers: dict[str, int] = {}
    for source, _, spelled, owners in some:
        bag = sorted(words[word] for word in spelled if word in words)
        known = sorted((labels[package(owner)], owner) for owner in owners if package(owner) in labels)
        if bag and known:
            bags.append(bag)
            Y.append([label for label, _ in known])
            groups.append(numbers.setdefault(source, len(numbers)))
            section.append(sections.index(known[0][1].rpartition("/")[0]))
    return Examples(lists(bags), lists(Y), np.array(groups), {"section": np.array(section)})


def lists(rows: list[list[int]]) -> Labels:
    """Turn lists into CSR form."""
    indptr = np.cumsum([0, *map(len, rows)])
    return Labels(indptr, np.fromiter((number for row in rows for number in row), np.int64, indptr[-1]))


def cut_by_section(out: Path, rest: float = REST) -> list[str]:
    """Cut the queries in two domains, ``most`` and ``rest``, by the section of a query's first label.

    Sections of the archive go to ``rest``, in the order of a hash, until it has this share of train. Returns
    their names.
    """
    sections = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["sections"]
    counts = np.bincount(np.load(out / "section_train.npy"), minlength=len(sections))
    order = sorted(range(len(sections)), key=lambda number: hash_of("section", sections[number]))
    taken = order[: int(np.searchsorted(np.cumsum(counts[order]), rest * counts.sum())) + 1]
    for split in SPLITS:
        is_rest = np.isin(np.load(out / f"section_{split}.npy"), taken)
        _, _, Q, Y = load(out, split)
        for name, chosen in (("most", ~is_rest), ("rest", is_rest)):
            (out / name).mkdir(exist_ok=True)
            rows = np.flatnonzero(chosen)
            write_split(out / name, split, Q[rows], take(Y, rows), groups_of(out, split)[rows])
    return sorted(sections[number] for number in taken)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    out, sizes = options("xmc-contents", SIZES, arguments)

    from benchmarks.bundles.bags import build

    indices = fetch_contents(cache_dir() / "debian" / "contents")
    build(
        out,
        {"recipe": RECIPE, "files": [{"file": path.name, "sha256": sha256(path)} for path in indices]},
        sizes,
        lambda: read(indices),
        Plan(epochs=8, batch=512, negatives=4096, power=0.5, rate=0.02, word_dropout=0.25),
        d=128,
        relu=True,
        bias=True,
    )
    names = cut_by_section(out)
    print(f"{out.name}/rest: sections {', '.join(names)}")


if __name__ == "__main__":
    main()
