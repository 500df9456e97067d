"""A language model whose output layer answers from an index."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lss_rs._arrays import message
from lss_rs.index import Index
from lss_rs.torch import LSSLinear
from lss_rs.torch.linear import _scatter

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel
    from typing_extensions import Self

    from lss_rs.torch.linear import Mode
    from lss_rs.torch.scorer import Path as How

INDEX_FILE = "lss_index.safetensors"
"""Where a patched model's ``save_pretrained`` writes the index, beside the weights."""

_SPECIAL = ("eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id")


class Patch:
    """What :func:`patch` did to a model, and how to undo it. As a context manager, it ends with the block.

    Attributes
    ----------
    model : transformers.PreTrainedModel
    head : LSSLinear
        The output layer that the model has now.
    """

    def __init__(self, model: PreTrainedModel, head: LSSLinear, before: nn.Linear, hook: Any) -> None:
        self.model, self.head = model, head
        self._before, self._hook = before, hook

    @property
    def index(self) -> Index | None:
        """The index that the output layer answers from."""
        return self.head.index

    def remove(self) -> None:
        """Give the model its own output layer back; the weights are what they have become meanwhile."""
        if self.model.get_output_embeddings() is not self.head:
            return
        self._before.weight, self._before.bias = self.head.weight, self.head.bias
        self._before.train(self.head.training)
        self.model.set_output_embeddings(self._before)
        self._hook.remove()
        self.model.__dict__.pop("save_pretrained", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def patch(
    model: PreTrainedModel,
    index: Index | str | os.PathLike[str],
    mode: Mode = "auto",
    *,
    path: How | None = None,
    special_ids: Iterable[int] = (),
) -> Patch:
    """Let a model's output layer answer from an index.

    Everything that calls the model goes on as before: ``generate`` in all its modes gets logits over the
    whole vocabulary, -inf outside the candidates, also after a model's own soft-capping or scaling of logits.
    With ``custom_generate=lss_rs.hf.decode`` tokens are chosen among the candidates alone. Tokens outside the
    candidates have probability 0, and probabilities are renormalised over the rest; a perplexity, a loss and
    the reading of a prompt take the full layer in mode "auto".

    ``model.save_pretrained(folder)`` writes the index beside the weights, as ``lss_index.safetensors``; what
    it wrote is loaded by ``from_pretrained`` as any other model, and patched by ``patch(model, folder)``.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With a linear output layer.
    index : Index or path-like
        Of the output layer's rows; or a file that has one; or a folder that ``save_pretrained`` wrote.
    mode : {"auto", "lss", "dense"}
    path : {"core", "core-scan", "tables", "scan"}, optional
        As for :meth:`lss_rs.torch.LSSLinear.from_linear`.
    special_ids : iterable of int
        Tokens that are scored whatever the index finds, besides the special tokens of the model's
        configurations (EOS among them, so that generation stops) and the index's ``always_include``.

    Returns
    -------
    Patch
        Which undoes it: by ``remove()``, or at the end of a ``with`` block.

    Raises
    ------
    NotFittedError
        If the index is not fitted.
    TypeError
        If the output layer is not linear, or the index none.
    ValueError
        If the model has no output layer, is patched already, or accelerate has spread it over devices, the
        index is of another shape, or a special id is no token.

    Warns
    -----
    StaleIndexWarning
        If the index's rows are not the model's; the full layer answers then.

    Examples
    --------
    >>> with lss_rs.hf.patch(model, "head.safetensors"):  # doctest: +SKIP
    ...     tokens = model.generate(**inputs, custom_generate=lss_rs.hf.decode)
    """
    before = model.get_output_embeddings()
    if before is None:
        raise ValueError(message("model", "one with an output layer", f"{type(model).__name__} without one"))
    if isinstance(before, LSSLinear):
        raise ValueError(message("model", "not patched yet", "one that is"))
    if getattr(before, "_hf_hook", None) is not None:  # which moves what goes in and out, and would be lost
        expected = "one whose output layer accelerate does not move (device_map over one device)"
        raise ValueError(message("model", expected, "one with a hook on it"))
    if isinstance(index, (str, os.PathLike)):
        file = Path(index)
        index = Index.load(file / INDEX_FILE if file.is_dir() else file)
    head = LSSLinear.from_linear(before, index, mode, path=path)
    special = {*map(int, special_ids)}
    if outside := sorted(token for token in special if not 0 <= token < head.out_features):
        raise ValueError(message("special_ids", f"tokens in 0..{head.out_features - 1}", outside[0]))
    head.always = tuple(sorted(special | _special_ids(model, head.out_features)))
    head._watched = True
    model.set_output_embeddings(head)
    hook = model.register_forward_hook(functools.partial(_keep_to_candidates, head))
    # A partial, not a closure: copied and pickled with the model, it is about the copy.
    model.save_pretrained = functools.partial(_save_pretrained, model)
    return Patch(model, head, before, hook)


def _special_ids(model: PreTrainedModel, m: int) -> set[int]:
    """Gather the special tokens that a model's configurations name."""
    sources = (getattr(model, "generation_config", None), model.config, model.config.get_text_config())
    found: set[int] = set()
    for source in sources:
        for name in _SPECIAL:
            ids = getattr(source, name, None)
            found.update(ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids])
    return {int(token) for token in found if 0 <= int(token) < m}


def _keep_to_candidates(head: LSSLinear, _model: object, _inputs: object, output: Any) -> Any:
    """Make logits -inf outside the candidates once more: a cap that is a tanh has made them finite."""
    labels = head._listed
    if labels is None or head._compact is not None:
        return output
    head._listed = None
    if torch.compiler.is_compiling():
        return torch.compiler.disable(_masked)(labels, head.out_features, output)
    return _masked(labels, head.out_features, output)


def _masked(labels: torch.Tensor, m: int, output: Any) -> Any:
    if isinstance(output, tuple):  # return_dict=False: (loss,) logits, ...
        at = next(i for i, part in enumerate(output) if _are_logits(part, m))
        return *output[:at], _at_candidates(labels, output[at]), *output[at + 1 :]
    output.logits = _at_candidates(labels, output.logits)
    return output


def _are_logits(part: object, m: int) -> bool:
    return isinstance(part, torch.Tensor) and part.dim() > 1 and part.shape[-1] == m


def _at_candidates(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    flat, labels = logits.reshape(-1, logits.shape[-1]), labels.to(logits.device)
    known = flat.gather(1, labels.clamp(min=0)).masked_fill(labels < 0, -torch.inf)
    kept = torch.full_like(flat, -torch.inf)
    _scatter(kept, labels, known)
    return kept.reshape(logits.shape)


def _save_pretrained(
    model: PreTrainedModel, save_directory: str | os.PathLike[str], *args: Any, **options: Any
) -> Any:
    """Save a model as it does itself, and the index beside it."""
    done = type(model).save_pretrained(model, save_directory, *args, **options)
    head = model.get_output_embeddings()
    if isinstance(head, LSSLinear) and head.index is not None and options.get("is_main_process", True):
        head.index.save(Path(save_directory) / INDEX_FILE)
    return done
