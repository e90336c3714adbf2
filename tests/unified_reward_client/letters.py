"""A judge of answers of which every number is known: the length of the text."""

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.probability import compare_scored
from unified_reward.core.verdicts import Failed, Scale, Score, Scored


class Letters(BaseJudge):
    """Scores an answer by its length; one that ``fails`` is not scored."""

    name = family = "letters"
    order_free = True
    answers_alone = True

    def __init__(self, fails=lambda sample: "broken" in sample.candidates):
        self.fails = fails
        self.samples = []

    def ask(self, samples, *, orders=2, on_progress=None):
        self.samples += samples
        return [Failed("broken") if self.fails(each) else self._verdict(each) for each in samples]

    def _verdict(self, sample):
        scored = [Scored(Score(float(len(text)), Scale(0, None))) for text in sample.candidates]
        return scored[0] if len(scored) == 1 else compare_scored(*scored, temperature=1)
