"""The phases of a judge that learns to reason, on answers that are given and on a tiny judge."""

import json
import shutil

import pytest

import unified_reward as ur
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Failed
from unified_reward.judges.card import Card
from unified_reward.pairs import judge_answers
from unified_reward.pairs.judge_answers import ask_questions, both_orders, open_local_judge
from unified_reward.train import think
from unified_reward.train.grpo_vlm import VLMGRPO, SampledAnswer
from unified_reward.train.optim import OptimConfig
from unified_reward.train.think import ThinkTraining, learn_from_verdicts, sift_answers
from unified_reward.train.verdict_rewards import VerdictReward
from unified_reward_lab.examples import write_microworld
from unified_reward_lab.microworld import make_example


OPTIM = OptimConfig(steps=1, batch_size=4, accumulate=1, lr=1e-4, warmup=0.0)
GRPO = VLMGRPO(OPTIM, group=2, max_new_tokens=12)
REWARD = VerdictReward(cap=12, margin=4)


def text(winner, reasoning="both are red"):
    return f"<think>{reasoning}</think>\n<answer>{winner}</answer>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny judge, asked to think, which it has not learned."""
    folder = tmp_path_factory.mktemp("judge")
    shutil.copytree(checkpoint_path("tiny_judge"), folder, dirs_exist_ok=True)
    Card("compact-think", 4).write(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six comparisons, of which the first three are won by: second, first, second."""
    out = tmp_path_factory.mktemp("data")
    task = Task.IMAGE_GENERATION
    return write_microworld(out, task=task, forms=("compare",), n=6, seed=3, split="train")


@pytest.fixture
def given_answers(monkeypatch):
    """Answers to each order of a comparison by its id; a list of those that were asked."""
    questions_put, answers = [], {}

    def reply(judge, questions, **_):
        for question in questions:
            questions_put.append(question)
            given = answers[question.example.id]
            if isinstance(given, Failed):
                yield given
                continue
            texts = given[question.is_swapped]
            yield [question.read(one, len(one), "compact-think") for one in texts]

    monkeypatch.setattr(think, "ask_questions", reply)
    return answers, questions_put


def training(data, **options):
    given = {"rejection": OPTIM, "grpo": GRPO, "reward": REWARD, "family": "compact-think"}
    return ThinkTraining(**{"data": str(data), **given, **options})


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def winners(data):
    return {row["id"]: row["target"]["winner"] for row in rows(data)}


def swap(winner):
    return {"first": "second", "tie": "tie", "second": "first"}[winner]


def test_right_and_exact_answers_are_kept_and_comparisons_with_a_wrong_one_are_left(
    given_answers, data, folder, tmp_path
):
    answers, _ = given_answers
    names = [*winners(data)]
    for name, winner in winners(data).items():
        right = ([text(winner, "given")], [text(swap(winner), "swapped")])
        answers[name] = right
    winner = winners(data)[names[0]]
    answers[names[0]] = ([text(winner)], [text(winner)])  # right once: position bias
    winner = winners(data)[names[1]]
    answers[names[1]] = ([text(winner) + " Yes."], ["none"])  # right, not exact; unreadable
    answers[names[2]] = Failed("the image is gone")
    report = sift_answers(folder, training(data), tmp_path)
    assert {name: report[name] for name in ("comparisons", "failed", "answers", "right")} == {
        "comparisons": 6,
        "failed": 1,
        "answers": 10,
        "right": 8,
    }
    assert (report["exact"], report["readable"]) == (8, 9)
    assert (report["kept"], report["wrong"]) == (7, 2)
    assert {row["id"] for row in rows(tmp_path / "wrong.jsonl")} == {*names[:2]}
    kept = {row["id"]: row for row in rows(tmp_path / "kept.jsonl")}
    given, swapped = kept[f"{names[3]} answer 0"], kept[f"{names[3]} answer 1"]
    assert given["candidates"] == swapped["candidates"][::-1]
    assert given["target"]["winner"] == swap(swapped["target"]["winner"])
    assert (given["target"]["rationale"], swapped["target"]["rationale"]) == ("given", "swapped")


def test_a_stopped_sifting_asks_only_what_is_missing(given_answers, data, folder, tmp_path):
    answers, questions_put = given_answers
    for name, winner in winners(data).items():
        answers[name] = ([text(winner)], [text(winner)])
    sift_answers(folder, training(data), tmp_path)
    whole = (tmp_path / "kept.jsonl").read_bytes()
    journal = tmp_path / "answers.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:4]) + lines[4][:30])
    questions_put.clear()
    sift_answers(folder, training(data), tmp_path)
    assert len(questions_put) == 4
    assert (tmp_path / "kept.jsonl").read_bytes() == whole


def test_sifting_without_a_right_answer_is_refused(given_answers, data, folder, tmp_path):
    answers, _ = given_answers
    answers.update(dict.fromkeys(winners(data), (["hm"], ["hm"])))
    with pytest.raises(DataError, match="is right and in the form of compact-think"):
        sift_answers(folder, training(data), tmp_path)


def test_questions_are_the_requests_of_open_judge(folder):
    """So a judge is trained and examined on what it is later asked."""
    judge, _ = open_local_judge(folder)
    example = make_example(Task.IMAGE_GENERATION, "compare", split="train", seed=1, index=0)
    orders = both_orders(example)
    requests = judge._requests(example.sample, 2, {})
    assert [judge_answers._request(order, judge) for order in orders] == requests
    questions = think._Questions(orders, judge.card)
    assert [questions[i] for i in range(2)] == requests
    assert [order.label for order in orders] == [
        example.target.winner,
        swap(example.target.winner),
    ]


def test_greedy_answers_are_those_of_the_judge(folder):
    judge, _ = open_local_judge(folder)
    examples = [
        make_example(Task.IMAGE_GENERATION, "compare", split="train", seed=1, index=i)
        for i in range(3)
    ]
    limit = 12
    orders = [order for example in examples for order in both_orders(example)]
    found = [answers[0].text for answers in ask_questions(judge, orders, max_new_tokens=limit)]
    replies = judge.query([example.sample for example in examples])
    texts = [answer.text for row in replies for answer in row]
    assert [text.startswith(short) for text, short in zip(texts, found, strict=True)] == [True] * 6


def test_sampled_answers_depend_on_the_seed_alone(folder):
    judge, _ = open_local_judge(folder)
    example = make_example(Task.IMAGE_GENERATION, "compare", split="train", seed=1, index=0)
    orders = both_orders(example)

    def sample(questions, seed):
        options = {"max_new_tokens": 6, "n": 2, "temperature": 1.0, "seed": seed}
        return [[one.text for one in each] for each in ask_questions(judge, questions, **options)]

    both = sample(orders, 0)
    assert sample(orders[1:], 0) == both[1:]
    assert sample(orders, 1) != both
    assert both[0][0] != both[0][1]


def test_a_judge_learns_from_its_verdicts_and_opens(folder, data, tmp_path):
    report = learn_from_verdicts(folder, data, GRPO, REWARD, tmp_path)
    assert report["prompts"] == 12
    for name in ("accuracy", "format", "consistency", "length", "readable", "ties", "reward"):
        assert len(report[name]) == 1
    total = report["accuracy"][0] + report["format"][0] + report["length"][0]
    assert report["reward"][0] == pytest.approx(total + 0.5 * report["consistency"][0], abs=1e-6)
    judge = ur.open_judge(str(tmp_path / "policy"))
    assert judge.family == "compact-think"


def test_both_orders_of_a_pair_are_scored_together(folder, data, monkeypatch, tmp_path):
    """Else a pair would lack the answers it has to agree with."""
    steps = []

    def learn(vlm, requests, reward, config, out, log):
        questions = requests.questions
        answers = [SampledAnswer(row, text("first"), 5, False) for row in (0, 0, 1, 1)]
        steps.append((config.block, reward(answers), questions[0].label))
        (out / "policy").mkdir(parents=True)
        return {}

    monkeypatch.setattr(think, "learn_from_rewards", learn)
    learn_from_verdicts(folder, data, GRPO, REWARD, tmp_path)
    ((block, rewards, label),) = steps
    assert block == 2
    assert label in ("first", "second")
    right = [2.0, 2.0, 1.0, 1.0] if label == "first" else [1.0, 1.0, 2.0, 2.0]
    assert [*rewards.values] == right  # accuracy and format; no agreement, no penalty
    assert rewards.figures["accuracy"] == 0.5
    assert rewards.figures["consistency"] == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "native"}, "family native does not reason in tags"),
        ({"chains": "chains.jsonl"}, "give both cold_start and chains, or neither"),
        ({"cold_start": OPTIM}, "give both cold_start and chains, or neither"),
        ({"reward": VerdictReward(cap=13, margin=0)}, "reward.cap is 13, but no answer is longer"),
        ({"grpo": VLMGRPO(OPTIM, group=2, held_out=2)}, "held_out is for prompts that stand alone"),
        ({"grpo": VLMGRPO(OPTIM, group=4, max_new_tokens=12)}, "must be a multiple of block, 2"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        training("data.jsonl", **options)


def test_a_judge_of_another_family_is_not_sifted(folder, data, tmp_path):
    with pytest.raises(ConfigError, match="answers in the form of compact-think, not of think"):
        sift_answers(folder, training(data, family="think"), tmp_path)
