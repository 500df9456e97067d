"""Logit-aligned coordinates: the closed form that planes and sketches are cut from.

With mu, S the mean and covariance of the training queries and A = (W - mean W) S^(1/2), decompose
A^T A / m = U diag(e) U^T, e falling. Then z(q) = U^T S^(-1/2) (q - mu) has mean 0 and covariance I, Z = A U
are the rows, and for every query and row

    w . q + b = (w . mu + b) + Z_w . z(q) + (a term equal for all rows).

e_j is the logit variance that coordinate j carries, so whoever keeps the leading coordinates keeps most of
what tells the rows apart. A is never held: A^T A / m = S^(1/2) Cov(W) S^(1/2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from lss_rs._arrays import QueryRows

_FLOOR = 1e-9
"""Eigenvalues below this part of the largest are raised to it: a direction that training never showed must
not explode in S^(-1/2), and a pseudo-inverse would break the identity above."""


class Moments:
    """Mean and covariance of vectors that come in blocks, accumulated in double precision."""

    def __init__(self, d: int) -> None:
        self.n = 0
        self._shift = np.zeros(d)  # near the mean, so that the sums of squares do not cancel
        self._sum = np.zeros(d)
        self._products = np.zeros((d, d))

    def add(self, block: NDArray[np.float32]) -> None:
        """Take in the vectors of ``block``, (n, d)."""
        wide = block.astype(np.float64)
        if self.n == 0 and len(wide):
            self._shift = wide.mean(axis=0)
        wide -= self._shift
        self.n += len(wide)
        self._sum += wide.sum(axis=0)
        self._products += wide.T @ wide

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean, (d,)."""
        return self._shift + self._sum / self.n

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Covariance, (d, d), dividing by n."""
        offset = self._sum / self.n
        return self._products / self.n - np.outer(offset, offset)

    @classmethod
    def of(cls, blocks: Iterable[NDArray[np.float32]], d: int) -> Moments:
        """Moments of everything in ``blocks``."""
        moments = cls(d)
        for block in blocks:
            moments.add(block)
        return moments


@dataclass(frozen=True)
class Alignment:
    """z(q) = query_map @ q + query_offset and Z_w = row_map @ w + row_offset, most telling coordinate first.

    Attributes
    ----------
    query_map, row_map : ndarray of float32, shape (p, d)
    query_offset, row_offset : ndarray of float32, shape (p,)
    query_mean, query_deviations : ndarray of float32, shape (d,)
        Of the training queries, of each of their d numbers.
    variances : ndarray of float32, shape (p,)
        Logit variance that each coordinate carries, falling.
    scale : float
        What the rows' side is multiplied by: 1, or a power of two that brings logits of extreme size into the
        range of float32. Order among rows does not depend on it.
    flat : float
        Share of the directions in which the queries hardly vary, and whose variance was raised to the floor.
    """

    query_map: NDArray[np.float32]
    query_offset: NDArray[np.float32]
    row_map: NDArray[np.float32]
    row_offset: NDArray[np.float32]
    query_mean: NDArray[np.float32]
    query_deviations: NDArray[np.float32]
    variances: NDArray[np.float32]
    scale: float = 1.0
    flat: float = 0.0

    def leading(self, p: int) -> Alignment:
        """Keep the ``p`` most telling coordinates."""
        return replace(
            self,
            query_map=self.query_map[:p],
            query_offset=self.query_offset[:p],
            row_map=self.row_map[:p],
            row_offset=self.row_offset[:p],
            variances=self.variances[:p],
        )

    def place(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Coordinates (n, p) of queries (n, d)."""
        return queries @ self.query_map.T + self.query_offset

    def sample(self, queries: QueryRows, most: int) -> NDArray[np.float32]:
        """Coordinates of evenly spaced queries: of all, or of half of ``most`` to ``most``."""
        return np.concatenate([self.place(block) for block in queries.blocks(-(-queries.n // most))])

    @property
    def rank(self) -> int:
        """Number of coordinates that carry logit variance; all of them where none does."""
        telling = int(np.count_nonzero(self.variances > _FLOOR * self.variances[0]))
        return telling or len(self.variances)


class Form(NamedTuple):
    """Maps of queries and of rows, (p, p) each, and the logit variances along the coordinates, (p,)."""

    query_map: NDArray[np.float64]
    row_map: NDArray[np.float64]
    variances: NDArray[np.float64]
    flat: float


def closed_form(queries: NDArray[np.float64], rows: NDArray[np.float64]) -> Form:
    """Solve for coordinates from the covariances of queries and of rows, (p, p) each.

    ``flat`` is the share of the directions in which queries hardly vary.
    """
    values, vectors = np.linalg.eigh(queries)
    deviations = np.sqrt(_floored(values))
    root = (vectors * deviations) @ vectors.T
    inverse_root = (vectors / deviations) @ vectors.T
    variances, directions = np.linalg.eigh(root @ rows @ root)
    variances, directions = np.maximum(variances[::-1], 0.0), directions[:, ::-1]
    # an eigenvector's sign is LAPACK's whim: fix it
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(len(largest))])
    flat = float(np.mean(values <= _FLOOR * values.max()))
    return Form(directions.T @ inverse_root, directions.T @ root, variances, flat)


def align(queries: Moments, rows: Moments) -> Alignment:
    """Solve the closed form for all d coordinates.

    Parameters
    ----------
    queries, rows : Moments
        Of the training queries, and of the rows of W.
    """
    form = closed_form(queries.covariance, rows.covariance)
    scale = _scale(form.variances[0])
    query_map, row_map = form.query_map, scale * form.row_map
    return Alignment(
        query_map=single(query_map),
        query_offset=single(-query_map @ queries.mean),
        row_map=row_map.astype(np.float32),
        row_offset=(-row_map @ rows.mean).astype(np.float32),
        query_mean=queries.mean.astype(np.float32),
        query_deviations=np.sqrt(np.maximum(np.diag(queries.covariance), 0.0)).astype(np.float32),
        variances=(scale * scale * form.variances).astype(np.float32),
        scale=scale,
        flat=form.flat,
    )


def single(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Round to single precision and stay within it: extreme queries make more, and files take no infinity."""
    with np.errstate(over="ignore"):
        return np.nan_to_num(np.ascontiguousarray(values, np.float32))


def _scale(variance: float) -> float:
    """1 where float32 holds this variance and far smaller ones; else a power of two that makes it about 1."""
    if variance <= 0.0 or 1e-20 < variance < 1e30:
        return 1.0
    return float(2.0 ** -np.round(np.log2(variance) / 2))


def _floored(values: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = values.max()
    # equal queries have no covariance: any scale will do
    return np.maximum(values, _FLOOR * largest) if largest > 0 else np.ones_like(values)


def distance_weights(variances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what coordinates with these logit variances are multiplied by, for distances between queries."""
    return np.sqrt(variances / variances[0]) if variances[0] > 0 else np.ones_like(variances)


def aligned_planes(
    variances: NDArray[np.float32], sample: NDArray[np.float32], n_tables: int, n_bits: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw planes in aligned coordinates, each dividing the training queries into halves.

    Directions within a table are orthonormal before they are weighted by the deviation of the logits along
    each coordinate, and planes are scaled to unit deviation after, so that margins of different planes
    compare.

    Parameters
    ----------
    variances : ndarray of float32, shape (r,)
        Logit variances of the coordinates to use.
    sample : ndarray of float32, shape (n, r)
        Training queries in these coordinates, n >= 1.
    n_tables, n_bits : int
        ``n_bits <= r``.
    seed : int

    Returns
    -------
    planes : ndarray of float32, shape (n_tables, n_bits, r)
    thresholds : ndarray of float32, shape (n_tables, n_bits)
    """
    r = len(variances)
    if n_bits > r:
        raise ValueError(
            f"The 'n_bits' parameter of LSSConfig must be at most {r}, the number of orthogonal directions "
            f"in which these queries and rows differ. Got {n_bits} instead."
        )
    rng = np.random.default_rng(seed)
    weights = distance_weights(variances)
    planes = np.empty((n_tables, n_bits, r), np.float32)
    thresholds = np.empty((n_tables, n_bits), np.float32)
    for table in range(n_tables):
        basis, upper = np.linalg.qr(rng.standard_normal((r, n_bits)))
        basis = basis * np.sign(np.diag(upper))  # again LAPACK's whim
        theta = (basis * weights[:, None]).T
        theta /= np.linalg.norm(theta, axis=1, keepdims=True)  # Cov z = I: the norm is the deviation
        planes[table] = theta
        thresholds[table] = np.median(sample @ planes[table].T, axis=0)
    return planes, thresholds
