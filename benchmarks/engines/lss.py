"""The package as a user gets it: ``Index.fit`` with the defaults, and one ``Index.search`` a query."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np

from benchmarks.bundles import Labels
from benchmarks.engines import BaseEngine, Data, Work
from lss_rs import Index, LSSConfig, set_num_threads

EXEMPLAR_BYTES = 64
"""Sketch of a training query."""
LISTED_BYTES = 36
"""Of a label in the columns of a region."""


def entry_bytes(params: dict[str, Any]) -> float:
    """Bytes that say which item an entry is, on average: exemplars lie in the order of the first table."""
    listed = params["n_tables"] - (params["fill"] == "queries")
    return 4 * listed / params["n_tables"]


def labels_an_exemplar(params: dict[str, Any]) -> float:
    """Say how many labels a training query in an index brings, on average."""
    return float(params["n_labels"] * params["n_tables"] / params["n_entries"])


class Engine(BaseEngine):
    """An index.

    Parameters
    ----------
    copy : bool
        As :meth:`lss_rs.Index.from_weights`.
    **build
        Fields of :class:`lss_rs.LSSConfig`.
    """

    title: ClassVar[str] = "lss-rs"
    sees: ClassVar[str] = "rows, queries"
    kind: ClassVar[str] = "ours"

    def __init__(self, data: Data, num_threads: int, copy: bool = True, **build: Any) -> None:
        set_num_threads(num_threads)
        self._stages: dict[str, float] = {}
        config = LSSConfig(**build)
        learns = config.fill == "queries" or config.method == "iul"
        Y = data.Y.sparse(len(data.W)) if learns else None
        self.index = Index.from_weights(data.W, data.b, config, copy=copy)
        self._clock = time.perf_counter()
        # k = 5: what the benchmark asks, and what a search must not exceed.
        self.index.fit(data.Q, Y, k=5, target=None, progress=False, callback=self._lap)
        self.search = self.index.search
        self._point = self.index.operating_point

    def _lap(self, stage: str, done: int, total: int) -> None:
        now = time.perf_counter()
        self._stages[stage] = self._stages.get(stage, 0.0) + now - self._clock
        self._clock = now

    def stages(self) -> dict[str, float]:
        return self._stages

    def configure(self, **search: int | None) -> None:
        self.index.apply(self._point._replace(**search))

    def set_num_threads(self, n: int) -> None:
        set_num_threads(n)

    def one(self, q: np.ndarray, k: int) -> Any:
        return self.search(q, k)

    def batch(self, Q: np.ndarray, k: int) -> Any:
        return self.search(Q, k)

    def labels(self, answer: Any) -> np.ndarray:
        return np.atleast_2d(answer.labels)

    def size(self) -> int:
        return self.index.nbytes

    def work(self, Q: np.ndarray) -> Work:
        return self.work_of(self.search(Q, 5, stats=True).stats or {})

    def work_of(self, counted: dict[str, np.ndarray]) -> Work:
        """Work by lists and tables, or of all rows, as a search's stats count it."""
        stats = {name: values.mean() for name, values in counted.items()}
        d, params, at = self.index.d, self.index.params, self.index.operating_point
        itemsize = {"float32": 4}.get(self.index.dtype, 2)
        step, looked_at = counted["step"], counted["candidates"]
        # All rows are read in bytes, where there are such, and few in full.
        rows = stats["rescored"] * (d * itemsize + 4)
        rows += (step == 3).mean() * self.index.m * params.get("row_nbytes", 0)
        if at.exact:
            return Work(stats["candidates"], rows)
        tables = stats["probes"] * 8 + stats["entries"] * entry_bytes(params)
        if params["fill"] == "queries":
            labels = stats["neighbors"] * labels_an_exemplar(params)
            tables += stats["entries"] * EXEMPLAR_BYTES + stats["neighbors"] * 8 + 4 * labels
        # A scan counts all rows as looked at; what it reads of them is something else.
        sketches = (looked_at * (step == 1)).mean() * params["sketch_bytes"]
        sketches += (step > 1).mean() * params["scan_nbytes"]
        maps = params["nbytes"]["maps"]
        if at.list:
            listed = np.where(step == 0, looked_at, at.list.n_listed).mean()
            sketches += listed * LISTED_BYTES + at.list.n_rescore * params["row_nbytes"]
            maps = maps * (step > 0).mean() + params["lead_nbytes"] + params["region_nbytes"]
        return Work(stats["candidates"], maps + tables + sketches + rows)

    def candidates(self, Q: np.ndarray) -> Labels:
        return Labels(*self.index.candidates(Q))
