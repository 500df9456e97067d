"""Generation with an index in a language model's output layer, beside the full layer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

import lss_rs
from benchmarks import record, run
from benchmarks.bundles import load
from benchmarks.definitions import read_toml
from lss_rs import Index
from lss_rs.demo import load_smollm2

__all__ = ["DEFINITION", "WAYS", "Clocked", "measure", "threads"]

DEFINITION = read_toml("generate")
FULL = "full layer"
WAYS: dict[str, tuple[str, str | None, bool]] = {
    FULL: ("dense", None, False),
    "scattered": ("auto", None, False),
    'scattered, path="core"': ("auto", "core", False),
    "decode": ("auto", None, True),
    'decode, path="core"': ("auto", "core", True),
}
"""Mode and path of the output layer, and whether tokens are chosen among the candidates alone."""


def measure(
    plan: dict[str, Any] = DEFINITION,
    folder_of: Callable[[str], Path] = run.folder,
    load_model: Callable[[], tuple[Any, Any]] = load_smollm2,
) -> tuple[dict[str, Any], list[record.GenerateRow]]:
    """Measure what greedy generation says, and how fast.

    Parameters
    ----------
    plan : dict
        As definitions/generate.toml.
    folder_of : callable
        Folder of a bundle, whose rows are those of the model's output layer.
    load_model : callable
        Returns a model and its tokenizer.

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    import torch

    from lss_rs.hf import patch

    path = folder_of(plan["bundle"])
    W, b, Q, Y = load(path, "train")
    groups = run.groups_of(path, "train")
    index = Index.from_weights(W, b).fit(Q, Y.lists(), groups=groups, progress=False)
    model = load_model()[0]
    prompts = torch.from_numpy(_prompts(path, plan["prompts"], plan["prompt_tokens"]))
    new, ends = plan["new_tokens"], _ends(model)
    rows: list[record.GenerateRow] = []
    with patch(model, index) as patched, torch.inference_mode():
        head = patched.head
        texts = {
            way: [_generate(model, head, way, part, new) for part in tqdm(prompts.split(plan["batch"]), way)]
            for way in WAYS
        }
        quality = {
            way: _compare(model, head, texts[FULL], parts, prompts, ends) for way, parts in texts.items()
        }
        mass = {way: _mass(model, head, way, texts[FULL], plan["positions"]) for way in WAYS}
        model.generation_config.eos_token_id = None  # as many tokens in every way, whatever they say
        times = _times(model, head, prompts[: plan["timed_prompts"]], plan)
    for (way, n), taken in times.items():
        found = quality[way]
        rows.append(
            record.GenerateRow(
                way=way,
                threads=n,
                identical=found.identical,
                same_texts=found.same_texts,
                diverged_at=found.diverged_at,
                perplexity=found.perplexity,
                mass=float(mass[way].mean()),
                mass_p05=float(np.percentile(mass[way], 5)),
                kl=float(np.log(1 / mass[way]).mean()),
                tokens_s=taken.tokens_s,
                layer_share=taken.layer_share,
            )
        )
    about = run.head({"transformers"}) | {
        "m": len(W),
        "d": W.shape[1],
        "train_queries": len(Q),
        "point": run.point(index),
        "definition": plan,
    }
    return about, rows


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Let torch and lss-rs use so many threads."""
    import torch

    before = torch.get_num_threads(), lss_rs.get_num_threads()
    torch.set_num_threads(n)
    lss_rs.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        lss_rs.set_num_threads(before[1])


class Clocked:
    """Seconds that calls of a module take, while it is watched."""

    def __init__(self, module: Any) -> None:
        self.seconds, self._begin = 0.0, 0.0
        self._hooks = (
            module.register_forward_pre_hook(self._before),
            module.register_forward_hook(self._after),
        )

    def _before(self, *_: object) -> None:
        self._begin = time.perf_counter()

    def _after(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._begin

    def __enter__(self) -> Clocked:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def _prompts(path: Path, n: int, length: int) -> np.ndarray:
    """Parts of documents that nothing was learned from, (n, length), which do not overlap, evenly spaced.

    A bundle has the token after each position: all of a document but its first.
    """
    labels = np.array([ids[0] for ids in load(path, "test").Y.lists()], np.int64)
    groups = np.load(path / "groups_test.npy")
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    ends = np.append(starts[1:], len(groups))
    parts = [np.arange(lo, hi - length + 1, length) for lo, hi in zip(starts, ends, strict=True)]
    all_parts = np.concatenate([np.empty(0, np.int64), *parts])
    if len(all_parts) < n:
        raise ValueError(f"{path} has {len(all_parts)} parts of {length} test tokens, {n} are asked for")
    chosen = all_parts[np.linspace(0, len(all_parts) - 1, n).astype(np.int64)]
    return labels[chosen[:, None] + np.arange(length)]


def _ends(model: Any) -> list[int]:
    """Tokens that end a text."""
    ends = model.generation_config.eos_token_id
    return list(ends) if isinstance(ends, list) else [ends]


def _take(head: Any, way: str) -> None:
    """Let the output layer answer in this way."""
    head.mode, head.path, _ = WAYS[way]


def _generate(model: Any, head: Any, way: str, prompts: Any, new: int) -> Any:
    """Generate greedily, (n, at most prompt + new)."""
    import torch

    from lss_rs.hf import decode

    _take(head, way)
    options: dict[str, Any] = {"custom_generate": decode} if WAYS[way][2] else {}
    return model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, do_sample=False, **options
    )


class _Compared(NamedTuple):
    identical: float
    same_texts: float
    diverged_at: float | None
    perplexity: float


def _compare(
    model: Any, head: Any, full: list[Any], found: list[Any], prompts: Any, ends: list[int]
) -> _Compared:
    """Compare continuations with the full layer's, up to the first end of either, and ask it about them."""
    import torch

    start = prompts.shape[1]
    same, total, whole, firsts = 0, 0, 0, []
    loss, count = 0.0, 0
    head.mode = "dense"
    for theirs, ours in zip(full, found, strict=True):
        logits = model(ours).logits[:, start - 1 : -1].float().log_softmax(-1)
        for i, (a, b) in enumerate(zip(theirs[:, start:], ours[:, start:], strict=True)):
            a, b = _until_end(a, ends), _until_end(b, ends)
            n = max(len(a), len(b))
            equal = np.zeros(n, bool)
            least = min(len(a), len(b))
            equal[:least] = a[:least] == b[:least]
            same, total, whole = same + int(equal.sum()), total + n, whole + bool(equal.all())
            if not equal.all():
                firsts.append(int(np.argmin(equal)))
            picked = logits[i, : len(b)].gather(1, torch.from_numpy(b)[:, None])
            loss, count = loss - float(picked.double().sum()), count + len(b)
    return _Compared(
        same / total,
        whole / len(prompts),
        float(np.median(firsts)) if firsts else None,
        float(np.exp(loss / count)),
    )


def _until_end(tokens: Any, ends: list[int]) -> np.ndarray:
    """Cut what comes after the end of a text."""
    ids = tokens.numpy()
    at = np.flatnonzero(np.isin(ids, ends))
    return ids[: at[0] + 1] if len(at) else ids


def _mass(model: Any, head: Any, way: str, texts: list[Any], positions: int) -> np.ndarray:
    """Probability that the full layer gives to the candidates, at positions of its own texts.

    A decoder that samples chooses among those that a pass scatters. The divergence of what is renormalised
    over them from the full distribution is the logarithm of its inverse.
    """
    import torch

    states = torch.cat([model.base_model(part).last_hidden_state[:, :-1].flatten(0, 1) for part in texts])
    states = states[torch.linspace(0, len(states) - 1, min(positions, len(states))).long()]
    found = []
    for part in tqdm(states.split(head.max_positions), f"{way}: mass"):
        _take(head, FULL)
        probabilities = head(part).double().softmax(-1)
        _take(head, way)
        found.append((probabilities * (head(part) > -torch.inf)).sum(-1))
    return torch.cat(found).clamp(max=1.0).numpy()


class _Times(NamedTuple):
    tokens_s: float
    layer_share: float


def _times(model: Any, head: Any, prompts: Any, plan: dict[str, Any]) -> dict[tuple[str, int], _Times]:
    """Time prompts one at a time, the ways in turns: tokens a second, and the output layer's share."""
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for n in plan["threads"]:
        with threads(n):
            for _ in tqdm(range(plan["rounds"]), f"{n} threads"):
                for way in WAYS:
                    begin, tokens = time.perf_counter(), 0
                    with Clocked(head) as clock:
                        for prompt in prompts.split(1):
                            text = _generate(model, head, way, prompt, plan["new_tokens"])
                            tokens += text.shape[1] - prompt.shape[1]
                    seconds = time.perf_counter() - begin
                    taken.setdefault((way, n), []).append((tokens / seconds, clock.seconds / seconds))
    return {key: _Times(*map(float, np.median(values, axis=0))) for key, values in taken.items()}
