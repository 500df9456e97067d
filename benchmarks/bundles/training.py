"""What builders of trained bundles share: sampled softmax, stopping and going on, the arrays of a bundle."""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.bundles import Labels
from lss_rs.demo import cache_dir, write_json, write_npy

if TYPE_CHECKING:
    import torch

__all__ = [
    "Data",
    "Examples",
    "Negatives",
    "Plan",
    "full_precision",
    "options",
    "read_manifest",
    "resumed_epochs",
    "sampled_softmax_loss",
    "single_labels",
    "split_record",
    "take",
    "vocabulary",
    "write_layer",
    "write_manifest",
    "write_split",
]


class Examples(NamedTuple):
    """Examples of a split: numbers of the words of each, numbers of its labels, and more of each."""

    bags: Labels
    Y: Labels
    groups: np.ndarray
    columns: dict[str, np.ndarray] = {}  # noqa: RUF012 - a tuple's field, not a class's
    """Written beside the queries as NAME_SPLIT.npy."""


class Data(NamedTuple):
    """What a network is trained on and asked about."""

    splits: dict[str, Examples]
    n_words: int
    labels: list[str]
    """Name of each."""
    facts: dict[str, Any] = {}  # noqa: RUF012
    """For the manifest."""


class Plan(NamedTuple):
    """How a network is trained."""

    epochs: int
    batch: int
    negatives: int
    """Shared by the examples of a batch."""
    power: float
    """Negatives are drawn in proportion to this power of a label's count."""
    rate: float
    """Learning rate at the start; it falls to zero in a straight line."""
    word_dropout: float = 0.0
    """Share of the words that an example loses each time it is seen."""


class Negatives:
    """Shared negatives of a batch, drawn with replacement in proportion to ``counts ** power``.

    Parameters
    ----------
    counts : ndarray, shape (m,)
        How often each class occurs in training.
    size : int
        Negatives a batch.
    power : float, default 1.0
        1 draws as the labels do, 0 uniformly.

    Attributes
    ----------
    log_count : torch.Tensor, shape (m,)
        Log of how often each class is expected among the negatives of a batch.
    """

    def __init__(self, counts: np.ndarray, size: int, power: float = 1.0) -> None:
        import torch

        # A class that training never shows is a negative all the same.
        share = np.maximum(counts, 1).astype(np.float64) ** power
        share /= share.sum()
        self.size = size
        self.log_count = torch.from_numpy(np.log(share * size).astype(np.float32))
        self._edges = torch.from_numpy(np.cumsum(share)[:-1].copy())

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Draw the classes (size,) of the next batch."""
        import torch

        points = torch.rand(self.size, generator=generator, dtype=torch.float64)
        return torch.searchsorted(self._edges, points, right=True)


def sampled_softmax_loss(
    hidden: torch.Tensor,
    W: torch.Tensor,
    b: torch.Tensor | None,
    labels: torch.Tensor,
    negatives: torch.Tensor,
    log_count: torch.Tensor,
    *,
    sparse: bool = True,
) -> torch.Tensor:
    """Mean cross-entropy, the softmax's denominator estimated from shared negatives.

    A negative's term is divided by how often it was expected, which makes the estimate of the denominator
    unbiased; a negative that is an example's own label does not count for it. With every class among the
    negatives once, and ``log_count`` zero, this is the full softmax.

    Parameters
    ----------
    hidden : Tensor, shape (n, d)
    W : Tensor, shape (m, d)
    b : Tensor, shape (m, 1), or None
    labels : Tensor of int64, shape (n,)
    negatives : Tensor of int64, shape (size,)
    log_count : Tensor, shape (m,)
        As :class:`Negatives` has it.
    sparse : bool, default True
        Whether the gradients of W and b are sparse tensors, for ``SparseAdam`` and the like.
    """
    from torch.nn import functional

    def rows(weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return functional.embedding(ids, weight, sparse=sparse)

    own = (hidden * rows(W, labels)).sum(1)
    others = hidden @ rows(W, negatives).T
    if b is not None:
        own = own + rows(b, labels).squeeze(1)
        others = others + rows(b, negatives).squeeze(1)
    others = others - log_count[negatives]
    others = others.masked_fill(negatives == labels[:, None], float("-inf"))
    # log(1 + sum exp(others - own)): the label's own term, and the others.
    return functional.softplus(others.logsumexp(1) - own).mean()


def resumed_epochs(n_epochs: int, path: Path, parts: dict[str, Any], recipe: Any) -> Iterator[int]:
    """Yield the numbers of the epochs that are still to do, keeping what has been learned after each.

    Parameters
    ----------
    n_epochs : int
    path : Path
        The checkpoint. It may be deleted once what was trained is written.
    parts : dict
        Whatever has ``state_dict`` and ``load_state_dict``: the model, the optimiser, a schedule.
    recipe : JSON-like
        A checkpoint of another recipe is not used.
    """
    import torch

    recipe = json.dumps(recipe, sort_keys=True)
    done = 0
    if path.is_file():
        saved = torch.load(path, weights_only=True)
        if saved["recipe"] == recipe:
            done = saved["epochs"]
            for name, part in parts.items():
                part.load_state_dict(saved[name])
    for epoch in range(done, n_epochs):
        yield epoch
        state = {name: part.state_dict() for name, part in parts.items()}
        part = path.with_name(f"{path.name}.part")
        torch.save({"recipe": recipe, "epochs": epoch + 1, **state}, part)
        part.replace(path)


def vocabulary(counts: Counter[str], min_count: int) -> dict[str, int]:
    """Give numbers to the words that occur often enough, the commonest first."""
    kept = sorted((-count, word) for word, count in counts.items() if count >= min_count)
    return {word: number for number, (_, word) in enumerate(kept)}


def take(lists: Labels, rows: np.ndarray) -> Labels:
    """Return some of many lists in CSR form, in the order given."""
    starts = lists.indptr[rows]
    lengths = lists.indptr[rows + 1] - starts
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return Labels(indptr, lists.indices[np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], lengths)])


def single_labels(y: np.ndarray) -> Labels:
    """One label a query, y (n,), as CSR."""
    return Labels(np.arange(len(y) + 1, dtype=np.int64), np.asarray(y, np.int64))


def full_precision(
    W: np.ndarray, b: np.ndarray, Q: np.ndarray, Y: Labels, ks: tuple[int, ...] = (1, 5)
) -> dict[str, float]:
    """P@k of the full layer, {"P@1": .., "P@5": ..}; P@k divides by k, however few labels there are."""
    import torch

    rows, bias = torch.tensor(W), torch.tensor(b)
    hits = dict.fromkeys(ks, 0)
    for i in range(0, len(Q), 1024):
        indptr = np.asarray(Y.indptr[i : i + 1025])
        queries = torch.from_numpy(np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)))
        labels = torch.tensor(Y.indices[indptr[0] : indptr[-1]])
        logits = torch.addmm(bias, torch.tensor(Q[i : i + 1024]), rows.T)
        own = logits[queries, labels]
        best = logits.topk(max(ks)).values
        for k in ks:
            hits[k] += int((own >= best[queries, k - 1]).sum())
    return {f"P@{k}": round(hits[k] / (len(Q) * k), 5) for k in ks}


def options(name: str, sizes: dict[str, int], arguments: list[str] | None) -> tuple[Path, dict[str, int]]:
    """Read a builder's command line: the bundle's folder, and queries of each split of `sizes`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.bundles.{name.replace('-', '_')}",
        description=f"Build the bundle {name}, if it is not built.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    out = cache_dir() / "bundles" / name
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help="the bundle's folder")
    for split, size in sizes.items():
        parser.add_argument(f"--{split}", type=int, default=size, metavar="N", help=f"queries in {split}")
    args = parser.parse_args(arguments)
    return args.out, {split: getattr(args, split) for split in sizes}


def read_manifest(folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of what was built by this recipe, with at least ``"splits"``, or a fresh one."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # As JSON gives it back: a tuple is a list there.
    recipe = json.loads(json.dumps(recipe))
    if {key: manifest.get(key) for key in recipe} != recipe:
        return {**recipe, "splits": {}}
    return manifest


def write_layer(folder: Path, W: np.ndarray, b: np.ndarray) -> None:
    """Write the output layer, W (m, d) and b (m,), as float32."""
    write_npy(folder / "W.npy", np.ascontiguousarray(W, np.float32))
    write_npy(folder / "b.npy", np.ascontiguousarray(b, np.float32))


def write_split(folder: Path, split: str, Q: np.ndarray, Y: Labels, groups: np.ndarray) -> None:
    """Write the queries of a split (n, d), their labels and the numbers of their documents (n,)."""
    write_npy(folder / f"Q_{split}.npy", np.ascontiguousarray(Q, np.float32))
    write_npy(folder / f"Y_{split}_indptr.npy", np.asarray(Y.indptr, np.int64))
    write_npy(folder / f"Y_{split}_indices.npy", np.asarray(Y.indices, np.int64))
    write_npy(folder / f"groups_{split}.npy", np.asarray(groups, np.int64))


def split_record(
    W: np.ndarray, b: np.ndarray, Q: np.ndarray, Y: Labels, groups: np.ndarray
) -> dict[str, Any]:
    """Return what a manifest says of a split: counts, the full layer's precision, versions."""
    return {
        "queries": len(Q),
        "labels_a_query": round(len(Y.indices) / len(Q), 4),
        "documents": len(np.unique(groups)),
        "full_layer": full_precision(W, b, Q, Y),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "numpy")},
    }


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, after everything it tells of."""
    write_json(folder / "manifest.json", manifest)
