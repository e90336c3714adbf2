"""Templates: the prompt of a task, and the grammar by which answers are written and read back.

Knows nothing of models, files or pixels: media pass through as opaque parts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer, Request
from unified_reward.core.samples import Candidate, Form, FrameRule, Sample, Task, check_context
from unified_reward.core.verdicts import Preferred, Scale, Score, Scored, Unparsed, Winner
from unified_reward.prompts import parse
from unified_reward.prompts.parse import Aspect
from unified_reward.prompts.wording import CRITERIA, NOUNS


_SLOT = re.compile(r"⟪(media|prompt|criteria|first|second)⟫")
_AT_CHOICES = {"score": r"\s*\S*", "compare": r"\s*[^.,;\"\n]*"}
"""Pattern of a number, and of a sentence, at the place of the choices."""
_TAG = re.compile(r"</?(?:think|answer)>")
_BETWEEN_TAGS = re.compile(r">\s+<")
_OUTCOMES: tuple[Winner, ...] = ("first", "tie", "second")

OpenMedia = Callable[[Any], Sequence[Any]]
"""Opens an ``Image`` or ``Video`` of a sample as images, in order."""


@dataclass(frozen=True)
class Family:
    """A family of templates that judges are trained on, and what they share."""

    name: str
    verdict_first: bool = False
    """The answer is the verdict alone, so its probabilities are read without generating text."""
    uses_think_tags: bool = False
    """Reasoning is written in ``<think>``, the verdict in ``<answer>``."""
    frames: int = 8
    """Frames sampled from a video."""
    frame_rule: FrameRule = "linspace_inclusive"
    max_new_tokens: int = 512


@dataclass(frozen=True)
class Template:
    """Prompt, scale, answer grammar, parser and its inverse for one task and form of a family.

    An answer is a head (reasoning, checks or aspects, by family), then ``opening``, the phrase of
    the verdict, and ``closing``. ``parse(answer(v)) == v``.
    """

    family: Family
    task: Task
    form: Form
    prompt: str
    """Text with the slots ⟪media⟫ ⟪prompt⟫ ⟪criteria⟫ ⟪first⟫ ⟪second⟫."""
    scale: Scale | None = None
    """Scale of the overall score; None for a comparison, or where only aspects are defined."""
    aspects: tuple[Aspect, ...] = ()
    """Aspects stated one by one before (or instead of) an overall verdict."""
    opening: str = ""
    """Text before the phrase of the verdict."""
    closing: str = ""
    """Text after it."""
    phrases: tuple[str, ...] = ()
    """Phrases of a comparison for first, tie and second; empty where shares by aspect decide."""
    uses_context: bool = True
    """The media a sample is about are part of the prompt."""

    def request(self, sample: Sample, open_media: OpenMedia) -> Request:
        """Fill the prompt with a sample.

        Args:
            sample: The question; its task and form are this template's.
            open_media: Opens an ``Image`` or ``Video`` of the sample as images, in order.

        Returns:
            The user turn, with neighbouring texts joined, and the choices to score.

        Raises:
            DataError: The sample lacks the image or video that it is about.
        """
        check_context(sample.task, sample.context)
        slots = self._slots(sample, open_media)
        parts: list[Any] = []
        for i, piece in enumerate(self._pieces):
            for part in slots[piece] if i % 2 else (piece,):
                if isinstance(part, str) and parts and isinstance(parts[-1], str):
                    parts[-1] += part
                elif not (isinstance(part, str) and part == ""):
                    parts.append(part)
        verdict_prefix = "" if self.family.verdict_first or not self.choices else self.opening
        return Request(tuple(parts), self.choices, verdict_prefix, self.family.max_new_tokens)

    @property
    def n_requests(self) -> int:
        """Number of questions that a sample becomes."""
        return 1

    def requests(self, sample: Sample, open_media: OpenMedia) -> tuple[Request, ...]:
        """Requests of the questions that a sample becomes; see `request`."""
        return (self.request(sample, open_media),)

    def decode_all(self, answers: Sequence[Answer]) -> Scored | Preferred | Unparsed:
        """Turn the answers to `requests`, in order, into a verdict; see `decode`."""
        return self.decode(answers[0])

    def _slots(self, sample: Sample, open_media: OpenMedia) -> Mapping[str, Sequence[Any]]:
        context = sample.context if self.uses_context else ()
        media = [image for medium in context for image in open_media(medium)]
        candidates = [_candidate_parts(candidate, open_media) for candidate in sample.candidates]
        if "⟪first⟫" not in self.prompt:
            media += [part for candidate in candidates for part in candidate]
        return {
            "media": media,
            "prompt": [sample.prompt],
            "criteria": [sample.criteria or CRITERIA[self.task]],
            "first": candidates[0],
            "second": candidates[-1],
        }

    @cached_property
    def _pieces(self) -> list[str]:
        """Texts of the prompt and, at every second place, the names of the slots between."""
        return _SLOT.split(self.prompt)

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """Alternative endings of the answer, one a verdict; empty where only text can be read.

        Scores ascend; a comparison lists first, tie, second. Each begins with ``opening`` where
        the verdict is the whole answer, else it follows it.
        """
        phrases = self.phrases
        if self.scale:
            phrases = tuple(parse.number_text(step) for step in self.scale.steps())
        opening = self.opening if self.family.verdict_first else ""
        return tuple(opening + phrase + self.closing for phrase in phrases)

    def answer(self, verdict: Scored | Preferred, *, rationale: str = "") -> str:
        """Write a verdict in this template's grammar, as a judge is trained to answer.

        Raises:
            ConfigError: The verdict lacks a part of the grammar.
        """
        lines = self._head(verdict, rationale)
        if isinstance(verdict, Preferred) and self.phrases:
            phrase = self.phrases[_OUTCOMES.index(verdict.winner)]
            lines.append(self.opening + phrase + self.closing)
        elif isinstance(verdict, Scored) and self.scale:
            if verdict.score is None:
                raise ConfigError(f"an answer of family {self.family.name} states an overall score")
            phrase = parse.number_text(verdict.score.value)
            lines.append(self.opening + phrase + self.closing)
        return "\n".join(lines)

    def _head(self, verdict: Scored | Preferred, rationale: str) -> list[str]:
        if self.family.uses_think_tags:
            return [f"<think>{rationale}</think>"]
        if self.family.verdict_first:
            return []
        lines = [rationale] if rationale else []
        missing = [aspect.name for aspect in self.aspects if aspect.name not in verdict.aspects]
        if missing:
            raise ConfigError(
                f"an answer of family {self.family.name} states {', '.join(missing)}, "
                f"but the target has {', '.join(verdict.aspects) or 'no aspects'}"
            )
        number, noun = parse.number_text, NOUNS[self.task].capitalize()
        if isinstance(verdict, Preferred):
            for name, _, label in self.aspects:
                share = verdict.aspects[name]
                lines += [f"{label}:", f" {noun} 1: {number(share)}"]
                lines += [f" {noun} 2: {number(1 - share)}", ""]
        elif self.aspects:
            values = verdict.aspects
            lines += [f"{label}: {number(values[name].value)}" for name, _, label in self.aspects]
        else:
            lines += [f"{name}: {round(check.value)}" for name, check in verdict.aspects.items()]
        return lines

    def parse(self, text: str) -> Scored | Preferred | Unparsed:
        """Read a verdict from text; an unreadable answer is ``Unparsed``, never a number."""
        body = parse.final_part(text, uses_think_tags=self.family.uses_think_tags)
        if isinstance(body, Unparsed):
            return body
        if self.form == "compare":
            return self._parse_comparison(body, text)
        aspects = parse.aspects(body, self.aspects) if self.aspects else parse.checks(body)
        if self.scale is None:
            missing = [aspect.name for aspect in self.aspects if aspect.name not in aspects]
            if len(missing) == len(self.aspects):
                return Unparsed(f"no score for {', '.join(missing)} in the answer", text)
            return Scored(None, aspects, text)
        value = parse.score(body, self.scale, label=bool(self.opening))
        if isinstance(value, Unparsed):
            return Unparsed(value.reason, text)
        return Scored(Score(value, self.scale), aspects, text)

    def is_exact(self, text: str) -> bool:
        """True if a text is what `answer` writes for the verdict and the reasoning in it.

        For families that reason in tags. Nothing then stands before, between or behind the two
        blocks but white space, and the reasoning is neither empty nor has tags of its own.
        """
        verdict = self.parse(text)
        reasoning = text.partition("<think>")[2].rpartition("</think>")[0]
        if isinstance(verdict, Unparsed) or not reasoning.strip() or _TAG.search(reasoning):
            return False
        exact = self.answer(verdict, rationale=reasoning)
        return _BETWEEN_TAGS.sub("><", text.strip()) == _BETWEEN_TAGS.sub("><", exact.strip())

    def _parse_comparison(self, body: str, text: str) -> Preferred | Unparsed:
        if self.aspects:
            shares = parse.shares(body, self.aspects)
            if isinstance(shares, Unparsed):
                return Unparsed(shares.reason, text)
            first = sum(shares.values()) / len(shares)
            return Preferred(first, 0.0, 1 - first, shares, text)
        answer = body.strip().rstrip(".")
        exact = [o for o, phrase in zip(_OUTCOMES, self.phrases, strict=True) if phrase == answer]
        winner = exact[0] if exact else parse.preference(body)
        if isinstance(winner, Unparsed):
            return Unparsed(winner.reason, text)
        p_first, p_tie, p_second = (float(winner == outcome) for outcome in _OUTCOMES)
        return Preferred(p_first, p_tie, p_second, text=text)

    def decode(self, answer: Answer) -> Scored | Preferred | Unparsed:
        """Turn the answer of a model into a verdict.

        With log-probabilities of the choices, a comparison is the softmax over the three outcomes,
        and a score is the expectation over the scale's steps, its standard deviation as ``sigma``.
        They are not used where the text goes on to another verdict than the one they were read
        at, since the last counts. With votes it is the mean of the readable ones. Otherwise the
        text alone is parsed.
        """
        if answer.choice_logprobs is not None:
            head = self.parse(answer.text)
            if isinstance(head, Unparsed):
                # Without text the choices are all that was said.
                if answer.text or not self.family.verdict_first:
                    return head
            elif self._is_revised(head, answer.text):
                return head
            weights = softmax(answer.choice_logprobs)
            if self.scale is None:
                p_first, p_tie, p_second = weights
                shares = head.aspects if isinstance(head, Preferred) else dict[str, float]()
                return Preferred(p_first, p_tie, p_second, shares, answer.text)
            aspects: Mapping[str, Score] = {}
            if isinstance(head, Scored) and not self.family.verdict_first:
                aspects = head.aspects
            return self._expected(self.scale.steps(), weights, aspects, answer.text)
        if not answer.votes:
            return self.parse(answer.text)
        votes = [self.parse(text) for text in (answer.text, *answer.votes)]
        preferred = [vote for vote in votes if isinstance(vote, Preferred)]
        scored = [vote.score.value for vote in votes if isinstance(vote, Scored) and vote.score]
        if preferred:
            return mean_preference(preferred, text=answer.text)
        if scored:
            even = [1 / len(scored)] * len(scored)
            return self._expected(scored, even, {}, answer.text)
        return votes[0]

    def _is_revised(self, verdict: Scored | Preferred, text: str) -> bool:
        """True if a text states another verdict than at the place of its choices."""
        stated = self.parse(self._alone(text))
        if isinstance(stated, Scored) and isinstance(verdict, Scored):
            return stated.score != verdict.score
        if isinstance(stated, Preferred) and isinstance(verdict, Preferred):
            return stated.winner != verdict.winner
        return False

    def _alone(self, text: str) -> str:
        """The words at the place of the choices, as an answer of their own."""
        cut = text.partition if self.family.verdict_first else text.rpartition
        stated = cut(self.opening)[2] if self.opening else text
        words = re.match(_AT_CHOICES[self.form], stated)
        return self.opening + (words.group() if words else "") + self.closing

    def _expected(
        self,
        values: Sequence[float],
        weights: Sequence[float],
        aspects: Mapping[str, Score],
        text: str,
    ) -> Scored:
        scale = self.scale or Scale(None, None)
        mean = sum(w * v for w, v in zip(weights, values, strict=True))
        variance = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True))
        return Scored(Score(mean, scale, math.sqrt(variance)), aspects, text)


def _candidate_parts(candidate: Candidate, open_media: OpenMedia) -> list[Any]:
    """List the parts of a candidate; not a closure, whose cycle would keep images alive."""
    if isinstance(candidate, str):
        return [candidate]
    if isinstance(candidate, tuple):
        return [part for inner in candidate for part in _candidate_parts(inner, open_media)]
    return list(open_media(candidate))


def mean_preference(verdicts: Sequence[Preferred], *, text: str) -> Preferred:
    """Average several distributions over first, tie and second, and their aspects."""
    n = len(verdicts)
    names = verdicts[0].aspects
    return Preferred(
        sum(one.p_first for one in verdicts) / n,
        sum(one.p_tie for one in verdicts) / n,
        sum(one.p_second for one in verdicts) / n,
        {name: sum(one.aspects.get(name, 0.5) for one in verdicts) / n for name in names},
        text,
    )


def softmax(logprobs: Sequence[float]) -> tuple[float, ...]:
    """Normalise log-probabilities.

    >>> softmax((0.0, 0.0))
    (0.5, 0.5)
    """
    top = max(logprobs)
    weights = [math.exp(one - top) for one in logprobs]
    total = sum(weights)
    return tuple(weight / total for weight in weights)
