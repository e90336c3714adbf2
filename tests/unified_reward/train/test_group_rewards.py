"""Rewards of groups: terms of a set, judges that do not fit, servers that are down."""

import json
from types import SimpleNamespace

import pytest

from tests.tolerance import near
from unified_reward.core.base_judge import BaseJudge, describe_task
from unified_reward.core.errors import ConfigError, DataError, ServerError
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Unparsed
from unified_reward.policies.vlm import VLMPolicy
from unified_reward.train.group_rewards import GroupRewards, read_prompts
from unified_reward.train.reward_sources import ask_patiently
from unified_reward_client import RewardSet, RewardTerm


SCALE = Scale(1, 5)


def samples(n, task=Task.IMAGE_GENERATION):
    return [Sample(task, "x", (Image(f"{i}.png"),)) for i in range(n)]


class Listed(BaseJudge):
    """Gives the verdicts of a list, by the place of the first candidate's file."""

    name, family = "listed", ""

    def __init__(self, verdicts, **tasks):
        self.verdicts, self.tasks = verdicts, tasks
        self.calls = []

    def describe(self):
        return super().describe() | {"tasks": self.tasks}

    def ask(self, samples, **_):
        places = [int(sample.candidates[0].source.removesuffix(".png")) for sample in samples]
        self.calls.append(places)
        return [self.verdicts[place] for place in places]


def aspects(style, content):
    return Scored(None, {"style": Score(style, SCALE), "content": Score(content, SCALE)})


def only(*forms, names=()):
    return describe_task(forms, SCALE, dict.fromkeys(names, SCALE))


def test_terms_take_aspects_of_the_same_verdicts():
    judge = Listed([aspects(1, 5), aspects(2, 5), aspects(3, 3)])
    terms = [
        RewardTerm("judge", 0.5, aspect="style", scale="unifiedreward-2/4"),
        RewardTerm("judge", 2.0, aspect="content"),
        RewardTerm("judge", name="both"),
    ]
    (scores,) = GroupRewards({"judge": judge}, reward_set=RewardSet(terms)).score([samples(3)])
    assert judge.calls == [[0, 1, 2]]
    assert scores.by_reward == {
        "judge.style": [0.0, 0.25, 0.5],
        "judge.content": [5.0, 5.0, 3.0],
        "both": [0.5, 0.625, 0.5],  # the mean of the shares of the scale
    }
    assert scores.values == near([10.5, 10.75, 6.75])


def test_a_verdict_that_lacks_an_aspect_has_no_overall_value_but_its_other_aspects():
    short = Scored(None, {"style": Score(4, SCALE)})
    judge = Listed([aspects(1, 5), short])
    (scores,) = GroupRewards({"judge": judge}).score([samples(2)])
    assert scores.values == [0.5, None]
    assert scores.reasons[1] == "judge: no score for content in the answer"
    style = RewardSet([RewardTerm("judge", aspect="style")])
    assert GroupRewards({"judge": judge}, reward_set=style).score([samples(2)])[0].values == [1, 4]


def test_a_set_that_sums_is_normalised_in_the_group_after():
    """Sums 3, 5 and 7 with the deviation (8 / 3) ** 0.5; the last sample has no second reward."""
    sources = {"a": lambda _: [1, 2, 3, 9], "b": lambda _: [2, 3, 4, None]}
    terms = RewardSet([RewardTerm("a"), RewardTerm("b")], aggregate="sum")
    (scores,) = GroupRewards(sources, reward_set=terms).score([samples(4)])
    assert scores.values == [3, 5, 7, None]
    assert scores.advantages == [*map(near, (-(1.5**0.5), 0.0, 1.5**0.5)), None]


def test_each_reward_has_its_own_spread_floor():
    sources = {"noise": lambda _: [0.0, 0.1, 0.2], "signal": lambda _: [1.0, 1.0, 4.0]}
    terms = RewardSet([RewardTerm("noise", min_spread=0.1), RewardTerm("signal", min_spread=0.1)])
    (scores,) = GroupRewards(sources, reward_set=terms).score([samples(3)])
    assert scores.advantages == near([-(0.5**0.5), -(0.5**0.5), 2**0.5])


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"judge": "other"}, "there is no 'other' among f"),
        ({"form": "win_rate"}, "f is a function and cannot have form='win_rate'"),
        ({"aspect": "style"}, "f is a function and cannot have aspect='style'"),
        ({"min_spread": "sigma"}, "f is a function and cannot have min_spread='sigma'"),
    ],
)
def test_terms_that_do_not_fit_their_source_are_refused(term, message):
    with pytest.raises(ConfigError, match=message):
        GroupRewards({"f": len}, reward_set=RewardSet([RewardTerm(**{"judge": "f"} | term)]))


def test_a_failure_policy_that_makes_numbers_is_refused():
    terms = RewardSet([RewardTerm("f")], on_failure=0.0)
    with pytest.raises(ConfigError, match="on_failure must be 'none'"):
        GroupRewards({"f": len}, reward_set=terms)


def test_floors_by_sigma_of_a_judge_without_sigma_are_an_error():
    terms = RewardSet([RewardTerm("judge", min_spread="sigma")])
    rewards = GroupRewards({"judge": Listed([aspects(1, 2), aspects(3, 4)])}, reward_set=terms)
    with pytest.raises(ConfigError, match="its answers carry no sigma"):
        rewards.score([samples(2)])


def test_a_floor_by_sigma_outlives_a_group_whose_answers_all_failed():
    terms = RewardSet([RewardTerm("judge", min_spread="sigma")])
    rewards = GroupRewards({"judge": Listed([Failed("broken")] * 2)}, reward_set=terms)
    (scores,) = rewards.score([samples(2)])
    assert scores.status == "failed"


def test_a_judge_that_only_compares_a_task_gives_win_rates():
    judge = Listed([Preferred(1, 0, 0)] * 2, image_editing=only("score"))
    judge.tasks["image_generation"] = only("compare")
    rewards = GroupRewards({"judge": judge})
    rewards.check_tasks([Task.IMAGE_GENERATION, Task.IMAGE_EDITING])
    assert rewards.score([samples(2)])[0].values == [1, 0]


def test_a_group_without_any_sample_has_failed_whatever_the_judge():
    judge = Listed([aspects(1, 2), aspects(3, 4)])
    nothing, scores = GroupRewards({"judge": judge}).score([[None, None], samples(2)])
    assert nothing.status == "failed"
    assert nothing.reasons == ["judge: the sample could not be made"] * 2
    assert scores.advantages == near([-1, 1])


def test_win_rates_do_not_measure_a_policy():
    rewards = GroupRewards({"judge": Listed([], image_generation=only("compare"))})
    with pytest.raises(ConfigError, match="judge compares, and win rates in a group"):
        rewards.check_tasks([Task.IMAGE_GENERATION], is_measured=True)


@pytest.mark.parametrize(
    ("tasks", "term", "message"),
    [
        ({"video_generation": only("score")}, {}, r"does not score image_generation.*video_gen"),
        ({"image_generation": only("score")}, {"form": "win_rate"}, r"does not compare image_gen"),
        ({"image_generation": only("compare")}, {"aspect": "style"}, r"does not score image_gen"),
        (
            {"image_generation": only("score", names=["style"])},
            {"aspect": "stile"},
            "has no aspect 'stile'; it has style",
        ),
    ],
)
def test_a_judge_that_cannot_reward_the_prompts_is_refused(tasks, term, message):
    terms = RewardSet([RewardTerm(**{"judge": "judge"} | term)])
    rewards = GroupRewards({"judge": Listed([], **tasks)}, reward_set=terms)
    with pytest.raises(ConfigError, match=message):
        rewards.check_tasks([Task.IMAGE_GENERATION])


LOST = Failed.from_error(ServerError("no answer"))
GOOD = Scored(Score(3.0, SCALE))


class Server(Listed):
    """Fails the questions of each call that a list names; ``...`` stands for all of them."""

    def __init__(self, *lost):
        super().__init__([GOOD] * 9)
        self.lost = [*lost]

    def ask(self, samples, **_):
        answers = super().ask(samples)
        lost = self.lost.pop(0) if self.lost else ()
        places = self.calls[-1]
        return [
            LOST if lost is ... or place in lost else answer
            for place, answer in zip(places, answers, strict=True)
        ]


@pytest.fixture
def waits(monkeypatch):
    """Seconds that are waited for a server, without waiting."""
    waits = []
    clock = SimpleNamespace(monotonic=lambda: sum(waits), sleep=waits.append)
    monkeypatch.setattr("unified_reward.train.reward_sources.time", clock)
    return waits


def test_only_the_questions_that_were_lost_are_asked_again(waits):
    server = Server([1, 2], ..., [])
    assert ask_patiently("s", server, samples(4), 99) == [GOOD] * 4
    assert server.calls == [[0, 1, 2, 3], [1, 2, 0], [0, 1, 2, 3]]
    assert waits == [1.0, 2.0]


def test_questions_that_fail_while_others_are_answered_have_failed(waits):
    server = Server([1], [1])
    assert ask_patiently("s", server, samples(3), 99) == [GOOD, LOST, GOOD]
    assert waits == [1.0]


def test_a_server_is_waited_for_up_to_a_limit(waits):
    with pytest.raises(ServerError, match="s: no answer"):
        ask_patiently("s", Server(*[...] * 9), samples(2), 8)
    assert waits == [1.0, 2.0, 4.0, 1.0]


def test_answers_on_the_way_give_new_patience(waits):
    server = Server(..., ..., [1], [1], [])
    assert ask_patiently("s", server, samples(2), 4) == [GOOD, LOST]
    assert waits == [1.0, 2.0, 1.0]


def test_other_failures_are_not_asked_again(waits):
    judge = Listed([GOOD, Failed("broken"), Unparsed("no number")])
    verdicts = ask_patiently("s", judge, samples(3), 99)
    assert (verdicts, len(judge.calls), waits) == (judge.verdicts, 1, [])


@pytest.mark.parametrize("ids", [True, False])
def test_repeated_prompts_are_left_out_and_counted(tmp_path, ids):
    path, log = tmp_path / "prompts.jsonl", []
    for i, text in enumerate(["a cat", "a dog", "a cat", "a cat"]):
        row = {"task": "image_generation", "prompt": text} | ({"id": f"p{i}"} if ids else {})
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    prompts, counts = read_prompts(path, [Task.IMAGE_GENERATION], log.append)
    assert [prompt.prompt for prompt in prompts] == ["a cat", "a dog"]
    assert counts == {"used": 2, "repeated": 2}
    assert len(log) == 2
    assert "'p2' is left out: it repeats the prompt of 'p0'" in log[0] or not ids


def test_prompts_without_a_task_are_of_the_policys(tmp_path):
    rows, lines = tmp_path / "prompts.jsonl", tmp_path / "prompts.txt"
    rows.write_text('{"prompt": "a cat"}\n{"prompt": "a dog"}\n', encoding="utf-8")
    lines.write_text("a cat\n\n a dog \r\na cat\n", encoding="utf-8")
    for path, repeated in ((rows, {}), (lines, {"repeated": 1})):
        prompts, counts = read_prompts(path, [Task.VIDEO_GENERATION], lambda _: None)
        assert [prompt.prompt for prompt in prompts] == ["a cat", "a dog"]
        assert {prompt.task for prompt in prompts} == {Task.VIDEO_GENERATION}
        assert counts == {"used": 2} | repeated
        with pytest.raises(DataError, match="task"):
            read_prompts(path, VLMPolicy.tasks, lambda _: None)


def test_reasons_of_many_bad_rows_are_logged_shortly(tmp_path):
    path, log = tmp_path / "prompts.txt", []
    path.write_text("a cat\n" * 30, encoding="utf-8")
    assert read_prompts(path, [Task.IMAGE_GENERATION], log.append)[1]["repeated"] == 29
    assert (len(log), log[-1]) == (11, f"{path}: 19 more rows are left out")
