"""faiss' inverted lists."""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.engines import Data, Work
from benchmarks.engines._faiss import METRICS, FaissEngine, filled
from benchmarks.engines._mips import Prepare, products


class Engine(FaissEngine):
    """Lists of rows by k-means, of which the nearest few are read."""

    title = "faiss IVF Flat"

    def _make(self, data: Data, lists: int, metric: str) -> tuple[faiss.Index, Prepare]:
        rows, prepare = products(data, metric, multiple=16)
        index = faiss.index_factory(rows.shape[1], f"IVF{lists},Flat", METRICS[metric])
        self._ivf = filled(index, rows)
        return self._ivf, prepare

    def configure(self, nprobe: int) -> None:
        self._ivf.nprobe = nprobe

    def work(self, Q: np.ndarray) -> Work:
        ivf = self._ivf
        sizes = np.array([ivf.get_list_size(i) for i in range(ivf.nlist)])
        probed = ivf.quantizer.search(Q[:, 0], min(ivf.nprobe, ivf.nlist))[1]
        sample = float(sizes[probed].sum(1).mean())
        # Ids are read for the few rows that enter the heap, so they are left out.
        return Work(sample, ivf.nlist * ivf.d * 4 + sample * ivf.code_size)
