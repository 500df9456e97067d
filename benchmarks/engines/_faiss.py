"""What the engines made of faiss share: rows, queries, threads, sizes."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from benchmarks.engines import BaseEngine, Data
from benchmarks.engines._mips import Prepare

__all__ = ["METRICS", "FaissEngine", "filled"]

METRICS = {"ip": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}


def filled(index: faiss.Index, rows: np.ndarray) -> faiss.Index:
    """Train an index on rows and add them."""
    rows = np.ascontiguousarray(rows)
    index.train(rows)
    index.add(rows)
    return index


class FaissEngine(BaseEngine):
    """One index, ``self._index``, and the form of its queries, ``self._prepare``."""

    library = "faiss-cpu"

    def __init__(self, data: Data, num_threads: int, **build: Any) -> None:
        self.set_num_threads(num_threads)
        self._m = len(data.W)
        self._index, self._prepare = self._make(data, **build)
        # Its wiki says that from 20 queries on matrices are multiplied. 1.15 counts numbers, not queries, and
        # waits until they are 128,000: batches of 64 would be several times slower.
        settings = faiss.cvar
        settings.distance_compute_blas_threshold = min(
            settings.distance_compute_blas_threshold, 20 * self._index.d
        )

    def _make(self, data: Data, **build: Any) -> tuple[faiss.Index, Prepare]:
        raise NotImplementedError

    def set_num_threads(self, n: int) -> None:
        faiss.omp_set_num_threads(n)

    def prepare(self, Q: np.ndarray) -> np.ndarray:
        return self._prepare(Q)[:, None]  # so that a query is the matrix of one row that faiss takes

    def one(self, q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self._index.search(q, k)

    def batch(self, Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self._index.search(Q[:, 0], k)

    def labels(self, answer: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return answer[1]

    def size(self) -> int:
        """Bytes of the serialised index, rows included."""
        counted = 0

        def count(block: bytes) -> None:
            nonlocal counted
            counted += len(block)

        # Counted as it is written: a copy of the index would show in the peak of memory.
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(count))
        return counted
