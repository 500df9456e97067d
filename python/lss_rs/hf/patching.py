"""A language model whose output layer answers from an index."""

from __future__ import annotations

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import PreTrainedModel, RepetitionPenaltyLogitsProcessor

from lss_rs._arrays import message
from lss_rs.index import Index
from lss_rs.torch import LSSLinear, StaleIndexWarning
from lss_rs.torch.linear import _scatter

if TYPE_CHECKING:
    from torch import nn
    from transformers import LogitsProcessorList
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

    def __init__(self, model: PreTrainedModel, head: LSSLinear, before: nn.Linear) -> None:
        self.model, self.head = model, head
        self._before = before
        # Partials, not closures: copied and pickled with the model, they are about the copy.
        self._hooks = (
            model.register_forward_pre_hook(functools.partial(_take_all_for_a_loss, head), with_kwargs=True),
            model.register_forward_hook(functools.partial(_keep_to_candidates, head), always_call=True),
        )
        # What the model had of its own, by this name, is called and put back.
        self._own = {name: _own(model, name) for name in _SHADOWS}
        self._shadows = {
            name: functools.partial(shadow, model, self._own[name]) for name, shadow in _SHADOWS.items()
        }
        for name, shadow in self._shadows.items():
            setattr(model, name, shadow)

    @property
    def index(self) -> Index | None:
        """The index that the output layer answers from."""
        return self.head.index

    def remove(self) -> None:
        """Give the model its own output layer back; the weights are what they have become meanwhile.

        A model that has got another output layer since, by ``resize_token_embeddings`` or so, keeps that.
        """
        if self.model.get_output_embeddings() is self.head:
            self._before.weight, self._before.bias = self.head.weight, self.head.bias
            self._before.train(self.head.training)
            self.model.set_output_embeddings(self._before)
        for hook in self._hooks:
            hook.remove()
        for name, shadow in self._shadows.items():
            if vars(self.model).get(name) is not shadow:  # but that of a later patch, say
                continue
            delattr(self.model, name)
            if self._own[name] is not None:
                setattr(self.model, name, self._own[name])

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
    Where processors allow certain tokens only, raise some, or are not of transformers, they get all logits in
    ``model.generate``.
    With ``custom_generate=lss_rs.hf.decode`` tokens are chosen among the candidates alone. Tokens outside the
    candidates have probability 0, and probabilities are renormalised over the rest; a perplexity and the
    reading of a prompt take the full layer in mode "auto", a loss from ``labels`` does in every mode.

    ``model.save_pretrained(folder)`` writes the index beside the weights, as ``lss_index.safetensors``, and
    with ``push_to_hub`` it is uploaded with them; a stale index is left out, which is warned about. What it
    wrote is loaded by ``from_pretrained`` as any other model, and patched by ``patch(model, folder)``.

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
        configurations and of each call of ``generate`` (EOS among them, so that generation stops), and the
        index's ``always_include``. ``tokenizer.all_special_ids``, if a text may have any of these.

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
        If the model has no output layer, is an encoder-decoder, is patched already, or accelerate has spread
        it over devices, the index is of another shape, or a special id is no token.

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
    # These may add to logits what an index knows nothing of (final_logits_bias).
    if any(getattr(c, "is_encoder_decoder", False) for c in (model.config, model.config.get_text_config())):
        raise ValueError(message("model", "decoder-only", "an encoder-decoder"))
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
    configs = (getattr(model, "generation_config", None), model.config, model.config.get_text_config())
    head.always = tuple(sorted(special.union(*(_special_ids(c, head.out_features) for c in configs))))
    head._watched = True
    model.set_output_embeddings(head)
    return Patch(model, head, before)


def _special_ids(config: Any, m: int) -> set[int]:
    """Gather the special tokens that a configuration names."""
    found: set[int] = set()
    for name in _SPECIAL:
        ids = getattr(config, name, None)  # one, several, or a tensor
        if ids is not None:
            found.update(torch.as_tensor(ids, dtype=torch.int64).reshape(-1).tolist())
    return {token for token in found if 0 <= token < m}


Method = Callable[..., Any]


def _own(model: PreTrainedModel, name: str) -> Method | None:
    """Return what a model has of its own by this name; what another patch put there is not."""
    own: Method | None = vars(model).get(name)
    if isinstance(own, functools.partial) and own.func is _SHADOWS[name]:
        own = own.args[1]
    return own


def _as_before(model: PreTrainedModel, own: Method | None, name: str) -> Method:
    """Return what a shadow stands before."""
    return own or functools.partial(getattr(type(model), name), model)


def _prepare_special_tokens(
    model: PreTrainedModel, own: Method | None, generation_config: Any, *args: Any, **options: Any
) -> Any:
    """Do as the model does in each ``generate``, and tell the output layer what tokens a call may end with.

    What it gets has all that was asked for: by the model's generation config as it is now, by another one, by
    arguments. The layer keeps to it until the next call.
    """
    head = model.get_output_embeddings()
    if isinstance(head, LSSLinear):
        head._called = tuple(sorted(_special_ids(generation_config, head.out_features)))
    return _as_before(model, own, "_prepare_special_tokens")(generation_config, *args, **options)


def _take_all_for_a_loss(
    head: LSSLinear, model: PreTrainedModel, inputs: tuple[Any, ...], options: dict[str, Any]
) -> None:
    """Let the full layer answer where there are labels: a loss over the candidates alone would be another."""
    labels = options.get("labels")
    if labels is None and len(inputs) > 1:
        given = inspect.signature(type(model).forward).bind_partial(model, *inputs, **options)
        labels = given.arguments.get("labels")
    head._whole = labels is not None


def _generate(model: PreTrainedModel, own: Method | None, *args: Any, **options: Any) -> Any:
    """Generate as the model does itself, and forget what was asked for only while it did."""
    method, head = _as_before(model, own, "generate"), model.get_output_embeddings()
    if not isinstance(head, LSSLinear):
        return method(*args, **options)
    before, head._whole_texts = head._whole_texts, False
    try:
        return method(*args, **options)
    finally:
        head._whole_texts = before  # of a text that this one is written for


def _get_logits_processor(model: PreTrainedModel, own: Method | None, *args: Any, **options: Any) -> Any:
    """Make processors as the model does itself; the full layer answers, if they may choose other tokens."""
    processors = _as_before(model, own, "_get_logits_processor")(*args, **options)
    head = model.get_output_embeddings()
    if isinstance(head, LSSLinear) and head._whole_texts is not None:
        head._whole_texts = _chooses_others(processors, head.n_candidates) is not None
    return processors


_AMONG_CANDIDATES = (
    "EncoderNoRepeatNGramLogitsProcessor",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "ExponentialDecayLengthPenalty",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "HammingDiversityLogitsProcessor",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "MinPLogitsWarper",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "RepetitionPenaltyLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopHLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
)
"""Processors that prefer what is probable as it is, ban some tokens, or bring about special tokens."""


_BANNED = ("suppress_tokens", "begin_suppress_tokens", "sequence_bias")
"""Where processors keep what they ban."""


def _raises(processor: Any) -> bool:
    """Whether it is a penalty that favours tokens, so that one which is no candidate may become the best."""
    return type(processor) is RepetitionPenaltyLogitsProcessor and processor.penalty < 1


def _chooses_others(processors: LogitsProcessorList, n_candidates: int) -> str | None:
    """Name a processor that may choose what is no candidate.

    It allows certain tokens only, be it by banning all others, or raises some.
    """
    known = [getattr(transformers, name, None) for name in _AMONG_CANDIDATES]
    for processor in processors:
        banned = (getattr(processor, name, None) for name in _BANNED)
        many = max((len(tokens) for tokens in banned if tokens is not None), default=0)
        if type(processor) not in known or _raises(processor) or 2 * many > n_candidates:
            return type(processor).__name__
    return None


def _keep_to_candidates(head: LSSLinear, _model: object, _inputs: object, output: Any) -> Any:
    """Make logits -inf outside the candidates once more: a cap that is a tanh has made them finite."""
    labels, head._whole = head._listed, False
    if labels is None or head._compact is not None or output is None:  # None: it raised
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


def _save_pretrained(model: PreTrainedModel, own: Method | None, *args: Any, **options: Any) -> Any:
    """Save a model as it does itself, and the index beside it."""
    done = _as_before(model, own, "save_pretrained")(*args, **options)
    # Some models' own takes anything and hands it on.
    given = inspect.signature(PreTrainedModel.save_pretrained).bind(model, *args, **options).arguments
    file = Path(given["save_directory"]) / INDEX_FILE
    uploaded = given.get("push_to_hub", False) and file.exists()
    if given.get("is_main_process", True) and not uploaded:
        _save_index(model, file.parent)
    return done


def _upload_modified_files(
    model: PreTrainedModel,
    own: Method | None,
    working_dir: str | os.PathLike[str],
    *args: Any,
    **options: Any,
) -> Any:
    """Upload what was saved, as the model does itself, and the index."""
    _save_index(model, working_dir)
    return _as_before(model, own, "_upload_modified_files")(working_dir, *args, **options)


def _save_index(model: PreTrainedModel, folder: str | os.PathLike[str]) -> None:
    head = model.get_output_embeddings()
    if not isinstance(head, LSSLinear) or head.index is None:
        return
    if head._same(head.index):
        head.index.save(Path(folder) / INDEX_FILE)
    else:
        text = f"The weights are not those that the index was made from: no {INDEX_FILE} is written."
        warnings.warn(text, StaleIndexWarning, stacklevel=3)


_SHADOWS: dict[str, Method] = {
    "generate": _generate,
    "_get_logits_processor": _get_logits_processor,
    "_prepare_special_tokens": _prepare_special_tokens,
    "save_pretrained": _save_pretrained,
    "_upload_modified_files": _upload_modified_files,
}
"""Methods of a model that stand before its own while it is patched."""
