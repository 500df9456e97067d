"""Learning: from training queries and rows to planes and coordinates. Needs numpy alone, but for IUL."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from lss_rs import _core
from lss_rs._arrays import BLOCK, message
from lss_rs.config import SPARE_COORDINATES
from lss_rs.learn.aligned import Moments, align, aligned_planes
from lss_rs.learn.refine import refined_planes
from lss_rs.learn.simhash import simhash_planes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lss_rs._arrays import Labels, QueryRows
    from lss_rs.config import IULOptions, LSSConfig
    from lss_rs.learn.aligned import Alignment
    from lss_rs.learn.iul import Round

    Report = Callable[[str, int, int], None]

_SAMPLE = 20_000
"""Training queries, at most, whose median sets a plane's threshold."""
_POOL, _POOL_WIDTH = 100_000, 128
"""Training queries and leading coordinates, at most, that refinement sees."""
_REFINED_COORDINATES = 2
"""Times n_bits: where refined planes may lie."""


class Learned(NamedTuple):
    """What learning found, the configuration it settled on, its rounds, and what regions are learned from."""

    planes: _core.Planes
    coordinates: _core.Coordinates | None
    config: LSSConfig
    history: tuple[Round, ...] = ()
    regional: Alignment | None = None


def learn(
    index: _core.Index, queries: QueryRows, labels: Labels | None, config: LSSConfig, k: int, report: Report
) -> Learned:
    """Learn planes, and coordinates where planes or sketches need them.

    Parameters
    ----------
    index : _core.Index
        Holds the rows.
    queries : QueryRows
        Training queries.
    labels : Labels, optional
        Their true labels.
    config : LSSConfig
        As given.
    k : int
        Answers that searches will ask for.
    report : callable
        ``report(stage, done, total)``.
    """
    resolved = config.resolve(index.m, index.d, queries.n, k)
    n_tables, n_bits = cast("int", resolved.n_tables), cast("int", resolved.n_bits)
    if resolved.method in ("simhash", "iul"):
        planes, thresholds = simhash_planes(index.d, n_tables, n_bits, config.seed)
        history: tuple[Round, ...] = ()
        if resolved.iul is not None:
            planes, history = _iul(index, queries, labels, planes, resolved, k, report)
        coordinates, regional = None, None
        if config.sketch_bytes or config.fill == "queries":
            alignment, base = _align(index, queries, report)
            kept = alignment.leading(_covered(alignment.variances, config))
            coordinates, regional = _coordinates(kept, base), kept if config.n_regions else None
        report("planes", 1, 1)
        return Learned(
            _core.Planes(planes, thresholds, "augmented"), coordinates, resolved, history, regional
        )
    alignment, base = _align(index, queries, report)
    if config.n_bits is None and n_bits > alignment.rank:  # a default bends to the data; a wish is refused
        n_bits = alignment.rank
        n_probes = min(cast("int", resolved.n_probes), 2**n_bits)
        resolved = replace(resolved, n_bits=n_bits, n_probes=n_probes)
    r = min(n_bits + SPARE_COORDINATES, alignment.rank)
    planes, thresholds = aligned_planes(
        alignment.variances[:r],
        alignment.leading(r).sample(queries, _SAMPLE),
        n_tables,
        n_bits,
        config.seed,
    )
    if resolved.method == "refine":
        r = min(max(_REFINED_COORDINATES * n_bits, n_bits + SPARE_COORDINATES), alignment.rank)
        seen = alignment.leading(max(r, min(_POOL_WIDTH, alignment.rank)))
        exemplars = seen.sample(queries, _POOL)
        planes, thresholds = refined_planes(
            planes, thresholds, exemplars, seen.variances, r, config.seed, report
        )
    kept = alignment.leading(max(r, _covered(alignment.variances, config)))
    report("planes", 1, 1)
    hashed = _core.Planes(planes, thresholds, "aligned")
    return Learned(hashed, _coordinates(kept, base), resolved, regional=kept if config.n_regions else None)


def relearn(index: _core.Index, config: LSSConfig, report: Report) -> _core.Planes:
    """Learn planes from the exemplars that an index keeps, as far as their sketches know them.

    Parameters
    ----------
    index : _core.Index
        Fitted, with exemplars and planes in aligned coordinates.
    config : LSSConfig
        Resolved.
    report : callable
        ``report(stage, done, total)``.
    """
    n_tables, n_bits = cast("int", config.n_tables), cast("int", config.n_bits)
    exemplars, weights = index.exemplar_coordinates(_POOL_WIDTH)
    step = -(-len(exemplars) // _POOL)
    exemplars = np.ascontiguousarray(exemplars[::step])
    r = min(n_bits + SPARE_COORDINATES, len(weights))
    planes, thresholds = aligned_planes(
        weights[:r], exemplars[:: -(-len(exemplars) // _SAMPLE), :r], n_tables, n_bits, config.seed
    )
    if config.method == "refine":
        width = min(max(_REFINED_COORDINATES * n_bits, r), len(weights))
        planes, thresholds = refined_planes(
            planes, thresholds, exemplars, weights, width, config.seed, report
        )
    report("planes", 1, 1)
    return _core.Planes(planes, thresholds, "aligned")


def _iul(
    index: _core.Index,
    queries: QueryRows,
    labels: Labels | None,
    planes: NDArray[np.float32],
    config: LSSConfig,
    k: int,
    report: Report,
) -> tuple[NDArray[np.float32], tuple[Round, ...]]:
    """Learn planes as the paper does."""
    from lss_rs.learn.iul import iul_planes  # torch, which no other method needs

    if queries.n == 0:
        raise ValueError(message(queries.arg, "at least one query with method='iul'", 0))
    options = cast("IULOptions", config.iul)
    planes, history = iul_planes(index, queries, labels, planes, options, k, config.seed, report)
    if not any(met.pairs for met in history):
        positives, negatives = history[-1].positives, history[-1].negatives
        warnings.warn(
            f"IUL learned nothing, for it needs pairs that should meet and pairs that should not: it found "
            f"{positives} and {negatives}. Fewer n_bits bring more rows together, more n_bits part them.",
            UserWarning,
            stacklevel=4,
        )
    return planes, history


def _align(index: _core.Index, queries: QueryRows, report: Report) -> tuple[Alignment, NDArray[np.float32]]:
    """Return the closed form for all coordinates, and the logits of the mean query."""
    n, m, d = queries.n, index.m, index.d
    if n == 0:
        raise ValueError(message(queries.arg, f"at least one query, better 2 * d = {2 * d}", 0))
    if n < 2 * d:
        warnings.warn(
            f"{n} training queries are few for d={d}: their covariance is taken as it is, and at least "
            f"2 * d = {2 * d} are needed for it to mean much.",
            UserWarning,
            stacklevel=4,
        )
    query_moments = Moments(d)
    for block in queries.blocks():
        query_moments.add(block)
        report("queries", query_moments.n, n)
    row_moments, mean = Moments(d), query_moments.mean
    base = index.bias.astype(np.float64)
    for lo in range(0, m, BLOCK):
        block = index.rows(lo, min(BLOCK, m - lo))
        row_moments.add(block)
        base[lo : lo + len(block)] += block @ mean
        report("rows", row_moments.n, m)
    alignment = align(query_moments, row_moments)
    if n >= 2 * d and alignment.flat > 0.5:
        warnings.warn(
            f"'{queries.arg}' hardly varies in {alignment.flat:.0%} of its {d} directions. If a few queries "
            "are larger than all others by orders of magnitude, they hide the rest: leave them out.",
            UserWarning,
            stacklevel=4,
        )
    return alignment, (alignment.scale * base).astype(np.float32)


def _coordinates(kept: Alignment, base: NDArray[np.float32]) -> _core.Coordinates:
    """Hand over what planes or sketches read: a search projects onto every coordinate kept."""
    queries = kept.query_map, kept.query_offset, kept.query_mean, kept.query_deviations
    return _core.Coordinates(*queries, kept.row_map, kept.row_offset, kept.variances, base)


def _covered(variances: NDArray[np.float32], config: LSSConfig) -> int:
    """Count the leading coordinates that have a place in a sketch."""
    groups = len(_core.sketch_widths(variances, config.sketch_bytes)) if config.sketch_bytes else 0
    if config.fill == "queries":
        groups = max(groups, len(_core.exemplar_widths(variances)))
    return min(32 * groups, len(variances))
