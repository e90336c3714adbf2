"""Family ``flex``: a comparison as one JSON object, its criteria chosen by the judge itself.

Categories hold dimensions, and each dimension shares ten points between the two candidates, as the
published Flex judge answers. The winner stands last, so that its probabilities can be read there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Preferred, Scored, Unparsed
from unified_reward.prompts import parse
from unified_reward.prompts.template import Family, Template
from unified_reward.prompts.wording import NOUNS, statement


FAMILY = Family("flex", max_new_tokens=4096)
_POINTS = 10.0
_MOST = 1e6
"""Points above this, or NaN, are no points."""


@dataclass(frozen=True)
class FlexTemplate(Template):
    """Template of shares by ``category/dimension``, then the winner."""

    def answer(self, verdict: Scored | Preferred, *, rationale: str = "") -> str:
        """Write the object; aspects without a category, ``name`` alone, go into ``overall``."""
        if not isinstance(verdict, Preferred):
            raise ConfigError(f"family {self.family.name} compares and does not score")
        categories: dict[str, list[dict[str, Any]]] = {}
        for name, share in verdict.aspects.items():
            category, _, dimension = name.rpartition("/")
            points = round(share * _POINTS, 6)
            categories.setdefault(category or "overall", []).append(
                {"name": dimension, "score_1": points, "score_2": round(_POINTS - points, 6)}
            )
        rows = [
            {"name": name, "dims": dims, "cat_winner": self._leader(dims)}
            for name, dims in categories.items()
        ]
        phrase = self.phrases[("first", "tie", "second").index(verdict.winner)]
        body = json.dumps(
            {"categories": rows, "reason": rationale}, ensure_ascii=False, allow_nan=False
        )
        return f"{body[:-1]}, {self.opening}{phrase}{self.closing}"

    def _leader(self, dims: list[dict[str, Any]]) -> str:
        lead = sum(points["score_1"] - points["score_2"] for points in dims)
        return self.phrases[1 if not lead else 0 if lead > 0 else 2]

    def _alone(self, text: str) -> str:
        return "{" + super()._alone(text)

    def parse(self, text: str) -> Scored | Preferred | Unparsed:
        """Read winner and shares; an answer cut off before its winner is unparsed."""
        winner = parse.json_winner(text)
        if isinstance(winner, Unparsed):
            return winner
        answer = parse.json_object(text)
        shares = _shares(answer) if isinstance(answer, dict) else {}
        p_first, p_tie, p_second = (float(winner == one) for one in ("first", "tie", "second"))
        return Preferred(p_first, p_tie, p_second, shares, text)


def _shares(answer: dict[str, Any]) -> dict[str, float]:
    """Read the shares of the first candidate; a dimension without two numbers is left out."""
    shares: dict[str, float] = {}
    for category in _objects(answer.get("categories")):
        for dimension in _objects(category.get("dims")):
            pair = [dimension.get(f"score_{i}") for i in (1, 2)]
            numbers = (
                value
                for value in pair
                if isinstance(value, int | float) and not isinstance(value, bool)
            )
            points = [float(value) for value in numbers if 0 <= value <= _MOST]
            if len(points) == 2 and sum(points) > 0:
                name = f"{category.get('name', '')}/{dimension.get('name', '')}"
                shares[name] = points[0] / sum(points)
    return shares


def _objects(value: object) -> list[dict[str, Any]]:
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def _template(task: Task) -> Template:
    noun = NOUNS[task].capitalize()
    prompt = (
        f"{statement(task, 'compare')}\nChoose categories that matter for this caption, and in "
        "each a few dimensions; share ten points between the two for every dimension. Reply with "
        'one JSON object: {"categories": [{"name": …, "dims": [{"name": …, "score_1": …, '
        '"score_2": …}], "cat_winner": …}], "reason": …, "winner": …}, where a winner is '
        f'"{noun} 1", "{noun} 2" or "tie".'
    )
    return FlexTemplate(
        FAMILY,
        task,
        "compare",
        prompt,
        opening='"winner": "',
        closing='"}',
        phrases=(f"{noun} 1", "tie", f"{noun} 2"),
    )


TEMPLATES = (_template(Task.IMAGE_GENERATION), _template(Task.VIDEO_GENERATION))
