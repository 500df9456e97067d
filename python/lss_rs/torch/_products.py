"""Products of stored rows with queries, in single precision."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PADDED, _PADDED_CUDA = 1.5, 4.0
"""Lists are padded to the longest while that makes at most so many places of one.

More on CUDA: on an H200, in every dtype, 64 lists of up to 2,000 took a third less when padded to 3.8 times
their places.
"""


@functools.cache
def sums_wide(device: torch.device) -> bool:
    """Whether a device multiplies halves and sums them in single precision, so that none need be widened."""
    if device.type != "cuda":
        return False
    try:
        for dtype in (torch.float16, torch.bfloat16):
            ones = torch.ones((1, 8, 8), dtype=dtype, device=device)
            by_all(ones[0], ones[0])
            by_each(ones, ones[0, :1])
    except torch.cuda.OutOfMemoryError:
        raise
    except (TypeError, RuntimeError):  # torch before 2.8, or a device that has no such product
        return False
    return True


def by_all(rows: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Multiply rows (c, d) and queries (n, d): (n, c).

    Queries are in single precision, or else in the rows' dtype on a device that :func:`sums_wide`.
    """
    if queries.dtype is torch.float32:
        return queries @ rows.float().T
    return torch.mm(queries, rows.T, out_dtype=torch.float32)


def by_each(rows: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Multiply queries (n, d) and rows of their own (n, c, d): (n, c). Dtypes are as for :func:`by_all`."""
    columns = queries[:, :, None]
    if queries.dtype is torch.float32:
        return torch.bmm(rows.float(), columns)[:, :, 0]
    return torch.bmm(rows, columns, out_dtype=torch.float32)[:, :, 0]


def by_lists(
    rows: torch.Tensor,
    bias: torch.Tensor,
    queries: torch.Tensor,
    lengths: NDArray[np.int64],
    ids: NDArray[np.int64],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score lists of labels, one after the other in ids: labels (n, longest) and logits; -1 and -inf pad.

    Dtypes are as for :func:`by_all`.
    """
    device, longest = rows.device, int(lengths.max(initial=0))
    # Padded on the host, which a device would have to tell how many places are taken.
    pin = device.type == "cuda"
    padded = torch.full((len(lengths), longest), -1, dtype=torch.int64, pin_memory=pin)
    taken = np.arange(longest) < lengths[:, None]
    padded.numpy()[taken] = ids
    labels = padded.to(device, non_blocking=pin)
    if taken.size == len(ids):
        return labels, by_each(rows[labels], queries).add_(bias[labels])
    if taken.size <= (_PADDED_CUDA if pin else _PADDED) * len(ids):
        listed = labels.clamp(min=0)
        logits = by_each(rows[listed], queries).add_(bias[listed])
        return labels, logits.masked_fill_(labels < 0, -torch.inf)
    places = torch.from_numpy(np.flatnonzero(taken)).to(device)
    part, owners = labels.view(-1)[places], places // longest
    products = rows[part].float().mul_(queries[owners])
    logits = torch.full(labels.shape, -torch.inf, device=device)
    logits.view(-1)[places] = products.sum(1).add_(bias[part])
    return labels, logits
