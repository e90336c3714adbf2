"""VideoScore2 (arXiv:2509.22799): reasoning, then three aspects of a generated video, 1 to 5.

As in its released script, an aspect is its most probable digit times that digit's share of the
probability of the five: a sure answer is the digit itself, an unsure one is less.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer, Place, Request
from unified_reward.core.samples import Sample, Task
from unified_reward.core.verdicts import Preferred, Scale, Score, Scored, Unparsed
from unified_reward.prompts import parse
from unified_reward.prompts.parse import Aspect
from unified_reward.prompts.template import Family, OpenMedia, Template, softmax


FAMILY = Family("videoscore2", max_new_tokens=1024)
DIGITS = Scale(1.0, 5.0, 1.0)
WEIGHTED = Scale(0.0, 5.0)
"""Range of a digit times its share, and of their mean."""
_NAMES = ("visual quality", "text-to-video alignment", "physical/common-sense consistency")


def _place(name: str) -> str:
    """Pattern of the label of an aspect; some answers repeat its description before the colon."""
    return rf"(?i)\b{re.escape(name)}[^\n:]*:\s*(?=\d)"


@dataclass(frozen=True)
class VideoScore2Template(Template):
    """Template of three digits that are weighed where a model gives their probabilities."""

    def request(self, sample: Sample, open_media: OpenMedia) -> Request:
        """Fill the prompt, and ask for the probabilities of the five digits at each label."""
        digits = tuple(parse.number_text(step) for step in DIGITS.steps())
        places = tuple(Place(_place(name), digits) for name in _NAMES)
        return replace(super().request(sample, open_media), places=places)

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """Empty: there is no single place."""
        return ()

    def answer(self, verdict: Scored | Preferred, *, rationale: str = "") -> str:
        """Write the aspects in the published form; see ``Template.answer``."""
        missing = [name for name in _NAMES if name not in verdict.aspects]
        if not isinstance(verdict, Scored) or missing:
            raise ConfigError(
                f"an answer of family {self.family.name} states {', '.join(missing) or 'aspects'}, "
                f"but the target has {', '.join(verdict.aspects) or 'no aspects'}"
            )
        values = [verdict.aspects[name].value for name in _NAMES]
        if outside := [value for value in values if value not in DIGITS]:
            raise ConfigError(
                f"an answer of family {self.family.name} states aspects from {DIGITS}, not "
                f"{parse.number_text(outside[0])}"
            )
        lines = [f"{n}: {parse.number_text(v)}" for n, v in zip(_NAMES, values, strict=True)]
        return f"<think>{rationale}</think>\n{lines[0]};\n{lines[1]},\n{lines[2]}"

    def parse(self, text: str) -> Scored | Preferred | Unparsed:
        """Read the last digit of each aspect; if one is missing, the answer is unparsed."""
        body = parse.final_part(text, uses_think_tags=False)
        if isinstance(body, Unparsed):
            return body
        values: list[float] = []
        for name in _NAMES:
            found = [*re.finditer(_place(name) + parse.VALUE, parse.plain(body))]
            if not found:
                return Unparsed(f"no {name} in the answer", text)
            value = parse.value(found[-1], DIGITS, text)
            if isinstance(value, Unparsed):
                return value
            values.append(value)
        return _scored(values, text)

    def decode(self, answer: Answer) -> Scored | Preferred | Unparsed:
        """Weigh each digit by its share where it is known; with votes the mean of all answers."""
        read = self.parse(answer.text)
        votes = [one for one in map(self.parse, answer.votes) if isinstance(one, Scored)]
        if votes and not any(answer.place_logprobs):
            scored = [one for one in (read, *votes) if isinstance(one, Scored)]
            rows = [[one.aspects[name].value for one in scored] for name in _NAMES]
            return _scored([sum(row) / len(row) for row in rows], answer.text)
        if not isinstance(read, Scored) or not answer.place_logprobs:
            return read
        values = [
            read.aspects[name].value if logprobs is None else weighted_digit(logprobs)
            for name, logprobs in zip(_NAMES, answer.place_logprobs, strict=True)
        ]
        return _scored(values, answer.text)


def _scored(values: Sequence[float], text: str) -> Scored:
    aspects = {name: Score(value, WEIGHTED) for name, value in zip(_NAMES, values, strict=True)}
    return Scored(Score(sum(values) / len(values), WEIGHTED), aspects, text)


def weighted_digit(logprobs: Sequence[float]) -> float:
    """Most probable digit of 1 to 5 times its share of their probability.

    >>> round(weighted_digit((-9.0, -9.0, -1.0, -1.0 - 0.6931471805599453, -9.0)), 2)
    2.0
    """
    shares = softmax(logprobs)
    best = max(range(len(shares)), key=shares.__getitem__)
    return DIGITS.steps()[best] * shares[best]


TEMPLATES = (
    VideoScore2Template(
        FAMILY,
        Task.VIDEO_GENERATION,
        "score",
        "⟪media⟫",
        scale=WEIGHTED,
        aspects=tuple(Aspect(name, WEIGHTED, name) for name in _NAMES),
    ),
)
