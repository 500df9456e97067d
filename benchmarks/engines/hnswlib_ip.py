"""hnswlib's graph."""

from __future__ import annotations

import hnswlib
import numpy as np

from benchmarks.engines import BaseEngine, Data
from benchmarks.engines._mips import products


class Engine(BaseEngine):
    """A graph over rows, walked greedily. It does not tell what a query read."""

    title = "hnswlib"
    library = "hnswlib"

    def __init__(self, data: Data, num_threads: int, *, links: int, ef: int, metric: str) -> None:
        rows, self._prepare = products(data, metric, multiple=16)
        self._index = hnswlib.Index(metric, rows.shape[1])
        self._index.init_index(len(rows), M=links, ef_construction=ef)
        self._index.add_items(rows, num_threads=num_threads)
        self.set_num_threads(num_threads)

    def configure(self, ef: int) -> None:
        self._index.set_ef(ef)

    def set_num_threads(self, n: int) -> None:
        self._index.set_num_threads(n)

    def prepare(self, Q: np.ndarray) -> np.ndarray:
        return self._prepare(Q)[:, None]

    def one(self, q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self._index.knn_query(q, k)

    def batch(self, Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self._index.knn_query(Q[:, 0], k)

    def labels(self, answer: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return answer[0].astype(np.int64)

    def size(self) -> int:
        return self._index.index_file_size()
