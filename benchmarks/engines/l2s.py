"""Screening by clusters of queries, after "Learning to Screen" (P. H. Chen et al., ICLR 2019).

Training queries are clustered by k-means; a cluster keeps the labels that its queries needed most, a true
label counting 1 and the full layer's best labels 1, 1/2, 1/3, ... by rank, and a query is scored on the
labels of the nearest cluster alone. The paper (arXiv 1810.12406) learns assignment and sets further by
gradient descent; here sets are counts under a budget: a lower bound on that method.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.bundles import Labels
from benchmarks.engines import BaseEngine, Data, Work
from lss_rs import Index, set_num_threads

TEACHER_TOP = 100


class Engine(BaseEngine):
    """Clusters of queries, each with its most needed labels and their rows packed side by side.

    Parameters
    ----------
    clusters : int
    most : int
        Labels kept in a cluster; a search looks at the first ``budget`` of them.
    """

    title: ClassVar[str] = "k-means of queries (L2S-like)"
    library: ClassVar[str | None] = "faiss-cpu"
    sees: ClassVar[str] = "rows, queries"

    def __init__(self, data: Data, num_threads: int, *, clusters: int, most: int) -> None:
        set_num_threads(num_threads)
        faiss.omp_set_num_threads(num_threads)
        W, b, Q = np.asarray(data.W), np.asarray(data.b), np.ascontiguousarray(data.Q)
        m, d = W.shape
        means = faiss.Kmeans(d, clusters, niter=15, spherical=True, seed=1)
        means.train(Q)
        # The nearest by direction, as k-means assigned: |q| is the same for every centroid.
        self._centroids = np.ascontiguousarray(means.centroids)
        of = np.concatenate([(Q[i : i + 4096] @ self._centroids.T).argmax(1) for i in range(0, len(Q), 4096)])
        core = Index.from_weights(W, b)._core
        top = np.concatenate([core.teacher(Q[i : i + 4096], TEACHER_TOP)[0] for i in range(0, len(Q), 4096)])
        own = np.repeat(np.arange(len(Q)), np.diff(data.Y.indptr))
        by_rank = np.tile(1 / np.arange(1, TEACHER_TOP + 1), len(Q))
        needed_by = np.concatenate([np.repeat(of, TEACHER_TOP), of[own]]).astype(np.int64)
        needed, where = np.unique(
            needed_by * m + np.concatenate([top.ravel(), data.Y.indices]), return_inverse=True
        )
        need = np.bincount(where, np.concatenate([by_rank, np.ones(len(own))]))
        cluster, label = np.divmod(needed, m)
        order = np.lexsort((label, -need, cluster))
        cluster, label = cluster[order], label[order]
        starts = np.searchsorted(cluster, np.arange(clusters + 1))
        self._ids = [label[lo : min(hi, lo + most)] for lo, hi in pairwise(starts)]
        self._rows = [np.ascontiguousarray(W[ids]) for ids in self._ids]
        self._bias = [b[ids] for ids in self._ids]
        self._budget, self._d = most, d

    def configure(self, *, budget: int) -> None:
        self._budget = budget

    def set_num_threads(self, n: int) -> None:
        self._limits = threadpool_limits(n)

    def one(self, q: np.ndarray, k: int) -> np.ndarray:
        c, budget = int((self._centroids @ q).argmax()), self._budget
        logits = self._rows[c][:budget] @ q
        logits += self._bias[c][:budget]
        if len(logits) <= k:
            best = np.argsort(-logits)
        else:
            best = np.argpartition(logits, -k)[-k:]
            best = best[np.argsort(-logits[best])]
        return self._ids[c][best]

    def batch(self, Q: np.ndarray, k: int) -> np.ndarray:
        of = (Q @ self._centroids.T).argmax(1)
        answers = np.full((len(Q), k), -1, np.int64)
        for c in np.unique(of):
            members = np.flatnonzero(of == c)
            logits = Q[members] @ self._rows[c][: self._budget].T + self._bias[c][: self._budget]
            top = min(k, logits.shape[1])
            best = np.argpartition(logits, -top, axis=1)[:, -top:]
            order = np.argsort(-np.take_along_axis(logits, best, 1), axis=1)
            answers[members, :top] = self._ids[c][np.take_along_axis(best, order, 1)]
        return answers

    def labels(self, answer: np.ndarray) -> np.ndarray:
        if answer.ndim == 2:
            return answer
        padded = np.full((1, max(5, len(answer))), -1, np.int64)
        padded[0, : len(answer)] = answer
        return padded

    def size(self) -> int:
        return self._centroids.nbytes + sum(
            part.nbytes for parts in (self._ids, self._rows, self._bias) for part in parts
        )

    def work(self, Q: np.ndarray) -> Work:
        sizes = np.array([min(len(ids), self._budget) for ids in self._ids])
        sample = float(sizes[(Q @ self._centroids.T).argmax(1)].mean())
        return Work(sample, self._centroids.nbytes + sample * (self._d * 4 + 4 + 8))

    def candidates(self, Q: np.ndarray) -> Labels:
        lists = [self._ids[c][: self._budget] for c in (Q @ self._centroids.T).argmax(1)]
        return Labels(np.cumsum([0, *map(len, lists)]), np.concatenate(lists))
