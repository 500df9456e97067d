"""Generation that chooses among candidates."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.configuration_utils import GenerationMode

from lss_rs._arrays import message
from lss_rs.hf.patching import _raises, _special_ids
from lss_rs.torch import LSSLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("lss_rs")

_AS_THEY_ARE = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)
"""Warpers that look at scores, never at which token has which."""

_said: set[str] = set()


def decode(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: Any,
    generation_config: Any,
    **model_kwargs: Any,
) -> Any:
    """Generate from the candidates of a patched model: ``model.generate(..., custom_generate=decode)``.

    Greedy search and sampling with temperature, top-k, top-p, min-p and repetition penalty look at candidates
    alone; nothing of the size of the vocabulary is sorted or summed. Greedy search asks the index for one
    label. Beams, any other processor, scores or logits to be returned, and a model that does not treat all
    logits alike (which two passes over one token tell, in the first call) take scattered logits, or all of
    them, as ``generate`` does without ``custom_generate``; a line on the "lss_rs" logger says so, once.
    Where the index is stale or exact, or the mode is "dense", the full layer answers, and so it does in mode
    "auto" in training and for more than ``max_positions`` sequences. The step that reads the prompt is one
    like others.

    The loop itself, caches and stopping are those of transformers. A call at a time a model: the output layer
    is told what to do.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Patched by :func:`patch`.
    input_ids : Tensor of int64, shape (n, t)
    logits_processor : LogitsProcessorList
    stopping_criteria : StoppingCriteriaList
    generation_config : GenerationConfig
    **model_kwargs
        What ``generate`` hands to a decoding method. transformers keeps streamers from callables: stream
        without ``custom_generate``.

    Returns
    -------
    Tensor of int64, shape (n, t + new), or ModelOutput
        As ``generate`` returns.

    Raises
    ------
    ValueError
        If the model is not patched, or the generation mode is none of greedy search, sampling and beams.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, LSSLinear):
        raise ValueError(message("model", "patched by lss_rs.hf.patch", "one that is not"))
    head._called = tuple(sorted(_special_ids(generation_config, head.out_features)))
    mode = generation_config.get_generation_mode()
    arguments = {
        "logits_processor": logits_processor,
        "stopping_criteria": stopping_criteria,
        "generation_config": generation_config,
        **model_kwargs,
    }
    beams = mode in (GenerationMode.BEAM_SEARCH, GenerationMode.BEAM_SAMPLE)
    if not beams and mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ValueError(message("custom_generate", "left out for this generation mode", mode.value))
    reason = "beams" if beams else _why_not(logits_processor, generation_config)
    chosen = reason is None and head._answers(len(input_ids))
    if chosen and not _treats_alike(model, head):
        reason, chosen = f"what {type(model).__name__} does to its logits", False
    if chosen:
        choice = _Choice(head, logits_processor, bool(generation_config.do_sample))
        # The choice is made in there; what is left for the loop is to take the largest score.
        arguments["generation_config"] = config = copy.copy(generation_config)
        config.do_sample = False
        arguments["logits_processor"] = LogitsProcessorList([choice])
        with head._listing(_needed(logits_processor, choice.sample)):
            return type(model)._sample(model, input_ids, **arguments)
    if reason is not None and reason not in _said:
        _said.add(reason)
        which = "all logits" if head._whole_texts else "scattered logits over the whole vocabulary"
        logger.info("decode takes %s, because of %s", which, reason)
    method = type(model)._beam_search if beams else type(model)._sample
    return method(model, input_ids, **arguments)


def _why_not(processors: LogitsProcessorList, config: Any) -> str | None:
    """Name what needs logits over the whole vocabulary."""
    for processor in processors:
        kind = type(processor)
        if _raises(processor) or kind not in (*_AS_THEY_ARE, RepetitionPenaltyLogitsProcessor):
            return kind.__name__
    if config.return_dict_in_generate and (config.output_scores or config.output_logits):
        return "output_scores or output_logits"
    return None


def _treats_alike(model: PreTrainedModel, head: LSSLinear) -> bool:
    """Whether a model does to each logit the same, whichever label's it is and whatever the others are.

    It is asked for all logits, then for as many of other labels in another order: no place is out of range
    for a model that writes to the logits of certain tokens.
    """
    if head._alike is not None:
        return head._alike
    token = torch.full((1, 1), head.out_features // 2, device=model.device)  # an ordinary one
    asked = {"input_ids": token, "attention_mask": torch.ones_like(token)}

    def logits_of(labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), head._listing(labels):
            logits: torch.Tensor = model(**asked, use_cache=False, return_dict=True).logits
        return logits.flatten()

    every = torch.arange(head.out_features, device=head.weight.device)
    training = [module for module in model.modules() if module.training]
    model.eval()  # what it leaves out by chance says nothing
    try:
        all_logits = logits_of(every)
        others = every.flip(0)
        others[len(others) // 2 :] = all_logits.argmax()
        head._alike = torch.allclose(logits_of(others), all_logits[others], rtol=1e-4, atol=1e-5)
    except torch.cuda.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False  # it must be asked in another way, or in another hour
    finally:
        for module in training:
            module.training = True
    return head._alike


def _needed(processors: LogitsProcessorList, sample: bool) -> int | None:
    """Count the labels, best first, that a choice may depend on; None: all candidates."""
    kinds = [type(processor) for processor in processors]
    if RepetitionPenaltyLogitsProcessor in kinds:
        return None
    if not sample:
        return 1
    for processor in processors:
        if type(processor) is TopKLogitsWarper:
            return int(processor.top_k)
        # Whatever else stands before it, as processors of the caller's do, looks at all that is probable.
        if type(processor) is not TemperatureLogitsWarper:
            return None
    return None


class _Choice:
    """Choose a token among the candidates of each sequence, as the last of the processors.

    What comes back is 1 at the token and 0 elsewhere: transformers' loop goes on from the largest.
    """

    def __init__(self, head: LSSLinear, processors: LogitsProcessorList, sample: bool) -> None:
        self.head, self.processors, self.sample = head, processors, sample
        self.chosen: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        labels = self.head._listed
        if labels is None or labels.shape != scores.shape:
            raise RuntimeError("The model did not ask its output layer for these logits.")
        labels = labels.to(scores.device)
        scores = self.scores(input_ids, labels, scores)
        at = torch.multinomial(scores.softmax(-1), 1) if self.sample else scores.argmax(-1, keepdim=True)
        return self._one_hot(labels.gather(1, at))

    def scores(self, input_ids: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Do what the processors do, to the logits (n, c) of candidates."""
        # The model may have capped them: what is no label is none once more.
        scores = scores.float().masked_fill(labels < 0, -torch.inf)
        for processor in self.processors:
            if type(processor) is RepetitionPenaltyLogitsProcessor:
                scores = self._penalised(processor, input_ids, labels, scores)
            else:
                scores = processor(input_ids, scores)
        return scores

    def _penalised(
        self,
        processor: RepetitionPenaltyLogitsProcessor,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        scores: torch.Tensor,
    ) -> torch.Tensor:
        """Do what the processor does, to those candidates that have been generated or given."""
        m, device = self.head.out_features, labels.device
        tokens, ignored = input_ids.to(device), getattr(processor, "prompt_ignore_length", None)
        if ignored is not None:  # of every sequence, or of each
            least = torch.as_tensor(ignored, device=device).reshape(-1, 1)
            tokens = tokens.masked_fill(torch.arange(tokens.shape[1], device=device) < least, m)
        seen = torch.zeros((len(labels), m + 1), dtype=torch.bool, device=device)
        seen = seen.scatter_(1, tokens, True).gather(1, labels.clamp(min=0))
        penalty = processor.penalty
        return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)

    def _one_hot(self, tokens: torch.Tensor) -> torch.Tensor:
        """Write 1 at the tokens (n, 1) of zeros (n, m), made once."""
        shape = (len(tokens), self.head.out_features)
        if self.chosen is None or self.chosen[0].shape != shape:
            self.chosen = torch.zeros(shape, device=tokens.device), tokens
        ones, last = self.chosen
        ones.scatter_(1, last, 0.0).scatter_(1, tokens, 1.0)
        self.chosen = ones, tokens
        return ones
