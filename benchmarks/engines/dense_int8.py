"""The dense layer in int8."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from benchmarks.engines._torch import FullLayer


class Engine(FullLayer):
    """torch's dynamically quantised linear, a scale a row and a scale a query, then torch.topk.

    torch gives all queries of a call one scale, so that an answer would depend on its batch. Here a query is
    scaled to a largest entry of 1, and two entries 1 and -1, which meet zeros, make that range every call's.
    """

    title = "torch, full layer, int8"

    def _make(self, W: torch.Tensor, b: torch.Tensor, kernel: str) -> tuple[Any, int]:
        capable = torch.cpu.get_capabilities()
        # Eight bits of a query overflow the 16-bit sums of CPUs without these instructions.
        narrow = not any(capable.get(name) for name in ("avx512_vnni", "avx_vnni"))
        W = torch.nn.functional.pad(W, (0, 2))
        scale = (W.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        torch.backends.quantized.engine = kernel
        with warnings.catch_warnings():
            # torch will drop these tensors for packages of its own; nothing faster is in torch yet.
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            zeros = torch.zeros(len(W), dtype=torch.int64)
            rows = torch.quantize_per_channel(W, scale.double(), zeros, 0, torch.qint8)
            packed = torch.ops.quantized.linear_prepack(rows, b)
        linear, has_bias = torch.ops.quantized.linear_dynamic, bool(b.any())

        def layer(q: torch.Tensor) -> torch.Tensor:
            """Logits, divided by what the query was divided by."""
            logits = linear(q[:, :-1], packed, narrow)
            return logits.addcmul_(b, q[:, -1:]) if has_bias else logits

        return layer, rows.itemsize

    def prepare(self, Q: np.ndarray) -> torch.Tensor:
        queries = torch.tensor(Q)
        scale = queries.abs().amax(1, keepdim=True).clamp(min=1e-20)
        one = torch.ones_like(scale)
        # The last column turns the bias that the layer adds, b, into b / scale.
        return torch.cat([queries / scale, one, -one, 1 / scale - 1], 1)[:, None]

    def size(self) -> int:
        return super().size() + 4 * self._m  # a scale a row
