"""The package with nothing chosen: what ``fit(target=0.99)`` leaves."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from benchmarks.engines import BaseEngine, Data, Work, lss
from lss_rs import Index, LSSConfig, OperatingPoint, set_num_threads, tune
from lss_rs.tuning import TuneReport, held_out_from


def _alone(report: TuneReport) -> OperatingPoint:
    """Return the best point of tables alone, or, where none keeps the target, the one that keeps most."""
    return report.frontier[-1].point if report.best.exact else report.best


Kept = tuple[str, float]
"""How far searches go, and what they keep."""

FITTED: Kept = ("adaptive", 0.99)
"""What a fit leaves."""


class Engine(lss.Engine):
    """An index at the operating point that it found by itself.

    Beside it there are others, for searches that stay with the tables or keep more, found on the same queries
    when first asked for.
    """

    title: ClassVar[str] = "lss-rs, fit alone"
    observes: ClassVar[bool] = True

    def __init__(self, data: Data, num_threads: int) -> None:
        set_num_threads(num_threads)
        Y = data.Y.lists()
        config = self.config(len(data.Q))
        index = Index.from_weights(data.W, data.b, config).fit(data.Q, Y, k=5, progress=False)
        held = held_out_from(len(data.Q), None) % len(data.Q)  # none is held out of few: then all of them
        self._held = data.Q[held:], Y[held:]
        self._points: dict[Kept, OperatingPoint] = {}
        self._keep(index)
        self._fitted, self._at_fit = index.to_bytes(), self._points

    @staticmethod
    def config(n: int) -> LSSConfig:
        """Say what an index for `n` training queries is made from."""
        return LSSConfig()

    def _keep(self, index: Index) -> None:
        self.index, self.search = index, index.search
        self._points[FITTED] = index.operating_point

    # nothing is told of a fit
    stages = BaseEngine.stages

    def configure(self, effort: str = FITTED[0], target: float = FITTED[1]) -> None:
        """Have searches go on where an answer is doubted, stay with tables, or read all rows ("exact")."""
        if effort == "exact":
            self.index.apply(self._points[FITTED]._replace(exact=True))
            return
        at = effort, target
        if at not in self._points:
            report = tune(self.index, *self._held, effort=effort, target=target, progress=False)
            self._points[at] = _alone(report) if effort == "fixed" else report.best
        self.index.apply(self._points[at])

    def observe(self, Q: np.ndarray) -> None:
        self.configure()
        self.index.observe(Q)

    def refresh(self, Q: np.ndarray, **how: Any) -> None:
        self.configure()
        self.index.refresh(progress=False)
        alone = _alone(tune(self.index, Q, **how, effort="fixed", progress=False))
        self._points = {("fixed", FITTED[1]): alone}
        self._keep(self.index.refresh(Q, **how, progress=False))

    def forget(self) -> None:
        self._points = self._at_fit
        self._keep(Index.from_bytes(self._fitted))

    def work(self, Q: np.ndarray) -> Work:
        counted: Any = self.search(Q, 5, stats=True).stats
        work, further = self.work_of(counted), counted["step"]
        beyond = 0.0 if self.index.operating_point.exact else float((further > 1).mean())
        return Work(work.sample, work.bytes_read, beyond)
