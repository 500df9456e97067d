"""Hidden states of a causal language model, as queries for its output layer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from tqdm.auto import tqdm

from lss_rs.demo import write_json, write_npy

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Pair = tuple[NDArray[np.float32], NDArray[np.int64]]

_MANIFEST = "states.json"
_SHARD_TOKENS = 65_536
# Windows wait in a pool of this many batches and run with others of their length: enough to leave little
# padding, and all that is ever held besides the result.
_POOL_BATCHES = 16
_LOOK = 16
"""Tokens for which the output layer is watched, too."""


class Shards(Sequence["Pair"]):
    """Queries and labels on disk, a shard after the other, each as a pair of memory maps.

    ``Index.fit(iter(shards))`` learns from all of them without holding them; ``shards[-1]`` is the last one,
    to hold out.

    Parameters
    ----------
    folder : path-like
        Where :func:`collect` has written.

    Raises
    ------
    FileNotFoundError
        If it has not.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        manifest = json.loads((self.folder / _MANIFEST).read_text(encoding="utf-8"))
        self._sizes = [int(shard["queries"]) for shard in manifest["shards"]]

    @property
    def n(self) -> int:
        """Queries in all shards."""
        return sum(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, at: int) -> Pair: ...
    @overload
    def __getitem__(self, at: slice) -> list[Pair]: ...
    def __getitem__(self, at: int | slice) -> Pair | list[Pair]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        number = range(len(self))[at]
        hidden, next_ids = (np.load(file, mmap_mode="r") for file in _files(self.folder, number))
        return hidden, next_ids

    def __repr__(self) -> str:
        return f"Shards({str(self.folder)!r}, {len(self)} shards, {self.n:,} queries)"


@overload
def collect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    folder: None = None,
    shard_tokens: int = ...,
    max_length: int = ...,
    batch_tokens: int = ...,
    max_tokens: int | None = ...,
    progress: bool = ...,
) -> Pair: ...
@overload
def collect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    folder: str | os.PathLike[str],
    shard_tokens: int = ...,
    max_length: int = ...,
    batch_tokens: int = ...,
    max_tokens: int | None = ...,
    progress: bool = ...,
) -> Shards: ...
def collect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    shard_tokens: int = _SHARD_TOKENS,
    max_length: int = 512,
    batch_tokens: int = 4096,
    max_tokens: int | None = None,
    progress: bool = True,
) -> Pair | Shards:
    """Collect what the output layer sees at every position of some texts, and the token that came next.

    Each text is a document. It is tokenized as the tokenizer does by default and cut into consecutive windows
    of `max_length` tokens, which the model sees one by one: a position's context begins at its window. The
    label of a position is the document's next token, also at a window's end. A document of T tokens gives
    T - 1 queries, in order; no context and no label crosses from one document to another.

    The output layer itself is computed for a few tokens only, to see that it reads what is collected, and
    beyond the result only a few batches are held, so texts can be a generator over a corpus of any size. With
    `folder`, the result is on disk as well, and what was interrupted goes on after the last whole shard.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal (decoder-only) language model on any device, in any dtype. It runs in evaluation mode; its
        training flag is put back afterwards.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's tokenizer.
    texts : iterable of str
        The documents. Those of fewer than two tokens give no query.
    folder : path-like, optional
        Where to write shards. Called again with the same texts, finished shards are kept and their documents
        only read; with a larger `max_tokens`, or more texts after these, it goes on from there.
    shard_tokens : int, default 65,536
        With `folder`, a shard ends with the window that brings it to so many queries.
    max_length : int, default 512
        Tokens in a window, at most the model's ``max_position_embeddings``.
    batch_tokens : int, default 4096
        Tokens, padding included, in one forward pass (at least one window).
    max_tokens : int, optional
        Stop after this many queries. By default every document is read.
    progress : bool, default True
        Show a progress bar, counting queries.

    Returns
    -------
    hidden : ndarray of float32, shape (n, d)
        The final-norm output of the base model at each position: the queries.
    next_ids : ndarray of int64, shape (n,)
        The token that followed each position: the labels.
    shards : Shards
        With `folder`, instead: pairs of these, as memory maps.

    Raises
    ------
    TypeError
        If `texts` is a single string, or holds something other than strings.
    ValueError
        If a number is below 1, `max_length` is beyond the model's positions, the model is an
        encoder-decoder, its output layer does not read the base model's output (there is a module between
        them, or a factor), no document has two tokens, or `folder` holds what another model, tokenizer, other
        settings or other texts gave.

    Examples
    --------
    >>> hidden, next_ids = collect(model, tokenizer, open("corpus.txt"), max_tokens=100_000)  # doctest: +SKIP
    """
    for name, value in (
        ("max_length", max_length),
        ("batch_tokens", batch_tokens),
        ("max_tokens", max_tokens),
        ("shard_tokens", shard_tokens),
    ):
        if value is not None and value < 1:
            raise ValueError(f"The {name!r} parameter of collect must be at least 1. Got {value} instead.")
    width = _check_model(model, max_length)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), tqdm(total=max_tokens, unit="tok", disable=not progress) as bar:
            reader = _Reader(model, tokenizer, width, max_length, batch_tokens, bar)
            if folder is None:
                windows = (window for _, windows in reader.documents(texts, max_tokens) for window in windows)
                found: Pair | Shards = reader.states(windows)
            else:
                found = _write_shards(reader, texts, Path(folder), shard_tokens, max_tokens)
    finally:
        model.train(was_training)
    if not (found.n if isinstance(found, Shards) else len(found[1])):
        raise ValueError(
            "The 'texts' parameter of collect must hold a document of at least two tokens. Got none."
        )
    return found


class _Reader(NamedTuple):
    """A model that reads."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    width: int
    max_length: int
    batch_tokens: int
    bar: Any

    def documents(
        self, texts: Iterable[str], max_tokens: int | None, begun: int = 0
    ) -> Iterator[tuple[str, list[list[int]]]]:
        """Yield texts and their windows: n tokens and the one after them, n queries; max_tokens in all.

        Of the first text windows come from that number on.
        """
        left = max_tokens
        for text in _checked(texts):
            # verbose=False: a document longer than the model's context is no mistake, it is cut right here.
            ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
            windows = []
            for start in range(begun * self.max_length, len(ids) - 1, self.max_length):
                n = min(self.max_length, len(ids) - 1 - start)
                if left is not None:
                    n = min(n, left)
                    left -= n
                windows.append(ids[start : start + n + 1])
                if left == 0:
                    break
            begun = 0
            yield text, windows
            if left == 0:
                return

    def states(self, windows: Iterable[list[int]]) -> Pair:
        """Run the model over windows."""
        # Grown in place: a realloc of pages, where a list of blocks would need twice the memory in the end.
        hidden = np.empty((0, self.width), np.float32)
        next_ids = np.empty(0, np.int64)
        unseen = True
        for pool in _pools(iter(windows), self.batch_tokens):
            ends = (len(hidden) + np.cumsum([len(window) - 1 for window in pool])).tolist()
            hidden.resize((ends[-1], self.width), refcheck=False)
            next_ids.resize(ends[-1], refcheck=False)
            for batch in _batches(pool, self.batch_tokens):
                states = _forward(self.model, [pool[i][:-1] for i in batch])
                if states.shape[-1] != self.width:
                    raise ValueError(
                        "The 'model' parameter of collect must have an output layer that reads its base "
                        f"model's output of width {states.shape[-1]}. Got one of width {self.width} instead."
                    )
                if unseen:
                    _check_seen(self.model, pool[batch[0]][:-1][:_LOOK])
                    unseen = False
                for i, state in zip(batch, states, strict=True):
                    end, n = ends[i], len(pool[i]) - 1
                    hidden[end - n : end] = state[:n].float().cpu().numpy()
                    next_ids[end - n : end] = pool[i][1:]
                    self.bar.update(n)
        return hidden, next_ids


def _checked(texts: Iterable[str]) -> Iterator[str]:
    if isinstance(texts, str):
        raise TypeError(
            "The 'texts' parameter of collect must be an iterable of documents. Got one str instead."
        )
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(
                f"The 'texts' parameter of collect must hold str. Got {type(text).__name__} instead."
            )
        yield text


# Shards


def _write_shards(
    reader: _Reader, texts: Iterable[str], folder: Path, shard_tokens: int, max_tokens: int | None
) -> Shards:
    """Write what is missing, shard by shard; the manifest knows those that are whole."""
    path = folder / _MANIFEST
    recipe = {
        "model": _checksum(reader.model),
        "tokenizer": _tokenizer_checksum(reader.tokenizer),
        "max_length": reader.max_length,
        "shard_tokens": shard_tokens,
    }
    shards: list[dict[str, Any]] = []
    if path.is_file():
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["recipe"] != recipe:
            raise ValueError(
                "The 'folder' parameter of collect must be empty, or hold what this model and tokenizer gave "
                f"with these settings. Got {manifest['recipe']} where {recipe} is asked for."
            )
        shards = manifest["shards"]
    folder.mkdir(parents=True, exist_ok=True)
    done = sum(shard["queries"] for shard in shards)
    if shards and shards[-1]["cut"] and (max_tokens is None or max_tokens > done):
        done -= shards.pop()["queries"]
    reader.bar.update(done)
    rest = _checked(texts)
    text, begun = "", 0  # of a text, so many windows are in shards
    for number, shard in enumerate(shards):
        digest = hashlib.sha256()
        for _ in range(shard["texts"]):
            digest.update(_of_text(text if begun else next(rest, "")))
            begun = 0
        if shard["begun"]:
            text, begun = text if begun else next(rest, ""), shard["begun"]
            digest.update(_of_text(text))
        if digest.hexdigest() != shard["sha256"]:
            raise ValueError(
                "The 'texts' parameter of collect must begin with the documents that shards were made from. "
                f"Got others for shard {number}."
            )

    left = None if max_tokens is None else max_tokens - done
    taken: list[list[int]] = []
    inside, finished, size = hashlib.sha256(), 0, 0

    def write(begun: int) -> None:
        nonlocal taken, inside, finished, size, done
        arrays: tuple[NDArray[Any], NDArray[Any]] = reader.states(taken)
        for file, array in zip(_files(folder, len(shards)), arrays, strict=True):
            write_npy(file, array)
        done += size
        shards.append(
            {
                "texts": finished,
                "begun": begun,
                "queries": size,
                "sha256": inside.hexdigest(),
                "cut": done == max_tokens,
            }
        )
        write_json(path, {"recipe": recipe, "shards": shards})
        taken, inside, finished, size = [], hashlib.sha256(), 0, 0

    if left is None or left > 0:
        for document, windows in reader.documents(chain([text] if begun else [], rest), left, begun):
            inside.update(_of_text(document))
            last = begun + len(windows)
            for number, window in enumerate(windows, begun + 1):
                taken.append(window)
                size += len(window) - 1
                if size >= shard_tokens and number < last:
                    write(number)
                    inside.update(_of_text(document))
            finished, begun = finished + 1, 0
            if size >= shard_tokens:
                write(0)
    if size:  # else nothing but short documents are left: no shard of its own
        write(0)
    if not path.is_file():
        write_json(path, {"recipe": recipe, "shards": shards})
    return Shards(folder)


def _of_text(text: str) -> bytes:
    return text.encode() + b"\0"


def _files(folder: Path, number: int) -> list[Path]:
    return [folder / f"{name}-{number:05}.npy" for name in ("hidden", "next_ids")]


def _checksum(model: PreTrainedModel) -> str:
    """Tell models apart by a few values of each parameter."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        some = parameter.detach().flatten()[:: max(1, parameter.numel() // 64)]
        digest.update(name.encode() + some.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _tokenizer_checksum(tokenizer: PreTrainedTokenizerBase) -> str:
    """Tell tokenizers apart by all that makes tokens of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        given = tokenizer.init_kwargs  # with paths among them, which say nothing
        files = [Path(given[name]) for name in tokenizer.vocab_files_names if given.get(name)]
        parts: Any = [
            type(tokenizer).__name__,
            {name: value for name, value in given.items() if isinstance(value, bool) and "local" not in name},
            [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()],
            tokenizer.get_vocab(),
        ]
    else:
        parts = json.loads(backend.to_str())
        for of_the_last_call in ("truncation", "padding"):
            parts.pop(of_the_last_call, None)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _check_model(model: PreTrainedModel, max_length: int) -> int:
    """Return the width that the output layer reads, after checking that the model can be read at all."""
    config = model.config.get_text_config()
    if config.is_encoder_decoder:
        raise ValueError(
            "The 'model' parameter of collect must be decoder-only. Got an encoder-decoder instead."
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise ValueError(
            f"The 'max_length' parameter of collect must be at most the model's {positions} positions. "
            f"Got {max_length} instead."
        )
    head = model.get_output_embeddings()
    return int(config.hidden_size if head is None else head.weight.shape[1])


def _pools(windows: Iterator[list[int]], batch_tokens: int) -> Iterator[list[list[int]]]:
    """Yield windows in lists of about _POOL_BATCHES batches."""
    pool: list[list[int]] = []
    size = 0
    for window in windows:
        pool.append(window)
        size += len(window) - 1
        if size >= _POOL_BATCHES * batch_tokens:
            yield pool
            pool, size = [], 0
    if pool:
        yield pool


def _batches(pool: list[list[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Yield indices into the pool, windows of similar length together, the longest first."""
    batch: list[int] = []
    for i in sorted(range(len(pool)), key=lambda i: -len(pool[i])):
        if batch and (len(batch) + 1) * (len(pool[batch[0]]) - 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def _forward(model: PreTrainedModel, windows: list[list[int]]) -> Any:
    """Run windows as one batch: states (len(windows), longest, d), without meaning past a window's length."""
    # Padding is on the right, where causal attention cannot see it; the mask covers whatever else would look
    # (positions counted from the mask, expert routing). The pad token is thus any valid id.
    longest = max(map(len, windows))
    ids = torch.zeros((len(windows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = torch.tensor(window)
        mask[row, : len(window)] = 1
    output = model.base_model(
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
    )
    return output.last_hidden_state


def _check_seen(model: PreTrainedModel, window: list[int]) -> None:
    """Look at what the output layer reads of a few tokens: the base model's output, nothing made of it."""
    head = model.get_output_embeddings()
    if head is None:
        return
    seen: list[Any] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        ids = torch.tensor([window], device=model.device)
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        hook.remove()
    if not seen:  # the model multiplies by its rows in another way
        return
    states = _forward(model, [window])[:, -seen[0].shape[-2] :].float()
    if (seen[0].float() - states).norm() > 0.01 * states.norm():
        raise ValueError(
            "The 'model' parameter of collect must have an output layer that reads its base model's output. "
            "Got one that reads something else instead: make an index from what it reads."
        )
