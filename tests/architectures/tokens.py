"""Tokenizers with the control tokens of other architectures."""

from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.tiny import TEXTS
from unified_reward_lab.train.tiny import build_tokenizer


def tokenizer_with(control, *, named=None, bos=None, **roles):
    """The tiny tokenizer with further control tokens.

    Args:
        control: Tokens to add, in the order of their ids.
        named: Attributes of the tokenizer, as ``image_token``, by which a processor finds a token.
        bos: Token that the tokenizer itself puts before every text, as Llama's does.
        roles: ``eos_token``, ``pad_token``, ...
    """
    backend = build_tokenizer(TEXTS).backend_tokenizer
    backend.add_special_tokens(list(control))
    if bos is not None:
        mark = (bos, backend.token_to_id(bos))
        backend.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[mark])
        roles["bos_token"] = bos
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, extra_special_tokens=dict(named or {}), **roles
    )
