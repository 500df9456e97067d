"""Quality against the number of training queries, at the same cost of a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks import record, run
from benchmarks.bundles import load
from benchmarks.definitions import read_toml
from lss_rs import Index, LSSConfig

__all__ = ["DEFINITION", "measure"]

DEFINITION = read_toml("queries")
_BLOCK = 4096
"""Queries observed by a call."""


def measure(
    plans: list[dict[str, Any]] = DEFINITION["plan"],
    folder_of: Callable[[str], Path] = run.folder,
) -> tuple[dict[str, Any], list[record.QueriesRow]]:
    """Measure every number of queries on every bundle.

    Parameters
    ----------
    plans : list of dict
        Tables as in definitions/queries.toml.
    folder_of : callable
        Folder of a bundle.

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    rows: list[record.QueriesRow] = []
    for plan in plans:
        path = folder_of(plan["bundle"])
        test, unit = load(path, "test"), run.groups_of(path, "test")
        asked = np.ascontiguousarray(test.Q, np.float32)
        full = Index.from_weights(test.W, test.b).search(asked, run.K, exact=True).labels
        for n, capacity, kept, index, seconds in _indexes(plan, folder_of(plan["train"])):
            # Trust and going on are not what is asked about.
            own = index.operating_point
            index.apply(own._replace(trust=0.0, scan_trust=0.0, judge=None, **plan["point"]))
            found: Any = index.search(asked, run.K, stats=True)
            index.apply(own)
            one, five = (run.judge(found.labels, full, test.Y, k, unit) for k in (1, run.K))
            rows.append(
                record.QueriesRow(
                    bundle=plan["bundle"],
                    queries=n,
                    capacity=capacity,
                    kept=kept,
                    point=run.text(plan["point"]),
                    **run.ratio("p1", one.ratio),
                    **run.ratio("p5", five.ratio),
                    entries=float(found.stats["entries"].mean()),
                    sample=float(found.stats["candidates"].mean()),
                    size=index.nbytes,
                    seconds=seconds,
                )
            )
    return run.head(set()), rows


def _indexes(plan: dict[str, Any], path: Path) -> Iterator[tuple[int, int | None, int, Index, float]]:
    """Fit one index for each number of queries; then one that keeps its capacity of them.

    Yielded are this number, the capacity, how many are kept, the index and the seconds until then.
    """
    W, b, Q, Y = load(path, "train")
    labels = Y.lists()
    for n in tqdm(plan["queries"], f"{plan['bundle']}: fits"):
        start = time.perf_counter()
        index = Index.from_weights(W, b).fit(Q[:n], labels[:n], target=None, progress=False)
        yield n, None, n, index, time.perf_counter() - start
    if "capacity" not in plan:
        return
    capacity = plan["capacity"]
    start = time.perf_counter()
    # Tuned, so that it knows which answers to trust.
    index = Index.from_weights(W, b, LSSConfig(capacity=capacity)).fit(
        Q[:capacity], labels[:capacity], progress=False
    )
    kept = index.params["n_entries"] // index.params["n_tables"]
    yield capacity, capacity, kept, index, time.perf_counter() - start
    more = [n for n in plan["queries"] if n > capacity]
    for first, last in tqdm(list(pairwise([capacity, *more])), f"{plan['bundle']}: stream"):
        for lo in range(first, last, _BLOCK):
            hi = min(lo + _BLOCK, last)
            kept = index.observe(Q[lo:hi], labels[lo:hi]).exemplars
        yield last, capacity, kept, index, time.perf_counter() - start
