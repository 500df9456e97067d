"""A language model's head: an index fitted on one domain of text against torch's full layer.

    python -m benchmarks.lm_head [PATH] [--train N] [--json]

PATH is a bundle (benchmarks/bundles), by default the prose of lm-smollm2. One query is timed on one thread
on both sides, alternating; a batch on all.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bundles import Labels, groups, load
from lss_rs import Index, get_num_threads
from lss_rs._arrays import QueryRows, as_labels
from lss_rs._evaluate import Clock, TorchLayer, evaluate
from lss_rs.demo import cache_dir


def measure(path: Path, n_train: int) -> dict[str, Any]:
    """Fit on train, judge on test."""
    W, b, Q, Y = load(path, "train")
    n = min(n_train, len(Q))
    index = Index.from_weights(W, b)
    clock, seconds = Clock(), dict.fromkeys(("queries", "rows", "teacher", "build"), 0.0)

    def lap(stage: str, done: int, total: int) -> None:
        seconds[stage] += clock()

    index.fit(Q[:n], lists(Y)[:n], k=5, callback=lap)

    W, b, Q, Y = load(path, "test")
    head = torch.nn.Linear(index.d, index.m)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(W))
        head.bias.copy_(torch.tensor(b))
    report = evaluate(
        index,
        QueryRows(Q, index.d),
        as_labels(lists(Y), len(Q), index.m),
        [1, 5],
        groups=groups(path, "test"),
        layer=TorchLayer(head, get_num_threads()),
    )
    return {"fit": {"queries": n, "seconds": seconds}, "params": index.params, **report}


def lists(Y: Labels) -> list[np.ndarray]:
    """Labels, a list a query."""
    return [Y.indices[lo:hi] for lo, hi in pairwise(Y.indptr)]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "path", type=Path, nargs="?", default=cache_dir() / "bundles" / "lm-smollm2" / "prose"
    )
    parser.add_argument("--train", type=int, default=90_000, help="training queries")
    parser.add_argument("--json", action="store_true", help="one machine-readable document")
    options = parser.parse_args()
    report = measure(options.path, options.train)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    from rich.console import Console

    from lss_rs.cli import comparison

    Console().print(comparison(report))
    fit = report["fit"]
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in fit["seconds"].items())
    print(f"fit on {fit['queries']:,} queries: {stages}")


if __name__ == "__main__":
    main()
