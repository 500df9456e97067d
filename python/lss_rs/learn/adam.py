"""Steps of a size of their own for every number that is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Adam:
    """Kingma and Ba, "Adam", ICLR 2015."""

    def __init__(self, like: NDArray[np.float32]) -> None:
        self._mean, self._square = np.zeros_like(like), np.zeros_like(like)
        self._steps = 0

    def direction(self, gradient: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where to go from here, times a rate."""
        self._steps += 1
        self._mean = 0.9 * self._mean + 0.1 * gradient
        self._square = 0.999 * self._square + 0.001 * gradient * gradient
        mean, square = self._mean / (1 - 0.9**self._steps), self._square / (1 - 0.999**self._steps)
        return np.asarray(mean / (np.sqrt(square) + 1e-8))
