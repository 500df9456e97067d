"""Random SimHash over the rows, as SLIDE and the paper's baseline have it: no learning, no sketches."""

from __future__ import annotations

from typing import Any, ClassVar

from benchmarks.engines import Data, lss


class Engine(lss.Engine):
    """Random planes over ``[w, b]``; every row that hashes with the query is scored."""

    title: ClassVar[str] = "random SimHash"
    sees: ClassVar[str] = "rows"
    kind: ClassVar[str] = "peer"

    def __init__(self, data: Data, num_threads: int, **build: Any) -> None:
        super().__init__(data, num_threads, method="simhash", fill="rows", sketch_bytes=0, **build)
