"""The dense layer in int8."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from benchmarks.engines._torch import FullLayer


class Engine(FullLayer):
    """torch's dynamically quantised linear, a scale a row, then torch.topk.

    Queries are quantised in the call, all of a batch with one scale: answers of a batch can differ a little
    from those of its queries one by one.
    """

    title = "torch, full layer, int8"

    def _make(self, W: torch.Tensor, b: torch.Tensor, kernel: str) -> tuple[Any, int]:
        capable = torch.cpu.get_capabilities()
        # Eight bits of a query overflow the 16-bit sums of CPUs without these instructions.
        narrow = not any(capable.get(name) for name in ("avx512_vnni", "avx_vnni"))
        scale = (W.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        torch.backends.quantized.engine = kernel
        with warnings.catch_warnings():
            # torch will drop these tensors for packages of its own; nothing faster is in torch yet.
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            rows = torch.quantize_per_channel(
                W, scale.double(), torch.zeros(len(W), dtype=torch.int64), 0, torch.qint8
            )
            packed = torch.ops.quantized.linear_prepack(rows, b)
        linear = torch.ops.quantized.linear_dynamic
        return lambda q: linear(q, packed, narrow), rows.itemsize

    def size(self) -> int:
        return super().size() + 4 * self._m  # a scale a row
