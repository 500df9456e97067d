"""The dense layer in faiss, in a quarter of the bytes."""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.engines import Data, Work
from benchmarks.engines._faiss import METRICS, FaissEngine, filled
from benchmarks.engines._mips import Prepare, products


class Engine(FaissEngine):
    """Every inner product, rows in eight bits a coordinate, queries in float32."""

    title = "faiss SQ8"
    kind = "full"

    def _make(self, data: Data) -> tuple[faiss.Index, Prepare]:
        rows, prepare = products(data, "ip", multiple=16)
        eight = faiss.ScalarQuantizer.QT_8bit
        return filled(faiss.IndexScalarQuantizer(rows.shape[1], eight, METRICS["ip"]), rows), prepare

    def work(self, Q: np.ndarray) -> Work:
        return Work(self._m, self._m * self._index.code_size)
