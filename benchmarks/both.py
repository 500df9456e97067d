"""Rows in the buckets beside training queries: what they are worth where traffic is of another kind.

An index of training queries and an index of rows, over the same layer, make one of both: its candidates are
those of either. Every candidate is scored in full, so that a row judges what is in the buckets. A scan of all
sketches stands beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks import record, run
from benchmarks.bundles import Labels, load
from benchmarks.methods import ALL
from lss_rs import Index, LSSConfig, metrics

__all__ = ["measure"]

FITTED, SERVED = "prose", "code"
PROBES = (2, 8, 32)
"""Buckets of rows, a table, on average."""
SOME = 2048
"""Queries asked, evenly spaced."""


def measure(layer: Path | None = None) -> tuple[dict[str, Any], list[record.DefaultRow]]:
    """Measure queries alone, both, and a scan.

    Parameters
    ----------
    layer : Path, optional
        A bundle of domains, by default lm-smollm2.

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    layer = layer or run.folder("lm-smollm2")
    W, b, Q, Y = load(layer / FITTED, "train")
    test = load(layer / SERVED, "test")
    step = -(-len(test.Q) // SOME)
    asked = np.ascontiguousarray(test.Q[::step], np.float32)
    truth = [labels.tolist() for labels in test.Y.lists()[::step]]
    labels = Y.lists()
    of_queries = Index.from_weights(W, b).fit(Q, labels, target=None, progress=False)
    rows_alone = LSSConfig(method="aligned", fill="rows", sketch_bytes=0)
    of_rows = Index.from_weights(W, b, rows_alone).fit(Q, labels, target=None, progress=False)
    full = of_queries.search(asked, run.K, exact=True).labels
    theirs = {k: metrics.precision_at_k(full, truth, k) for k in (1, run.K)}
    rows: list[record.DefaultRow] = []

    def add(setting: str, found: np.ndarray, entries: float, candidates: float, nbytes: int) -> None:
        p1, p5 = (metrics.precision_at_k(found, truth, k) / theirs[k] for k in (1, run.K))
        rows.append(record.DefaultRow(setting, p1, p5, entries, candidates, candidates / len(W), nbytes))

    own = of_queries.operating_point
    of_queries.apply(own._replace(n_rescore=ALL))
    alone: Any = of_queries.search(asked, run.K, stats=True)
    entries, candidates = (float(alone.stats[name].mean()) for name in ("entries", "candidates"))
    in_tables = [_tables(index) for index in (of_queries, of_rows)]
    add("training queries", alone.labels, entries, candidates, in_tables[0])
    met = Labels(*of_queries.candidates(asked)).lists()
    for n_probes in tqdm(PROBES, "both"):
        of_rows.apply(of_rows.operating_point._replace(n_probes=n_probes))
        stats: Any = of_rows.search(asked, run.K, stats=True).stats
        besides = Labels(*of_rows.candidates(asked)).lists()
        union = [np.union1d(*pair) for pair in zip(met, besides, strict=True)]
        found = np.stack([_best(W, b, q, ids) for q, ids in zip(asked, union, strict=True)])
        looked_at = float(np.mean([len(ids) for ids in union]))
        read = entries + float(stats["entries"].mean())
        add(f"both, {n_probes} buckets of rows a table", found, read, looked_at, sum(in_tables))
    # Where trust of 1 is asked for, every query goes on, whatever the judge.
    of_queries.apply(own._replace(trust=1.0, judge=(float(run.K), *[0.0] * 10)))
    add("a scan of all sketches", of_queries.search(asked, run.K).labels, entries, len(W), in_tables[0])
    data = {"m": len(W), "d": W.shape[1], "train_queries": len(Q), "test_queries": len(asked)}
    return run.head(set()) | data | {"fitted": FITTED, "served": SERVED}, rows


def _tables(index: Index) -> int:
    nbytes = index.params["nbytes"]
    return int(nbytes["tables"] + nbytes["exemplars"])


def _best(W: np.ndarray, b: np.ndarray, query: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the best of these rows, -1 where there are too few."""
    logits = W[ids] @ query + b[ids]
    best = ids[np.argsort(-logits, kind="stable")[: run.K]]
    return np.concatenate([best, np.full(run.K - len(best), -1)])
