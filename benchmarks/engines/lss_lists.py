"""The package's lists of labels alone: no answer is doubted, and none goes on to the tables."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.engines import Data, lss, lss_regions
from lss_rs import ListPoint

_JUDGE, _LIST_JUDGE = (5.0, *(0.0,) * 10), (0.0,) * 9
"""Where nothing is doubted, it does not matter what trust is made of."""


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

    def configure(self, n_listed: int, n_rescore: int) -> None:
        """Read so many labels of a list, and score so many rows in full at most."""
        alone = ListPoint(n_listed, n_rescore, trust=0.0, judge=_LIST_JUDGE)
        self.index.apply(self._point._replace(trust=0.0, judge=_JUDGE, list=alone))
