"""The package for traffic that stays as it was: ``fit(target=0.99)`` with lists of labels by region."""

from __future__ import annotations

from math import log2
from typing import ClassVar

from benchmarks.engines import lss_fit
from lss_rs import LSSConfig


def n_regions(n: int, queries_a_region: int = 1024) -> int:
    """Say in how many regions, a power of two, `n` training queries come to about so many each."""
    return max(2 ** round(log2(n / queries_a_region)), 4)


class Engine(lss_fit.Engine):
    """An index with regions at the operating point that it found by itself."""

    title: ClassVar[str] = "lss-rs, fit with regions"

    @staticmethod
    def config(n: int) -> LSSConfig:
        return LSSConfig(n_regions=n_regions(n))
