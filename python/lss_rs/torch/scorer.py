"""The best labels of queries, scored on the device that holds the rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from lss_rs._arrays import as_count, as_ids, message
from lss_rs.torch._products import by_all, by_each, by_lists, sums_wide

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lss_rs.index import Index

Path = Literal["core", "core-scan", "tables", "scan"]
_Chunk = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Labels and logits of some queries, and for which of them the index found no label at all."""

PATHS = "'tables', 'scan', 'core' or 'core-scan'"
CANDIDATES = 4096
"""Candidates of a query that the core scores, the most promising first."""
CHUNK_BYTES = 256 << 20
"""Memory that scoring may take beside the rows, the queries and the answers: at least so much on CUDA."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_COORDINATES, _RESCORED = 128, 1024
"""Of a scan, at least: coordinates that an estimate has, and rows scored."""
_FIRST_BLOCK = 64
"""Queries whose candidates are listed at a time, before it is known how many these are."""
_FREE_SHARE = 16
"""Of CUDA's free memory, scoring takes one part in so many."""
_GATHERED = 1.0
"""From so many rows to gather for a batch, for each row there is, a product with all rows takes their place.

A gathered row is read, written and read again; a product reads each row once. By what their parts took on an
H200, with rows of 576 in bfloat16 and 1,024 of them a query, both take as long at 1,000 queries of 1,000,000
rows; of 49,152 rows, the product is faster from 48 queries, and before.
"""


class Scorer:
    """The best labels of queries, scored on the device that holds the rows.

    Rows are stored in ``dtype``; products with a query, and their sums, are in single precision. On CUDA they
    take least where queries come in the rows' half precision: others have the rows widened for them.

    Parameters
    ----------
    index : Index
        Fitted, over the same rows.
    W : Tensor of float, shape (m, d)
        The rows. They are copied where ``device`` or ``dtype`` asks for it, else shared. With ``path="core"``
        and "core-scan" logits come from the index's own rows and bias, whatever W and b hold: W only says of
        what device answers are, and both score the labels of ``always``.
    device : torch.device or str, optional
        Where to score; by default where W is.
    dtype : torch.dtype, optional
        What rows are stored in: float32, float16 or bfloat16; by default as W.
    b : Tensor of float, shape (m,), optional
        The bias; by default the index's.
    path : {"tables", "scan", "core", "core-scan"}
        Where answers come from. "tables": all candidates that the tables hold, from the index on the CPU;
        they alone are scored, on the device. Trust has no part in it, and no scan follows, whatever a fit
        tuned. "scan": nothing leaves the device. Queries are projected there, all rows are estimated as far
        as their sketches know them, and the most promising are scored; tables have no part in it. "core": the
        index answers on the CPU, as :meth:`Index.search` does, trust and all, from rows of its own.
        "core-scan": it goes on to a scan of all rows with every query, whatever it finds in its tables;
        of ``n_candidates`` it leaves out less of what is probable. With "tables" and "scan", :meth:`topk`
        scores all rows of a large batch where that takes less: on CUDA, with rows and queries in one half
        precision, from as many rows to score as there are. With "tables" that goes by what the first 64
        queries of more find.
    always : sequence of int
        Labels that are scored for every query, whatever the index finds. Their rows are copied.
    n_candidates : int
        What :meth:`candidates` lists at most of what the index finds, the best; but with ``path="tables"``,
        which lists all.
    n_coordinates : int, optional
        With ``path="scan"``, leading coordinates that an estimate has, at most as many as sketches know: what
        a scan reads of each row. By default a quarter of d, but at least 128.
    n_rescore : int, optional
        With ``path="scan"``, rows scored a query, or as many as are asked for if more. By default 1,024, or
        the operating point's ``n_scan`` where that is more: estimates from fewer coordinates than a sketch
        has need more.
    chunk_bytes : int, optional
        Memory that scoring may take beside the rows, the queries and the answers: batches are cut to it. One
        query takes what it needs. By default 256 MiB, or on CUDA a sixteenth of what is free now if more.

    Raises
    ------
    NotFittedError
        If the index is not fitted.
    TypeError
        If W is not of floats, or dtype none of the three.
    ValueError
        If shapes do not fit, a label is not in 0..m-1, or a scan finds no sketches.

    Examples
    --------
    >>> import torch
    >>> from lss_rs import Index
    >>> from lss_rs.torch import Scorer
    >>> _ = torch.manual_seed(0)
    >>> W, Q = torch.randn(1000, 16), torch.randn(2000, 16)
    >>> index = Index.from_weights(W).fit(Q, k=5, progress=False)
    >>> values, labels = Scorer(index, W, device="cpu", dtype=torch.bfloat16).topk(Q[:3], 5)
    >>> values.shape, values.dtype, labels.dtype
    (torch.Size([3, 5]), torch.float32, torch.int64)
    """

    def __init__(
        self,
        index: Index,
        W: torch.Tensor,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        b: torch.Tensor | None = None,
        path: Path = "tables",
        always: Iterable[int] = (),
        n_candidates: int = CANDIDATES,
        n_coordinates: int | None = None,
        n_rescore: int | None = None,
        chunk_bytes: int | None = None,
    ) -> None:
        if path not in get_args(Path):
            raise ValueError(message("path", PATHS, repr(path)))
        if tuple(W.shape) != (index.m, index.d):
            raise ValueError(message("W", f"of shape ({index.m}, {index.d})", f"shape {tuple(W.shape)}"))
        if b is not None and tuple(b.shape) != (index.m,):
            raise ValueError(message("b", f"of shape ({index.m},)", f"shape {tuple(b.shape)}"))
        if not W.dtype.is_floating_point:
            raise TypeError(message("W", "a tensor of floats", W.dtype))
        dtype = W.dtype if dtype is None else dtype
        if dtype not in DTYPES.values():
            raise TypeError(message("dtype", "float32, float16 or bfloat16", dtype))
        scan = index.operating_point.n_scan  # raises where nothing is fitted
        self.index, self.path = index, path
        self.n_candidates = as_count(n_candidates, "n_candidates")
        self.n_rescore = max(scan, _RESCORED) if n_rescore is None else as_count(n_rescore, "n_rescore")
        self.W = W.detach().to(device=device, dtype=dtype)
        self.chunk_bytes = (
            _spare_bytes(self.W.device) if chunk_bytes is None else as_count(chunk_bytes, "chunk_bytes")
        )
        self._halves = dtype is not torch.float32 and sums_wide(self.W.device)
        bias = torch.from_numpy(index._core.bias) if b is None else b.detach()
        self.b = bias.to(device=self.W.device, dtype=torch.float32)
        self._included: frozenset[int] | None = None
        self._include(frozenset(always))
        self._twin: tuple[Any, Index] | None = None
        if (path == "scan" and not index.params["sketch_bytes"]) or (
            path == "core-scan" and not _scans(index)
        ):
            expected = "'tables' or 'core' for an index without sketches, or of rows"
            raise ValueError(message("path", expected, repr(path)))
        if path == "scan":
            few = max(_COORDINATES, index.d // 4)
            self._place(few if n_coordinates is None else as_count(n_coordinates, "n_coordinates"))

    def _include(self, always: frozenset[int]) -> None:
        """Score these labels for every query from now on: cheaper than a scorer for each generation."""
        if always != self._included:
            ids = as_ids(tuple(sorted(always)), self.index.m, "always")
            self.always, self._included = torch.from_numpy(ids).to(self.W.device), always
            self._always_W, self._always_b = self.W[self.always], self.b[self.always]

    def _place(self, n_coordinates: int) -> None:
        """Bring to the device what a scan reads: coordinates and base logits of all rows, the query's map."""
        rows, base = map(torch.from_numpy, self.index._core.row_coordinates(n_coordinates))
        query_map, offset = map(torch.from_numpy, self.index._core.query_map())
        device, p = self.W.device, rows.shape[1]
        # Coordinates have 8 bits at most, as bfloat16 has, which no logit is too large for.
        half = torch.float32 if self.W.dtype is torch.float32 else torch.bfloat16
        self._rows, self._base = rows.to(device=device, dtype=half), base.to(device)
        self._map, self._offset = query_map[:p].to(device), offset[:p].to(device)

    def topk(self, q: torch.Tensor, k: int) -> Any:
        """Find the k best labels of each query.

        Parameters
        ----------
        q : Tensor of float, shape (n, d) or (d,)
            On any device.
        k : int

        Returns
        -------
        (values, indices)
            As ``torch.topk`` returns them, each (n, k) or (k,), on the device of the rows: float32 logits,
            best first, and int64 labels; -inf and -1 where there are fewer than k candidates.

        Raises
        ------
        TypeError, ValueError
            If q is not of floats or of another shape, a value is NaN or infinite (which a scan on a device
            other than the CPU does not look for), or k < 1.
        """
        values, labels, _ = self._topk(q, k)
        single = q.dim() == 1
        return torch.return_types.topk((values[0], labels[0]) if single else (values, labels))

    def _topk(self, q: torch.Tensor, k: int) -> _Chunk:
        """Find values and labels, (n, k), and where the index found none: there all are of ``always``."""
        k = as_count(k, "k")
        parts = []
        for found, logits, none in self._found(*self._queries(q), k):
            best = logits.topk(min(k, logits.shape[1]), dim=1)
            parts.append((found.gather(1, best.indices), best.values, none))
        labels, values, none = _joined(parts, k, self.W.device)
        return values, labels, none

    def candidates(self, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score everything that the index finds for a few queries, for those who choose themselves.

        Parameters
        ----------
        q : Tensor of float, shape (n, d) or (d,)

        Returns
        -------
        labels : Tensor of int64, shape (n, c)
            Each once, in no order; -1 where a query has fewer than the most.
        logits : Tensor of float32, shape (n, c)
            -inf where there is no label.

        Raises
        ------
        TypeError, ValueError
            As :meth:`topk`.
        """
        labels, logits, _ = self._candidates(q)
        return labels, logits

    def _candidates(self, q: torch.Tensor) -> _Chunk:
        """Score all candidates, and say where the index found none."""
        parts = list(self._found(*self._queries(q), None))
        width = max((labels.shape[1] for labels, *_ in parts), default=0)
        return _joined(parts, width, self.W.device)

    def _queries(self, q: torch.Tensor) -> tuple[torch.Tensor, NDArray[np.float32]]:
        """Check queries, (n, d): return them on the device, as products take them, and on the host.

        There are none on the host for a scan on another device.
        """
        if q.dim() not in (1, 2) or q.shape[-1] != self.index.d:
            expected = f"of shape (n, {self.index.d}) or ({self.index.d},)"
            raise ValueError(message("q", expected, f"shape {tuple(q.shape)}"))
        if not q.dtype.is_floating_point:
            raise TypeError(message("q", "a tensor of floats", q.dtype))
        queries, device = q.detach().reshape(-1, self.index.d), self.W.device
        host = np.empty((0, self.index.d), np.float32)
        # A scan on a device asks nothing of the host, not even this. Others copy to it once.
        if self.path != "scan" or device.type == "cpu":
            host = np.ascontiguousarray(queries.to("cpu", torch.float32).numpy())
            if not np.isfinite(host).all():
                raise ValueError(message("q", "finite", "NaN or infinity"))
        as_rows = self._halves and q.dtype is self.W.dtype
        return queries.to(device, q.dtype if as_rows else torch.float32), host

    def _found(self, queries: torch.Tensor, host: NDArray[np.float32], k: int | None) -> Iterator[_Chunk]:
        """Yield chunks of queries, in order: labels (n, c), logits (n, c); -1 and -inf are no label.

        Of more than k candidates, the best k may be all that is listed. None: list all.
        """
        if self.path in ("tables", "scan") and self.index.operating_point.exact:
            return self._by_rows(queries)
        if self.path == "scan":
            return self._by_scan(queries, k)
        by = self._by_tables if self.path == "tables" else self._by_core
        return by(queries, host, k)

    def _besides(self, queries: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor) -> _Chunk:
        """Add the labels of ``always`` where they are not yet."""
        none = (labels < 0).all(1)
        if not len(self.always):
            return labels, logits, none
        scores = by_all(self._always_W, queries).add_(self._always_b)
        known = torch.isin(labels, self.always)  # these are scored anew: each label is listed once
        labels, logits = labels.masked_fill(known, -1), logits.masked_fill(known, -torch.inf)
        more = self.always.expand(len(queries), -1)
        return torch.cat([labels, more], 1), torch.cat([logits, scores], 1), none

    def _rather_all(self, queries: torch.Tensor, rows: float, k: int | None) -> bool:
        """Whether a product with all rows takes less than gathering so many a query.

        Not where all candidates are to be listed: all rows would be a lot of answers.
        """
        if k is None or queries.dtype is torch.float32:
            return False
        return min(len(queries), self._row_step) * rows >= _GATHERED * self.index.m

    @property
    def _row_step(self) -> int:
        """Queries that are multiplied by all rows at a time."""
        return max(1, self.chunk_bytes // (16 * self.index.m))

    def _by_rows(self, queries: torch.Tensor) -> Iterator[_Chunk]:
        """Score every row."""
        m, step = self.index.m, self._row_step
        labels = torch.arange(m, device=self.W.device)
        # Rows are widened a part at a time.
        rows = m if queries.dtype is self.W.dtype else max(1, self.chunk_bytes // (4 * self.index.d))
        for lo in range(0, len(queries), step):
            part = queries[lo : lo + step]
            logits = [by_all(self.W[first : first + rows], part) for first in range(0, m, rows)]
            scores = logits[0] if len(logits) == 1 else torch.cat(logits, 1)
            none = torch.zeros(len(part), dtype=torch.bool, device=self.W.device)
            yield labels.expand(len(part), -1), scores.add_(self.b), none

    def _by_core(self, queries: torch.Tensor, host: NDArray[np.float32], k: int | None) -> Iterator[_Chunk]:
        """Let the index answer."""
        point = self.index.operating_point
        adaptive = self.path == "core" and not point.exact
        # Trust is known of answers by as many rows as the operating point rescores.
        k = min(self.n_candidates if k is None else k, self.index.m)
        wider = adaptive and k > point.n_rescore and point.judge is not None
        step = max(1, self.chunk_bytes // (12 * k))
        for lo in range(0, len(queries), step):
            asked = host[lo : lo + step]
            # Asked for more than there are candidates, a search would go on whatever it trusts.
            index = self.index if adaptive or point.exact else self._scanning()
            labels, logits = _search(index, asked, k, adaptive=not wider)
            if wider:
                stats: Any = self.index.search(asked, 1, stats=True).stats
                doubtful = stats["step"] > 1  # beyond lists and tables
                if doubtful.any():
                    labels[doubtful], logits[doubtful] = _search(self._scanning(), asked[doubtful], k)
            found, scores = (torch.from_numpy(part).to(self.W.device) for part in (labels, logits))
            yield self._besides(queries[lo : lo + step], found, scores)

    def _scanning(self) -> Index:
        """Make a twin of the index that goes on to a scan of all rows with every query."""
        point = self.index.operating_point
        key = (self.index._core.fits, point)  # a point may have been applied since
        if self._twin is None or self._twin[0] != key:
            # Where trust of 1 is asked for, any judge will do.
            judge = point.judge or (1.0, *[0.0] * 10)
            scanning = point._replace(trust=1.0, scan_trust=0.0, judge=judge, list=None)
            self._twin = key, self.index._at(scanning)
        return self._twin[1]

    def _by_tables(self, queries: torch.Tensor, host: NDArray[np.float32], k: int | None) -> Iterator[_Chunk]:
        """Score the candidates of the index."""
        start, step = 0, min(_FIRST_BLOCK, max(1, self.chunk_bytes // (16 * self.index.m)))
        place_bytes = self._place_bytes(queries)
        while start < len(queries):
            block = queries[start : start + step]
            indptr, ids = self.index.candidates(host[start : start + step])
            lengths = np.diff(indptr)
            # Once listed, candidates are as soon scored: it is the lists to come that are spared.
            more = start == 0 and len(queries) > len(block)
            if more and self._rather_all(queries, float(lengths.mean()), k):
                yield from self._by_rows(queries)
                return
            for lo, hi in _runs(lengths, place_bytes, self.chunk_bytes):
                some = ids[indptr[lo] : indptr[hi]]
                listed = by_lists(self.W, self.b, block[lo:hi], lengths[lo:hi], some)
                yield self._besides(block[lo:hi], *listed)
            start += len(block)
            step = max(1, self.chunk_bytes // (16 * max(1, int(lengths.max()))))

    def _place_bytes(self, queries: torch.Tensor) -> int:
        """Bytes that a candidate takes while it is scored: its row, as stored and widened, id and logit."""
        widened = 4 if queries.dtype is torch.float32 else 0
        return (int(self.W.element_size()) + widened) * self.index.d + 16

    def _by_scan(self, queries: torch.Tensor, k: int | None) -> Iterator[_Chunk]:
        """Estimate all rows, and score the most promising."""
        m, most = self.index.m, self.n_candidates if k is None else k
        r = min(max(self.n_rescore, most), m)
        if self._rather_all(queries, r, k):
            yield from self._by_rows(queries)
            return
        step = max(1, self.chunk_bytes // (12 * m + r * self._place_bytes(queries)))
        for lo in range(0, len(queries), step):
            part = queries[lo : lo + step]
            z = torch.addmm(self._offset, part.float(), self._map.T).to(self._rows.dtype)
            # Where sums are wide they come so: half precision would confuse the most promising.
            estimates = by_all(self._rows, z) if self._halves else (z @ self._rows.T).float()
            ids = estimates.add_(self._base).topk(r, dim=1, sorted=False).indices
            logits = by_each(self.W[ids], part).add_(self.b[ids])
            if k is None and most < r:
                logits, best = logits.topk(most, dim=1)
                ids = ids.gather(1, best)
            yield self._besides(part, ids, logits)


def _spare_bytes(device: torch.device) -> int:
    """Memory to cut batches to: a part of what a GPU has free, which a small one would not fill."""
    if device.type != "cuda":
        return CHUNK_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return max(CHUNK_BYTES, int(free) // _FREE_SHARE)


def _joined(parts: list[_Chunk], width: int, device: torch.device) -> _Chunk:
    """Put chunks below each other, all of one width: -1 and -inf are no label."""
    if len(parts) == 1 and parts[0][0].shape[1] == width:
        return parts[0][0].contiguous(), *parts[0][1:]  # a copy or two saved count with one query
    shape = sum(len(labels) for labels, *_ in parts), width
    labels = torch.full(shape, -1, dtype=torch.int64, device=device)
    logits = torch.full(shape, -torch.inf, device=device)
    lo = 0
    for of_part, scores, _ in parts:
        part = slice(lo, lo + len(of_part)), slice(of_part.shape[1])
        labels[part], logits[part] = of_part, scores
        lo += len(of_part)
    none = torch.cat([torch.empty(0, dtype=torch.bool, device=device), *(none for *_, none in parts)])
    return labels, logits, none


def _scans(index: Index) -> bool:
    """Whether a search can go on to a scan of all rows."""
    params = index.params
    return bool(params["sketch_bytes"]) and params["fill"] == "queries"


def _search(
    index: Index, queries: NDArray[np.float32], k: int, adaptive: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Search for more answers than an index was fitted for, which here is no reason to warn."""
    labels, logits = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    index._core.search(queries, k, labels, logits, False, "pad", adaptive, math.inf, 0)
    return labels, logits


def _runs(lengths: NDArray[np.int64], place_bytes: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut queries into runs whose padded lists take at most so many bytes; a run has at least one query."""
    lo, longest = 0, 0
    for i, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if i > lo and longest * (i - lo + 1) * place_bytes > most:
            yield lo, i
            lo, longest = i, length
    if lo < len(lengths):
        yield lo, len(lengths)
