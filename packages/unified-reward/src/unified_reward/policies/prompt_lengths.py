"""Lengths of prompts in tokens, as tokenizers cut them while a pipeline encodes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase


class Length(NamedTuple):
    """Tokens of the longest text that a tokenizer read, and how many it keeps."""

    tokens: int
    limit: int


class PromptLengths(dict[int, Length]):
    """Lengths of the texts that were cut to a limit, by tokenizer."""

    def overflow(self) -> Length | None:
        """Length of a prompt that no tokenizer read to its end; None where one did."""
        if not self or any(length.tokens <= length.limit for length in self.values()):
            return None
        return max(self.values(), key=lambda length: length.limit)


@contextmanager
def prompt_lengths() -> Iterator[PromptLengths]:
    """Watch all tokenizers of transformers; for one thread at a time."""
    lengths = PromptLengths()
    original = PreTrainedTokenizerBase.__call__

    @wraps(original)
    def call(tokenizer: Any, text: Any = None, *positional: Any, **named: Any) -> Any:
        if named.get("truncation") and text is not None:
            limit = named.get("max_length") or tokenizer.model_max_length
            special = named.get("add_special_tokens", True)
            texts = [text] if isinstance(text, str) else text
            whole = original(tokenizer, texts, add_special_tokens=special, verbose=False)
            tokens = max(map(len, whole["input_ids"]))
            known = lengths.get(id(tokenizer), Length(0, limit))
            lengths[id(tokenizer)] = max(known, Length(tokens, limit))
        return original(tokenizer, text, *positional, **named)

    setattr(PreTrainedTokenizerBase, "__call__", call)  # noqa: B010  of another signature
    try:
        yield lengths
    finally:
        PreTrainedTokenizerBase.__call__ = original
