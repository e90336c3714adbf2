"""Facts about a checkpoint's chat template, found by rendering short conversations.

A template is a program of the checkpoint: one that is text-only, broken or of another processor is
refused when the checkpoint is loaded, not on every request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from unified_reward.core.errors import ModelError, one_line


# A template's own error, or that of an expression in it; RecursionError is a RuntimeError.
_TEMPLATE_ERRORS = (
    *(TemplateError, TypeError, ValueError, LookupError),
    *(AttributeError, ArithmeticError, RuntimeError),
)

# A template that prints its list of parts would not print a line break as one.
_FIRST, _SECOND, _ANSWER = "first\nprobe", "second\nprobe", "answer\nprobe"
_TURN = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": _FIRST},
            {"type": "image"},
            {"type": "text", "text": _SECOND},
        ],
    }
]


class ChatFormat(NamedTuple):
    """Tokens that a chat template means something by."""

    control: tuple[str, ...]
    """Tokens that a text must not spell, the longest first."""
    closing: str
    """Text that the template writes between an answer and its end token, mostly none."""
    end_id: int
    """Token that ends an answer."""


def read_format(processor: Any) -> ChatFormat:
    """Try the template of a processor on a turn of text, image and text, answered.

    A template that only the tokenizer has becomes that of the processor.

    Raises:
        ModelError: There is no template, it cannot take images, or nothing ends an answer.
    """
    template = processor.chat_template or processor.tokenizer.chat_template
    # A byte order mark would begin every prompt.
    processor.chat_template = template.lstrip("\ufeff") if isinstance(template, str) else template
    name = processor.tokenizer.name_or_path
    if not processor.chat_template:
        raise ModelError(f"{name} has no chat template beside its weights")
    if not isinstance(image_token := getattr(processor, "image_token", None), str):
        raise ModelError(f"the processor of {name} names no image token")
    try:
        prompt = _render(processor, _TURN, add_generation_prompt=True)
        bare = _render(processor, _TURN, add_generation_prompt=False)
        answered = _render_answered(processor)
    except _TEMPLATE_ERRORS as error:
        raise ModelError(
            f"the chat template of {name} cannot take a turn of text and image: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    if problem := _problem(prompt, image_token) or _no_header(prompt, bare, answered):
        raise ModelError(f"the chat template of {name} cannot be used with images: it {problem}")
    control = _control_tokens(processor, prompt)
    closing, end = _end(answered, control)
    tokenizer = processor.tokenizer
    end_id = tokenizer.eos_token_id if end is None else tokenizer.convert_tokens_to_ids(end)
    if end_id is None:
        raise ModelError(
            f"nothing ends an answer: the chat template of {name} closes a turn with no control "
            "token, and the tokenizer has no eos_token"
        )
    return ChatFormat(control, closing, end_id)


def _render(processor: Any, turns: Sequence[Any], **options: bool) -> str:
    return processor.apply_chat_template(turns, tokenize=False, **options)


def _render_answered(processor: Any) -> str:
    """The probe with an answer; empty if the template cannot render an assistant's turn."""
    for content in ([{"type": "text", "text": _ANSWER}], _ANSWER):
        turns = [*_TURN, {"role": "assistant", "content": content}]
        try:
            text = _render(processor, turns, add_generation_prompt=False)
        except _TEMPLATE_ERRORS:  # some take an answer as a string only, some none
            continue
        if _ANSWER in text:
            return text
    return ""


def _problem(text: str, image_token: str) -> str:
    if (n := text.count(image_token)) != 1:
        return f"writes {n} image tokens ({image_token}) for one image"
    counts = text.count(_FIRST), text.count(_SECOND)
    if counts != (1, 1) or text.index(_FIRST) > text.index(_SECOND):
        return "does not write each text of a turn once, in their order"
    return ""


def _no_header(prompt: str, bare: str, answered: str) -> str:
    """Complain where an answer would follow the user's turn without the assistant's header."""
    before = "".join(answered.partition(_ANSWER)[0].split())
    has_header = prompt != bare or before == "".join(prompt.split())
    return "" if has_header else "ends a prompt without the header of the assistant's turn"


def _control_tokens(processor: Any, turn: str) -> tuple[str, ...]:
    """Special tokens, marks of media, and added tokens that delimit a user's turn.

    Added tokens that are not special and that a turn does not need, such as ``<think>``, are words
    that an answer may hold.
    """
    tokenizer = processor.tokenizer
    added = [*tokenizer.added_tokens_decoder.values()]
    names = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
    names |= {
        value
        for name, value in vars(processor).items()
        if name.endswith("_token") and isinstance(value, str)
    }
    names |= {str(token) for token in added if str(token) in turn and not str(token).isalnum()}
    # A space within breaks up no token of a single letter.
    return tuple(sorted((name for name in names if len(name.strip()) > 1), key=len, reverse=True))


def _end(answered: str, control: Sequence[str]) -> tuple[str, str | None]:
    """Text and first control token behind the answer."""
    tail = answered.rpartition(_ANSWER)[2]
    found = re.search("|".join(map(re.escape, control)), tail) if control else None
    return (tail[: found.start()], found[0]) if found else ("", None)


class ControlTokens:
    """Finds control tokens that a text spells, and breaks them up with a space."""

    def __init__(self, tokens: Sequence[str]) -> None:
        """Know the tokens, the longest first."""
        self._pattern = re.compile("|".join(map(re.escape, tokens)) or r"(?!)")
        self._longest = max(map(len, tokens), default=0)

    def are_in(self, text: str) -> bool:
        """True if a text spells one."""
        return self._pattern.search(text) is not None

    def break_up(self, texts: Sequence[str]) -> list[str]:
        """Texts that spell no control token, nor do they where one directly follows another.

        A space is put behind the first letter of a token, or behind its second where the first ends
        a text, since a template may trim a text. Nothing is removed.
        """
        joined, start = "".join(texts), 0
        ends = [sum(map(len, texts[: i + 1])) for i in range(len(texts))]
        while found := self._pattern.search(joined, start):
            token = found[0]
            at = found.start() + len(token) - len(token.lstrip()) + 1
            at += at in ends and at + 1 < found.end()
            joined = f"{joined[:at]} {joined[at:]}"
            ends = [end + (end >= at) for end in ends]
            start = max(0, found.start() - self._longest)
        return [joined[i:j] for i, j in zip([0, *ends], ends, strict=False)]
