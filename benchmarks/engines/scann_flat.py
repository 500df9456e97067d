"""ScaNN without a tree."""

from __future__ import annotations

import numpy as np

from benchmarks.engines import Work
from benchmarks.engines._scann import ScannEngine


class Engine(ScannEngine):
    """Asymmetric hashing of every row, then the best rows exactly."""

    title = "ScaNN, no tree"

    def work(self, Q: np.ndarray) -> Work:
        return Work(self._m, self._m * self._code_bytes + self._reorder * self._d * 4)
