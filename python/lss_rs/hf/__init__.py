"""Language models of transformers: queries for an output layer, and generation from an index of it.

An optional part: it needs ``torch``, ``transformers`` and ``tqdm``, and ``lss_rs`` itself never imports it.
"""

try:
    import torch  # noqa: F401
    import tqdm  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"lss_rs.hf needs torch, transformers and tqdm ({error}); install them with: pip install 'lss_rs[hf]'"
    ) from error

from lss_rs.hf.decoding import decode
from lss_rs.hf.patching import INDEX_FILE, Patch, patch
from lss_rs.hf.states import Shards, collect

__all__ = ["INDEX_FILE", "Patch", "Shards", "collect", "decode", "patch"]
