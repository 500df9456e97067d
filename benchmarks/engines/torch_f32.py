"""The reference."""

from benchmarks.engines._torch import FullLayer


class Engine(FullLayer):
    """torch.nn.Linear in float32, then torch.topk."""

    title = "torch, full layer"
