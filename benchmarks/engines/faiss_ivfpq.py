"""faiss' inverted lists of short codes."""

from __future__ import annotations

import math

import faiss
import numpy as np

from benchmarks.engines import Data, Work
from benchmarks.engines._faiss import METRICS, filled
from benchmarks.engines._mips import Prepare, products
from benchmarks.engines.faiss_ivf import Engine as InvertedLists


class Engine(InvertedLists):
    """Lists of 4-bit product codes in fast scan, then the best rows exactly."""

    title = "faiss IVF PQ4fs, refined"

    def _make(self, data: Data, lists: int, metric: str) -> tuple[faiss.Index, Prepare]:
        rows, prepare = products(data, metric, multiple=2)
        d = rows.shape[1]
        codes = d // math.gcd(d, 2)  # of two coordinates each
        index = faiss.index_factory(d, f"IVF{lists},PQ{codes}x4fs,RFlat", METRICS[metric])
        self._ivf = faiss.extract_index_ivf(index)
        return filled(index, rows), prepare

    def configure(self, nprobe: int, reorder: int) -> None:
        super().configure(nprobe)
        self._reorder = reorder
        self._k = 0

    def one(self, q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if k != self._k:
            self._ask(k)
        return self._index.search(q, k)

    def batch(self, Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if k != self._k:
            self._ask(k)
        return self._index.search(Q[:, 0], k)

    def _ask(self, k: int) -> None:
        self._index.k_factor = max(1.0, self._reorder / k)
        self._k = k

    def work(self, Q: np.ndarray) -> Work:
        sample, scanned, _ = super().work(Q)
        return Work(sample, scanned + min(self._reorder, sample) * self._ivf.d * 4)
