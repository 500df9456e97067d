"""IUL, the paper's index-update loss: from random planes to planes with which a query meets its labels.

Planes hash ``[q, 1]`` and ``[w, b]`` alike, and a query finds the rows that share a bucket with it in any
table. Each round fills the tables with the rows, takes a batch of training queries, and looks for

- positive pairs: a query and a label of it that it does not find, though their inner product is large,
- negative pairs: a query and a row that it finds, no label of it, though their inner product is small.

Of equal numbers of both it takes one step that lets the former agree and the latter differ, their bits
relaxed to ``tanh(beta * plane . x)``. Inner products are logits: the bias counts.

An optional module: it needs ``torch`` and is never imported by ``lss_rs`` itself.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lss_rs._arrays import BLOCK, logger, message

try:
    import torch
    from torch.nn import functional
except ImportError as error:
    raise ImportError(
        f"method='iul' needs torch ({error}); install it with: pip install 'lss-rs[torch]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Generator, Tensor

    from lss_rs import _core
    from lss_rs._arrays import Labels, QueryRows
    from lss_rs.config import IULOptions
    from lss_rs.learn import Report


class Round(NamedTuple):
    """What a round met before its step: a point of the learning curve.

    Attributes
    ----------
    label_recall : float
        Share of a query's labels among its candidates, averaged over queries that have labels.
    precision : float
        P@1 of the best candidate.
    candidates : float
        Rows that a query finds: the sample size.
    positives, negatives : int
        Pairs there were.
    pairs : int
        Pairs of either kind that were learned from.
    loss : float
        Their mean loss; NaN without any.
    """

    label_recall: float
    precision: float
    candidates: float
    positives: int
    negatives: int
    pairs: int
    loss: float


class Pairs(NamedTuple):
    """Pairs of a query of the batch and a row, both (n,), each once."""

    queries: Tensor
    rows: Tensor


def iul_planes(
    index: _core.Index,
    queries: QueryRows,
    labels: Labels | None,
    planes: NDArray[np.float32],
    options: IULOptions,
    k: int,
    seed: int,
    report: Report,
) -> tuple[NDArray[np.float32], tuple[Round, ...]]:
    """Learn planes, beginning with ``planes``.

    Parameters
    ----------
    index : _core.Index
        Holds the rows; the device gets a copy.
    queries : QueryRows
        Training queries, at least one.
    labels : Labels, optional
        Their true labels; without them, the full layer's ``k`` best.
    planes : ndarray of float32, shape (n_tables, n_bits, d + 1)
    options : IULOptions
    k : int
    seed : int
        Of the order of queries, and of the pairs drawn.
    report : callable
        ``report("iul", done, total)`` after each round.

    Returns
    -------
    planes : ndarray of float32, shape (n_tables, n_bits, d + 1)
    rounds : tuple of Round

    Raises
    ------
    ValueError
        If inner products are beyond float32.
    """
    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(seed)
    rounds: list[Round] = []
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
        rows = _augmented_rows(index, device)
        theta = torch.tensor(planes, device=device, requires_grad=True)
        adam = torch.optim.Adam([theta], lr=options.rate)
        for ids in islice(_batches(queries.n, options.batch, generator), options.rounds):
            x = _augmented_queries(queries, ids, device)
            logits = x @ rows.T
            true = best_pairs(logits, k) if labels is None else label_pairs(labels, ids, device)
            found = same_bucket(codes(x, theta.detach()), codes(rows, theta.detach()))
            positive, negative = mine(logits, found, true, options)
            i, j, meet = draw(positive, negative, options.pairs, generator)
            loss = math.nan
            if len(meet):
                objective = iul_loss(theta, x[i], rows[j], meet, options.beta)
                adam.zero_grad()
                objective.backward()
                adam.step()
                loss = objective.item()
            counts = len(positive.queries), len(negative.queries), len(meet) // 2
            rounds.append(Round(*measure(logits, found, true), *counts, loss))
            logger.info("iul, round %d of %d: %s", len(rounds), options.rounds, rounds[-1])
            report("iul", len(rounds), options.rounds)
    if not theta.isfinite().all():
        raise ValueError(message(queries.arg, "such that inner products fit in float32", "larger ones"))
    return theta.detach().cpu().numpy(), tuple(rounds)


def _batches(n: int, size: int, generator: Generator) -> Iterator[NDArray[np.int64]]:
    """Yield all queries in random order, over and over."""
    while True:
        for ids in torch.randperm(n, generator=generator).split(size):
            yield ids.numpy()


def codes(x: Tensor, planes: Tensor) -> Tensor:
    """Bucket of each vector in each table.

    Parameters
    ----------
    x : Tensor, shape (n, d + 1)
    planes : Tensor, shape (n_tables, n_bits, d + 1)

    Returns
    -------
    Tensor of int32, shape (n_tables, n)
    """
    place = 2 ** torch.arange(planes.shape[1], dtype=torch.int32, device=x.device)
    return torch.stack([((x @ table.T > 0) * place).sum(1, dtype=torch.int32) for table in planes])


def same_bucket(queries: Tensor, rows: Tensor) -> Tensor:
    """Whether a row shares a bucket with a query, (n, m), from codes (n_tables, n) and (n_tables, m)."""
    found = torch.zeros(queries.shape[1], rows.shape[1], dtype=torch.bool, device=rows.device)
    for query_codes, row_codes in zip(queries, rows, strict=True):
        found |= query_codes[:, None] == row_codes
    return found


def thresholds(logits: Tensor, options: IULOptions) -> tuple[float, float]:
    """t1, above which a pair should meet, and t2, below which it should not: means of quantiles of (n, m)."""
    t1, t2 = (_quantiles(logits, share).mean().item() for share in (options.t1_quantile, options.t2_quantile))
    return max(t1, 0.0), t2


def _quantiles(logits: Tensor, share: float) -> Tensor:
    """Return of each query the least value that at least this share of its inner products does not exceed."""
    m = logits.shape[1]
    from_top = m + 1 - math.ceil(share * m)
    # a few queries at a time: topk copies all that it is given, and numbers it
    return torch.cat([few.topk(from_top, sorted=False).values.amin(1) for few in logits.split(16)])


def mine(logits: Tensor, found: Tensor, true: Pairs, options: IULOptions) -> tuple[Pairs, Pairs]:
    """Find the positive and the negative pairs.

    Parameters
    ----------
    logits : Tensor, shape (n, m)
    found : Tensor of bool, shape (n, m)
        Which rows share a bucket with a query.
    true : Pairs
        The labels of the queries.
    options : IULOptions
    """
    t1, t2 = thresholds(logits, options)
    if options.positives == "labels":
        missed = (logits[true] > t1) & ~found[true]
        positive = Pairs(true.queries[missed], true.rows[missed])
    else:
        positive = Pairs(*((logits > t1) & ~found).nonzero(as_tuple=True))
    wrong = (logits < t2) & found
    wrong[true] = False
    return positive, Pairs(*wrong.nonzero(as_tuple=True))


def draw(positive: Pairs, negative: Pairs, most: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw as many of either kind as there are of both, at most ``most``.

    Returns
    -------
    queries, rows : Tensor of int64, shape (2 n,)
    meet : Tensor of bool, shape (2 n,)
        Whether a pair is positive; these come first.
    """
    n = min(len(positive.queries), len(negative.queries), most)
    drawn = []
    for pairs in (positive, negative):
        places = torch.randperm(len(pairs.queries), generator=generator)[:n].to(pairs.queries.device)
        drawn.append((pairs.queries[places], pairs.rows[places]))
    (i, j), (i_, j_) = drawn
    return torch.cat([i, i_]), torch.cat([j, j_]), torch.arange(2 * n, device=i.device) < n


def iul_loss(planes: Tensor, queries: Tensor, rows: Tensor, meet: Tensor, beta: float) -> Tensor:
    """Cross-entropy of ``sigmoid(agreement of the relaxed bits)``, a mean over tables and pairs.

    Parameters
    ----------
    planes : Tensor, shape (n_tables, n_bits, d + 1)
    queries, rows : Tensor, shape (n, d + 1)
        A pair each.
    meet : Tensor of bool, shape (n,)
    beta : float
    """
    a, b = (torch.tanh(beta * torch.einsum("nd,lkd->nlk", x, planes)) for x in (queries, rows))
    agreement = (a * b).sum(2)
    target = meet.to(agreement.dtype)[:, None].expand_as(agreement)
    return functional.binary_cross_entropy_with_logits(agreement, target)


def measure(logits: Tensor, found: Tensor, true: Pairs) -> tuple[float, float, float]:
    """Label recall, P@1 and number of candidates, each a mean over queries."""
    n = len(found)
    hit = found[true]
    # 0 / 0 without labels, which is not counted
    recall = torch.bincount(true.queries, hit.float(), n) / torch.bincount(true.queries, minlength=n)
    best = logits.masked_fill(~found, -math.inf).argmax(1)
    right = hit & (best[true.queries] == true.rows)
    return recall.nanmean().item(), right.sum().item() / n, found.count_nonzero().item() / n


def label_pairs(labels: Labels, ids: NDArray[np.int64], device: torch.device) -> Pairs:
    """Return the labels of the queries ``ids``, which are numbered from 0."""
    of = [labels.indices[lo:hi] for lo, hi in zip(labels.indptr[ids], labels.indptr[ids + 1], strict=True)]
    queries = np.repeat(np.arange(len(ids)), list(map(len, of)))
    return Pairs(*(torch.from_numpy(part).to(device) for part in (queries, np.concatenate(of))))


def best_pairs(logits: Tensor, k: int) -> Pairs:
    """Labels where there are none: the k largest inner products of each query."""
    best = logits.topk(min(k, logits.shape[1])).indices.sort(1).values  # rising, as labels are
    return Pairs(torch.arange(len(best), device=best.device).repeat_interleave(best.shape[1]), best.flatten())


def _augmented_rows(index: _core.Index, device: torch.device) -> Tensor:
    """[w, b] of all rows, (m, d + 1)."""
    rows = torch.empty(index.m, index.d + 1, dtype=torch.float32, device=device)
    rows[:, -1] = torch.from_numpy(index.bias)
    for lo in range(0, index.m, BLOCK):
        rows[lo : lo + BLOCK, :-1] = torch.from_numpy(index.rows(lo, min(BLOCK, index.m - lo)))
    return rows


def _augmented_queries(queries: QueryRows, ids: NDArray[np.int64], device: torch.device) -> Tensor:
    """[q, 1] of the queries ``ids``, (n, d + 1)."""
    x = torch.from_numpy(np.concatenate([queries.slice(i, i + 1) for i in ids]))
    return functional.pad(x.to(device), (0, 1), value=1.0)
