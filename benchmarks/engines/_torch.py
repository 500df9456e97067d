"""What the engines made of torch share: a layer that gives every logit, then the k largest."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks.engines import BaseEngine, Data, Work

__all__ = ["FullLayer"]


class FullLayer(BaseEngine):
    """Every logit by ``self._layer``, of rows of ``self._itemsize`` bytes a number."""

    library = "torch"
    kind = "full"
    dtype: ClassVar[torch.dtype] = torch.float32
    """Of queries."""

    def __init__(self, data: Data, num_threads: int, **build: Any) -> None:
        self.set_num_threads(num_threads)
        self._m, self._d = data.W.shape
        self._layer, self._itemsize = self._make(torch.tensor(data.W), torch.tensor(data.b), **build)

    def _make(self, W: torch.Tensor, b: torch.Tensor) -> tuple[Any, int]:
        """Return the layer, and the bytes of a number in its rows."""
        layer = torch.nn.Linear(self._d, self._m, bias=bool(b.any()), dtype=self.dtype)
        with torch.no_grad():
            layer.weight.copy_(W)
            if layer.bias is not None:
                layer.bias.copy_(b)
        return layer, layer.weight.itemsize

    def set_num_threads(self, n: int) -> None:
        torch.set_num_threads(n)

    def prepare(self, Q: np.ndarray) -> torch.Tensor:
        return torch.tensor(Q[:, None], dtype=self.dtype)

    @torch.inference_mode()
    def one(self, q: torch.Tensor, k: int) -> torch.Tensor:
        return torch.topk(self._layer(q), k)[1]

    @torch.inference_mode()
    def batch(self, Q: torch.Tensor, k: int) -> torch.Tensor:
        return torch.topk(self._layer(Q[:, 0]), k)[1]

    def labels(self, answer: torch.Tensor) -> np.ndarray:
        return answer.numpy()

    def size(self) -> int:
        return self._m * (self._d * self._itemsize + 4)  # arithmetic, with four bytes of bias a row

    def work(self, Q: torch.Tensor) -> Work:
        return Work(self._m, self.size())
