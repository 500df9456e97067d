"""What output layers of other sizes would gain: synthetic layers, and models' bodies of the same width."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks import record, run
from benchmarks.bundles.scale import CLUSTERS, ROWS_A_CLUSTER, SEED, Planter
from benchmarks.definitions import read_toml
from benchmarks.generate import threads
from lss_rs import Index

if TYPE_CHECKING:
    from lss_rs.torch.scorer import Path

__all__ = ["DEFINITION", "measure"]

DEFINITION = read_toml("heads")


def measure(plan: dict[str, Any] = DEFINITION) -> tuple[dict[str, Any], list[record.HeadRow]]:
    """Measure every width with every vocabulary.

    Parameters
    ----------
    plan : dict
        As definitions/heads.toml.

    Returns
    -------
    (head, rows)
        For :func:`benchmarks.record.write`.
    """
    rows: list[record.HeadRow] = []
    for body in tqdm(plan["body"], "bodies"):
        seconds = _body(body, plan)
        for m in plan["vocabularies"]:
            rows += _head(m, body, seconds, plan)
    return run.head({"transformers"}) | {"synthetic": "planted clusters", "definition": plan}, rows


def _body(body: dict[str, Any], plan: dict[str, Any]) -> dict[int, float]:
    """Seconds a token of a model without an output layer to speak of, by threads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {name: value for name, value in body.items() if name != "title"}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, eos_token_id=None, **shape)).eval()
    prompt = torch.arange(3, 11)[None]
    new, taken = plan["new_tokens"], {}
    for n in plan["threads"]:
        with threads(n):
            rounds = []
            for _ in range(plan["rounds"]):
                spent = []
                for tokens in (1, 1 + new):  # the prompt is not what is asked about
                    begin = time.perf_counter()
                    model.generate(
                        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, do_sample=False
                    )
                    spent.append(time.perf_counter() - begin)
                rounds.append((spent[1] - spent[0]) / new)
            taken[n] = float(np.median(rounds))
    return taken


def _layer(m: int, d: int, plan: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw rows (m, d), training queries and test queries."""
    planter, n_clusters = Planter(d), m // ROWS_A_CLUSTER
    W = np.empty((m, d), np.float32)
    by_slot = W.reshape(ROWS_A_CLUSTER, n_clusters, d)
    for lo in range(0, n_clusters, CLUSTERS):
        rng = np.random.default_rng([SEED, 1, lo])
        hi = min(lo + CLUSTERS, n_clusters)
        by_slot[:, lo:hi] = planter.rows(rng, hi - lo)
    rng = np.random.default_rng([SEED, 2])
    near = rng.integers(m, size=plan["queries"] + plan["test_queries"])
    Q = planter.queries(rng, W[near])
    return W, Q[: plan["queries"]], Q[plan["queries"] :]


def _head(
    m: int, body: dict[str, Any], seconds: dict[int, float], plan: dict[str, Any]
) -> list[record.HeadRow]:
    """Time a layer and an index of it, one query at a time, in turns."""
    import torch

    from lss_rs.torch import LSSLinear

    W, Q, asked = _layer(m, body["hidden_size"], plan)
    index = Index.from_weights(W).fit(Q, progress=False)
    weight, queries = torch.from_numpy(W), torch.from_numpy(asked)
    linear = torch.nn.Linear(weight.shape[1], m, bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight)
    # As a greedy decoder asks, a position at a time.
    heads = {path: LSSLinear.from_linear(linear, index, "lss", path=path) for path in (None, "core")}
    half, half_queries = weight.bfloat16(), queries.bfloat16()

    def best(path: Path | None, i: int) -> int:
        with heads[path]._listing(1):
            heads[path](queries[i : i + 1, None])
            listed: Any = heads[path]._listed
        return int(listed[0, 0])

    ways: tuple[Callable[[int], object], ...] = (
        lambda i: torch.nn.functional.linear(queries[i : i + 1], weight).argmax(),
        lambda i: best(None, i),
        lambda i: torch.nn.functional.linear(half_queries[i : i + 1], half).argmax(),
        lambda i: best("core", i),
    )
    rows = []
    with torch.inference_mode():
        full = index.search(asked, 1, exact=True).labels[:, 0]
        same = {path: np.mean([best(path, i) == label for i, label in enumerate(full)]) for path in heads}
        for n in plan["threads"]:
            with threads(n):
                # In turns: as beside a model's body, a search finds none of its index in the caches.
                spent = np.array([[_seconds(way, i) for way in ways] for i in range(plan["timed_queries"])])
            layer, ours, in_half, core = map(float, np.median(spent, axis=0))
            rows.append(
                record.HeadRow(
                    body=body["title"],
                    m=m,
                    d=body["hidden_size"],
                    threads=n,
                    body_us=seconds[n] * 1e6,
                    layer_us=layer * 1e6,
                    half_us=in_half * 1e6,
                    ours_us=ours * 1e6,
                    same=float(same[None]),
                    core_us=core * 1e6,
                    core_same=float(same["core"]),
                    layer_share=layer / (layer + seconds[n]),
                    gain=(seconds[n] + layer) / (seconds[n] + ours),
                    point=run.point(index),
                )
            )
    return rows


def _seconds(way: Callable[[int], object], i: int) -> float:
    begin = time.perf_counter()
    way(i)
    return time.perf_counter() - begin
