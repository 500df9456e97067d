"""The package for traffic that stays as it was: ``fit(target=0.99)`` with lists of labels by region."""

from __future__ import annotations

from math import log2
from typing import ClassVar

from benchmarks.engines import lss_fit
from lss_rs import LSSConfig

_QUERIES_A_REGION = 1024


class Engine(lss_fit.Engine):
    """An index with regions at the operating point that it found by itself."""

    title: ClassVar[str] = "lss-rs, fit with regions"

    @staticmethod
    def config(n: int) -> LSSConfig:
        return LSSConfig(n_regions=max(2 ** round(log2(n / _QUERIES_A_REGION)), 4))
