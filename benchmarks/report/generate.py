"""Generation with an index: two tables for docs/models.md."""

from __future__ import annotations

from typing import Any

from benchmarks.record import GenerateRow, HeadRow
from benchmarks.report.markdown import count, measured, share, table, times, us

__all__ = ["block"]

Texts = tuple[dict[str, Any], list[GenerateRow]] | None
Heads = tuple[dict[str, Any], list[HeadRow]] | None


def block(texts: Texts, heads: Heads) -> str:
    """Write what was generated and how fast, and what other sizes would gain."""
    return _texts(texts) + "\n" + _heads(heads)


def _texts(found: Texts) -> str:
    if found is None:
        return "Nothing is recorded yet: `python -m benchmarks generate`.\n"
    head, rows = found
    plan = head["definition"]
    said, first = [], {}
    for row in rows:
        first.setdefault(row.way, row)
    for row in first.values():
        said.append(
            [
                row.way,
                f"{row.identical:.1%}",
                f"{row.same_texts:.1%}",
                count(row.diverged_at),
                f"{row.perplexity:.3f}",
                share(row.mass),
                share(row.mass_p05),
                f"{row.kl:.4f}",
            ]
        )
    base = {row.threads: row.tokens_s for row in rows if row.way == rows[0].way}
    fast = [
        [
            row.way,
            str(row.threads),
            f"{row.tokens_s:.1f}",
            times(row.tokens_s / base[row.threads]),
            f"{row.layer_share:.1%}",
        ]
        for row in rows
    ]
    return "\n".join(
        [
            f"**{plan['bundle']}**: {plan['prompts']} prompts of {plan['prompt_tokens']} tokens from",
            f"held-out documents, up to {plan['new_tokens']} tokens more, greedily; {head['point']}.\n",
            table(
                [
                    "logits",
                    "identical tokens",
                    "identical texts",
                    "first other token",
                    "perplexity",
                    "mass",
                    "5th percentile",
                    "KL",
                ],
                said,
            ),
            "Perplexity is the full layer's, of each way's own texts. Mass is the full softmax's probability",
            "of the candidates that a pass scores, at positions of the full layer's texts, and KL the",
            "divergence at temperature 1 of what is renormalised over them; a greedy decoder asks for the",
            "best one alone. The first other token is a median over the texts that have one.\n",
            table(["logits", "threads", "tokens a second", "times", "output layer's share"], fast),
            f"One prompt at a time, {plan['timed_prompts']} of them, end to end, prompts included.\n",
            measured(head),
        ]
    )


def _heads(found: Heads) -> str:
    if found is None:
        return "Nothing is recorded yet: `python -m benchmarks heads`.\n"
    head, rows = found
    lines = [
        [
            row.body,
            f"{row.m:,} x {row.d:,}",
            str(row.threads),
            us(row.body_us),
            us(row.layer_us),
            us(row.half_us),
            f"{row.layer_share:.1%}",
            us(row.ours_us),
            share(row.same),
            times(row.gain),
            us(row.core_us),
            share(row.core_same),
            row.point,
        ]
        for row in rows
    ]
    header = [
        "body",
        "output layer",
        "threads",
        "body a token",
        "full layer",
        "in bfloat16",
        "its share",
        "decode",
        "same best label",
        "tokens a second, times",
        'path="core"',
        "same best label",
        "a search",
    ]
    return "\n".join(
        [
            "**Projected, SYNTHETIC layers**: rows and queries are planted clusters, which say nothing of",
            "quality on real data; a body has random weights and real time. Bodies, shares and gains are of",
            "float32; a gain is what these times add up to. Each search comes after a full layer, which",
            "leaves nothing of an index in the caches. A search of one query takes one thread, and so does",
            "torch's product with one query in float32, however many there are.\n",
            table(header, lines),
            measured(head),
        ]
    )
