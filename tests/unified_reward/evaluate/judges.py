"""Answers of models, and judges of them whose verdicts a test determines."""

from unified_reward.core.base_judge import BaseJudge, describe_task
from unified_reward.core.samples import Example, Task
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Unparsed
from unified_reward.evaluate.outputs import CATEGORY, ModelOutputs


SCALE = Scale(0, 10)
TASK = Task.IMAGE_UNDERSTANDING


def answers(values, categories=()):
    """Outputs whose texts are numbers: ``{model: [value or values of each prompt]}``."""
    n = max(map(len, values.values()))
    tags = [{CATEGORY: name} for name in categories] or [{}] * n
    prompts = {f"p{i}": Example(TASK, f"question {i}", id=f"p{i}", tags=tags[i]) for i in range(n)}
    outputs = {
        model: {
            f"p{i}": tuple(map(str, each if isinstance(each, list) else [each]))
            for i, each in enumerate(of_model)
            if each is not None
        }
        for model, of_model in values.items()
    }
    return ModelOutputs(prompts, outputs)


class Numbers(BaseJudge):
    """Scores a text by the number it is, and compares two; remembers what it was asked.

    ``silent`` texts are answered unreadably, ``broken`` ones cannot be asked, unless the judge is
    ``repaired``. A comparison goes to
    the higher number, by 0.8 against 0.2; one of numbers less than ``blur`` apart goes to whichever
    comes first.
    """

    name = "numbers"
    family = "toy"

    def __init__(
        self,
        forms=("score", "compare"),
        *,
        blur=0.0,
        fails_after=None,
        order_free=False,
        repaired=False,
    ):
        self.forms = forms
        self.blur = blur
        self.fails_after = fails_after
        self.order_free = order_free
        self.repaired = repaired
        self.ids = []

    def describe(self):
        tasks = {TASK.value: describe_task(self.forms, SCALE, {})}
        return super().describe() | {"tasks": tasks}

    def ask(self, samples, *, orders=2, on_progress=None):
        del on_progress
        verdicts = []
        for sample in samples:
            if self.fails_after is not None and len(self.ids) >= self.fails_after:
                raise KeyboardInterrupt
            self.ids.append(sample.id)
            verdicts.append(self.verdict(sample, orders))
        return verdicts

    def verdict(self, sample, orders):
        if "broken" in sample.candidates and not self.repaired:
            return Failed("the server is down")
        if "silent" in sample.candidates:
            return Unparsed("no number", "hm")
        a, *rest = (float(text.replace("broken", "7")) for text in sample.candidates)
        if not rest:
            return Scored(Score(a, SCALE))
        lead = a - rest[0]
        first = 0.5 if not lead else 0.8 if lead > 0 else 0.2
        if abs(lead) < self.blur:
            first = 0.8
        given = Preferred(first, 0.0, 1 - first)
        if orders == 1:
            return given
        swapped = Preferred(0.2, 0.0, 0.8) if abs(lead) < self.blur else given
        mean = (given.p_first + swapped.p_first) / 2
        return Preferred(mean, 0.0, 1 - mean, orders=(given, swapped))


class Readings(Numbers):
    """Reads a score one higher at its first reading and one lower at its second."""

    def verdict(self, sample, orders):
        del orders
        shift = -1 if sample.id.endswith("#2") else 1
        return Scored(Score(float(sample.candidates[0]) + shift, SCALE))


class Aspects(Numbers):
    """Scores length and size of a number and nothing else; a negative one has no size."""

    def verdict(self, sample, orders):
        del orders
        (text,) = sample.candidates
        aspects = {"length": Score(float(len(text)), SCALE)}
        if float(text) >= 0:
            aspects["size"] = Score(float(text), SCALE)
        return Scored(None, aspects)
