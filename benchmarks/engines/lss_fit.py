"""The package with nothing chosen: what ``fit(target=0.99)`` leaves."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from benchmarks.engines import Data, Work, lss
from lss_rs import Index, set_num_threads


class Engine(lss.Engine):
    """An index at the operating point that it found by itself."""

    title: ClassVar[str] = "lss-rs, fit alone"
    observes: ClassVar[bool] = True

    def __init__(self, data: Data, num_threads: int) -> None:
        set_num_threads(num_threads)
        labels = [data.Y.indices[lo:hi] for lo, hi in pairwise(data.Y.indptr)]
        self._keep(Index.from_weights(data.W, data.b).fit(data.Q, labels, k=5, progress=False))
        self._fitted = self.index.to_bytes()

    def _keep(self, index: Index) -> None:
        self.index, self.search = index, index.search

    def configure(self, **search: int) -> None:
        if search:
            raise TypeError(f"{self.title} has no setting of search. Got {search}.")

    def stages(self) -> dict[str, float]:
        return {}

    def observe(self, Q: np.ndarray) -> None:
        self.index.observe(Q)

    def forget(self) -> None:
        self._keep(Index.from_bytes(self._fitted))

    def work(self, Q: np.ndarray) -> Work:
        found: Any = self.search(Q, 5, stats=True)
        tables = super().work(Q)
        further, params = found.stats["step"], self.index.params
        scanned = (further > 0).mean() * self.index.m * params["sketch_bytes"]
        exact = (further > 1).mean() * params["nbytes"]["rows"]
        return Work(tables.sample, (tables.bytes_read or 0.0) + scanned + exact, float((further > 0).mean()))
