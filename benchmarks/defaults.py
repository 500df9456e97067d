"""The measurements behind the defaults: one parameter changed at a time, quality against candidates.

Every candidate is rescored unless the row says otherwise, and probes end with the budget of entries alone, so
that a row judges its tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

import lss_rs.learn
from benchmarks import record, run
from benchmarks.bundles import load
from benchmarks.methods import ALL
from lss_rs import Index, LSSConfig, metrics
from lss_rs._arrays import QueryRows
from lss_rs._core import Builder

__all__ = ["SETTINGS", "measure"]

_TEACHER = 400

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("defaults, all candidates rescored", {}),
    ("seed 1", {"seed": 1}),
    ("seed 2", {"seed": 2}),
    ("closed form in the leading 24 coordinates", {"method": "aligned", "spare": 10}),
    ("closed form in the leading 64 coordinates", {"method": "aligned", "spare": 50}),
    ("12 bits", {"n_bits": 12}),
    ("13 bits", {"n_bits": 13}),
    ("16 bits", {"n_bits": 16}),
    ("2 tables", {"n_tables": 2}),
    ("4 tables", {"n_tables": 4}),
    ("8 tables", {"n_tables": 8}),
    ("closed form, not refined", {"method": "aligned"}),
    ("256 entries", {"max_entries": 256}),
    ("512 entries", {"max_entries": 512}),
    ("2,048 entries", {"max_entries": 2048}),
    ("4,096 entries", {"max_entries": 4096}),
    ("8,192 entries", {"max_entries": 8192}),
    ("4,096 entries, reach 0.75", {"max_entries": 4096, "reach": 0.75}),
    ("4,096 entries, reach 0.375", {"max_entries": 4096, "reach": 0.375}),
    ("4,096 entries, reach 0.1875", {"max_entries": 4096, "reach": 0.1875}),
    ("20 neighbours", {"n_neighbors": 20}),
    ("30 neighbours", {"n_neighbors": 30}),
    ("100 neighbours", {"n_neighbors": 100}),
    ("teacher's top 50, 100 neighbours", {"teacher_top": 50, "n_neighbors": 100}),
    ("teacher's top 100", {"teacher_top": 100}),
    ("teacher's top 100, 100 neighbours", {"teacher_top": 100, "n_neighbors": 100}),
    ("teacher's top 400, 30 neighbours", {"teacher_top": 400, "n_neighbors": 30}),
    ("128-byte sketches, 64 rescored: the defaults", {"n_rescore": 64}),
    ("128-byte sketches, 32 rescored", {"n_rescore": 32}),
    ("64-byte sketches, 64 rescored", {"sketch_bytes": 64, "n_rescore": 64}),
    ("64-byte sketches, 256 rescored", {"sketch_bytes": 64, "n_rescore": 256}),
]


def build(
    index: Index, Q: np.ndarray, taught: np.ndarray, spare: int, reach: float | None, config: LSSConfig
) -> None:
    """Fit with labels that the teacher gave once for all settings."""
    lss_rs.learn.SPARE_COORDINATES = spare  # no option: nobody should have to know it
    core = index._core
    learned = lss_rs.learn.learn(core, QueryRows(Q, index.d), None, config, 5, lambda *_: None)
    chosen = learned.config
    builder = Builder(
        core,
        learned.planes,
        learned.coordinates,
        centers=None,
        fill="queries",
        always_include=np.empty(0, np.int64),
        sketch_bytes=chosen.sketch_bytes,
        point=chosen._point._replace(reach=reach),
    )
    labels = np.ascontiguousarray(taught[:, : 1 + chosen.teacher_top])
    indptr = np.arange(0, labels.size + 1, labels.shape[1], dtype=np.int64)
    builder.add(np.ascontiguousarray(Q), indptr, labels.ravel())
    builder.finish()


def measure(path: Path | None = None) -> tuple[dict[str, Any], list[record.DefaultRow]]:
    """Measure every setting.

    Parameters
    ----------
    path : Path, optional
        A bundle of one label a query, by default the prose of lm-smollm2.

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    path = path or run.bundle_path("lm-smollm2")
    W, b, Q, Y = load(path, "train")
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
        options = {"n_rescore": ALL, "n_probes": 65_536, **change}
        spare, reach = options.pop("spare", 2), options.pop("reach", None)
        build(index, Q, taught, spare, reach, LSSConfig(**options))
        found = index.search(queries, k=5, stats=True)
        p1, p5 = (metrics.precision_at_k(found.labels, truth, k) / theirs[k] for k in (1, 5))
        entries, candidates = (float(found.stats[name].mean()) for name in ("entries", "candidates"))
        nbytes = index._core.params["nbytes"]
        tables = nbytes["tables"] + nbytes["exemplars"]
        rows.append(record.DefaultRow(name, p1, p5, entries, candidates, candidates / index.m, tables))
    data = {"m": index.m, "d": index.d, "train_queries": len(Q), "test_queries": len(queries)}
    return run.head(set()) | data, rows
