"""Facts about a checkpoint's chat template, found by rendering short conversations.

A template is a program of the checkpoint: one that is text-only, broken or of another processor is
refused when the checkpoint is loaded, not on every request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from unified_reward.backends.batching import FAULTS
from unified_reward.core.errors import ModelError, one_line


_TEMPLATE_ERRORS = (TemplateError, *FAULTS)
"""A template's own error, or that of an expression in it."""

# A template that prints its list of parts would not print a line break as one.
_FIRST, _SECOND, _ANSWER = "first\nprobe", "second\nprobe", "answer\nprobe"
_SWITCHES = {
    "enable_thinking": r"\benable_thinking\b",
    "thinking": r"\b(?:if|not) thinking\b|\bthinking is\b",
}
"""Variables by which templates switch the model's own reasoning on, and where they are used."""
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
    """Texts and tokens that a chat template means something by."""

    control: tuple[str, ...]
    """Tokens that a text must not spell, the longest first."""
    ending: str
    """Text that ends a prompt where the template's own does not suffice: it closes a thought that
    the template opens and cannot leave out. Mostly none."""
    header: str
    """Text of the assistant's turn before an answer, behind its last control token."""
    opening: str
    """White space that the template writes between a prompt and an answer, mostly none."""
    closing: str
    """Text that the template writes between an answer and its end token, mostly none."""
    end_id: int
    """Token that ends an answer."""


def read_format(processor: Any) -> ChatFormat:
    """Try the template of a processor on a turn of text, image and text, answered.

    A template that only the tokenizer has becomes that of the processor. Templates that can switch
    the model's own reasoning have it off: answers are parsed in the format of their family.

    Raises:
        ModelError: There is no template, it cannot take images, or nothing ends an answer.
    """
    tokenizer = processor.tokenizer
    template = processor.chat_template or tokenizer.chat_template
    # A byte order mark would begin every prompt.
    processor.chat_template = template.lstrip("\ufeff") if isinstance(template, str) else template
    name = tokenizer.name_or_path
    if not processor.chat_template:
        raise ModelError(f"{name} has no chat template beside its weights")
    image_token = _image_token(processor)
    try:
        prompt = render(processor, _TURN, add_generation_prompt=True)
        bare = render(processor, _TURN, add_generation_prompt=False)
        answered = _render_answered(processor)
        followed = _render_answered(processor, _TURN)
    except _TEMPLATE_ERRORS as error:
        raise ModelError(
            f"the chat template of {name} cannot take a turn of text and image: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    problem = _problem(prompt, image_token) or _no_header(prompt, bare, answered)
    between = _between(prompt, answered)
    if between is None and _switches(processor):
        between = ""  # the switch closes a thought that an answered turn lacks
    if not problem and between is None:
        end = " ".join(prompt.rpartition(_SECOND)[2].split())
        problem = f"ends a prompt with {end!r}, which it does not write before an answer"
    if problem or between is None:
        raise ModelError(f"the chat template of {name} cannot be used with images: it {problem}")
    ending, opening = (between, "") if between.strip() else ("", between)
    control = _control_tokens(processor, bare, prompt)
    header = _behind_last(control, (prompt + ending).rpartition(_SECOND)[2])
    closing, end = _end(answered, control)
    if end is None:
        # Some templates leave it to the next turn, whose first token then ends an answer.
        before, following = _end(followed, control)
        begins_text = following == tokenizer.bos_token != tokenizer.eos_token
        closing, end = ("", None) if before.strip() or begins_text else (before, following)
    end_id = tokenizer.eos_token_id if end is None else tokenizer.convert_tokens_to_ids(end)
    if end_id is None:
        raise ModelError(
            f"nothing ends an answer: the chat template of {name} closes a turn with no control "
            "token, and the tokenizer has no eos_token"
        )
    return ChatFormat(control, ending, header, opening, closing, end_id)


def _image_token(processor: Any) -> str:
    """Mark of an image in a prompt.

    Raises:
        ModelError: The processor names none, or the tokenizer does not know it.
    """
    tokenizer = processor.tokenizer
    name = tokenizer.name_or_path
    if not isinstance(token := getattr(processor, "image_token", None), str):
        raise ModelError(
            f"the processor of {name} ({type(processor).__name__}) names no image token, so that "
            "images have no place in a prompt, as with models that only caption one"
        )
    if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id):
        raise ModelError(
            f"the image token {token} of the processor is not in the vocabulary of the tokenizer "
            f"of {name}"
        )
    return token


def render(processor: Any, turns: Sequence[Any], **options: bool) -> str:
    """Text of a conversation, without the model's own reasoning where it can be switched off."""
    off = dict.fromkeys(_switches(processor), False)
    return processor.apply_chat_template(turns, tokenize=False, **off, **options)


def _switches(processor: Any) -> list[str]:
    template = str(processor.chat_template)
    return [name for name, used in _SWITCHES.items() if re.search(used, template)]


def _render_answered(processor: Any, next_turn: Sequence[Any] = ()) -> str:
    """The probe with an answer; empty if the template cannot render an assistant's turn."""
    for content in ([{"type": "text", "text": _ANSWER}], _ANSWER):
        turns = [*_TURN, {"role": "assistant", "content": content}, *next_turn]
        try:
            text = render(processor, turns, add_generation_prompt=False)
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
    has_header = prompt != bare or _differ_in_space(prompt, answered.partition(_ANSWER)[0])
    return "" if has_header else "ends a prompt without the header of the assistant's turn"


def _between(prompt: str, answered: str) -> str | None:
    """Text between the prompt and its answer; None where the answered turn begins otherwise."""
    before = answered.partition(_ANSWER)[0]
    if not before or before.startswith(prompt):
        return before[len(prompt) :]
    return "" if _differ_in_space(before, prompt) else None


def _differ_in_space(a: str, b: str) -> bool:
    """True if texts differ at most in white space."""
    return "".join(a.split()) == "".join(b.split())


def _control_tokens(processor: Any, bare: str, prompt: str) -> tuple[str, ...]:
    """Special tokens, marks of media, and added tokens that delimit turns.

    Added tokens that are not special and that a turn does not need, such as ``<think>``, are words
    that an answer may hold.

    Args:
        processor: The processor.
        bare: A user's turn.
        prompt: The same with the header of the assistant's.
    """
    tokenizer = processor.tokenizer
    added = [*tokenizer.added_tokens_decoder.values()]
    names = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
    names |= {
        value
        for name, value in vars(processor).items()
        if name.endswith("_token") and isinstance(value, str)
    }
    # Tags that come in pairs delimit a part of an answer, and may stand in the header too.
    tags = {str(token).replace("/", "") for token in added if "/" in str(token)}
    names |= {
        token
        for token in map(str, added)
        if not token.isalnum()
        and (token in bare or (token in prompt and token.replace("/", "") not in tags))
    }
    # A space within breaks up no token of a single letter.
    return tuple(sorted((name for name in names if len(name.strip()) > 1), key=len, reverse=True))


def _behind_last(control: Sequence[str], text: str) -> str:
    """Rest of a text behind the last control token in it."""
    ends = (text.rfind(token) + len(token) for token in control if token in text)
    return text[max(ends, default=0) :]


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
