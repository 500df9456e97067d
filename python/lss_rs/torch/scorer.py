"""The best labels of queries, scored on the device that holds the rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from lss_rs._arrays import as_count, as_ids, message

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lss_rs.index import Index

Path = Literal["core", "core-scan", "tables", "scan"]

PATHS = "'tables', 'scan', 'core' or 'core-scan'"
CANDIDATES = 4096
"""Candidates of a query that the core scores, the most promising first."""
CHUNK_BYTES = 256 << 20
"""Memory that scoring may take beside the rows, the queries and the answers."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_COORDINATES, _RESCORED = 128, 1024
"""Of a scan, at least: coordinates that an estimate has, and rows scored."""
_FIRST_BLOCK = 64
"""Queries whose candidates are listed at a time, before it is known how many these are."""
_PADDED = 1.5
"""Lists are padded to the longest while that makes at most so many places of one."""


class Scorer:
    """The best labels of queries, scored on the device that holds the rows.

    Rows are stored in ``dtype``; products with a query, and their sums, are in single precision.

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
        "core-scan": it goes on to a scan of all sketches with every query, whatever it finds in its tables;
        of ``n_candidates`` it leaves out less of what is probable.
    always : sequence of int
        Labels that are scored for every query, whatever the index finds.
    n_candidates : int
        With ``path="core"`` and "core-scan", what :meth:`candidates` lists at most.
    n_coordinates : int, optional
        With ``path="scan"``, leading coordinates that an estimate has, at most as many as sketches know: what
        a scan reads of each row. By default a quarter of d, but at least 128.
    n_rescore : int, optional
        With ``path="scan"``, rows scored a query. By default 1,024, or the operating point's ``n_scan`` where
        that is more: estimates from fewer coordinates than a sketch has need more.
    chunk_bytes : int
        Memory that scoring may take beside the rows, the queries and the answers: batches are cut to it. One
        query takes what it needs.

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
        chunk_bytes: int = CHUNK_BYTES,
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
        self.chunk_bytes = as_count(chunk_bytes, "chunk_bytes")
        self.W = W.detach().to(device=device, dtype=dtype)
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
        k = as_count(k, "k")
        queries = self._queries(q)
        values = torch.full((len(queries), k), -torch.inf, device=self.W.device)
        labels = torch.full((len(queries), k), -1, dtype=torch.int64, device=self.W.device)
        for lo, found, logits in self._found(queries, k):
            best = logits.topk(min(k, logits.shape[1]), dim=1)
            hi, width = lo + len(found), best.values.shape[1]
            values[lo:hi, :width] = best.values
            labels[lo:hi, :width] = found.gather(1, best.indices)
        single = q.dim() == 1
        return torch.return_types.topk((values[0], labels[0]) if single else (values, labels))

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
        queries = self._queries(q)
        parts = [(labels, logits) for _, labels, logits in self._found(queries, None)]
        width = max((labels.shape[1] for labels, _ in parts), default=0)
        shape, device = (len(queries), width), self.W.device
        labels = torch.full(shape, -1, dtype=torch.int64, device=device)
        logits = torch.full(shape, -torch.inf, device=device)
        lo = 0
        for of_part, scores in parts:
            hi = lo + len(of_part)
            labels[lo:hi, : of_part.shape[1]], logits[lo:hi, : of_part.shape[1]] = of_part, scores
            lo = hi
        return labels, logits

    def _queries(self, q: torch.Tensor) -> torch.Tensor:
        """Check queries, and bring them to the device in single precision, (n, d)."""
        if q.dim() not in (1, 2) or q.shape[-1] != self.index.d:
            expected = f"of shape (n, {self.index.d}) or ({self.index.d},)"
            raise ValueError(message("q", expected, f"shape {tuple(q.shape)}"))
        if not q.dtype.is_floating_point:
            raise TypeError(message("q", "a tensor of floats", q.dtype))
        queries = q.detach().reshape(-1, self.index.d).to(device=self.W.device, dtype=torch.float32)
        # A scan asks nothing of the host, not even this.
        on_host = self.path != "scan" or queries.device.type == "cpu"
        if on_host and not bool(torch.isfinite(queries).all()):
            raise ValueError(message("q", "finite", "NaN or infinity"))
        return queries

    def _found(
        self, queries: torch.Tensor, k: int | None
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Yield chunks: their first query, labels (n, c), logits (n, c); -1 and -inf are no label.

        Of more than k candidates, the best k may be all that is listed. None: list all.
        """
        if self.path in ("tables", "scan") and self.index.operating_point.exact:
            yield from self._by_rows(queries)
            return
        by = {"tables": self._by_tables, "scan": self._by_scan}.get(self.path, self._by_core)
        for lo, labels, logits in by(queries, k):
            yield lo, *self._besides(queries[lo : lo + len(labels)], labels, logits)

    def _besides(
        self, queries: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the labels of ``always`` where they are not yet."""
        if not len(self.always):
            return labels, logits
        scores = queries @ self.W[self.always].float().T + self.b[self.always]
        known = torch.isin(labels, self.always)  # these are scored anew: each label is listed once
        labels, logits = labels.masked_fill(known, -1), logits.masked_fill(known, -torch.inf)
        more = self.always.expand(len(queries), -1)
        return torch.cat([labels, more], 1), torch.cat([logits, scores], 1)

    def _by_rows(self, queries: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Score every row."""
        m = self.index.m
        labels = torch.arange(m, device=self.W.device)
        step = max(1, self.chunk_bytes // (16 * m))
        rows = max(1, self.chunk_bytes // (4 * self.index.d))
        for lo in range(0, len(queries), step):
            part = queries[lo : lo + step]
            logits = torch.empty((len(part), m), device=self.W.device)
            for first in range(0, m, rows):
                logits[:, first : first + rows] = part @ self.W[first : first + rows].float().T
            yield lo, labels.expand(len(part), -1), logits.add_(self.b)

    def _by_core(
        self, queries: torch.Tensor, k: int | None
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Let the index answer."""
        point = self.index.operating_point
        adaptive = self.path == "core" and not point.exact
        # Trust is known of answers by as many rows as the operating point rescores.
        k = min(self.n_candidates if k is None else k, self.index.m)
        wider = adaptive and k > point.n_rescore and point.judge is not None
        step = max(1, self.chunk_bytes // (12 * k))
        for lo in range(0, len(queries), step):
            asked = np.ascontiguousarray(queries[lo : lo + step].cpu().numpy())
            # Asked for more than there are candidates, a search would go on whatever it trusts.
            index = self.index if adaptive or point.exact else self._scanning()
            labels, logits = _search(index, asked, k, adaptive=not wider)
            if wider:
                stats: Any = self.index.search(asked, 1, stats=True).stats
                doubtful = stats["step"] > 0
                if doubtful.any():
                    labels[doubtful], logits[doubtful] = _search(self._scanning(), asked[doubtful], k)
            yield (
                lo,
                torch.from_numpy(labels).to(self.W.device),
                torch.from_numpy(logits).to(self.W.device),
            )

    def _scanning(self) -> Index:
        """Make a twin of the index that goes on to a scan of all sketches with every query."""
        point = self.index.operating_point
        key = (self.index._core.fits, point)  # a point may have been applied since
        if self._twin is None or self._twin[0] != key:
            # Where trust of 1 is asked for, any judge will do.
            judge = point.judge or (1.0, *[0.0] * 10)
            scanning = point._replace(trust=1.0, scan_trust=0.0, judge=judge)
            self._twin = key, self.index._at(scanning)
        return self._twin[1]

    def _by_tables(
        self, queries: torch.Tensor, _: int | None
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Score the candidates of the index."""
        start, step = 0, _FIRST_BLOCK
        while start < len(queries):
            block = queries[start : start + step]
            indptr, ids = self.index.candidates(block.cpu().numpy())
            lengths = np.diff(indptr)
            for lo, hi in _runs(lengths, self._place_bytes, self.chunk_bytes):
                some = ids[indptr[lo] : indptr[hi]]
                yield start + lo, *self._listed(block[lo:hi], lengths[lo:hi], some)
            start += len(block)
            step = max(1, self.chunk_bytes // (16 * max(1, int(lengths.max()))))

    @property
    def _place_bytes(self) -> int:
        """Bytes that a candidate takes while it is scored: its row, as stored and widened, id and logit."""
        return (int(self.W.element_size()) + 4) * self.index.d + 16

    def _listed(
        self, queries: torch.Tensor, lengths: NDArray[np.int64], ids: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score lists of candidates: labels (n, longest) and logits."""
        device, longest = self.W.device, int(lengths.max(initial=0))
        part = torch.from_numpy(ids).to(device)
        counts = torch.from_numpy(lengths).to(device)
        known = torch.arange(longest, device=device) < counts[:, None]
        labels = torch.full(known.shape, -1, dtype=torch.int64, device=device)
        labels[known] = part
        if known.numel() <= _PADDED * len(part):
            listed = labels.clamp(min=0)
            logits = torch.bmm(self.W[listed].float(), queries[:, :, None])[:, :, 0] + self.b[listed]
            return labels, logits.masked_fill(~known, -torch.inf)
        owners = torch.repeat_interleave(torch.arange(len(queries), device=device), counts)
        logits = torch.full(known.shape, -torch.inf, device=device)
        logits[known] = (self.W[part].float() * queries[owners]).sum(1) + self.b[part]
        return labels, logits

    def _by_scan(
        self, queries: torch.Tensor, k: int | None
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Estimate all rows, and score the most promising."""
        m = self.index.m
        r = min(max(self.n_rescore, k or 1), m)
        step = max(1, self.chunk_bytes // (12 * m + r * self._place_bytes))
        for lo in range(0, len(queries), step):
            part = queries[lo : lo + step]
            z = part @ self._map.T + self._offset
            estimates = (z.to(self._rows.dtype) @ self._rows.T).float().add_(self._base)
            ids = estimates.topk(r, dim=1, sorted=False).indices
            logits = torch.bmm(self.W[ids].float(), part[:, :, None])[:, :, 0] + self.b[ids]
            yield lo, ids, logits


def _scans(index: Index) -> bool:
    """Whether a search can go on to a scan of all sketches."""
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
