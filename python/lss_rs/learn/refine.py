"""Refinement: from the planes of the closed form to planes that bring a query to the exemplars it needs.

A probe of a table costs the sum of the squared margins of the bits that it flips, and probes come in order
of cost, until a budget of entries is spent. So a query meets an exemplar early if few exemplars are cheaper:
what counts is the exemplar's place among all in the order of

    cost(q, x) = sum over bits of margin(q)^2 where the codes of q and x differ,     the least over tables.

With codes relaxed to ``sigmoid(2 * SHARPNESS * margin)`` and the least to a sum over tables of
``exp(-cost / TEMPERATURE)``, planes and thresholds climb the likelihood that of an exemplar near the query
and others drawn at random the near one comes first: the loss of contrastive learning (van den Oord et al.
2018, arXiv 1807.03748), over what multi-probing does. Full buckets need no term of their own: what shares a
bucket with everybody comes before the near one.

Near is near in the logits: the closed form's coordinates, weighted by the logit variance that each carries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lss_rs import _core
from lss_rs._arrays import BLOCK
from lss_rs.learn.adam import Adam

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lss_rs.learn import Report

STEPS, BATCH, OTHERS = 400, 256, 2048
"""At most; few queries are learned from in fewer and smaller steps."""
ANCHORS, NEAR = 6_000, 30
"""Queries whose nearest are looked up, and how many of these."""
_FEW = 16
"""Of so few exemplars one is near, so that near is nearer than drawn at random."""
RATE, TEMPERATURE, SHARPNESS = 0.02, 0.5, 6.0


class Pairs(NamedTuple):
    """Anchors (n,), and the exemplars nearest to each (n, NEAR)."""

    anchors: NDArray[np.int64]
    near: NDArray[np.int64]


class Step(NamedTuple):
    """A loss and its gradients."""

    loss: float
    planes: NDArray[np.float32]
    thresholds: NDArray[np.float32]


def refined_planes(
    planes: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    exemplars: NDArray[np.float32],
    variances: NDArray[np.float32],
    width: int,
    seed: int,
    report: Report,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Learn planes, beginning with ``planes``.

    Parameters
    ----------
    planes : ndarray of float32, shape (n_tables, n_bits, r)
        Over the leading r coordinates.
    thresholds : ndarray of float32, shape (n_tables, n_bits)
    exemplars : ndarray of float32, shape (n, p)
        Training queries in aligned coordinates, the leading ones.
    variances : ndarray of float32, shape (p,)
        Logit variances of these coordinates.
    width : int
        Coordinates that the refined planes may use, r..p.
    seed : int
        Of the anchors, and of all else that is drawn.
    report : callable
        ``report("refine", done, total)`` after each step.

    Returns
    -------
    planes : ndarray of float32, shape (n_tables, n_bits, width)
        No longer of unit deviation: a plane's scale is what a probe across it costs.
    thresholds : ndarray of float32, shape (n_tables, n_bits)
    """
    rng = np.random.default_rng(seed)
    n, spare = len(exemplars), width - planes.shape[2]
    planes = np.pad(planes, ((0, 0), (0, 0), (0, spare)))
    if n < 2:
        return planes, thresholds
    pairs = nearest(exemplars, variances, rng)
    x = np.ascontiguousarray(exemplars[:, :width])
    steps, batch, others = (
        max(1, min(most, n // share)) for most, share in ((STEPS, 10), (BATCH, 16), (OTHERS, 2))
    )
    moves = Adam(planes), Adam(thresholds)
    for done in range(steps):
        i = rng.integers(len(pairs.anchors), size=batch)
        j = pairs.near[i, rng.integers(pairs.near.shape[1], size=batch)]
        drawn = rng.integers(n, size=others)
        itself = pairs.anchors[i, None] == drawn
        step = contrast(planes, thresholds, x[pairs.anchors[i]], x[j], x[drawn], itself)
        rate = RATE * (1 - done / steps)
        planes = planes - rate * moves[0].direction(step.planes)
        thresholds = thresholds - rate * moves[1].direction(step.thresholds)
        report("refine", done + 1, steps)
    return planes, thresholds


def nearest(
    exemplars: NDArray[np.float32], variances: NDArray[np.float32], rng: np.random.Generator
) -> Pairs:
    """Draw anchors among the exemplars, and find the others nearest to each in the logits."""
    n = len(exemplars)
    anchors = rng.choice(n, min(ANCHORS, n), replace=False)
    near = min(NEAR, max(1, n // _FEW))
    largest = variances[0] if variances[0] > 0 else 1.0
    x = exemplars * np.sqrt(np.maximum(variances, 0.0) / largest)
    # |x - y|^2 / 2 is |x|^2 / 2 - (x . y - |y|^2 / 2): the nearest have the largest logits of such a layer
    layer = _core.Index.from_weights(x, -0.5 * np.einsum("ij,ij->i", x, x), "float32", copy=False)
    found = np.concatenate(
        [layer.teacher(x[anchors[lo : lo + BLOCK]], near + 1)[0] for lo in range(0, len(anchors), BLOCK)]
    )
    itself = found == anchors[:, None]
    others_first = np.argsort(itself, axis=1, kind="stable")[:, :near]
    return Pairs(anchors, np.take_along_axis(found, others_first, axis=1))


def contrast(
    planes: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    queries: NDArray[np.float32],
    near: NDArray[np.float32],
    others: NDArray[np.float32],
    left_out: NDArray[np.bool_],
) -> Step:
    """Mean over queries of -log(s(q, near) / (s(q, near) + sum of s(q, other))), and its gradients.

    s(q, x) is the sum over tables of ``exp(-cost / TEMPERATURE)``.

    Parameters
    ----------
    planes : ndarray of float32, shape (n_tables, n_bits, r)
    thresholds : ndarray of float32, shape (n_tables, n_bits)
    queries, near : ndarray of float32, shape (n, r)
        A pair each.
    others : ndarray of float32, shape (o, r)
        The same for all queries.
    left_out : ndarray of bool, shape (n, o)
        Others that do not count for a query, such as itself.
    """
    tables = [_Table(*table, queries, near, others) for table in zip(planes, thresholds, strict=True)]
    to_near = np.stack([table.to_near for table in tables]) / -TEMPERATURE
    to_others = np.stack([table.to_others for table in tables]) / -TEMPERATURE
    to_others[:, left_out] = -np.inf
    # softmax over tables and exemplars, from the largest down, so that nothing overflows
    largest = np.maximum(to_others.max(axis=(0, 2)), to_near.max(axis=0))
    share_others = np.exp(to_others - largest[:, None])
    share_near = np.exp(to_near - largest)
    total = share_others.sum(axis=(0, 2)) + share_near.sum(axis=0)
    share_others /= total[:, None]
    share_near /= total
    best = to_near.max(axis=0)
    wanted = np.exp(to_near - best)
    met = wanted.sum(axis=0)
    loss = np.log(total) + largest - np.log(met) - best
    by = -TEMPERATURE * len(queries)
    slopes = [
        table.slopes((share_near[t] - wanted[t] / met) / by, share_others[t] / by)
        for t, table in enumerate(tables)
    ]
    return Step(float(loss.mean()), np.stack([s[0] for s in slopes]), np.stack([s[1] for s in slopes]))


class _Table:
    """The relaxed costs of one table, and the way back from their gradients to the planes'."""

    def __init__(
        self,
        planes: NDArray[np.float32],
        thresholds: NDArray[np.float32],
        queries: NDArray[np.float32],
        near: NDArray[np.float32],
        others: NDArray[np.float32],
    ) -> None:
        self._x = queries, near, others
        margins, *of_exemplars = (x @ planes.T - thresholds for x in self._x)
        self._margins, self._squares = margins, margins * margins
        self._query, self._near, self._others = map(_relaxed, (margins, *of_exemplars))
        squares = self._squares
        # a bit differs with a + b - 2ab: what the query pays anyway, and what it pays for an exemplar's one
        self._anyway = (squares * self._query).sum(axis=1)
        self._for_one = squares * (1 - 2 * self._query)
        self.to_near = self._anyway + (self._for_one * self._near).sum(axis=1)
        self.to_others = self._anyway[:, None] + self._for_one @ self._others.T

    def slopes(
        self, to_near: NDArray[np.float32], to_others: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Gradients of planes and thresholds, from those of the costs."""
        anyway = (to_near + to_others.sum(axis=1))[:, None]
        for_one = to_near[:, None] * self._near + to_others @ self._others
        query = (anyway - 2 * for_one) * self._squares
        squares = anyway * self._query + for_one * (1 - 2 * self._query)
        near, others = to_near[:, None] * self._for_one, to_others.T @ self._for_one
        margins = (
            2 * squares * self._margins + query * _steep(self._query),
            near * _steep(self._near),
            others * _steep(self._others),
        )
        planes = sum(margin.T @ x for margin, x in zip(margins, self._x, strict=True))
        return np.asarray(planes), -np.sum([margin.sum(axis=0) for margin in margins], axis=0)


def _relaxed(margins: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return bits between 0 and 1: ``sigmoid(2 * SHARPNESS * margin)``."""
    return np.asarray(0.5 + 0.5 * np.tanh(SHARPNESS * margins))


def _steep(bits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the slope of relaxed bits along their margins."""
    return 2 * SHARPNESS * bits * (1 - bits)
