"""All of the harness on tiny data in a few seconds an engine: answers are checked, times mean nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import (
    both,
    device,
    fit,
    generate,
    heads,
    methods,
    queries,
    record,
    report,
    run,
    scale,
    shift,
    stages,
)
from benchmarks.bundles import SPLITS, Labels
from benchmarks.bundles.training import write_layer, write_split
from benchmarks.report import plots

__all__ = ["main", "write_bundle"]

ROWS, WIDTH = 2000, 24
HEADS = {
    "vocabularies": [1000],
    "queries": 1200,
    "test_queries": 100,
    "timed_queries": 5,
    "new_tokens": 2,
    "threads": [1],
    "rounds": 1,
    "body": [
        {
            "title": "1 layer of 16",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        }
    ],
}
SIZES = {"train": 1000, "val": 120, "test": 240}
LEAST = 0.9
"""Share of the full layer's P@1 and P@5 that every engine must keep at its smoke setting."""


def write_bundle(folder: Path, *, seed: int, bias: bool, layer: Path | None = None) -> None:
    """Write a bundle of random rows whose labels are a query's five best; as a domain of `layer` if given."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    top = layer or folder
    if not (top / "W.npy").is_file():
        W = rng.standard_normal((ROWS, WIDTH), dtype=np.float32)
        write_layer(top, W, rng.standard_normal(ROWS, dtype=np.float32) * np.float32(bias))
    W, b = np.load(top / "W.npy"), np.load(top / "b.npy")
    for split in SPLITS:
        n = SIZES[split]
        near = rng.integers(ROWS, size=n)
        Q = (W[near] + 0.3 * rng.standard_normal((n, WIDTH))).astype(np.float32)
        best = np.argsort(-(Q @ W.T + b), axis=1)[:, :5]
        write_split(folder, split, Q, Labels(np.arange(n + 1) * 5, best.ravel()), np.arange(n) // 4)


def main() -> None:
    """Run everything once.

    Raises
    ------
    RuntimeError
        If an engine cannot be built or does not find its answers.
    """
    rounds = run.Rounds(one=1, one_seconds=0.0, rest=1, rest_seconds=0.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = folder / "record"
        for bundle, bias in (("lm-smollm2", False), ("xmc-contents", True)):
            write_bundle(folder / bundle, seed=int(bias), bias=bias)
            head, rows = run.measure(folder / bundle, grid="smoke", rounds=rounds)
            if head["skipped"]:
                raise RuntimeError(f"not built: {head['skipped']}")
            _check(rows)
            _write(records, bundle, head, rows)
        for i, domain in enumerate(("prose", "code")):
            write_bundle(folder / "layer" / domain, seed=2 + i, bias=False, layer=folder / "layer")
        domains = ["prose", "code"]
        found = shift.measure(
            [{"bundle": "layer", "domains": domains, "fitted": domains}],
            lambda bundle: folder / bundle,
            grid="smoke",
            observed=[300],
            refresh={"observed": 600, "queries": 300, "ks": [1], "target": 0.9, "confidence": 0.8},
            rounds=1,
            seconds=0.0,
        )
        _check(found[1])
        _write(records, "shift", *found)
        for m in (ROWS, 2 * ROWS):
            write_bundle(folder / str(m), seed=m, bias=False)
        head, grown = scale.measure(
            [ROWS, 2 * ROWS], lambda m: folder / str(m), grid="smoke", rounds=1, seconds=0.0
        )
        if low := [row for row in grown if row.label_recall < LEAST]:
            raise RuntimeError(f"answers are missing: {low}")
        _write(records, "scale", head, grown)
        planned = [
            {"title": "random", "engine": "simhash", "build": {"n_bits": 4, "n_tables": 10}},
            {"title": "closed form", "engine": "lss", "build": {"method": "aligned"}},
            {"title": "refined", "engine": "lss", "build": {"method": "refine"}, "beside": "closed form"},
        ]
        budgets = {"rows": [{"n_probes": 16}], "queries": [{"max_entries": 900}]}
        head, by_method = methods.measure(["lm-smollm2"], lambda name: folder / name, planned, budgets)
        _check(by_method)
        _write(records, "methods", head, by_method)
        head, fits = fit.measure(["lm-smollm2"], lambda name: folder / name)
        _check(fits)
        _write(records, "fit", head, fits)
        point = {"max_entries": 900, "n_probes": 1800}
        plan = {"bundle": "lm-smollm2", "train": "lm-smollm2", "queries": [800, 1000], "point": point}
        head, counted = queries.measure([plan | {"capacity": 800}], lambda name: folder / name)
        _check(counted)
        _write(records, "queries", head, counted)
        head, beside = both.measure(folder / "layer")
        _check(row for row in beside if row.setting == "a scan of all sketches")
        _write(records, "both", head, beside)
        _write(records, "generate", *_generated(folder))
        _write(records, "heads", *heads.measure(HEADS))
        _write(records, "stages", *_staged(folder))
        _write(records, "device", *_on_a_device(folder))
        _report(records, folder)
        print("the harness works; engines:", ", ".join(sorted({row.engine for row in rows})))


def _generated(folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Generate with a tiny model of random weights, whose output layer is that of a bundle."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    W = torch.from_numpy(np.load(folder / "lm-smollm2" / "W.npy"))

    def load() -> tuple[Any, Any]:
        torch.manual_seed(0)
        sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=ROWS, num_attention_heads=4, **sizes))
        model.lm_head.weight.data.copy_(W)
        return model.eval(), None

    small = {"prompts": 12, "prompt_tokens": 3, "new_tokens": 4, "batch": 4, "positions": 50}
    plan = (
        generate.DEFINITION
        | small
        | {"bundle": "lm-smollm2", "timed_prompts": 2, "rounds": 1, "threads": [1]}
    )
    head, rows = generate.measure(plan, lambda name: folder / name, load)
    full = [row for row in rows if row.way == generate.FULL]
    if any((row.identical, round(row.mass, 6)) != (1.0, 1.0) for row in full) or not all(
        0 < row.mass <= 1 and row.tokens_s > 0 and 0 < row.layer_share < 1 for row in rows
    ):
        raise RuntimeError(f"generation is not measured: {rows}")
    return head, rows


def _staged(folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Time every stage."""
    small = {"bundles": ["lm-smollm2"], "passes": 1, "imports": 1, "counted": 0}
    small |= {"list": {"n_listed": 30, "n_rescore": 16}}
    head, rows = stages.measure(stages.DEFINITION | small, lambda name: folder / name)
    if low := [row for row in rows if row.us <= 0 or row.nbytes <= 0]:
        raise RuntimeError(f"stages are missing: {low}")
    return head, rows


def _on_a_device(folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Ask every path of a scorer in every dtype."""
    small = {"bundle": "lm-smollm2", "batches": [1, 300], "rounds": 1, "seconds": 0.0}
    head, rows = device.measure(device.DEFINITION | small, lambda name: folder / name)
    if low := [row for row in rows if min(row.p1_ratio, row.pk_ratio, row.same_label) < LEAST or row.us <= 0]:
        raise RuntimeError(f"answers are missing: {low}")
    return head, rows


def _report(records: Path, folder: Path) -> None:
    """Write the report into a tree that has nothing but the places for its blocks."""
    for path in (folder / page for page in report.PAGES):
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([report.BEGIN, report.END, *report.DEVICES]), encoding="utf-8")
    if not report.render(records, folder) or not plots.draw(records):
        raise RuntimeError("the report is empty")


def _check(rows: Iterable[Any]) -> None:
    low = [row for row in rows if min(row.p1_ratio, row.p5_ratio) < LEAST]
    if low:
        raise RuntimeError(f"answers are missing: {low}")


def _write(records: Path, name: str, head: dict[str, Any], rows: list[Any]) -> None:
    record.write(records / "smoke" / f"{head['date']}-{name}.csv", head, rows)
