"""Regions: parts of the space of queries, each with a list of the labels that its queries needed.

A query's region is that of the nearest center (:mod:`lss_rs.learn.centers`), in the coordinates and weights
by which exemplars are near: near each other are queries for which all rows' logits are alike
(``rust/core/src/exemplars.rs``).

Within a region queries differ by less, and along other directions, so each region has coordinates of its own:
the closed form of :mod:`lss_rs.learn.aligned` once more, for its queries and the labels of its list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lss_rs import _core
from lss_rs._arrays import BLOCK
from lss_rs.learn.aligned import closed_form, distance_weights, single
from lss_rs.learn.centers import Lists, k_means, moved
from lss_rs.learn.need import learn_need

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lss_rs._arrays import QueryRows
    from lss_rs.learn import Report
    from lss_rs.learn.aligned import Alignment
    from lss_rs.learn.centers import Targets

MOST_LISTED = 8192
"""Labels that a region lists, at most."""
_WIDTH = 64
"""Leading coordinates, at most, that queries are put together by."""
_ROWS = 2048
"""Labels of a list, at most, whose covariance stands for that of all."""
_MOST_KEPT = 256
"""Coordinates of a region, at most: as many as its sketches have bits."""
_PRIOR = 0.5
"""What the covariance of queries in all regions counts in each, in queries a coordinate."""


class Regions(NamedTuple):
    """Where regions are, and what the queries in each are like.

    Attributes
    ----------
    centers : _core.Centers
        In the leading coordinates, weighted.
    of : ndarray of uint32, shape (n,)
        The region of each training query.
    means : ndarray of float64, shape (n_regions, d)
        Mean query of each.
    covariances : ndarray of float32, shape (n_regions, p, p)
        Of the queries' coordinates around their mean, as far as few queries tell.
    alignment : Alignment
        The p coordinates that an index keeps.
    """

    centers: _core.Centers
    of: NDArray[np.uint32]
    means: NDArray[np.float64]
    covariances: NDArray[np.float32]
    alignment: Alignment


def learn_regions(
    builder: _core.Builder,
    alignment: Alignment,
    queries: QueryRows,
    targets: Targets,
    m: int,
    n_regions: int,
    seed: int,
    report: Report,
) -> Regions:
    """Put training queries together.

    Parameters
    ----------
    builder : _core.Builder
        Knows all training queries and the labels that they needed.
    alignment : Alignment
        The coordinates that an index keeps.
    queries : QueryRows
        Training queries.
    targets : Targets
        What lists should hold for those from which centers are learned.
    m : int
        Number of labels.
    n_regions : int
        At most: there are no more than queries.
    seed : int
    report : callable
        ``report(stage, done, total)``.
    """
    r, step = min(_WIDTH, len(alignment.variances)), targets.step
    weights = distance_weights(alignment.variances[:r])
    sample = alignment.leading(r).sample(queries, targets.most) * weights
    n_regions = min(n_regions, len(sample))
    lists = _lists_of(builder, queries.n, step, n_regions)
    found = moved(k_means(sample, n_regions, seed, report), sample, targets, lists, m, seed, report)
    centers = _core.Centers(weights, found)
    of = np.concatenate([builder.place(centers, block) for block in queries.blocks()])
    p, d = alignment.query_map.shape
    counts = np.zeros(n_regions)
    sums, means = np.zeros((n_regions, p)), np.zeros((n_regions, d))
    products = np.zeros((n_regions, p, p), np.float32)
    for at, block in enumerate(queries.blocks(step)):
        z = alignment.place(block)
        regions = of[::step][at * BLOCK :][: len(block)]
        for region in np.unique(regions):
            members = regions == region
            here = z[members]
            counts[region] += len(here)
            sums[region] += here.sum(axis=0)
            means[region] += block[members].sum(axis=0, dtype=np.float64)
            products[region] += here.T @ here
    known = np.maximum(counts, 1.0)[:, None]
    sums, means = sums / known, means / known
    means[counts == 0] = alignment.query_mean
    products -= (counts[:, None, None] * sums[:, :, None] * sums[:, None, :]).astype(np.float32)
    # few queries tell little of their covariance: what is missing is that within all regions
    within = products.sum(axis=0) / counts.sum()
    prior = _PRIOR * p
    products += prior * within
    products /= (counts + prior).astype(np.float32)[:, None, None]
    return Regions(centers, of, means, products, alignment)


def lay_out(
    builder: _core.Builder,
    index: _core.Index,
    regions: Regions,
    queries: QueryRows,
    targets: Targets,
    report: Report,
) -> None:
    """Learn coordinates for each region, lay its list out by these, and learn how far queries read.

    Parameters
    ----------
    builder : _core.Builder
        Knows all training queries and the labels that they needed.
    index : _core.Index
        Holds the rows.
    regions : Regions
    queries : QueryRows
        Training queries.
    targets : Targets
        What lists should hold for those from which centers were learned.
    report : callable
        ``report(stage, done, total)``.
    """
    alignment, n = regions.alignment, len(regions.means)
    (indptr, ids), ends, whole = builder.lists(regions.of, n, MOST_LISTED)
    p = len(alignment.variances)
    variances = np.zeros((n, p))
    most = min(_MOST_KEPT, p)
    query_maps, row_maps = np.empty((n, most, p), np.float32), np.empty((n, most, p), np.float32)
    for region in range(n):
        listed = ids[indptr[region] : indptr[region + 1]]
        rows = index.rows_of(np.ascontiguousarray(listed[:: -(-len(listed) // _ROWS) or 1]))
        z = rows @ alignment.row_map.T
        z -= z.mean(axis=0) if len(z) else 0.0
        covariance = z.T @ z / max(len(z), 1)
        covariance += np.diag(alignment.variances) / (1 + len(z))  # of few labels, too
        form = closed_form(regions.covariances[region].astype(np.float64), covariance.astype(np.float64))
        query_maps[region], row_maps[region] = form.query_map[:most], form.row_map[:most]
        variances[region] = form.variances
        report("regions", region + 1, n)
    of_all = variances.mean(axis=0).astype(np.float32)
    kept = min(32 * len(_core.region_widths(of_all)), most)
    from_queries = query_maps[:, :kept] @ alignment.query_map
    offsets = -np.einsum("npd,nd->np", from_queries, regions.means)
    builder.lay_out(
        regions.centers,
        indptr,
        ids,
        ends,
        whole,
        np.ascontiguousarray(from_queries),
        single(offsets),
        np.ascontiguousarray(row_maps[:, :kept] @ alignment.row_map),
        single(alignment.scale * (regions.means - alignment.query_mean)),
        of_all,
    )
    known = np.concatenate([builder.known(block) for block in queries.blocks(targets.step)])
    of = regions.of[:: targets.step].astype(np.int64)
    lists = _lists_of(builder, queries.n, targets.step, n)
    builder.set_need(learn_need(known, of, targets.ids, lists, n, index.m))


def _lists_of(
    builder: _core.Builder, n: int, step: int, n_regions: int
) -> Callable[[NDArray[np.int64]], Lists]:
    """Make lists of every step-th of n queries, whose regions are given."""

    def lists(regions: NDArray[np.int64]) -> Lists:
        of = np.full(n, n_regions, np.uint32)
        of[::step] = regions
        csr, ends, whole = builder.lists(of, n_regions, MOST_LISTED)
        return Lists(*csr, ends, whole)

    return lists
