"""faiss' graph."""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.engines import Data, Work
from benchmarks.engines._faiss import METRICS, FaissEngine, filled
from benchmarks.engines._mips import Prepare, products


class Engine(FaissEngine):
    """A graph over rows, walked greedily."""

    title = "faiss HNSW"

    def _make(self, data: Data, links: int, ef: int, metric: str) -> tuple[faiss.Index, Prepare]:
        rows, prepare = products(data, metric, multiple=16)
        index = faiss.IndexHNSWFlat(rows.shape[1], links, METRICS[metric])
        index.hnsw.efConstruction = ef
        self._links = links
        return filled(index, rows), prepare

    def configure(self, ef: int) -> None:
        self._index.hnsw.efSearch = ef

    def work(self, Q: np.ndarray) -> Work:
        counted = faiss.cvar.hnsw_stats
        counted.reset()
        self._index.search(Q[:, 0], 5)
        rows, visits = counted.ndis / len(Q), counted.nhops / len(Q)
        # The lowest level has twice the links, four bytes each; the levels above it are few rows.
        return Work(rows, rows * self._index.d * 4 + visits * 2 * self._links * 4)
