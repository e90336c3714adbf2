"""Mutated answers of models, decoded by every template; composed answers have a known verdict."""

from __future__ import annotations

import math
import re
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.kind import WrongReadError
from benchmarks.fuzz.mutate import ODD_TEXTS, mutate_bytes, mutate_text
from unified_reward.core.requests import Answer
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Unparsed
from unified_reward.io.verdict_rows import verdict_row
from unified_reward.prompts import TEMPLATES
from unified_reward.prompts.families import critic
from unified_reward.prompts.template import Template


SHARE = 6
_OUTCOMES = ("first", "tie", "second")
_ODD_LOGPROBS = (0.0, -1e-9, -50.0, -9999.0, -1e308, float("-inf"), float("nan"), float("inf"), 5.0)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NUMBERS = (
    "NaN",
    "nan",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1",
    "0",
    "true",
    "1e-400",
    "9" * 400,
    "",
)
_PROSE = (
    *("It is sharp and well lit.", "The colours are right; 3 of 4 objects are there.", "Hm."),
    *(
        "On balance I am not sure.",
        "\n",
        "The caption asks for 2 cats.",
        "(1) light, (2) shade.",
        "…",
    ),
)
_PHRASES = (
    *(
        "Final Score:",
        "Final Score: 3",
        "Final Score: 4/5",
        "Final Score: 1e400",
        "Final Score: nan",
    ),
    *(
        "Image 1 is better than Image 2.",
        "Video 2 is better",
        "It is a tie.",
        "<think>",
        "</think>",
    ),
    *(
        "<answer>",
        "</answer>",
        '{"winner": "Image 1"}',
        '"winner": ',
        "[[A>B]]",
        "Overall Judgment:",
    ),
    *(
        "Alignment Score (1-5): 3",
        "Alignment Score:\n Image 1: 0.7\n Image 2: 0.3",
        "score: [20, 5]",
    ),
    *("inf", "-", "10" * 400, "٣", "½", "1,5", "**5**", "\u2060", "}" * 50, "[" * 2000, "{" * 2000),
)


def _verdict(template: Template, rng: Random) -> Scored | Preferred:
    if template.form == "compare":
        shares = {aspect.name: rng.choice((0.0, 0.25, 0.5, 1.0)) for aspect in template.aspects}
        place = rng.randrange(3)
        return Preferred(*(float(i == place) for i in range(3)), shares)
    aspects = {
        one.name: Score(one.scale.steps()[0], one.scale)
        for one in template.aspects
        if one.scale.step
    }
    aspects |= {one.name: Score(one.scale.low or 0, one.scale) for one in template.aspects}
    score = Score(rng.choice(template.scale.steps()), template.scale) if template.scale else None
    return Scored(score, aspects)


def check_verdict(verdict: Any, scale: Scale | None) -> None:
    """Every number of a verdict is finite, and a score lies on its scale."""
    if isinstance(verdict, Unparsed | Failed):
        return
    row = verdict_row("x", verdict, judge="", family="")
    numbers = [row[key] for key in ("value", "normalized", "sigma", "p_first", "p_tie", "p_second")]
    for number in (*numbers, *row["aspects"].values()):
        if number is not None and not math.isfinite(number):
            raise WrongReadError(f"a verdict of {number}")
    if isinstance(verdict, Scored) and verdict.score and scale:
        low, high, value = scale.low or 0.0, scale.high or 0.0, verdict.score.value
        if not low - 1e-9 <= value <= high + 1e-9:
            raise WrongReadError(f"a score of {value}, outside {scale}")


class Answers:
    """Answers to every template."""

    def __init__(self, folder: Path) -> None:
        del folder
        self.templates = [*TEMPLATES.values(), *critic.TEMPLATES]

    def check(self, rng: Random) -> bool:
        """Decode one answer: as it was written, mutated, or with odd probabilities."""
        template = rng.choice(self.templates)
        verdict = _verdict(template, rng)
        if rng.random() < 0.3:
            self._check_last(template, rng)
        text = template.answer(verdict)
        if rng.random() < 0.1:
            self._check_same(template, template.parse(text), verdict)
        for _ in range(rng.choice((1, 1, 2, 4))):
            text = self._mutated(text, rng)
        votes = tuple(self._mutated(text, rng) for _ in range(rng.choice((0, 0, 0, 2))))
        logprobs = None
        if template.choices and rng.random() < 0.4:
            odd = rng.random() < 0.5
            logprobs = tuple(
                rng.choice(_ODD_LOGPROBS) if odd else -rng.expovariate(0.3)
                for _ in template.choices
            )
        try:
            answer = Answer(text, logprobs, votes)
        except ValueError:  # a model that gives such probabilities has not answered
            return False
        got = template.decode(answer)
        check_verdict(got, template.scale)
        return not isinstance(got, Unparsed | Failed)

    def _mutated(self, text: str, rng: Random) -> str:
        action = rng.randrange(6)
        at = rng.randrange(len(text) + 1)
        if action == 0:
            return mutate_text(text, rng)
        if action == 5 and (numbers := list(_NUMBER.finditer(text))):
            match = rng.choice(numbers)
            return text[: match.start()] + rng.choice(_NUMBERS) + text[match.end() :]
        if action == 1:
            return mutate_bytes(text.encode(errors="surrogatepass"), rng).decode(errors="replace")
        if action == 2:
            return text + rng.choice(("\n", " ", "")) + rng.choice(_PHRASES)
        return text[:at] + rng.choice((*_PHRASES, *_PROSE, *ODD_TEXTS)) + text[at:]

    def _check_same(self, template: Template, got: Any, wanted: Any) -> None:
        if isinstance(got, Unparsed):
            raise WrongReadError(
                f"{template.family.name}: its own answer is unparsed: {got.reason}"
            )
        if isinstance(got, Preferred):
            same = not template.phrases or got.winner == wanted.winner
        else:
            same = (got.score is None) == (wanted.score is None)
            same = same and (got.score is None or got.score.value == wanted.score.value)
        if not same:
            raise WrongReadError(f"{template.family.name}: {got!r:.100} of {wanted!r:.100}")

    def _check_last(self, template: Template, rng: Random) -> None:
        """Of several complete verdicts in one answer the last counts."""
        if not (template.scale or template.phrases) or template.family.name in (
            "compact",
            "flex",
            "llava-critic",
        ):
            return
        verdicts = [_verdict(template, rng) for _ in range(rng.randrange(2, 4))]
        tagged = template.family.uses_think_tags
        texts = [template.answer(one) for one in verdicts]
        if tagged:
            texts = [text.partition("</think>")[2] for text in texts]
        glue = (
            rng.choice(("\n", " ", ", no wait. ", " Hm, no. "))
            if tagged or template.scale
            else "\n"
        )
        text = glue.join(texts)
        if tagged:
            text = f"<think>Image 1 is better. Final Score: 1</think>{text}"
        elif rng.random() < 0.5:
            text = rng.choice(_PROSE) + "\n" + text
        got, wanted = template.parse(text), verdicts[-1]
        try:
            self._check_same(template, got, wanted)
        except WrongReadError as error:
            raise WrongReadError(f"{error} in {text!r:.160}") from error
