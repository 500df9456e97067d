"""The measurements behind the defaults: one parameter changed at a time, quality against candidates.

    python -m benchmarks.defaults [PATH]

PATH is a bundle, by default the prose of lm-smollm2. Fits on train, judges on test; prints a Markdown table.
Every candidate is rescored unless the row says otherwise, so that a row judges its tables alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

import lss_rs.learn
from benchmarks.bundles import load
from lss_rs import Index, LSSConfig, metrics
from lss_rs._arrays import QueryRows
from lss_rs._core import Builder
from lss_rs.demo import cache_dir

_TEACHER = 100
_ALL = 2**31 - 1

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("defaults, all candidates rescored", {}),
    ("seed 1", {"seed": 1}),
    ("seed 2", {"seed": 2}),
    ("planes in the leading 24 coordinates", {"spare": 6}),
    ("planes in the leading 64 coordinates", {"spare": 46}),
    ("16 bits", {"n_bits": 16}),
    ("17 bits", {"n_bits": 17}),
    ("20 bits", {"n_bits": 20}),
    ("2 tables", {"n_tables": 2}),
    ("8 tables", {"n_tables": 8}),
    ("teacher's top 10", {"teacher_top": 10}),
    ("teacher's top 20", {"teacher_top": 20}),
    ("teacher's top 100", {"teacher_top": 100}),
    ("no head", {"n_head": 0}),
    ("head of 1,000", {"n_head": 1000}),
    ("4,096 entries", {"max_entries": 4096}),
    ("12,288 entries", {"max_entries": 12_288}),
    ("128-byte sketches, 64 rescored: the defaults", {"n_rescore": 64}),
    ("128-byte sketches, 32 rescored", {"n_rescore": 32}),
    ("64-byte sketches, 64 rescored", {"sketch_bytes": 64, "n_rescore": 64}),
    ("64-byte sketches, 256 rescored", {"sketch_bytes": 64, "n_rescore": 256}),
]


def build(index: Index, Q: np.ndarray, taught: np.ndarray, spare: int, config: LSSConfig) -> None:
    """Fit with labels that the teacher gave once for all settings."""
    lss_rs.learn.SPARE_COORDINATES = spare  # no option: nobody should have to know it
    core = index._core
    learned = lss_rs.learn.learn(core, QueryRows(Q, index.d), config, 5, lambda *_: None)
    chosen = learned.config
    builder = Builder(
        core,
        learned.planes,
        learned.coordinates,
        fill="queries",
        n_head=chosen.n_head,
        always_include=np.empty(0, np.int64),
        sketch_bytes=chosen.sketch_bytes,
        n_probes=chosen.n_probes,
        max_entries=chosen.max_entries,
        n_rescore=chosen.n_rescore,
    )
    labels = np.ascontiguousarray(taught[:, : 1 + chosen.teacher_top])
    indptr = np.arange(0, labels.size + 1, labels.shape[1], dtype=np.int64)
    builder.add(np.ascontiguousarray(Q), indptr, labels.ravel())
    builder.finish()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Measure what the defaults rest on.")
    prose = cache_dir() / "bundles" / "lm-smollm2" / "prose"
    parser.add_argument("path", type=Path, nargs="?", default=prose, help="a bundle, by default %(default)s")
    path = parser.parse_args().path

    W, b, Q, Y = load(path, "train")
    if not (np.diff(Y.indptr) == 1).all():
        parser.error("this sweep takes bundles of one label a query")
    index = Index.from_weights(W, b)
    best = [
        index._core.teacher(block, _TEACHER)[0]
        for block in tqdm(list(QueryRows(Q, index.d).blocks()), "teacher")
    ]
    taught = np.concatenate([Y.indices[:, None], np.concatenate(best)], axis=1)
    queries, truth = load(path, "test").Q, load(path, "test").Y.indices
    queries = np.ascontiguousarray(queries)
    full = index._core.teacher(queries, 5)[0]
    theirs = {k: metrics.precision_at_k(full, truth, k) for k in (1, 5)}

    rows = []
    for name, change in tqdm(SETTINGS, "settings"):
        options = {"n_rescore": _ALL, **change}
        spare = options.pop("spare", 2)
        build(index, Q, taught, spare, LSSConfig(**options))
        found = index.search(queries, k=5, stats=True)
        kept = [metrics.precision_at_k(found.labels, truth, k) / theirs[k] for k in (1, 5)]
        entries, candidates = (found.stats[name].mean() for name in ("entries", "candidates"))
        share = candidates / index.m
        size = index._core.params["nbytes"]["tables"] / 2**20
        rows.append(f"| {name} | {kept[0]:.4f} | {kept[1]:.4f} | {entries:,.0f} | {share:.2%} | {size:.0f} |")
    print("| setting | P@1 / full | P@5 / full | entries | candidates | tables, MiB |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
