"""Output layers in torch: a drop-in for ``nn.Linear``, and scoring of candidates on any device.

An optional part: it needs ``torch`` and is never imported by ``lss_rs`` itself.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"lss_rs.torch needs torch ({error}); install it with: pip install 'lss_rs[torch]'"
    ) from error

from lss_rs.torch.linear import LSSLinear, StaleIndexWarning
from lss_rs.torch.scorer import Scorer

__all__ = ["LSSLinear", "Scorer", "StaleIndexWarning"]
