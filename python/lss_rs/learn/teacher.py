"""What training queries teach: the labels that each of them needs to find in its buckets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lss_rs._arrays import BLOCK, Labels, QueryRows, merge_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Teacher = Callable[[NDArray[np.float32], int], tuple[NDArray[np.int64], Any]]


def taught_slices(
    teacher: Teacher, queries: QueryRows, labels: Labels | None, top: int
) -> Iterator[tuple[NDArray[np.float32], Labels]]:
    """Yield slices of queries with the union of their true labels and the full layer's best.

    Parameters
    ----------
    teacher : callable
        ``teacher(queries, t)`` returns the ids (n, t) of the t largest logits, and their scores.
    queries : QueryRows
    labels : Labels, optional
        True labels of all queries.
    top : int
        How many of the full layer's best to add; with 0 the teacher is not run.
    """
    for lo in range(0, queries.n, BLOCK):
        hi = min(lo + BLOCK, queries.n)
        block = queries.slice(lo, hi)
        given = None if labels is None else labels.slice(lo, hi)
        best = teacher(block, top)[0] if top else np.empty((hi - lo, 0), np.int64)
        yield block, union(given, best)


def union(labels: Labels | None, best: NDArray[np.int64]) -> Labels:
    """Add the ids of row i of ``best`` to the labels of query i."""
    n, top = best.shape
    queries, ids = np.repeat(np.arange(n, dtype=np.int64), top), best.reshape(-1)
    if labels is not None:
        queries = np.concatenate([labels.query_of(), queries])
        ids = np.concatenate([labels.indices, ids])
    return merge_labels(queries, ids, n)
