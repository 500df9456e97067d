"""Build the bundle ``lstm-gcide``: a recurrent language model, trained here on the text of a dictionary.

    python -m benchmarks.bundles.lstm_gcide [--out DIR]

The model is one LSTM layer below a softmax over words, as the paper's for WikiText-2. The text is that of
Debian's ``dict-gcide``, fetched into the cache and unpacked there, never installed. README.md beside this
file has the layout, lstm_gcide.md the card.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from benchmarks.bundles import SPLITS, lm_smollm2, training
from benchmarks.bundles.debian import fetch
from benchmarks.bundles.text import Document, deduplicated, hash_of, split_of
from benchmarks.bundles.training import (
    Negatives,
    options,
    read_manifest,
    resumed_epochs,
    sampled_softmax_loss,
    single_labels,
    split_record,
    write_layer,
    write_manifest,
    write_split,
)
from lss_rs.demo import cache_dir

if TYPE_CHECKING:
    import torch

# Raise it with any change of what is read, trained or exported: what was built is then built anew.
RECIPE = 1
# Fewest queries of a split. It holds whole documents, so that it has up to one document more.
SIZES = {"train": 100_000, "val": 10_000, "test": 12_000}

# Occurrences in train that make a word a label.
MIN_COUNT = 4
UNKNOWN, END = "<unk>", "<end of paragraph>"

DIMENSION = 200
DROPOUT = 0.2
# A batch: so many documents side by side, so many tokens of each.
SLOTS, LENGTH = 64, 35
NEGATIVES, POWER = 2048, 0.75
EPOCHS = 3
RATE, CLIP = 3e-3, 1.0
SEED = 0


# --- text ------------------------------------------------------------------------------------------------


def words(paragraph: str) -> list[str]:
    """Words as they are spelt, the dash before an author's name, and every other mark by itself."""
    return re.findall(r"\w+(?:'\w+)?|--|[^\w\s]", paragraph)


def vocabulary(documents: Iterable[Document], min_count: int) -> dict[str, int]:
    """Count the words that occur often enough, most frequent first; the others are counted together."""
    counts: Counter[str] = Counter()
    n_paragraphs = 0
    for document in documents:
        for paragraph in document.paragraphs:
            counts.update(words(paragraph))
            n_paragraphs += 1
    kept = {word: counts[word] for word in training.vocabulary(counts, min_count)}
    return {UNKNOWN: counts.total() - sum(kept.values()), END: n_paragraphs} | kept


def encode(document: Document, ids: dict[str, int]) -> np.ndarray:
    """Encode a document as ids (n + 1,): all but the last are read, all but the first are labels."""
    found = [ids[END]]
    for paragraph in document.paragraphs:
        found += [ids.get(word, ids[UNKNOWN]) for word in words(paragraph)]
        found.append(ids[END])
    return np.array(found, np.int64)


class Window(NamedTuple):
    """A stretch of up to T tokens of each of B documents: a batch of training."""

    inputs: np.ndarray
    """int64 (T, B)."""
    labels: np.ndarray
    """int64 (T, B), -1 where a document is over."""
    documents: np.ndarray
    """int64 (B,): which document, -1 for none."""
    starts: np.ndarray
    """int64 (B,): tokens of it that came before; 0 where one begins."""


def windows(documents: Sequence[np.ndarray], slots: int, length: int) -> Iterator[Window]:
    """Read encoded documents side by side, a slot each; a slot whose document is over takes the next."""
    waiting = iter(range(len(documents)))
    current, starts = np.full(slots, -1), np.zeros(slots, np.int64)
    while True:
        inputs, labels = np.zeros((length, slots), np.int64), np.full((length, slots), -1)
        for slot in range(slots):
            if current[slot] < 0 or starts[slot] + 1 >= len(documents[current[slot]]):
                current[slot], starts[slot] = next(waiting, -1), 0
            if current[slot] >= 0:
                lo = starts[slot]
                ids = documents[current[slot]][lo : lo + length + 1]
                inputs[: len(ids) - 1, slot], labels[: len(ids) - 1, slot] = ids[:-1], ids[1:]
        if (current < 0).all():
            return
        yield Window(inputs, labels, current.copy(), starts.copy())
        starts += length


def leading(documents: Sequence[np.ndarray], unknown: int, n: int) -> Sequence[np.ndarray]:
    """Take the first documents that have n labels other than `unknown`."""
    total = 0
    for i, ids in enumerate(documents):
        total += np.count_nonzero(ids[1:] != unknown)
        if total >= n:
            return documents[: i + 1]
    raise RuntimeError(f"the documents have {total:,} labels, fewer than {n:,}")


# --- model -----------------------------------------------------------------------------------------------


def new_model(counts: np.ndarray) -> Any:
    """Return an untrained model: a word's embedding, the LSTM, the output layer W and b."""
    import torch

    m = len(counts)
    torch.manual_seed(SEED)
    model = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(m, DIMENSION, sparse=True),
            "lstm": torch.nn.LSTM(DIMENSION, DIMENSION),
            "W": torch.nn.Embedding(m, DIMENSION, sparse=True),
            "b": torch.nn.Embedding(m, 1, sparse=True),
        }
    )
    with torch.no_grad():
        model["embedding"].weight.normal_(std=0.1)
        model["W"].weight.normal_(std=0.05)
        model["b"].weight.copy_(torch.from_numpy(np.log(counts / counts.sum()))[:, None])
    return model


def outputs(model: Any, window: Window, state: Any, dropout: float = 0.0) -> tuple[torch.Tensor, Any]:
    """Return the LSTM's outputs (T, B, d) and its new state; a document begins from none."""
    import torch
    from torch.nn.functional import dropout as drop

    if state is not None:
        goes_on = torch.from_numpy(window.starts > 0)[:, None]
        state = tuple(part.detach() * goes_on for part in state)
    read = drop(model["embedding"](torch.from_numpy(window.inputs)), dropout)
    hidden, state = model["lstm"](read, state)
    return drop(hidden, dropout), state


def train(documents: list[np.ndarray], counts: np.ndarray, checkpoint: Path, recipe: Any) -> Any:
    """Train a model, going on after the last epoch that was finished."""
    import torch

    model = new_model(counts)
    dense = list(model["lstm"].parameters())
    sparse = [model[name].weight for name in ("embedding", "W", "b")]
    optimisers = {"adam": torch.optim.Adam(dense), "sparse_adam": torch.optim.SparseAdam(sparse)}
    negatives = Negatives(counts, NEGATIVES, POWER)
    for epoch in resumed_epochs(EPOCHS, checkpoint, {"model": model, **optimisers}, recipe):
        torch.manual_seed(SEED + epoch)
        draws = torch.Generator().manual_seed(SEED + epoch)
        order = np.random.default_rng(SEED + epoch).permutation(len(documents))
        state, losses = None, []
        batches = list(windows([documents[i] for i in order], SLOTS, LENGTH))
        bar = tqdm(batches, desc=f"epoch {epoch + 1} of {EPOCHS}", unit="batch")
        for step, window in enumerate(bar):
            for optimiser in optimisers.values():
                optimiser.param_groups[0]["lr"] = rate((epoch + step / len(batches)) / EPOCHS)
                optimiser.zero_grad()
            hidden, state = outputs(model, window, state, DROPOUT)
            labels = torch.from_numpy(window.labels)
            known = labels >= 0
            loss = sampled_softmax_loss(
                hidden[known],
                model["W"].weight,
                model["b"].weight,
                labels[known],
                negatives.draw(draws),
                negatives.log_count,
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(dense, CLIP)
            for optimiser in optimisers.values():
                optimiser.step()
            losses.append(loss.item())
            bar.set_postfix(perplexity=round(math.exp(np.mean(losses[-100:]))), refresh=False)
    return model


def rate(done: float) -> float:
    """Learning rate when a share of the training is done: a steep start, then down in a line."""
    return RATE * min(done / 0.02, (1.02 - done), 1.0)


def queries(model: Any, documents: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every output state of documents (n, d), in their order, its label and its document's number."""
    import torch

    ends = np.cumsum([0] + [len(ids) - 1 for ids in documents])
    Q = np.empty((ends[-1], DIMENSION), np.float32)
    state = None
    with torch.inference_mode():
        for window in windows(documents, SLOTS, LENGTH):
            hidden, state = outputs(model, window, state)
            known = window.labels >= 0
            places = ends[window.documents] + window.starts + np.arange(LENGTH)[:, None]
            Q[places[known]] = hidden.numpy()[known]
    return (
        Q,
        np.concatenate([ids[1:] for ids in documents]),
        np.repeat(np.arange(len(documents)), np.diff(ends)),
    )


def perplexity(W: np.ndarray, b: np.ndarray, Q: np.ndarray, y: np.ndarray) -> float:
    """Perplexity of the full layer."""
    import torch

    rows, bias, total = torch.from_numpy(W), torch.from_numpy(b), 0.0
    for i in range(0, len(Q), 1024):
        logits = torch.addmm(bias, torch.from_numpy(Q[i : i + 1024]), rows.T)
        labels = torch.from_numpy(y[i : i + 1024])
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return round(math.exp(total / len(Q)), 2)


# --- building --------------------------------------------------------------------------------------------


def build(out: Path) -> None:
    """Build the bundle, unless it is there."""
    out.mkdir(parents=True, exist_ok=True)
    root, package = fetch("dict-gcide", cache_dir() / "debian")
    recipe = {"recipe": RECIPE, "text_recipe": lm_smollm2.RECIPE, "sizes": SIZES, "packages": [package]}
    manifest = read_manifest(out, recipe)
    if all(split in manifest["splits"] for split in SPLITS):
        print(f"{out.name}: built already")
        return

    by_split: dict[str, list[Document]] = {split: [] for split in SPLITS}
    found = deduplicated(lm_smollm2.read_gcide(root))
    for document in sorted(
        tqdm(found, desc="text", unit="doc"), key=lambda document: hash_of("order", document.id)
    ):
        by_split[split_of(document.id)].append(document)
    counted = vocabulary(by_split["train"], MIN_COUNT)
    ids = {word: i for i, word in enumerate(counted)}
    counts = np.array(list(counted.values()), np.float64)
    encoded = {
        split: [encode(document, ids) for document in tqdm(documents, desc=f"words of {split}", unit="doc")]
        for split, documents in by_split.items()
    }

    checkpoint = out / "checkpoint.pt"
    model = train(encoded["train"], counts, checkpoint, recipe)
    W = model["W"].weight.detach().numpy()
    b = model["b"].weight.detach().numpy()[:, 0].copy()
    (out / "manifest.json").unlink(missing_ok=True)
    write_layer(out, W, b)
    manifest |= {
        "m": len(W),
        "d": DIMENSION,
        "text": {
            split: {"documents": len(documents), "tokens": sum(len(ids) - 1 for ids in documents)}
            for split, documents in encoded.items()
        },
    }
    for split in SPLITS:
        documents = leading(encoded[split], ids[UNKNOWN], SIZES[split])
        Q, y, groups = queries(model, documents)
        known = y != ids[UNKNOWN]
        Y = single_labels(y[known])
        write_split(out, split, Q[known], Y, groups[known])
        manifest["splits"][split] = split_record(W, b, Q[known], Y, groups[known]) | {
            "unknown_left_out": int((~known).sum()),
            "perplexity": perplexity(W, b, Q, y),
        }
        print(f"{split}: {manifest['splits'][split]}")
    # Last, so that a bundle the manifest knows is whole.
    write_manifest(out, manifest)
    checkpoint.unlink()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    build(options("lstm-gcide", {}, arguments)[0])


if __name__ == "__main__":
    main()
