"""Build the bundle ``scale``: SYNTHETIC layers of any width, to see how cost grows with the number of rows.

    python -m benchmarks.bundles.scale --rows N [--out DIR]

Planted clusters, whose labels are known without a full product. Nothing here says anything about quality on
real data. README.md beside this file has the layout, scale.md the card.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from benchmarks.bundles import SPLITS
from benchmarks.bundles.training import read_manifest, write_manifest
from lss_rs.demo import cache_dir, write_npy

# Raise it with any change of what is drawn: what was built is then built anew.
RECIPE = 2
SEED = 0

DIMENSION = 128
ROWS_A_CLUSTER = 50
LABELS = 5
SIZES = {"val": 2_000, "test": 4_000}
"""Held-out queries; training has one a row."""

# The variance of coordinate j falls as j^-EXPONENT in centres, offsets and noise alike, so that the variance
# of a logit falls as 1 / j over them. SmolLM2's head over prose has 1 / j^0.95.
EXPONENT = 0.5
# Lengths beside the centre's, which is 1 before the norms vary.
OFFSET, NOISE = 0.4, 0.2
# Standard deviation of the log of a factor on a cluster, and of another on each of its rows. With 0.03 on
# rows a cluster's longest rows would be labels of all its queries, and half of the rows of their own query
# alone.
CLUSTER_NORM, ROW_NORM = 0.1, 0.01

# Clusters drawn at a time, and rows multiplied at a time: they bound the memory, and the former is part of
# the recipe.
CLUSTERS, PRODUCT = 1_000, 20_000
CHECKED = 500
"""Queries of a split that are checked by the full product."""


class Planter:
    """Draws rows and queries of clusters.

    Row ``slot * n_clusters + c`` is of cluster c: neighbours in memory are strangers, as in a real layer.
    """

    def __init__(self, dimension: int = DIMENSION) -> None:
        variances = np.arange(1, dimension + 1) ** -EXPONENT
        self._deviations = np.sqrt(variances / variances.sum()).astype(np.float32)
        turned = np.random.default_rng([SEED, 0]).standard_normal((dimension, dimension))
        # No coordinate of W or Q is special.
        self._rotation = np.linalg.qr(turned)[0].astype(np.float32)

    def _draw(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        return rng.standard_normal((*shape, len(self._deviations)), dtype=np.float32) * self._deviations

    def rows(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draw the rows of n clusters, (ROWS_A_CLUSTER, n, d)."""
        centres = self._draw(rng, n)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        offsets = OFFSET * self._draw(rng, ROWS_A_CLUSTER, n)
        # Across the centre, or a row further along it would beat the others of its cluster for every query.
        offsets -= np.einsum("snd,nd->sn", offsets, centres)[:, :, None] * centres
        norms = np.exp(
            CLUSTER_NORM * rng.standard_normal(n) + ROW_NORM * rng.standard_normal((ROWS_A_CLUSTER, n))
        )
        return ((centres + offsets) * norms.astype(np.float32)[:, :, None]) @ self._rotation

    def queries(self, rng: np.random.Generator, near: np.ndarray) -> np.ndarray:
        """Draw a query near each row (.., d)."""
        return near + (NOISE * self._draw(rng, *near.shape[:-1])) @ self._rotation


def best_slots(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Slots (n, t, LABELS) of the best rows, in clusters (n, slots, d), for queries (n, t, d)."""
    logits = queries @ rows.swapaxes(1, 2)
    return np.argsort(-logits, axis=2, kind="stable")[:, :, :LABELS]


def plant(out: Path, n_clusters: int) -> np.ndarray:
    """Write W, b and the training split; return whether each row is a label in training (m,)."""
    m = n_clusters * ROWS_A_CLUSTER
    planter, seen = Planter(), np.zeros(m, bool)
    with (
        new_array(out / "W.npy", np.float32, (m, DIMENSION)) as W,
        new_array(out / "Q_train.npy", np.float32, (m, DIMENSION)) as Q,
        new_array(out / "Y_train_indices.npy", np.int64, (m * LABELS,)) as Y,
    ):
        # By slot and cluster.
        W_of, Q_of = (array.reshape(ROWS_A_CLUSTER, n_clusters, DIMENSION) for array in (W, Q))
        Y_of = Y.reshape(ROWS_A_CLUSTER, n_clusters, LABELS)
        with tqdm(total=m, desc="rows", unit="row") as bar:
            for lo in range(0, n_clusters, CLUSTERS):
                hi = min(lo + CLUSTERS, n_clusters)
                rng = np.random.default_rng([SEED, 1, lo])
                rows = planter.rows(rng, hi - lo)
                queries = planter.queries(rng, rows)
                slots = best_slots(rows.swapaxes(0, 1), queries.swapaxes(0, 1)).swapaxes(0, 1)
                labels = slots * n_clusters + np.arange(lo, hi)[:, None]
                W_of[:, lo:hi], Q_of[:, lo:hi], Y_of[:, lo:hi] = rows, queries, labels
                seen[labels] = True
                bar.update((hi - lo) * ROWS_A_CLUSTER)
    write_npy(out / "b.npy", np.zeros(m, np.float32))
    return seen


@contextlib.contextmanager
def new_array(path: Path, dtype: type, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Map a new array to be filled; the file has its name once it is whole."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    array = np.lib.format.open_memmap(part, "w+", dtype, shape)
    yield array
    array.flush()
    part.replace(path)


def held_out(W: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw queries (n, d) near any rows, and find their labels (n, LABELS)."""
    n_clusters = len(W) // ROWS_A_CLUSTER
    rng = np.random.default_rng([SEED, 2 + SPLITS.index(split)])
    near = rng.integers(len(W), size=SIZES[split])
    Q = Planter().queries(rng, W[near])
    clusters = near % n_clusters
    members = clusters[:, None] + n_clusters * np.arange(ROWS_A_CLUSTER)
    # A query at a time, as what a cluster of rows takes is little, and that of all of them is not.
    slots = np.stack(
        [best_slots(W[ids][None], q[None, None])[0, 0] for ids, q in zip(members, Q, strict=True)]
    )
    return Q, np.take_along_axis(members, slots, axis=1)


def full_precision(W: np.ndarray, Q: np.ndarray, Y: np.ndarray) -> dict[str, float]:
    """P@1 and P@5 of the full layer, whose bias is zero, for queries (n, d) with labels (n, LABELS)."""
    own = np.einsum("nld,nd->nl", W[Y], Q)
    above = np.zeros(Y.shape, np.int64)
    for lo in tqdm(range(0, len(W), PRODUCT), desc="full product", unit="block"):
        logits = Q @ W[lo : lo + PRODUCT].T
        for label in range(LABELS):
            # The two products differ in the last bits: a label is not to be above itself.
            above[:, label] += np.count_nonzero(logits > own[:, label, None] + 1e-5, axis=1)
    return {f"P@{k}": round(float((above < k).sum(1).mean()) / k, 5) for k in (1, 5)}


def build(out: Path, n_rows: int) -> None:
    """Build the bundle of so many rows, unless it is there."""
    out.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(
        out, {"synthetic": "planted clusters", "recipe": RECIPE, "m": n_rows, "d": DIMENSION}
    )
    if all(split in manifest["splits"] for split in SPLITS):
        print(f"{out}: built already")
        return
    (out / "manifest.json").unlink(missing_ok=True)

    seen = plant(out, n_rows // ROWS_A_CLUSTER)
    W, Q = (np.load(out / f"{name}.npy", mmap_mode="r") for name in ("W", "Q_train"))
    Y = np.load(out / "Y_train_indices.npy", mmap_mode="r").reshape(-1, LABELS)
    data = {"train": (Q, Y)} | {split: held_out(W, split) for split in SIZES}
    for split, (Q, Y) in data.items():
        write_npy(out / f"Y_{split}_indptr.npy", np.arange(len(Q) + 1, dtype=np.int64) * LABELS)
        if split != "train":
            write_npy(out / f"Q_{split}.npy", Q)
            write_npy(out / f"Y_{split}_indices.npy", Y.ravel())
        checked = np.linspace(0, len(Q) - 1, min(CHECKED, len(Q)), dtype=np.int64)
        manifest["splits"][split] = {
            "queries": len(Q),
            "labels_a_query": LABELS,
            "labels_in_train": round(float(seen[Y].mean()), 5),
            "queries_checked": len(checked),
            "full_layer": full_precision(W, Q[checked], Y[checked]),
        }
    # Last, so that a bundle the manifest knows is whole.
    write_manifest(out, manifest)
    print(f"{out}: {manifest['splits']}")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bundles.scale",
        description="Build the synthetic bundle scale, unless it is there.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rows", type=int, required=True, metavar="N", help="rows of the layer")
    out = cache_dir() / "bundles" / "scale"
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help="N is a folder of this one")
    args = parser.parse_args(arguments)
    if args.rows < ROWS_A_CLUSTER or args.rows % ROWS_A_CLUSTER:
        parser.error(f"--rows must be a multiple of {ROWS_A_CLUSTER}")
    build(args.out / str(args.rows), args.rows)


if __name__ == "__main__":
    main()
