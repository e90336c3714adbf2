"""A judge learns from records what it is later asked, and carries its card."""

import dataclasses
import json

import pytest
import torch

import unified_reward as ur
from unified_reward import prompts
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example, Image, Sample, Target, Task
from unified_reward.core.verdicts import Preferred, Scale, Scored
from unified_reward.data.example_file import ExampleFile
from unified_reward.judges.card import Card, build_request
from unified_reward.train.judge import (
    JudgeLabels,
    JudgeTraining,
    JudgeTurns,
    target_verdict,
    train_judge,
)
from unified_reward.train.optim import OptimConfig
from unified_reward.train.sft import RankingExample
from unified_reward_lab.examples import CELLS, write_microworld
from unified_reward_lab.microworld import make_example


GENERATED = Task.IMAGE_GENERATION
SHARED = Target(score=0.43, scale=Scale(0, 1))
OPTIM = OptimConfig(steps=3, batch_size=2, accumulate=1, lr=1e-2, warmup=0.0)


def record(target, *, candidates=1, name="x", task=GENERATED):
    pictures = tuple(Image(f"{i}.png") for i in range(candidates))
    return Example.of(Sample(task, "a red circle", pictures, id=name), target)


def score_template(family="native", task=GENERATED):
    return prompts.template(family, task, "score")


def test_a_score_between_two_steps_is_that_score_on_average():
    """0.43 of five steps is 0.25 or 0.5, standard deviation 0.11, of the mean of 4000 0.002."""
    template = score_template()
    target = Target(score=4.3, scale=Scale(0, 10))
    text = [
        target_verdict(record(target, name=f"id {i}"), template).score.normalized
        for i in range(4000)
    ]
    assert {round(item, 6) for item in text} == {0.25, 0.5}
    assert sum(text) / len(text) == pytest.approx(0.43, abs=0.006)


def test_the_step_depends_on_the_record_alone():
    target = Target(score=0.55, scale=Scale(0, 1))
    item, again = (target_verdict(record(target), score_template()) for _ in range(2))
    assert item == again


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.75, 4.0), (1.0, 5.0)])
def test_a_score_on_a_step_is_that_step(share, value):
    target = Target(score=share, scale=Scale(0, 1))
    given = [record(target, name=str(i)) for i in range(50)]
    assert {target_verdict(item, score_template()).score.value for item in given} == {value}


def test_the_answer_is_read_back_as_the_winner():
    template = prompts.template("compact", GENERATED, "compare")
    for winner in ("first", "tie", "second"):
        verdict = target_verdict(record(Target(winner=winner), candidates=2), template)
        assert verdict.winner == winner
        assert template.parse(template.answer(verdict)).winner == winner


def test_aspects_keep_their_own_values_on_the_scale_of_the_family():
    template = score_template("aspects")
    aspects = {"alignment": 4.0, "coherence": 2.0, "style": 5.0, "unknown": 1.0}
    verdict = target_verdict(record(Target(aspects=aspects)), template)
    assert verdict.score is None
    assert {name: item.value for name, item in verdict.aspects.items()} == {
        "alignment": 4.0,
        "coherence": 2.0,
        "style": 5.0,
    }
    assert verdict.aspects["style"].scale == Scale(1.0, 5.0)
    assert template.parse(template.answer(verdict)).aspects == verdict.aspects


def test_shares_by_aspect_are_compared_where_the_family_does():
    template = prompts.template("aspects", GENERATED, "compare")
    shares = {"alignment": 0.8, "coherence": 0.6, "style": 0.7}
    target = Target(winner="first", aspects=shares)
    verdict = target_verdict(record(target, candidates=2), template)
    read = template.parse(template.answer(verdict))
    assert read.aspects == pytest.approx(shares)
    assert read.p_first == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("target", "candidates", "result"),
    [
        (Target(score=1, scale=Scale(0, 1)), 2, "'x' has two candidates but no winner"),
        (Target(winner="first"), 1, "'x' has no score on a scale"),
        (Target(score=1), 1, "'x' has no score on a scale"),
        (Target(score=1, scale=Scale(0, None)), 1, "'x' has a score on an open scale"),
    ],
)
def test_a_target_that_lacks_what_is_asked_is_refused_by_id(target, candidates, result):
    given = record(target, candidates=candidates)
    template = prompts.template("native", GENERATED, given.sample.form)
    with pytest.raises(DataError, match=result):
        target_verdict(given, template)


@pytest.mark.parametrize(
    ("target", "candidates", "result"),
    [
        (Target(aspects={"style": 9.0}), 1, "record 'x': score 9 is outside the scale 1 to 5"),
        (Target(winner="first", aspects={"style": 9.0}), 2, "record 'x': share 9.0 of aspect"),
    ],
)
def test_an_aspect_beyond_its_scale_is_refused_by_id(target, candidates, result):
    given = record(target, candidates=candidates)
    template = prompts.template("aspects", GENERATED, given.sample.form)
    with pytest.raises(DataError, match=result):
        target_verdict(given, template)


@pytest.mark.parametrize("family", ["native", "compact", "reasoned", "think"])
def test_every_cell_is_asked_as_in_judging_and_answered_as_the_target_says(family):
    card = Card(family, frames=2)
    records = [
        make_example(task, form, split="train", seed=0, index=1) for task, form in CELLS.values()
    ]
    for turn, given in zip(JudgeTurns(records, card), records, strict=True):
        sample, target = given.sample, given.target
        questions = build_request(sample, card, {})
        assert len(turn.request.parts) == len(questions.parts)
        assert [p for p in turn.request.parts if isinstance(p, str)] == [
            p for p in questions.parts if isinstance(p, str)
        ]
        read = prompts.template(family, sample.task, sample.form).parse(turn.answer)
        if isinstance(read, Preferred):
            assert read.winner == target.winner
        else:
            assert isinstance(read, Scored)
            scale = read.score.scale
            assert abs(read.score.normalized - target.score) <= scale.step / (
                scale.high - scale.low
            )


def test_a_score_between_two_steps_is_shared_by_them():
    """0.43 of five steps is 0.72 of the way from the second to the third."""
    given = Example.of(
        make_example(GENERATED, "score", split="train", seed=0, index=0).sample, SHARED
    )
    (turn,) = JudgeTurns([given], Card("compact"))
    assert turn.shares == pytest.approx((0.0, 0.28, 0.72, 0.0, 0.0))
    (reasoned,) = JudgeTurns([given], Card("reasoned"))
    assert reasoned.shares == ()


def test_ranked_comparisons_ask_for_the_score_of_each_candidate_alone():
    card = Card("compact", frames=2)
    task = Task.IMAGE_UNDERSTANDING
    records = [make_example(task, "compare", split="train", seed=0, index=i) for i in range(20)]
    outcomes = {"first": 1.0, "tie": 0.5, "second": 0.0}
    for turn, given in zip(JudgeTurns(records, card, ranking=1.0), records, strict=True):
        assert isinstance(turn, RankingExample)
        assert turn.outcome == outcomes[given.target.winner]
        for questions, answer in zip(
            (turn.first, turn.second), given.sample.candidates, strict=True
        ):
            alone = dataclasses.replace(given.sample, candidates=(answer,))
            assert questions.parts[1:] == build_request(alone, card, {}).parts[1:]


def test_a_share_of_the_blocks_is_ranked_as_a_whole():
    """For 400 blocks of two with a share of 0.3: 0.3 within four standard deviations of 0.023."""
    given = make_example(Task.IMAGE_UNDERSTANDING, "compare", split="train", seed=0, index=0)
    turns = JudgeTurns([given] * 800, Card("compact"), block=2, ranking=0.3)
    ranked = [isinstance(turn, RankingExample) for turn in turns]
    assert ranked[::2] == ranked[1::2]
    assert sum(ranked) / len(ranked) == pytest.approx(0.3, abs=0.092)


@pytest.mark.parametrize(
    ("options", "result"),
    [
        ({"ranking": 1.5}, "ranking is a share in .0, 1., not 1.5"),
        ({"ranking": 0.5, "family": "think"}, "family think reason before the score"),
    ],
)
def test_rankings_that_cannot_be_are_refused(options, result):
    with pytest.raises(ConfigError, match=result):
        JudgeTraining(OPTIM, **options)


@pytest.fixture(scope="module")
def trained(checkpoints, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "judge"
    base = str(checkpoints["qwen3_vl"])
    config = JudgeTraining(OPTIM, base, "microworld", family="compact", frames=2)
    return out, config, train_judge(config, out)


def test_a_trained_judge_is_a_folder_that_loads_and_answers(trained):
    out, config, losses = trained
    judge = ur.open_judge(out)
    assert [step for step, _ in losses] == [1, 2, 3]
    assert judge.card == Card(
        "compact",
        2,
        base=config.base,
        training={"data": "microworld", "steps": 3, "seed": 0},
    )
    samples = [
        make_example(task, form, split="test", seed=0, index=0).sample
        for task, form in CELLS.values()
    ]
    verdicts = judge.ask(samples)
    assert [type(item) for item in verdicts] == [
        Scored if sample.form == "score" else Preferred for sample in samples
    ]


def test_the_card_has_the_agreed_keys(trained):
    card = json.loads((trained[0] / "unified_reward.json").read_text("utf-8"))
    assert set(card) == {
        *("schema", "family", "frames", "frame_rule", "max_pixels", "base", "training"),
    }


def test_the_same_configuration_gives_the_same_judge(trained, tmp_path):
    out, config, losses = trained
    assert train_judge(config, tmp_path) == losses
    item, other = (load_vlm(folder, device="cpu").model.state_dict() for folder in (out, tmp_path))
    assert all(torch.equal(item[name], other[name]) for name in item)


def test_records_of_a_file_are_gone_through_again_when_they_run_out(checkpoints, tmp_path):
    path = write_microworld(
        tmp_path, task=Task.IMAGE_UNDERSTANDING, forms=["compare"], n=4, seed=0, split="train"
    )
    config = JudgeTraining(
        OPTIM, base=str(checkpoints["qwen2_5_vl"]), data=str(path), family="compact"
    )
    losses = train_judge(config, tmp_path / "out")
    assert len(losses) == 3
    assert ur.open_judge(tmp_path / "out").family == "compact"


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"data": "nowhere.jsonl"}, r"series \(microworld\), not 'nowhere.jsonl'"),
        (
            {"data_options": {"cells": {"image_generation.rank": 1.0}}},
            "unknown cells: image_generation.rank",
        ),
        ({"data_options": {"annotator": "tired"}}, "unknown annotator 'tired'"),
        ({"data_options": {"anotator": "noiseless"}}, "data_options of microworld: anotator"),
        ({"base": ""}, "name the base to train from"),
        ({"held_back": 0.1}, "held_back is for files"),
    ],
)
def test_records_that_do_not_exist_are_refused(trained, tmp_path, changes, result):
    config = dataclasses.replace(trained[1], **changes)
    with pytest.raises(ConfigError, match=result):
        train_judge(config, tmp_path)


def test_an_unknown_family_is_refused_before_anything_is_loaded():
    with pytest.raises(ConfigError, match="no family 'nativ'; there are aspects, compact"):
        JudgeTraining(OPTIM, family="nativ")


TURNS = [
    {"from": "human", "value": "<image>\nRate it."},
    {"from": "gpt", "value": "Final Score: 3"},
]


@pytest.fixture
def conversations(tmp_path):
    """A file of published conversations about two pictures."""
    records = write_microworld(
        tmp_path, task=GENERATED, forms=("score",), n=2, seed=0, split="train"
    )
    rows = [json.loads(line) for line in records.read_text("utf-8").splitlines()]
    for row in rows:
        row |= {"context": row["candidates"], "candidates": [], "prompt": "", "messages": TURNS}
    path = tmp_path / "published.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def test_a_published_conversation_is_learned_to_the_letter(conversations, tmp_path):
    turns = JudgeTurns(ExampleFile(conversations, seed=0), Card("native"))
    assert [part for part in turns[0].request.parts if isinstance(part, str)] == ["\nRate it."]
    assert {turns[i].answer for i in range(2)} == {"Final Score: 3"}
    optim = dataclasses.replace(OPTIM, steps=8, lr=1e-3)
    losses = train_judge(JudgeTraining(optim, "tiny_base", str(conversations)), tmp_path / "judge")
    assert losses[-1][1] < losses[0][1]


def test_a_scalar_judge_refuses_a_conversation_whose_candidates_are_not_known(conversations):
    labels = JudgeLabels(ExampleFile(conversations, seed=0), Card("native"), ())
    with pytest.raises(DataError, match=r"has no known candidates.* import its official wordings"):
        labels[0]
