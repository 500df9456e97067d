"""Centers of regions: where queries lie together that need the same labels.

k-means puts queries together for which all rows' logits are alike. That is a beginning: what a search asks
of a region is that its list, as far as it is read, holds the labels that the query needs. So the centers are
moved to where this is likely. Lists of one half of the training queries say what each query of the other half
would find in the lists of the centers nearest to it; with the choice of the nearest relaxed to a softmax over
the squared distances, the centers climb what is found on average. Then lists are made anew. Clusters that are
learned by what their labels are worth are the idea of *Learning to Screen* (Chen et al. 2019, arXiv
1810.12406), which draws one for each query by a Gumbel-softmax; here all near ones are weighed at once, by
lists that have not seen the query.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lss_rs._arrays import Labels
from lss_rs.learn.adam import Adam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from lss_rs.learn import Report

SAMPLE = 100_000
"""Training queries, at most, that centers are learned from."""
_STEPS = 12
"""Of k-means."""
_BEST = 5
"""The full layer's best labels of a query, at most, that a list should hold."""
_TRUE = 3.0
"""What one of them counts that is a true label, too."""
_READ = (128, 256, 512, 1024, 2048, 4096)
"""How far lists may be read, on average: a label counts for the share of these for which it is."""
_FOLDS = 16
"""Stretches of queries that are taken for one half and the other in turns: neighbours are of one document."""
_NEAR = 8
"""Centers that are weighed, the nearest."""
_ROUNDS, _EPOCHS, _BATCH = 6, 2, 2048
_MOST_SCORES = 2**23
"""Distances that are computed at a time."""
_RATE = 0.02
"""The first step, in deviations of the centers' coordinates; it falls to nothing in each round."""
_TEMPERATURE = 0.3
"""In mean differences between a query's nearest and second nearest center."""


class Lists(NamedTuple):
    """The labels that the queries of n regions needed.

    Attributes
    ----------
    indptr, ids : ndarray of int64, shape (n + 1,) and (indptr[-1],)
        Those of each region, those needed most first, as CSR.
    ends : ndarray of uint32, shape (n, e)
        How many of them are read where it is so many (e - 1)ths of ``whole`` on average.
    whole : int
        Labels of a list, on average.
    """

    indptr: NDArray[np.int64]
    ids: NDArray[np.int64]
    ends: NDArray[np.uint32]
    whole: int


class Targets:
    """What lists should hold: of evenly spaced queries some labels, and what each counts.

    Parameters
    ----------
    n : int
        Number of training queries.
    most : int
        Labels are kept of at most so many, of as many as :meth:`lss_rs.learn.aligned.Alignment.sample` takes.
    without : ndarray of int64
        Labels that no list holds, since all queries find them.
    """

    def __init__(self, n: int, most: int = SAMPLE, without: NDArray[np.int64] | None = None) -> None:
        self.most, self.step, self._seen = most, -(-n // most), 0
        self._without = np.empty(0, np.int64) if without is None else without
        self._ids: list[NDArray[np.int64]] = []
        self._weights: list[NDArray[np.float32]] = []

    def add(self, needed: Labels, top: int) -> None:
        """Take the labels of further queries: their true ones, and then the ``top`` best of the full layer.

        Where ``top`` is 0, true labels are all there is, and the first of these count.
        """
        of = np.arange(-self._seen % self.step, needed.n, self.step)
        self._seen += needed.n
        first, last = needed.indptr[of], needed.indptr[of + 1]
        best = last - top if top else first
        at = best[:, None] + np.arange(min(top, _BEST) if top else _BEST)
        there = at < last[:, None]
        ids = np.append(needed.indices, -1)[np.where(there, at, -1)]
        there &= ~np.isin(ids, self._without)
        ids[~there] = -1
        weights = there.astype(np.float32)
        true = Labels(np.concatenate([[0], np.cumsum(best - first)]), needed.indices)
        of_query = true.query_of()
        place = np.arange(len(of_query)) - true.indptr[of_query] + first[of_query]
        row, column = np.nonzero(ids[of_query] == needed.indices[place, None])
        weights[of_query[row], column] = _TRUE
        self._ids.append(ids)
        self._weights.append(weights / np.maximum(weights.sum(axis=1, keepdims=True), 1.0))

    @property
    def ids(self) -> NDArray[np.int64]:
        """The labels (n, t) of the queries; -1 where there are fewer."""
        return np.concatenate(self._ids)

    @property
    def weights(self) -> NDArray[np.float32]:
        """What each of them counts: together 1, or 0 where a query has none."""
        return np.concatenate(self._weights)


class Gradient(NamedTuple):
    """What queries find in the list of the center that is chosen, on average, and where centers find more."""

    found: float
    centers: NDArray[np.float32]


def halves(n: int) -> NDArray[np.int64]:
    """Which half each of n queries belongs to, 0 or 1: what is made of one is judged by the other."""
    return np.arange(n) * min(_FOLDS, n) // max(n, 1) % 2


def nearest(points: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the center nearest to each point."""
    found: NDArray[np.int64] = np.argmax(_scores(points, centers), axis=1)
    return found


def k_means(points: NDArray[np.float32], n: int, seed: int, report: Report) -> NDArray[np.float32]:
    """Lloyd's algorithm from points drawn at random; a center that nothing is near to stays."""
    rng = np.random.default_rng(seed)
    centers = points[rng.choice(len(points), n, replace=False)]
    at_once = max(1, _MOST_SCORES // n)
    for done in range(_STEPS):
        sums, counts = np.zeros((n, points.shape[1])), np.zeros(n)
        for part in np.split(points, range(at_once, len(points), at_once)):
            of = nearest(part, centers)
            found, here = _sums(of, part)
            sums[found] += here
            counts += np.bincount(of, minlength=n)
        met = counts > 0
        centers[met] = (sums[met] / counts[met, None]).astype(np.float32)
        report("centers", done + 1, _STEPS + _ROUNDS + 1)
    return centers


def moved(
    centers: NDArray[np.float32],
    points: NDArray[np.float32],
    targets: Targets,
    lists: Callable[[NDArray[np.int64]], Lists],
    m: int,
    seed: int,
    report: Report,
) -> NDArray[np.float32]:
    """Move centers to where queries find more of what they need in the lists of their regions.

    Parameters
    ----------
    centers : ndarray of float32, shape (n_regions, r)
    points : ndarray of float32, shape (n, r)
        Training queries, weighted.
    targets : Targets
        Of the same queries.
    lists : callable
        ``lists(regions)`` makes them; ``regions`` (n,) has the region of each query, or n_regions for a
        query that does not count.
    m : int
        Number of labels.
    seed : int
        Of the order of queries.
    report : callable
        ``report("centers", done, total)``.

    Returns
    -------
    centers : ndarray of float32, shape (n_regions, r)
        Those of the round after which queries found most in lists that they have no part in.
    """
    n, near_by = len(centers), min(_NEAR, len(centers))
    ids, weights = targets.ids, targets.weights
    half = halves(len(points))
    rng = np.random.default_rng(seed)
    best, most, temperature = centers, -1.0, 0.0
    for done in range(_ROUNDS + 1):
        near, gap = _nearest_of(points, centers, near_by)
        found = np.zeros(near.shape, np.float32)
        for side in (0, 1):
            listed = lists(np.where(half != side, near[:, 0], n))
            here = half == side
            found[here] = found_in(listed, near[here], ids[here], weights[here], m)
        average = float(found[:, 0].mean())
        if average > most:
            best, most = centers, average
        temperature = temperature or _TEMPERATURE * gap
        if done == _ROUNDS or not temperature:
            break
        centers = _climbed(centers, points, near, found, temperature, rng)
        report("centers", _STEPS + done + 1, _STEPS + _ROUNDS + 1)
    report("centers", _STEPS + _ROUNDS + 1, _STEPS + _ROUNDS + 1)
    return best


def members_of(
    lists: Lists, regions: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Go through regions: the number of each, the labels of its list, and where among these it stands."""
    order = np.argsort(regions, kind="stable")
    bounds = np.searchsorted(regions[order], np.arange(len(lists.indptr)))
    for region, (lo, hi) in enumerate(pairwise(bounds)):
        yield region, lists.ids[lists.indptr[region] : lists.indptr[region + 1]], order[lo:hi]


def found_in(
    lists: Lists,
    near: NDArray[np.int64],
    ids: NDArray[np.int64],
    weights: NDArray[np.float32],
    m: int,
) -> NDArray[np.float32]:
    """How much queries find of what they need in the lists of regions near to them.

    Parameters
    ----------
    lists : Lists
    near : ndarray of int64, shape (n, k)
        Regions.
    ids, weights : ndarray, shape (n, t)
        As of :class:`Targets`.
    m : int
        Number of labels.

    Returns
    -------
    ndarray of float32, shape (n, k)
        0 to 1.
    """
    ends, whole = lists.ends, lists.whole
    parts = ends.shape[1] - 1
    read = ends[:, [min(read * parts // max(whole, 1), parts) for read in _READ]]
    found = np.zeros(near.size, np.float32)
    of_label = np.zeros(m + 1, np.float32)  # the last is of no label
    for region, listed, members in members_of(lists, near.ravel()):
        of_label[listed] = (np.arange(len(listed))[:, None] < read[region]).mean(axis=1)
        queries = members // near.shape[1]
        found[members] = np.einsum("ij,ij->i", of_label[ids[queries]], weights[queries])
        of_label[listed] = 0.0
    return found.reshape(near.shape)


def climb(
    points: NDArray[np.float32],
    centers: NDArray[np.float32],
    near: NDArray[np.int64],
    found: NDArray[np.float32],
    temperature: float,
) -> Gradient:
    """Mean over queries of what they find in the list of the center chosen, and its gradient.

    A center is chosen with a probability that falls with its squared distance, as a softmax.

    Parameters
    ----------
    points : ndarray of float32, shape (n, r)
    centers : ndarray of float32, shape (n_regions, r)
    near : ndarray of int64, shape (n, k)
        Regions whose lists have been looked at, and of which one is chosen.
    found : ndarray of float32, shape (n, k)
        What is found in them.
    temperature : float
        Of half the squared distances.
    """
    there = centers[near]
    scores = np.einsum("ikr,ir->ik", there, points) - 0.5 * np.einsum("ikr,ikr->ik", there, there)
    scores -= scores.max(axis=1, keepdims=True)
    chosen = np.exp(scores / scores.dtype.type(temperature))
    chosen /= chosen.sum(axis=1, keepdims=True)
    expected = (chosen * found).sum(axis=1)
    pull = chosen * (found - expected[:, None]) / (temperature * len(points))
    pulled = pull[:, :, None] * (points[:, None] - there)
    gradient = np.zeros_like(centers)
    regions, sums = _sums(near.ravel(), pulled.reshape(-1, points.shape[1]))
    gradient[regions] = sums
    return Gradient(float(expected.mean()), gradient)


def _climbed(
    centers: NDArray[np.float32],
    points: NDArray[np.float32],
    near: NDArray[np.int64],
    found: NDArray[np.float32],
    temperature: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Go through the queries in batches, in another order each time."""
    n, move = len(points), Adam(centers)
    rate, steps = _RATE * float(centers.std()), _EPOCHS * -(-n // _BATCH)
    done = 0
    for _ in range(_EPOCHS):
        order = rng.permutation(n)
        for lo in range(0, n, _BATCH):
            some = order[lo : lo + _BATCH]
            step = climb(points[some], centers, near[some], found[some], temperature)
            centers = centers + np.float32(rate * (1 - done / steps)) * move.direction(step.centers)
            done += 1
    return centers


def _nearest_of(
    points: NDArray[np.float32], centers: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], float]:
    """Find the k nearest centers of each point, the nearest first, and by how much the second is farther."""
    near, gap = np.empty((len(points), k), np.int64), 0.0
    batch = max(1, _MOST_SCORES // len(centers))
    for lo in range(0, len(points), batch):
        scores = -_scores(points[lo : lo + batch], centers)
        some = np.argpartition(scores, k - 1, axis=1)[:, :k]
        of = np.take_along_axis(scores, some, axis=1)
        order = np.argsort(of, axis=1, kind="stable")
        near[lo : lo + batch] = np.take_along_axis(some, order, axis=1)
        if k > 1:
            first = np.take_along_axis(of, order[:, :2], axis=1)
            gap += float((first[:, 1] - first[:, 0]).sum(dtype=np.float64))
    return near, gap / max(len(points), 1)


def _sums(of: NDArray[np.int64], rows: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the regions that rows are of, and the sum of the rows of each."""
    order = np.argsort(of, kind="stable")
    regions, starts = np.unique(of[order], return_index=True)
    return regions, np.add.reduceat(rows[order], starts, axis=0)


def _scores(points: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half of what squared distances fall short of the points' own squares."""
    return np.asarray(points @ centers.T - 0.5 * np.einsum("ij,ij->i", centers, centers))
