"""The network behind ``xmc-contents`` and ``w2v-gcide``: a bag of words, one hidden layer, a wide softmax."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm.auto import tqdm

from benchmarks.bundles import Labels
from benchmarks.bundles.training import (
    Data,
    Negatives,
    Plan,
    read_manifest,
    resumed_epochs,
    sampled_softmax_loss,
    split_record,
    take,
    write_layer,
    write_manifest,
    write_split,
)
from lss_rs.demo import write_json, write_npy

__all__ = ["WordBags", "build", "train"]


class WordBags(nn.Module):
    """The mean of an example's word vectors, rectified or not, is what the output layer sees.

    Parameters
    ----------
    n_words, d, m : int
        Word vectors, their width and labels.
    relu, bias : bool
    """

    def __init__(self, n_words: int, d: int, m: int, *, relu: bool, bias: bool) -> None:
        super().__init__()
        self.relu = relu
        self.words = nn.Parameter(torch.randn(n_words, d) / d**0.5)
        self.W = nn.Parameter(torch.randn(m, d) / d**0.5)
        self.b = nn.Parameter(torch.zeros(m, 1)) if bias else None

    def hidden(self, bags: Labels, dropout: float = 0.0) -> torch.Tensor:
        """Hidden states (n, d) of n examples: the words of each as CSR."""
        weights = np.repeat(1 / np.diff(bags.indptr), np.diff(bags.indptr)).astype(np.float32)
        scale = torch.from_numpy(weights)
        if dropout:
            scale = functional.dropout(scale, dropout)
        mean = functional.embedding_bag(
            torch.from_numpy(bags.indices.astype(np.int64)),
            self.words,
            torch.from_numpy(bags.indptr[:-1]),
            mode="sum",
            sparse=True,
            per_sample_weights=scale,
        )
        return torch.relu(mean) if self.relu else mean

    @torch.no_grad()
    def queries(self, bags: Labels) -> np.ndarray:
        """Hidden states (n, d) of n examples, after training."""
        rows = np.arange(len(bags.indptr) - 1)
        return np.concatenate(
            [self.hidden(take(bags, part)).numpy() for part in np.array_split(rows, -(-len(rows) // 4096))]
        )


def train(
    network: WordBags, bags: Labels, Y: Labels, plan: Plan, checkpoint: Path, recipe: dict[str, Any]
) -> None:
    """Train on examples (bags of words) and their labels, or go on where `checkpoint` ends.

    Of an example with several labels one is drawn each time: in expectation the cross-entropy against all
    of them in equal parts.
    """
    n = len(bags.indptr) - 1
    negatives = Negatives(np.bincount(Y.indices, minlength=len(network.W)), plan.negatives, plan.power)
    optimizer = torch.optim.SparseAdam(list(network.parameters()), lr=plan.rate)
    starts = range(0, n, plan.batch)
    parts = {"network": network, "optimizer": optimizer}
    for epoch in resumed_epochs(plan.epochs, checkpoint, parts, recipe):
        # From the epoch's number, so that a build that was stopped ends where another would have.
        torch.manual_seed(epoch)
        generator, rng = torch.Generator().manual_seed(epoch), np.random.default_rng(epoch)
        order = rng.permutation(n)
        title = f"epoch {epoch + 1} of {plan.epochs}"
        mean_loss = 0.0
        with tqdm(starts, desc=title, unit="batch") as bar:
            for step, start in enumerate(bar):
                rows = order[start : start + plan.batch]
                lo, hi = Y.indptr[rows], Y.indptr[rows + 1]
                labels = torch.from_numpy(Y.indices[rng.integers(lo, hi)])
                hidden = network.hidden(take(bags, rows), plan.word_dropout)
                loss = sampled_softmax_loss(
                    hidden, network.W, network.b, labels, negatives.draw(generator), negatives.log_count
                )
                left = 1 - (epoch + step / len(starts)) / plan.epochs
                optimizer.param_groups[0]["lr"] = plan.rate * left
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                mean_loss += (loss.item() - mean_loss) / (step + 1)
                if step % 20 == 0:
                    bar.set_postfix(loss=f"{mean_loss:.3f}")


def build(
    out: Path,
    recipe: dict[str, Any],
    sizes: dict[str, int],
    read: Callable[[], Data],
    plan: Plan,
    d: int,
    *,
    relu: bool,
    bias: bool,
    long: int = 0,
) -> None:
    """Build a bundle of which a network is the layer, unless it was built by this recipe already.

    With ``long``, a folder of this name has so many queries of train, those of the bundle first.
    """
    out.mkdir(parents=True, exist_ok=True)
    network_options = {"d": d, "relu": relu, "bias": bias}
    recipe = recipe | {"sizes": sizes, "plan": plan._asdict(), "network": network_options}
    recipe |= {"long": long} if long else {}
    manifest = read_manifest(out, recipe)
    if sizes.keys() <= manifest["splits"].keys():
        print(f"{out.name}: built already")
        return

    data = read()
    for split, size in [*sizes.items(), ("train", long)]:
        if (n := len(data.splits[split].groups)) < size:
            raise RuntimeError(f"{split} has {n:,} examples, not {size:,}")
    torch.manual_seed(0)
    m = len(data.labels)
    network = WordBags(data.n_words, d, m, relu=relu, bias=bias)
    checkpoint = out / "training.pt"
    bags, Y = data.splits["train"][:2]
    train(network, bags, Y, plan, checkpoint, recipe)

    W = network.W.detach().numpy()
    b = np.zeros(m, np.float32) if network.b is None else network.b.detach().numpy()[:, 0]
    (out / "manifest.json").unlink(missing_ok=True)
    write_layer(out, W, b)
    write_json(out / "labels.json", data.labels)
    manifest |= {"m": m, "d": d, "trained_on": len(bags.indptr) - 1, **data.facts}
    for split, size in sizes.items():
        bags, Y, groups, columns = data.splits[split]
        rows = _drawn(len(groups), size)
        Q, Y, groups = network.queries(take(bags, rows)), take(Y, rows), groups[rows]
        write_split(out, split, Q, Y, groups)
        for name, column in columns.items():
            write_npy(out / f"{name}_{split}.npy", column[rows])
        manifest["splits"][split] = split_record(W, b, Q, Y, groups)
        print(f"{out.name} {split}: {manifest['splits'][split]}")
    if long:
        bags, Y, groups, _ = data.splits["train"]
        rows = _drawn(len(groups), long)
        (out / "long").mkdir(exist_ok=True)
        write_split(out / "long", "train", network.queries(take(bags, rows)), take(Y, rows), groups[rows])
    # Last: what the manifest tells of is whole.
    write_manifest(out, manifest)
    checkpoint.unlink()


def _drawn(n: int, size: int) -> np.ndarray:
    """Draw examples from n: fewer are the first of more."""
    return np.random.default_rng(0).permutation(n)[:size]
