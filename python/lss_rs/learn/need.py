"""How far down its list a query needs to read.

A list is read as far as its region's queries need on average, but they differ: the labels of some come early,
and others need what few do. How far is foreseen from what a search knows before it reads: how far the query
lies from centers, from the mean query of all and from that of its region, and where. The logarithm of the
place at which the last of its labels stands is linear in these, beside where reading ends on average, and is
learned as centers are (:mod:`lss_rs.learn.centers`), by lists that have not seen the query. What is foreseen
is uncertain, so that half of it is believed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lss_rs.learn.centers import halves

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lss_rs.learn.centers import Lists, Targets

SHOWN = 5
"""Weights before those of coordinates: of one, and of the logarithms of :class:`Seen`."""
_NEAR, _FAR = 1e-3, 1e3
"""Distances, at least and at most, as a search takes them."""
_MOST = 8.0
"""No query reads more than so many times what is read on average, or less than that part of it."""
_BELIEVED = 0.5
"""Share of what is foreseen."""
_RIDGE = 20.0
"""What regression takes for granted, in queries."""
_ROUNDS = 40
"""Halvings, after which the average is known well enough."""


class Seen(NamedTuple):
    """What a search knows of queries before it reads their lists.

    Attributes
    ----------
    points : ndarray of float32, shape (n, r)
        Weighted leading coordinates.
    regions : ndarray of int64, shape (n,)
        The region of each.
    distances : ndarray of float32, shape (n, 3)
        To the center, to the second nearest one, and to the mean query.
    lengths : ndarray of float32, shape (n,)
        Of their coordinates in the region.
    """

    points: NDArray[np.float32]
    regions: NDArray[np.int64]
    distances: NDArray[np.float32]
    lengths: NDArray[np.float32]


def distances(
    points: NDArray[np.float32], regions: NDArray[np.int64], centers: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the distances (n, 3) of points to their region's center, the nearest other, and the origin."""
    squares = np.einsum("ij,ij->i", points, points)[:, None]
    squares = squares - 2 * points @ centers.T + np.einsum("ij,ij->i", centers, centers)
    own = np.take_along_axis(squares, regions[:, None], axis=1)[:, 0]
    np.put_along_axis(squares, regions[:, None], np.inf, axis=1)
    found = np.stack([own, squares.min(axis=1), np.einsum("ij,ij->i", points, points)], axis=1)
    return np.asarray(np.sqrt(np.maximum(found, 0.0)), np.float32)


def learn_need(
    seen: Seen,
    targets: Targets,
    lists: Callable[[NDArray[np.int64]], Lists],
    n_regions: int,
    m: int,
) -> NDArray[np.float32]:
    """Learn how far queries need to read, beside others in their region.

    Parameters
    ----------
    seen : Seen
        Of training queries.
    targets : Targets
        Of the same queries.
    lists : callable
        ``lists(regions)`` makes them; ``regions`` (n,) has the region of each query, or n_regions for a
        query that does not count.
    n_regions, m : int
        Number of regions, and of labels.

    Returns
    -------
    ndarray of float32, shape (5 + r,)
        What one, the logarithms of the distances and of the length, and the points are multiplied by; the sum
        is the logarithm of how far a query reads, as a multiple of the average.
    """
    n, r = seen.points.shape
    half = halves(n)
    further, average = np.zeros(n), np.zeros(n)
    counted = np.zeros(n, bool)
    sides = []
    for side in (0, 1):
        here = half == side
        made = lists(np.where(here, n_regions, seen.regions))
        place, known = farthest(made, seen.regions[here], targets.ids[here], m)
        middle = made.ends.shape[1] // 2
        average[here] = np.log1p(made.ends[seen.regions[here], middle])
        further[here], counted[here] = place - average[here], known
        sides.append((here, made))
    weights = np.zeros(SHOWN + r)
    if not counted.any():
        return weights.astype(np.float32)
    with np.errstate(divide="ignore"):
        logs = np.log(np.clip(np.column_stack([seen.distances, seen.lengths]), _NEAR, _FAR))
    shown = np.column_stack([logs, seen.points]).astype(np.float64)
    mean, deviation = shown[counted].mean(axis=0), shown[counted].std(axis=0)
    standard = (shown - mean) / np.where(deviation > 0, deviation, 1.0)
    known = standard[counted]
    found = np.linalg.solve(
        known.T @ known + _RIDGE * np.eye(known.shape[1]),
        known.T @ (further[counted] - further[counted].mean()),
    )
    found *= _BELIEVED
    foreseen = standard @ found
    weights[1:] = found / np.where(deviation > 0, deviation, 1.0)
    weights[0] = _evened(foreseen, seen.regions, sides) - mean @ weights[1:]
    return weights.astype(np.float32)


def farthest(
    lists: Lists, regions: NDArray[np.int64], ids: NDArray[np.int64], m: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Find the logarithm of where the last of what a query needs stands in its list, and who needs something.

    What is not listed stands behind the last of the longest list.

    Parameters
    ----------
    lists : Lists
    regions : ndarray of int64, shape (n,)
        The region of each query.
    ids : ndarray of int64, shape (n, t)
        As of :class:`lss_rs.learn.centers.Targets`.
    m : int
        Number of labels.
    """
    indptr, labels = lists.indptr, lists.ids
    order = np.argsort(regions, kind="stable")
    bounds = np.searchsorted(regions[order], np.arange(len(indptr)))
    behind = np.log1p(np.diff(indptr).max(initial=0))
    found = np.zeros(len(regions))
    of_label = np.append(np.full(m, behind), 0.0)  # the last is of no label
    for region, (lo, hi) in enumerate(pairwise(bounds)):
        listed = labels[indptr[region] : indptr[region + 1]]
        of_label[listed] = np.log1p(np.arange(len(listed)))
        queries = order[lo:hi]
        found[queries] = of_label[ids[queries]].max(axis=1, initial=0.0)
        of_label[listed] = behind
    return found, np.asarray((ids >= 0).any(axis=1))


def _evened(
    foreseen: NDArray[np.float64],
    regions: NDArray[np.int64],
    sides: list[tuple[NDArray[np.bool_], Lists]],
) -> float:
    """Find what to add, so that queries read as much together as if all read as far as the average."""

    def read(added: float) -> float:
        share = np.clip(np.exp(foreseen + added), 1 / _MOST, _MOST)
        total = 0.0
        for here, made in sides:
            parts = made.ends.shape[1] - 1
            place = np.minimum(share[here] * (parts / 2), parts)
            before = np.minimum(place.astype(np.int64), parts - 1)
            ends = made.ends.astype(np.float64)
            first, last = ends[regions[here], before], ends[regions[here], before + 1]
            total += float((first + (last - first) * (place - before)).sum())
        return total

    everyone = sum(
        float(made.ends[regions[here], made.ends.shape[1] // 2].sum(dtype=np.float64)) for here, made in sides
    )
    low, high = -np.log(_MOST), np.log(_MOST)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if read(middle) < everyone else (low, middle)
    return float((low + high) / 2)
