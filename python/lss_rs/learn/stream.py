"""Training queries that come block by block, from a source of any length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lss_rs._arrays import Labels, as_labels, as_queries, message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class Stream:
    """Blocks of queries, (n, d) each, or of pairs of queries and labels.

    Parameters
    ----------
    blocks : iterator
        Of arrays, or of ``(Q, Y)``; all of one kind.
    d, m : int
        Dimension of a query, and how many labels there are.
    """

    def __init__(self, blocks: Iterator[Any], d: int, m: int) -> None:
        self._blocks, self._d, self._m = blocks, d, m
        self._labelled: bool | None = None

    def take(self, most: int) -> tuple[NDArray[np.float32], Labels | None]:
        """Return the first queries, ``most`` or a few more: blocks stay whole."""
        parts, n = [], 0
        for block in self:
            parts.append(block)
            n += len(block[0])
            if n >= most:
                break
        queries = np.concatenate([Q for Q, _ in parts]) if parts else np.empty((0, self._d), np.float32)
        return queries, join([labels for _, labels in parts if labels is not None])

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], Labels | None]]:
        for block in self._blocks:
            labelled = isinstance(block, tuple)
            if self._labelled not in (None, labelled):
                raise ValueError(message("Q", "blocks that all have labels, or none", "some of either"))
            self._labelled = labelled
            Q, Y = block if labelled else (block, None)
            queries, _ = as_queries(Q, self._d, "Q")
            yield queries, None if Y is None else as_labels(Y, len(queries), self._m)


def join(parts: list[Labels]) -> Labels | None:
    """Put the labels of several blocks behind each other; None where there are none."""
    if not parts:
        return None
    ends = np.cumsum([0, *(len(part.indices) for part in parts[:-1])])
    later = [part.indptr[1:] + end for part, end in zip(parts, ends, strict=True)]
    indptr = np.concatenate([np.zeros(1, np.int64), *later])
    return Labels(indptr, np.concatenate([part.indices for part in parts]))
