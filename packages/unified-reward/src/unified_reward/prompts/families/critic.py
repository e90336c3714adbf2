"""Grammar of LLaVA-Critic (arXiv:2410.02712): a verdict in prose, or a number out of 100 first.

Its authors published no parser. A verdict is the last sentence that calls one response better, or
both equally good; a score is a number that the answer begins with, or the last out of 100.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Preferred, Score, Scored, Unparsed
from unified_reward.prompts import parse
from unified_reward.prompts.template import Family, Template
from unified_reward.prompts.wording import SCALES, statement, verdict_sentences


FAMILY = Family("llava-critic", max_new_tokens=4096)
_TASK = Task.IMAGE_UNDERSTANDING
_HUNDRED = SCALES[_TASK]
_OUT_OF = re.compile(
    r"(?<![\w.,*^-])(?P<value>[-+]?\d+(?:\.\d+)?)(?P<rest>\s*(?:/|out\s+of)\s*100\b)", re.IGNORECASE
)
_FIRST = re.compile(rf"[^\w.,+-]*(?:(?:the\s+)?score\s*(?::|=|is)\s*)?{parse.VALUE}", re.IGNORECASE)


@dataclass(frozen=True)
class ProseTemplate(Template):
    """Template of answers in free text: no choices whose probabilities could be read."""

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """Empty."""
        return ()

    def parse(self, text: str) -> Scored | Preferred | Unparsed:
        """Read the verdict; an answer without one is unparsed."""
        if self.form == "compare":
            return super().parse(text)
        body = parse.plain(text)
        matches = [*_OUT_OF.finditer(body)]
        match = matches[-1] if matches else _FIRST.match(body)
        if match is None:
            return Unparsed("no score out of 100 in the answer", text)
        value = parse.value(match, _HUNDRED, text)
        if isinstance(value, Unparsed):
            return value
        return Scored(Score(value, _HUNDRED), text=text)


TEMPLATES = (
    ProseTemplate(
        FAMILY,
        _TASK,
        "compare",
        f"{statement(_TASK, 'compare')}\nSay which answer is better, and why.",
        phrases=verdict_sentences(_TASK),
    ),
    ProseTemplate(
        FAMILY,
        _TASK,
        "score",
        f"{statement(_TASK, 'score')}\nGive a score out of 100, then say why.",
        scale=_HUNDRED,
    ),
)
