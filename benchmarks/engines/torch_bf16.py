"""The dense layer in half the bytes."""

import torch

from benchmarks.engines._torch import FullLayer


class Engine(FullLayer):
    """torch.nn.Linear in bfloat16, then torch.topk: logits have eight bits of precision."""

    title = "torch, full layer, bf16"
    dtype = torch.bfloat16
