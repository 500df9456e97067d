"""What the two engines made of ScaNN share.

ScaNN writes one line a build to stderr and has no switch for it in Python.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scann

from benchmarks.engines import BaseEngine, Data
from benchmarks.engines._mips import products

__all__ = ["ScannEngine"]


class ScannEngine(BaseEngine):
    """One searcher, ``self._searcher``."""

    library = "scann"
    _leaves = -1  # -1: what the index was built with, and the only value without a tree

    def __init__(self, data: Data, num_threads: int, *, threshold: float, **tree: Any) -> None:
        rows, self._prepare = products(data, "ip")
        self._m, self._d = rows.shape
        builder = scann.scann_ops_pybind.builder(np.ascontiguousarray(rows), 10, "dot_product")
        builder.set_n_training_threads(num_threads)
        if tree:
            builder.tree(num_leaves_to_search=1, **tree)
        # Of two coordinates a code, as its documents say.
        builder.score_ah(2, anisotropic_quantization_threshold=threshold).reorder(100)
        self._searcher = builder.build()
        self.set_num_threads(num_threads)

    def configure(self, reorder: int) -> None:
        self._reorder = reorder

    def set_num_threads(self, n: int) -> None:
        self._searcher.set_num_threads(n)
        searcher = self._searcher
        self._search_batch = searcher.search_batched if n == 1 else searcher.search_batched_parallel

    def prepare(self, Q: np.ndarray) -> np.ndarray:
        return self._prepare(Q)

    def one(self, q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self._searcher.search(q, k, self._reorder, self._leaves)

    def batch(self, Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self._search_batch(Q, k, self._reorder, self._leaves)

    def labels(self, answer: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        found, products_ = map(np.atleast_2d, answer)
        return np.where(np.isnan(products_), -1, found.astype(np.int64))

    def size(self) -> int:
        """Bytes of the serialised index, rows included."""
        with TemporaryDirectory() as folder:
            self._searcher.serialize(folder)
            return sum(file.stat().st_size for file in Path(folder).iterdir())

    @property
    def _code_bytes(self) -> int:
        return -(-self._d // 4)  # four bits for two coordinates
