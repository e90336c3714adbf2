"""A judge in this process as TRL's reward function; examples/reward_in_trl.py trains with it."""

import PIL.Image
import pytest

import unified_reward_client as client
from tests.unified_reward_client.letters import Letters
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Image, Task, Video
from unified_reward.judges.registry import open_judge
from unified_reward.train.trl_reward import trl_reward


IMAGE = PIL.Image.new("RGB", (8, 8))
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "how many?"}]},
]


def answer(text):
    return [{"role": "assistant", "content": text}]


def test_each_answer_has_the_score_of_the_judge_and_a_failed_one_none_with_its_reason(caplog):
    letters, extra = Letters(), {}
    reward = trl_reward(letters, name="letters")
    values = reward(
        prompts=[TURNS] * 3,
        completions=[answer("a"), answer("bbb"), answer("broken")],
        image=[IMAGE] * 3,
        trainer_state=None,
        log_extra=extra.__setitem__,
    )
    assert values == [1.0, 3.0, None]
    assert extra == {"letters_failure": ["", "", "letters: broken"]}
    assert reward.__name__ == "letters"
    assert {each.prompt for each in letters.samples} == {"how many?"}
    assert [each.context for each in letters.samples] == [(Image(IMAGE),)] * 3
    assert "33% failed" in caplog.text


def test_an_answer_that_cannot_be_read_has_no_reward():
    assert trl_reward("scripted:silent")(["q"], ["a star"], image=[IMAGE]) == [None]


def test_a_judge_that_compares_gives_win_rates_in_the_group():
    reward = trl_reward(Comparing(), num_generations=2)
    values = reward(["q"] * 4, ["b" * 60, "a", "a", "b" * 60], image=[IMAGE] * 4)
    assert values == pytest.approx([1, 0, 0, 1], abs=0.01)
    with pytest.raises(ConfigError, match="3 answers are no whole groups of 2"):
        reward(["q"] * 3, ["a"] * 3, image=[IMAGE] * 3)


class Comparing(Letters):
    def describe(self):
        facts = super().describe()
        only = {"forms": ["compare"], "scale": None, "aspects": {}}
        return facts | {"tasks": {task.value: only for task in Task}}


def test_a_judge_that_judges_no_answers_is_refused(monkeypatch):
    judge = open_judge("scripted:tie")
    facts = judge.describe()
    tasks = {"image_generation": facts["tasks"]["image_generation"]}
    monkeypatch.setattr(type(judge), "describe", lambda self: facts | {"tasks": tasks})
    reward = trl_reward(judge)
    with pytest.raises(ConfigError, match="does not score image_understanding"):
        reward(["q"], ["a"], image=[IMAGE])


@pytest.mark.parametrize(
    ("columns", "context"),
    [
        ({}, ()),
        ({"images": [[IMAGE, IMAGE]]}, (Image(IMAGE), Image(IMAGE))),
        ({"image": [{"bytes": None, "path": "a.png"}]}, (Image("a.png"),)),
        ({"image": [{"bytes": b"png", "path": None}]}, (Image(b"png"),)),
        ({"video": ["a.mp4"]}, (Video("a.mp4"),)),
        ({"video": [[IMAGE, IMAGE]]}, (Video((Image(IMAGE), Image(IMAGE))),)),
        ({"image": [None]}, ()),
    ],
)
def test_columns_are_what_the_answer_is_about(columns, context):
    seen = []
    reward = trl_reward(lambda samples: seen.extend(samples) or [0.5] * len(samples))
    assert reward([TURNS], [answer("a")], **columns) == [0.5]
    (sample,) = seen
    assert repr(sample.context) == repr(context)
    assert sample.task == (
        Task.VIDEO_UNDERSTANDING if "video" in columns else Task.IMAGE_UNDERSTANDING
    )
    # as the function of the client reads the same rows
    assert (sample.prompt, sample.candidates) == (
        client._text(TURNS, "user"),
        (client._text(answer("a"), "assistant"),),
    )
    read = client._media_of(columns, 0)
    assert [type(each).__name__ for each in read] == [type(each).__name__ for each in context]
