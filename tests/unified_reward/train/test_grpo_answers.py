"""GRPO of the tiny policy that answers, by functions and judges of its answers."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.unified_reward.media.made import grey_steps, picture
from tests.unified_reward.policies import pipelines
from unified_reward import media, open_judge, policies
from unified_reward.core.errors import ConfigError, ServerError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Example, Task, Video
from unified_reward.policies.vlm import build_request
from unified_reward.train.dry_run_grpo_vlm import dry_run_answers
from unified_reward.train.group_rewards import GroupRewards
from unified_reward.train.grpo_answers import AnswerRewards, Prompts, train_vlm
from unified_reward.train.grpo_vlm import VLMGRPO, SampledAnswer
from unified_reward.train.launch import LaunchConfig
from unified_reward.train.optim import OptimConfig


TINY = checkpoint_path("tiny_vlm")


def written(folder):
    """Questions about two pictures and a clip; one row has no context."""
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3))
        picture(pixels).save(folder / f"{i}.png")
    (folder / "c.mp4").write_bytes(media.encode_mp4(grey_steps(15, (64, 64)), 8))
    rows = [
        ("p0", "image_understanding", [{"image": "0.png"}]),
        ("p1", "image_understanding", [{"image": "1.png"}]),
        ("p2", "image_understanding", []),
        ("p3", "video_understanding", [{"video": "c.mp4"}]),
    ]
    lines = [
        {"id": name, "task": task, "prompt": "what is in it?", "context": context}
        for name, task, context in rows
    ]
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def grpo(steps=1, batch_size=6, save_every=1, **options):
    optim = OptimConfig(steps, batch_size, 1, 1e-3, warmup=0.0, lora_rank=2, save_every=save_every)
    return VLMGRPO(optim, **({"group": 2, "max_new_tokens": 6} | options))


def length(samples):
    return [float(len(sample.candidates[0])) for sample in samples]


def learn(path, out, config, *, log=None, others=None, **sources):
    scorer = GroupRewards(sources, config.weights, min_spread=config.min_spread)
    log = [] if log is None else log
    return train_vlm(TINY, path, scorer, config, out, log.append, others)


def test_pictures_and_clips_are_learned_together_and_others_are_left_out(tmp_path):
    """A clip is eight pictures, as where the policy samples: TRL itself shows its loss no clip."""
    seen, log = [], []

    def reward(samples):
        seen.extend((sample.id, sample.task.value) for sample in samples)
        return length(samples)

    others = GroupRewards(
        {"words": lambda samples: [len(s.candidates[0].split()) for s in samples]}
    )
    config = grpo(2, 4, held_out=1, held_out_every=2)
    report = learn(written(tmp_path), tmp_path / "out", config, log=log, others=others, len=reward)
    kinds = {("p0", "image_understanding"), ("p1", "image_understanding")}
    assert {*seen} == kinds | {("p3", "video_understanding")}
    assert report["rows"] == {"used": 3, "left_out": 1}
    assert (report["prompts"], report["left_out"]) == (2, 1)
    assert "image_understanding needs the image or video it is about" in log[0]
    assert report["rewards"]["len"] == report["reward"]
    assert [step for step, _ in report["held_out"]] == [0, 2]
    assert report["held_out_rewards"].keys() == {"len", "words"}
    lines = (tmp_path / "out" / "history.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 2]
    assert policies.load(tmp_path / "out" / "policy", device="cpu").options.max_new_tokens == 48


def test_a_clip_of_a_prompt_is_the_eight_frames_of_the_policy(tmp_path):
    path = written(tmp_path).parent / "c.mp4"
    example = Example(Task.VIDEO_UNDERSTANDING, "what is in it?", (), (Video(path),), id="p3")
    parts, wanted = (
        one.parts
        for one in (Prompts([example])[0], build_request("what is in it?", example.context))
    )
    assert len(parts) == 9
    assert parts[-1] == wanted[-1]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(parts[:-1], wanted[:-1], strict=True))


def answers(*texts, group=2):
    return [SampledAnswer(i // group, text, 3, False) for i, text in enumerate(texts)]


def scored(config, *texts, log=None, **sources):
    examples = [Example(Task.IMAGE_UNDERSTANDING, "q", (), (), id=f"p{i}") for i in range(2)]
    rewards = GroupRewards(sources, config.weights, min_spread=config.min_spread)
    keep = [] if log is None else log
    return AnswerRewards(examples, rewards, None, config, keep.append)(answers(*texts))


def test_several_rewards_are_normalised_in_the_group_before_they_are_added():
    """In a pair every z-score is 1 or -1: the weights of opposite rewards are left."""
    config = grpo(weights=(1.0, 0.25))
    found = scored(
        config, "a", "aaa", "aaaa", "a", up=length, down=lambda s: [-9 * v for v in length(s)]
    )
    assert found.values == pytest.approx([-0.75, 0.75, 0.75, -0.75])
    sums = scored(
        replace(config, scale_rewards="none"), "a", "aaa", "a", "a", up=length, down=length
    )
    assert sums.values == pytest.approx([1.25, 3.75, 1.25, 1.25])
    assert sums.figures["rewards/up"] == sums.figures["rewards/down"] == 1.5
    assert (sums.figures["reward"], sums.figures["spread"]) == (1.875, 0.625)


def test_a_prompt_at_the_end_of_a_pass_and_at_the_start_of_the_next_is_two_groups():
    rewards = GroupRewards({"length": length})
    example = Example(Task.IMAGE_UNDERSTANDING, "q", (), (), id="p")
    given = [SampledAnswer(0, text, 3, False) for text in ("a", "aa", "aaaa", "aaaaaaaa")]
    found = AnswerRewards([example], rewards, None, grpo(), [].append)(given)
    assert found.values == pytest.approx([-1, 1, -1, 1])


def test_an_answer_of_which_one_reward_failed_has_none_and_the_reason_is_logged():
    log = []
    found = scored(
        grpo(),
        *("a", "aaa", "aa", "a"),
        log=log,
        up=length,
        other=lambda samples: [None if len(s.candidates[0]) == 3 else 1.0 for s in samples],
    )
    assert [value is None for value in found.values] == [False, True, False, False]
    assert len(log) == 1
    assert log[0].startswith("1 answers to 'p0' lack rewards: ")


def test_a_judge_is_given_the_answers_with_their_pictures(tmp_path):
    report = learn(written(tmp_path), tmp_path / "out", grpo(), tiny=open_judge("tiny_judge"))
    assert report["failed"] == [0]
    assert report["spread"][0] > 0


def test_a_server_that_is_down_stops_the_run_so_that_it_can_be_resumed(tmp_path):
    calls = []

    def reward(samples):
        calls.append(1)
        if len(calls) == 2:
            raise ServerError("nobody answers")
        return length(samples)

    path, config = written(tmp_path), grpo(3)
    with pytest.raises(Exception, match=r"nobody answers.*; resume from .*checkpoint-1"):
        learn(path, tmp_path / "out", config, len=reward)
    assert len(learn(path, tmp_path / "out", config, len=reward)["losses"]) == 3
    assert len(calls) == 4


def test_a_pipeline_is_refused(tmp_path):
    folder = pipelines.pictures(tmp_path / "pipeline")
    scorer = GroupRewards({"len": length})
    with pytest.raises(ConfigError, match="is a diffusers pipeline, not a vision-language model"):
        train_vlm(folder, written(tmp_path), scorer, grpo(), tmp_path / "out")


def test_a_dry_run_counts_prompts_answers_and_memory(tmp_path):
    config = grpo(9, 4, 0, updates=3, held_out=1)
    run = dry_run_answers("tiny_vlm", written(tmp_path), config, LaunchConfig(""))
    assert run.tokens.keys() == {"p0", "p1", "p3"}
    assert run.tokens["p3"] > run.tokens["p0"] == run.tokens["p1"]
    assert run.per_step["prompts"] == 2
    assert run.per_step["answers"] == 4
    assert (run.steps_per_epoch, run.epochs) == (3, 3.0)
    assert len(run.lacking) == 1
    assert run.lacking[0].startswith("prompts: 1 cannot be used, the first: ")
    absent = dry_run_answers("tiny_vlm", tmp_path / "no.jsonl", grpo(), LaunchConfig(""))
    assert absent.tokens.keys() == {"image_understanding", "video_understanding"}
    assert absent.lacking == (f"prompts: there is no {tmp_path / 'no.jsonl'}",)
    large = dry_run_answers(
        "Qwen/Qwen2.5-VL-7B-Instruct", tmp_path / "no", grpo(), LaunchConfig("")
    )
    longest = max(large.tokens.values()) + 6
    # 28 layers, 4 key heads of width 128, keys and values in bfloat16 as the base of adapters.
    assert large.cache_gib == pytest.approx(6 * longest * 2 * 28 * 4 * 128 * 2 / 2**30, abs=1e-3)
    assert large.memory_gib["weights"] == pytest.approx(8.29e9 * 2 / 2**30, rel=0.02)
