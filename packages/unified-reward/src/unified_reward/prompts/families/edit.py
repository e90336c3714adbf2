"""Families ``edit`` and ``edit_values``: an instruction, the source image, and edited images.

As in the published judge of edits: ``edit`` ranks a pair in a sentence, and scores two axes from 0
to 25, success and preservation, as JSON; ``edit_values`` gives each of a pair a signed value, and a
comparison is the logistic of their difference.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

from unified_reward.core.errors import ConfigError
from unified_reward.core.probability import sigmoid
from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Preferred, Scale, Score, Scored, Unparsed
from unified_reward.prompts import parse
from unified_reward.prompts.families import native
from unified_reward.prompts.parse import Aspect
from unified_reward.prompts.template import Family, Template
from unified_reward.prompts.wording import statement


FAMILY = Family("edit", max_new_tokens=512)
VALUES = Family("edit_values", max_new_tokens=512)
POINTS = Scale(0.0, 25.0)
_TASK = Task.IMAGE_EDITING
_UNLIKELY = 1e-8
"""Probabilities are clamped to [this, 1 - this] before they are written as a difference."""


@dataclass(frozen=True)
class EditPointsTemplate(Template):
    """Template of points by axis: ``{"reasoning": "…", "score": [20, 18]}``, no overall score."""

    def answer(self, verdict: Scored | Preferred, *, rationale: str = "") -> str:
        """Write points in the grammar; see ``Template.answer``."""
        missing = [aspect.name for aspect in self.aspects if aspect.name not in verdict.aspects]
        if not isinstance(verdict, Scored) or missing:
            raise ConfigError(
                f"an answer of family {self.family.name} states {', '.join(missing) or 'points'}, "
                f"but the target has {', '.join(verdict.aspects) or 'no aspects'}"
            )
        values = [verdict.aspects[one.name].value for one in self.aspects]
        return json.dumps(
            {"reasoning": rationale, "score": values}, ensure_ascii=False, allow_nan=False
        )

    def parse(self, text: str) -> Scored | Preferred | Unparsed:
        """Read the last list of points; one outside the scale leaves the answer unparsed."""
        points = parse.edit_scores(text)
        if isinstance(points, Unparsed):
            return points
        names = [aspect.name for aspect in self.aspects]
        if len(points) != len(names):
            return Unparsed(f"{len(points)} points in the answer, for {', '.join(names)}", text)
        outside = [value for value in points if value not in POINTS]
        if outside:
            return Unparsed(f"{parse.number_text(outside[0])} is outside the scale {POINTS}", text)
        scores = {name: Score(value, POINTS) for name, value in zip(names, points, strict=True)}
        return Scored(None, scores, text)


@dataclass(frozen=True)
class EditValuesTemplate(Template):
    """Template of one signed value a candidate, each on its own line."""

    def answer(self, verdict: Scored | Preferred, *, rationale: str = "") -> str:
        """Write values whose difference is the verdict's log-odds; a tie counts half."""
        if not isinstance(verdict, Preferred):
            raise ConfigError(f"family {self.family.name} compares and does not score")
        share = min(max(verdict.probability, _UNLIKELY), 1 - _UNLIKELY)
        half = math.log(share / (1 - share)) / 2
        lines = [rationale] if rationale else []
        lines += [f"Edited image {i}: {parse.number_text(v)}" for i, v in ((1, half), (2, -half))]
        return "\n".join(lines)

    def parse(self, text: str) -> Scored | Preferred | Unparsed:
        """Read both values: ``P(first) = sigmoid(first - second)``, equal ones a tie."""
        values = parse.pair_values(text)
        if isinstance(values, Unparsed):
            return values
        gap = values[0] - values[1]
        if gap == 0:
            return Preferred(0.0, 1.0, 0.0, text=text)
        share = sigmoid(gap)
        return Preferred(share, 0.0, 1 - share, text=text)


AXES = tuple(Aspect(name, POINTS, name) for name in ("success", "preservation"))
_COMPARE = next(one for one in native.TEMPLATES if (one.task, one.form) == (_TASK, "compare"))
TEMPLATES = (
    replace(_COMPARE, family=replace(FAMILY, verdict_first=True)),
    EditPointsTemplate(
        FAMILY,
        _TASK,
        "score",
        f"{statement(_TASK, 'score')}\nGive points from {POINTS} on two axes: success, how far the "
        "instruction was followed, and preservation, how far everything else was left alone. "
        'Reply in this form: {"reasoning": "<short>", "score": [<success>, <preservation>]}',
        aspects=AXES,
    ),
    EditValuesTemplate(
        VALUES,
        _TASK,
        "compare",
        f"{statement(_TASK, 'compare')}\nGive each a value, positive for a good edit and negative "
        "for a bad one, on lines of their own:\nEdited image 1: <value>\nEdited image 2: <value>",
    ),
)
