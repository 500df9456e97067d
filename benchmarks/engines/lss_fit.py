"""The package with nothing chosen: what ``fit(target=0.99)`` leaves."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from benchmarks.engines import BaseEngine, Data, Work, lss
from lss_rs import Index, set_num_threads


class Engine(lss.Engine):
    """An index at the operating point that it found by itself."""

    title: ClassVar[str] = "lss-rs, fit alone"
    observes: ClassVar[bool] = True

    def __init__(self, data: Data, num_threads: int) -> None:
        set_num_threads(num_threads)
        self._keep(Index.from_weights(data.W, data.b).fit(data.Q, data.Y.lists(), k=5, progress=False))
        self._fitted = self.index.to_bytes()

    def _keep(self, index: Index) -> None:
        self.index, self.search, self._point = index, index.search, index.operating_point

    # nothing is told of a fit
    stages = BaseEngine.stages

    def configure(self, effort: str = "adaptive") -> None:
        """Let searches go on where an answer is not trusted, or stay with the tables and ask for no trust."""
        fixed = self._point._replace(trust=0.0, scan_trust=0.0, judge=None)
        self.index.apply({"adaptive": self._point, "fixed": fixed}[effort])

    def observe(self, Q: np.ndarray) -> None:
        self.configure()
        self.index.observe(Q)

    def forget(self) -> None:
        self._keep(Index.from_bytes(self._fitted))

    def work(self, Q: np.ndarray) -> Work:
        counted: Any = self.search(Q, 5, stats=True).stats
        # A scan counts all rows as looked at, by their sketches; scoring them all reads them besides.
        work, further = self.work_of(counted), counted["step"]
        exact = (further > 1).mean() * self.index.params["nbytes"]["rows"]
        return Work(work.sample, (work.bytes_read or 0.0) + exact, float((further > 0).mean()))
