"""Whether weights are rows that were rounded, and to what."""

from __future__ import annotations

from collections.abc import Iterable

import torch

Roundings = tuple[torch.dtype, ...]

ROUNDINGS: tuple[Roundings, ...] = (
    (),
    (torch.float16,),
    (torch.bfloat16,),
    (torch.float16, torch.bfloat16),
    (torch.bfloat16, torch.float16),
)
"""What weights may have gone through since rows were made of them: halves, in this order."""


def roundings(
    weights: torch.Tensor, rows: torch.Tensor, stored: torch.dtype, ways: Iterable[Roundings]
) -> list[Roundings]:
    """Keep those ways in which weights may have become what they are.

    Parameters
    ----------
    weights : Tensor of float
    rows : Tensor of float32
        What was made of the weights once, by rounding to ``stored``.
    stored : torch.dtype
        float32, float16 or bfloat16.
    ways : iterable of roundings

    Returns
    -------
    list of roundings
        Empty where the weights were changed: by one unit in the last place of one of them, say, as far as
        their rows, in ``stored``, know of it.
    """
    return [way for way in ways if _agree(weights, rows, stored, way)]


def _rounded(x: torch.Tensor, *dtypes: torch.dtype) -> torch.Tensor:
    for dtype in dtypes:
        x = x.to(dtype)
    return x


def _agree(weights: torch.Tensor, rows: torch.Tensor, stored: torch.dtype, way: Roundings) -> bool:
    if not way:
        return bool(torch.equal(weights.to(stored).float(), rows.to(weights.device)))
    all_of_it = (*way, weights.dtype)
    if not torch.equal(_rounded(weights, *all_of_it), weights):  # no numbers that such roundings leave
        return False
    least = most = rows
    if way[0] is not stored and stored is not torch.float32:
        if stored in all_of_it[1:] and torch.finfo(way[0]).eps < torch.finfo(stored).eps:
            # By way of something finer: half of them might be one unit off, which is what a change is, too.
            return False
        # They were within half a unit of the rows' last place, and rounding keeps the order of numbers.
        unit = torch.finfo(stored)
        half = torch.ldexp(torch.full_like(rows, unit.eps / 2), torch.frexp(rows).exponent - 1)
        half.masked_fill_(rows == 0, 0.0).clamp_(min=unit.smallest_normal * unit.eps / 2)
        least, most = rows - half, rows + half
    least, most = (_rounded(bound, *all_of_it).to(weights.device) for bound in (least, most))
    return bool(((weights >= least) & (weights <= most)).all())
