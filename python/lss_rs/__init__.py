"""Label Superior Sampling: the right labels of a wide output layer at a fraction of its cost.

Answers are ``(labels, scores)``; faiss's order is reversed. Scores are raw logits: higher is better.

>>> import numpy as np
>>> import lss_rs
>>> rng = np.random.default_rng(0)
>>> W = rng.standard_normal((1000, 16), dtype=np.float32)
>>> Q = rng.standard_normal((2000, 16), dtype=np.float32)
>>> index = lss_rs.Index.from_weights(W).fit(Q, progress=False)
>>> labels, scores = index.search(Q[0], k=5)

Optional parts are imported by name and need their extras, such as ``lss_rs.torch`` and ``lss_rs.hf``.
"""

import logging as _logging

from lss_rs import metrics
from lss_rs._core import (
    FormatError,
    NotFittedError,
    ShortResultError,
    __version__,
    cpu_features,
    get_num_threads,
    set_num_threads,
)
from lss_rs._versions import show_versions
from lss_rs.config import FirstRead, IULOptions, ListPoint, LSSConfig, OperatingPoint
from lss_rs.index import Index, Observed, SearchResult
from lss_rs.tuning import TuneReport, tune

__all__ = [
    "FirstRead",
    "FormatError",
    "IULOptions",
    "Index",
    "LSSConfig",
    "ListPoint",
    "NotFittedError",
    "Observed",
    "OperatingPoint",
    "SearchResult",
    "ShortResultError",
    "TuneReport",
    "__version__",
    "cpu_features",
    "get_num_threads",
    "metrics",
    "set_num_threads",
    "show_versions",
    "tune",
]

_logging.getLogger("lss_rs").addHandler(_logging.NullHandler())
