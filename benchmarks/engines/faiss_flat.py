"""The dense layer in faiss."""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.engines import Data, Work
from benchmarks.engines._faiss import FaissEngine, filled
from benchmarks.engines._mips import Prepare, products


class Engine(FaissEngine):
    """Every inner product in float32."""

    title = "faiss Flat"
    kind = "full"

    def _make(self, data: Data) -> tuple[faiss.Index, Prepare]:
        rows, prepare = products(data, "ip", multiple=16)
        return filled(faiss.IndexFlatIP(rows.shape[1]), rows), prepare

    def work(self, Q: np.ndarray) -> Work:
        return Work(self._m, self._m * self._index.code_size)
