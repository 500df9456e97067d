"""What training queries teach: the labels that each of them needs to find in its buckets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lss_rs._arrays import BLOCK, Labels, QueryRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Teacher = Callable[[NDArray[np.float32], int], tuple[NDArray[np.int64], Any]]


def taught_slices(
    teacher: Teacher, queries: QueryRows, labels: Labels | None, top: int
) -> Iterator[tuple[NDArray[np.float32], Labels]]:
    """Yield slices of queries with their true labels, then the full layer's best; a label may be both.

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
        yield block, _joined(given, best)


def _joined(labels: Labels | None, best: NDArray[np.int64]) -> Labels:
    """Put the ids of row i of ``best`` behind the labels of query i."""
    n, top = best.shape
    if labels is None:
        return Labels(np.arange(n + 1) * top, best.reshape(-1))
    queries = np.concatenate([labels.query_of(), np.repeat(np.arange(n), top)])
    ids = np.concatenate([labels.indices, best.reshape(-1)])
    return Labels(labels.indptr + np.arange(n + 1) * top, ids[np.argsort(queries, kind="stable")])
