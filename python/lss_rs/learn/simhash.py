"""Random SimHash, where the paper starts: Gaussian planes through the origin of the augmented space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def simhash_planes(
    d: int, n_tables: int, n_bits: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw planes over ``[q, 1]`` and ``[w, b]``.

    Returns
    -------
    planes : ndarray of float32, shape (n_tables, n_bits, d + 1)
    thresholds : ndarray of float32, shape (n_tables, n_bits)
        All zero: the code is the signs.
    """
    planes = np.random.default_rng(seed).standard_normal((n_tables, n_bits, d + 1), dtype=np.float32)
    return planes, np.zeros((n_tables, n_bits), np.float32)
