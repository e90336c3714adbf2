"""Cards of published judges that speak and load like any other judge."""

from __future__ import annotations

from unified_reward.core.samples import Task
from unified_reward.prompts.wording import SCALES
from unified_reward.scorers.card import ScoreCard


LLAVA_CRITIC = ScoreCard(
    name="llava-critic",
    system="LLaVA-Critic 7B, a family of judges",
    tasks=(Task.IMAGE_UNDERSTANDING,),
    paper="2410.02712",
    weights=("lmms-lab/llava-critic-7b, converted by `convert llava-qwen`",),
    values="0 to 100, said before the reasons",
    overall="the number that the answer begins with, or one out of 100",
    scale=SCALES[Task.IMAGE_UNDERSTANDING],
    temperature_source="none: a comparison is asked of the judge in words, in both orders",
    wording=("LC-PAIR", "LC-POINT"),
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0, and the terms of the language model",
    deviations=(
        "both orders are asked and merged",
        "an answer that names no verdict is unparsed; the authors published no way to read one",
    ),
    verified=(
        "converted twins give the logits of the original layout to the last bit",
        "prompts by length and digest",
    ),
    open_questions=("the sentences that the released model really says",),
)
CARDS = {LLAVA_CRITIC.name: LLAVA_CRITIC}
