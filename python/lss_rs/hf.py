"""Hidden states of a causal language model, as queries for its output layer.

An optional module: it needs ``torch`` and ``transformers`` and is never imported by ``lss_rs`` itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import torch
    from tqdm.auto import tqdm
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
except ImportError as error:
    raise ImportError(
        f"lss_rs.hf needs torch, transformers and tqdm ({error}); install them with: pip install 'lss_rs[hf]'"
    ) from error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["collect"]

# Windows wait in a pool of this many batches and run with others of their length: enough to leave little
# padding, and all that is ever held besides the result.
_POOL_BATCHES = 16


def collect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    max_length: int = 512,
    batch_tokens: int = 4096,
    max_tokens: int | None = None,
    progress: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Collect what the output layer sees at every position of some texts, and the token that came next.

    Each text is a document. It is tokenized as the tokenizer does by default and cut into consecutive windows
    of `max_length` tokens, which the model sees one by one: a position's context begins at its window. The
    label of a position is the document's next token, also at a window's end. A document of T tokens gives
    T - 1 queries, in order; no context and no label crosses from one document to another.

    The output layer itself is never computed, and beyond the result only a few batches are held, so texts can
    be a generator over a corpus of any size.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal (decoder-only) language model on any device, in any dtype. It runs in evaluation mode; its
        training flag is put back afterwards.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's tokenizer.
    texts : iterable of str
        The documents. Those of fewer than two tokens give no query.
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

    Raises
    ------
    TypeError
        If `texts` is a single string, or holds something other than strings.
    ValueError
        If a number is below 1, `max_length` is beyond the model's positions, the model is an
        encoder-decoder, its output layer does not read the base model's output, or no document has two
        tokens.

    Examples
    --------
    >>> hidden, next_ids = collect(model, tokenizer, open("corpus.txt"), max_tokens=100_000)  # doctest: +SKIP
    """
    for name, value in (
        ("max_length", max_length),
        ("batch_tokens", batch_tokens),
        ("max_tokens", max_tokens),
    ):
        if value is not None and value < 1:
            raise ValueError(f"The {name!r} parameter of collect must be at least 1. Got {value} instead.")
    width = _check_model(model, max_length)

    # Grown in place: a realloc of pages, where a list of blocks would need twice the memory in the end.
    hidden = np.empty((0, width), np.float32)
    next_ids = np.empty(0, np.int64)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), tqdm(total=max_tokens, unit="tok", disable=not progress) as bar:
            for pool in _pools(_windows(tokenizer, texts, max_length, max_tokens), batch_tokens):
                ends = (len(hidden) + np.cumsum([len(window) - 1 for window in pool])).tolist()
                hidden.resize((ends[-1], width), refcheck=False)
                next_ids.resize(ends[-1], refcheck=False)
                for batch in _batches(pool, batch_tokens):
                    states = _forward(model, [pool[i][:-1] for i in batch])
                    if states.shape[-1] != width:
                        raise ValueError(
                            "The 'model' parameter of collect must have an output layer that reads its base "
                            f"model's output of width {states.shape[-1]}. Got one that reads {width} instead."
                        )
                    for i, state in zip(batch, states, strict=True):
                        end, n = ends[i], len(pool[i]) - 1
                        hidden[end - n : end] = state[:n].float().cpu().numpy()
                        next_ids[end - n : end] = pool[i][1:]
                        bar.update(n)
    finally:
        model.train(was_training)
    if not len(hidden):
        raise ValueError(
            "The 'texts' parameter of collect must hold a document of at least two tokens. Got none."
        )
    return hidden, next_ids


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


def _windows(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], max_length: int, max_tokens: int | None
) -> Iterator[list[int]]:
    """Yield windows in order: n tokens and the one after them, n queries; max_tokens queries at most."""
    if isinstance(texts, str):
        raise TypeError(
            "The 'texts' parameter of collect must be an iterable of documents. Got one str instead."
        )
    left = max_tokens
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(
                f"The 'texts' parameter of collect must hold str. Got {type(text).__name__} instead."
            )
        # verbose=False: a document longer than the model's context is no mistake, it is cut right here.
        ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
        for start in range(0, len(ids) - 1, max_length):
            n = min(max_length, len(ids) - 1 - start)
            if left is not None:
                n = min(n, left)
                left -= n
            yield ids[start : start + n + 1]
            if left == 0:
                return


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
