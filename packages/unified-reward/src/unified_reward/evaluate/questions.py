"""Questions of an evaluation: which outputs a judge scores, and which it compares."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Literal, NamedTuple

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example, Form, Task
from unified_reward.evaluate.outputs import ModelOutputs, model_pairs
from unified_reward.io.rows import Row


By = Literal["both", "score", "pairs"]
_ID = re.compile(
    r"(?P<models>[^/]+)/(?P<prompt>.*)/(?P<place>\d+)(?: #(?P<reading>\d+))?", re.DOTALL
)


class Question(NamedTuple):
    """Score of an output of one model, or comparison of outputs of two."""

    models: tuple[str, ...]
    prompt: str
    """Id of the prompt."""
    place: int
    """Place of each output among those of its model for the prompt, from 0."""
    reading: int = 1
    """Reading of a score that is asked several times, from 1."""

    @property
    def id(self) -> str:
        """Id of the row: ``MODEL/PROMPT/PLACE`` or ``A|B/PROMPT/PLACE``; readings end in `` #2``.

        >>> Question(("a", "b"), "cats/3", 0).id, Question(("a",), "p", 1, 2).id
        ('a|b/cats/3/0', 'a/p/1 #2')
        """
        repeat = f" #{self.reading}" if self.reading > 1 else ""
        return f"{'|'.join(self.models)}/{self.prompt}/{self.place}{repeat}"

    @classmethod
    def parse(cls, name: str) -> Question | None:
        """Question with this id; None for an id of another kind.

        >>> Question.parse("a|b/cats/3/0")
        Question(models=('a', 'b'), prompt='cats/3', place=0, reading=1)
        """
        found = _ID.fullmatch(name)
        if not found:
            return None
        models = tuple(found["models"].split("|"))
        return cls(models, found["prompt"], int(found["place"]), int(found["reading"] or 1))

    def is_of(self, outputs: ModelOutputs) -> bool:
        """True if the models have these outputs."""
        return all(
            self.place < len(outputs.outputs.get(model, {}).get(self.prompt, ()))
            for model in self.models
        )

    @property
    def form(self) -> Form:
        """``score`` for one model, ``compare`` for two."""
        return "score" if len(self.models) == 1 else "compare"

    def example(self, outputs: ModelOutputs) -> Example:
        """Return the prompt with the outputs as candidates."""
        candidates = tuple(outputs.outputs[model][self.prompt][self.place] for model in self.models)
        return replace(outputs.prompts[self.prompt], candidates=candidates, id=self.id)

    def row(self, outputs: ModelOutputs) -> Row:
        """Return the question as the row of a file, as `judges.bulk.run` takes it."""
        return Row(0, self.id, self.example(outputs))


def forms_of(judge: BaseJudge, task: Task) -> tuple[Form, ...]:
    """Forms of question that a judge answers about a task; both where it does not say."""
    tasks = judge.describe()["tasks"]
    return tuple(tasks.get(task.value, {"forms": ()})["forms"]) if tasks else ("score", "compare")


def forms_to_ask(judge: BaseJudge, outputs: ModelOutputs, by: By) -> dict[Task, tuple[Form, ...]]:
    """Choose the forms of question for each task of the prompts.

    A judge that is `order_free` is only asked for scores, as its comparisons follow from them.

    Args:
        judge: The judge.
        outputs: Outputs to judge.
        by: Only scores, only comparisons (``pairs``), or both where the judge answers both.

    Raises:
        ConfigError: The judge answers nothing of the kind; says what it answers.
    """
    wanted: dict[By, tuple[Form, ...]] = {
        "both": ("score", "compare"),
        "score": ("score",),
        "pairs": ("compare",),
    }
    known: dict[Task, tuple[Form, ...]] = {}
    for task in dict.fromkeys(prompt.task for prompt in outputs.prompts.values()):
        forms: tuple[Form, ...] = tuple(f for f in wanted[by] if f in forms_of(judge, task))
        known[task] = forms[:1] if judge.order_free and "score" in forms else forms
    if not any(known.values()):
        answers = [
            f"{' and '.join(about['forms'])} of {task}"
            for task, about in judge.describe()["tasks"].items()
        ]
        asked_for = "" if by == "both" else f" by {by}"
        raise ConfigError(
            f"{judge.name} does not judge {' and '.join(known)}{asked_for}; it answers "
            f"{', '.join(answers)}"
        )
    # Outputs that it refuses are asked about too, so that each is listed with the reason.
    return {task: forms or wanted[by][:1] for task, forms in known.items()}


def scores_of(
    outputs: ModelOutputs, forms: dict[Task, tuple[Form, ...]], readings: int
) -> Iterator[Question]:
    """Scores of all outputs, prompt by prompt, each ``readings`` times."""
    for name, prompt in outputs.prompts.items():
        for model, by_prompt in outputs.outputs.items() if "score" in forms[prompt.task] else ():
            places = range(len(by_prompt.get(name, ())))
            for place, reading in product(places, range(1, readings + 1)):
                yield Question((model,), name, place, reading)


def comparisons_of(
    outputs: ModelOutputs, forms: dict[Task, tuple[Form, ...]]
) -> Iterator[Question]:
    """Comparisons of the outputs of all pairs of models at equal places, prompt by prompt."""
    for name, prompt in outputs.prompts.items():
        for pair in model_pairs(outputs.models) if "compare" in forms[prompt.task] else ():
            n = min(len(outputs.outputs[model].get(name, ())) for model in pair)
            yield from (Question(pair, name, place) for place in range(n))
