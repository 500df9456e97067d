"""The package's lists of labels alone: no answer goes on to the tables."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from benchmarks.engines import Data, lss, lss_regions
from lss_rs import FirstRead, ListPoint
from lss_rs.learn.trust import Read, learn_list_trust

_JUDGE, _LIST_JUDGE = (5.0, *(0.0,) * 10), (0.0,) * 9
"""Where nothing is doubted, it does not matter what trust is made of."""
_JUDGED = 4096
"""Training queries, at most, that trust is learned from."""


class Engine(lss.Engine):
    """An index with regions that answers from their lists, as far as its setting says.

    Parameters
    ----------
    queries_a_region : int
        Training queries for each region, about.
    """

    title: ClassVar[str] = "lss-rs, lists alone"

    def __init__(self, data: Data, num_threads: int, queries_a_region: int) -> None:
        super().__init__(data, num_threads, n_regions=lss_regions.n_regions(len(data.Q), queries_a_region))
        self._judged = np.ascontiguousarray(data.Q[:: -(-len(data.Q) // _JUDGED)])
        self._full: np.ndarray | None = None
        self._reads: dict[tuple[int, int], Read] = {}

    def configure(self, n_listed: int, n_rescore: int, n_first: int = 0, share: float = 0.0) -> None:
        """Read so many labels of a list and rescore so many.

        Less is read at first, where that is said, and for the share of the training queries whose answer is
        trusted least, by a judge that has seen these, the list is read on.
        """
        alone = ListPoint(n_listed, n_rescore, trust=0.0, judge=_LIST_JUDGE)
        if n_first:
            read = self._reads.get((n_first, n_rescore))
            if read is None:
                if self._full is None:
                    self._full = self.index.search(self._judged, 5, exact=True).labels
                read = learn_list_trust(self.index._core, self._judged, self._full, 5, n_first, n_rescore)
                self._reads[n_first, n_rescore] = read
            first = FirstRead(n_first, float(np.quantile(read.trust, share)), read.judge)
            alone = alone._replace(first=first)
        self.index.apply(self._point._replace(trust=0.0, judge=_JUDGE, list=alone))
