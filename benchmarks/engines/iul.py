"""The paper's learned hashing: planes of SimHash moved by its loss, buckets of rows, no sketches."""

from __future__ import annotations

from typing import Any, ClassVar

from benchmarks.engines import Data, lss
from lss_rs import IULOptions


class Engine(lss.Engine):
    """Learned planes over ``[w, b]``; every row that hashes with the query is scored.

    Parameters
    ----------
    n_bits, n_tables : int
        The paper's K and L.
    **learning
        Fields of :class:`lss_rs.IULOptions`.
    """

    title: ClassVar[str] = "IUL, the paper's"
    sees: ClassVar[str] = "rows, queries"
    kind: ClassVar[str] = "peer"

    def __init__(self, data: Data, num_threads: int, *, n_bits: int, n_tables: int, **learning: Any) -> None:
        super().__init__(
            data,
            num_threads,
            method="iul",
            iul=IULOptions(**learning),
            fill="rows",
            sketch_bytes=0,
            n_bits=n_bits,
            n_tables=n_tables,
        )
