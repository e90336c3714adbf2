"""Aligning a vision-language policy: the loss is Rafailov's, and the chosen answers gain."""

import math
import shutil
from collections import Counter
from functools import lru_cache

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Qwen3VLProcessor

from tests.tiny import ARCHITECTURES
from tests.unified_reward.media.made import grey_steps, noise, picture
from tests.unified_reward.pairs.candidate_files import write_rows
from tests.unified_reward.policies import pipelines
from unified_reward import media, policies
from unified_reward.backends import hf_vlm
from unified_reward.backends.chat import Chat
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.checkpoints.pretrained import load_pretrained
from unified_reward.core.errors import ConfigError, DataError, ModelError
from unified_reward.core.requests import Request
from unified_reward.core.samples import Image, Video
from unified_reward.policies.vlm import build_request
from unified_reward.train import dpo_vlm
from unified_reward.train.dpo import align
from unified_reward.train.dpo_vlm import VLMDPO, AnswerPair, Collator, ProcessedPrompts, align_vlm
from unified_reward.train.optim import OptimConfig


QUESTION = "rate picture: a red circle"
ANSWERS = [("it is red", "blue"), ("a circle", "no circle is in the picture"), ("yes", "no")]
CLIP = {"task": "video_understanding", "context": [{"video": "c.mp4"}]}
OPTIONS = pytest.mark.parametrize("options", [{}, {"lora_rank": 2}], ids=["full", "lora"])


def row(i, **changes):
    chosen, rejected = ANSWERS[i % len(ANSWERS)]
    return {
        "id": f"p{i}",
        "status": "kept",
        "task": "image_understanding",
        "prompt": QUESTION + " again" * i,
        "context": [{"image": "a.png"}],
        "chosen": {"text": chosen},
        "rejected": {"text": rejected},
    } | changes


MIXED = [row(0), row(1, **CLIP), row(2)]


@pytest.fixture
def pairs(tmp_path):
    """Writes rows beside a picture and a clip."""
    picture(noise(40, 56, 3)).save(tmp_path / "a.png")
    (tmp_path / "c.mp4").write_bytes(media.encode_mp4(grey_steps(15, (32, 32)), 8))
    return lambda *rows: write_rows(tmp_path / "pairs.jsonl", rows)


@pytest.fixture
def folder(checkpoints):
    return checkpoints["qwen3_vl"]


def dpo(*, sft=0.0, beta=0.1, max_pixels=None, cache_gib=4.0, **changes):
    settings = {"steps": 1, "batch_size": 3, "accumulate": 1, "lr": 1e-3, "warmup": 0.0}
    return VLMDPO(OptimConfig(**(settings | changes)), beta, sft, max_pixels, cache_gib)


def ignored(_):
    pass


@lru_cache(maxsize=2)
def in_double_precision(folder):
    """Asked in the plain way alone, so that no other is tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_vlm, "prove", lambda _: None)
        return load_vlm(folder, device="cpu", dtype="float64")


def logprobs(folder, path, side):
    """Log-probabilities of each answer and its end, in double precision, without padding."""
    vlm = in_double_precision(folder)
    found = []
    for pair in MIXED:
        ((kind, name),) = pair["context"][0].items()
        at = path.parent / name
        clip = kind == "video" and media.sample_frames(Video(at), 8).images()
        request = Request((*(clip or [media.open_image(at)]), pair["prompt"]))
        ids = [*vlm.chat.tokens(pair[side]["text"]), vlm.chat.eos_id]
        batch = vlm.chat.batch([request], [ids])
        batch["pixel_values"] = batch["pixel_values"].double()
        with torch.no_grad():
            foretold = vlm.model(**batch).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
        found.append(foretold[range(len(ids)), ids])
    return found


def log_ratios(folder, base, path, side):
    both = (logprobs(one, path, side) for one in (folder, base))
    return torch.stack([now.sum() - then.sum() for now, then in zip(*both, strict=True)])


@pytest.mark.parametrize(
    ("options", "rows"),
    [({}, [row(0)]), ({"lora_rank": 2}, [row(1, **CLIP)])],
    ids=["full-picture", "lora-clip"],
)
def test_the_first_loss_is_the_logarithm_of_two(folder, tmp_path, pairs, options, rows):
    report = align_vlm(folder, pairs(*rows), dpo(**options), tmp_path / "out", ignored)
    assert report["losses"] == [(1, pytest.approx(math.log(2), abs=1e-6))]
    assert (report["pairs"], report["rows"]) == (1, {"kept": 1})
    assert (report["margin"], report["chosen"], report["rejected"]) == ([0.0], [0.0], [0.0])


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in sorted(ARCHITECTURES)),
        ("qwen3_vl", {"lora_rank": 2}),
        pytest.param("qwen3_5", {}, marks=pytest.mark.slow),
        pytest.param("qwen3_5", {"lora_rank": 2}, marks=pytest.mark.slow),
    ],
)
def test_the_loss_is_that_of_the_equation_in_double_precision(
    checkpoints, tmp_path, pairs, name, options
):
    """The weights after one step are those the second step of a longer run begins with."""
    path, base = pairs(*MIXED), checkpoints[name]
    align_vlm(base, path, dpo(**options), tmp_path / "one", ignored)
    report = align_vlm(base, path, dpo(steps=2, **options), tmp_path / "two", ignored)
    chosen, rejected = (
        log_ratios(tmp_path / "one", base, path, side) for side in ("chosen", "rejected")
    )
    wanted = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()
    assert abs(float(wanted) - math.log(2)) > 1e-2
    assert report["losses"][1][1] == pytest.approx(float(wanted), abs=1e-5)
    assert report["chosen"][1] == pytest.approx(0.1 * float(chosen.mean()), abs=1e-5)
    assert report["rejected"][1] == pytest.approx(0.1 * float(rejected.mean()), abs=1e-5)
    assert report["margin"][1] == pytest.approx(
        report["chosen"][1] - report["rejected"][1], abs=1e-5
    )
    assert report["accuracy"][1] == pytest.approx(float((chosen > rejected).double().mean()))


def test_likelihood_of_the_chosen_answers_is_added_by_its_weight(folder, tmp_path, pairs):
    path = pairs(*MIXED)
    report = align_vlm(folder, path, dpo(sft=0.5), tmp_path / "out", ignored)
    wanted = math.log(2) - 0.5 * float(torch.cat(logprobs(folder, path, "chosen")).mean())
    assert report["losses"][0][1] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}, {"muon_lr": 1e-3}], ids=str)
def test_the_aligned_policy_prefers_the_chosen_answers_and_answers(
    folder, tmp_path, pairs, options
):
    path, out = pairs(*MIXED), tmp_path / "out"
    source = shutil.copytree(folder, tmp_path / "source")
    policies.write_defaults(policies.Sampling(0.3, 5), source)
    report = align_vlm(source, path, dpo(steps=6, max_pixels=32 * 32, **options), out, ignored)
    assert len(report["losses"]) == len(report["accuracy"]) == 6
    assert report["losses"][-1][1] < report["losses"][0][1]
    margins = log_ratios(out, folder, path, "chosen") - log_ratios(out, folder, path, "rejected")
    assert (margins > 0).all()
    policy = policies.load(out, device="cpu")
    assert policy.options == policies.Sampling(0.3, 5)
    assert policy.vlm.chat.processor.image_processor.size["longest_edge"] == 32 * 32
    names = set(load_vlm(folder, device="cpu").model.state_dict())
    assert set(policy.vlm.model.state_dict()) == names
    context = [Video(path.parent / "c.mp4")]
    assert len(policy.sample(QUESTION, context, [1, 2])) == 2
    if "lora_rank" in options:
        apart = policies.load(out / "adapter", device="cpu").vlm.model.state_dict()
        for name, value in policy.vlm.model.state_dict().items():
            assert torch.allclose(apart[name], value, atol=1e-6), name


@pytest.mark.slow
@OPTIONS
def test_a_killed_run_goes_on_and_ends_with_the_same_losses(
    folder, tmp_path, pairs, options, monkeypatch
):
    path, config = pairs(*MIXED), dpo(steps=4, batch_size=2, save_every=1, **options)
    whole = align_vlm(folder, path, config, tmp_path / "whole", ignored)
    batch, calls, out = dpo_vlm.Collator.__call__, [], tmp_path / "cut"

    def killed(self, rows):
        calls.append(rows)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return batch(self, rows)

    monkeypatch.setattr(dpo_vlm.Collator, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        align_vlm(folder, path, config, out, ignored)
    assert list(out.rglob("checkpoint-*"))
    assert not (out / "model.safetensors").exists()
    report = align_vlm(folder, path, config, out, ignored)
    assert len(calls) < 4 + 4
    assert [step for step, _ in report["losses"]] == [1, 2, 3, 4]
    for name in ("losses", "margin", "chosen", "rejected"):
        assert torch.allclose(torch.tensor(report[name]), torch.tensor(whole[name]), atol=1e-5), (
            name
        )


def test_every_pair_comes_once_before_any_comes_again(folder, tmp_path, pairs, monkeypatch):
    batch, seen = dpo_vlm.Collator.__call__, []

    def noted(self, rows):
        seen.extend(one["row"] for one in rows)
        return batch(self, rows)

    monkeypatch.setattr(dpo_vlm.Collator, "__call__", noted)
    config = dpo(steps=2, batch_size=1, accumulate=3, seed=3)
    align_vlm(folder, pairs(*MIXED), config, tmp_path / "out", ignored)
    assert sorted(seen[:3]) == sorted(seen[3:]) == [0, 1, 2]
    assert seen[:3] != seen[3:]


@pytest.mark.parametrize("cache_gib", [4.0, 0.0])
def test_a_prompt_is_decoded_and_processed_once_for_both_answers(
    folder, tmp_path, pairs, monkeypatch, cache_gib
):
    """Once in all where there is room in memory, else once to check it and once a visit."""
    opened, processed = Counter(), []
    open_image, sample_frames = media.open_image, media.sample_frames
    process = Qwen3VLProcessor.__call__

    def counting(real):
        def opening(medium, *rest):
            opened[medium.source.name] += 1
            return real(medium, *rest)

        return opening

    def counted(self, images=None, text=None, **rest):
        processed.extend(one for one in text if QUESTION in one)  # not what tries the processor
        return process(self, images=images, text=text, **rest)

    monkeypatch.setattr(media, "open_image", counting(open_image))
    monkeypatch.setattr(media, "sample_frames", counting(sample_frames))
    monkeypatch.setattr(Qwen3VLProcessor, "__call__", counted)
    config = dpo(steps=2, batch_size=3, cache_gib=cache_gib)
    report = align_vlm(folder, pairs(*MIXED), config, tmp_path / "out", ignored)
    times = 1 if cache_gib else 1 + 2
    assert opened == {"a.png": 2 * times, "c.mp4": times}
    assert len(processed) == 3 * times
    assert len({*processed}) == 3
    if not cache_gib:
        kept = align_vlm(folder, pairs(*MIXED), dpo(steps=2), tmp_path / "kept", ignored)
        assert kept["losses"] == report["losses"]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_prompts_processed_alone_are_joined_to_the_batch_of_the_processor(checkpoints, name):
    chat = Chat(load_pretrained(AutoProcessor, checkpoints[name]))
    assert chat.joins
    images = [picture(noise(high, wide, 3)) for high, wide in ((40, 56), (90, 30))]
    contents = [(images[0],), (images[1],), tuple(images), ()]
    requests = [Request((*content, QUESTION * (1 + i))) for i, content in enumerate(contents)]
    answers = [[5, 6, 7], [8], [], [9, 9]]
    for some in ([0, 1, 2], [1, 0], [3, 3], [3, 0]):
        turns, ends = [requests[i] for i in some], [answers[i] for i in some]
        joined = chat.collate([chat.process([turn]) for turn in turns], ends)
        whole = chat.batch(turns, ends)
        assert joined.keys() == whole.keys()
        for key, value in whole.items():
            assert torch.equal(joined[key], value), key


@pytest.mark.parametrize("name", ["minicpmv4_6", "molmo2", "idefics3", "gemma3"])
@pytest.mark.parametrize("cache_gib", [4.0, 0.0])
def test_the_batch_is_the_one_of_the_processor_whatever_it_shares(checkpoints, name, cache_gib):
    """MiniCPM puts all patches of a batch in a row, and Molmo2 counts patches from its first."""
    chat = Chat(load_pretrained(AutoProcessor, checkpoints[name]))
    assert chat.joins == (name in ("idefics3", "gemma3"))
    images = [Image(noise(high, wide, 3), "HWC") for high, wide in ((40, 56), (90, 30))]
    pairs = [
        AnswerPair(QUESTION, (images[0],), "red", "a circle"),
        AnswerPair(QUESTION * 2, (images[1], images[0]), "first", "tie"),
    ]
    prompts = ProcessedPrompts(chat, cache_gib * 2**30)
    for _ in range(2):
        batch = Collator(prompts, pairs)([{"row": 0}, {"row": 1}])
        mask = batch.pop("completion_mask")
        requests = [build_request(pair.prompt, pair.context) for pair in pairs] * 2
        texts = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        whole = chat.batch(requests, [chat.closed(text) for text in texts])
        assert batch.keys() == whole.keys()
        assert all(torch.equal(batch[key], value) for key, value in whole.items())
        for row, chosen, text in zip(batch["input_ids"], mask.bool(), texts, strict=True):
            assert row[chosen].tolist() == chat.closed(text)


def test_pairs_that_cannot_be_learned_are_told_and_left_out(folder, tmp_path, pairs):
    path = pairs(
        row(0),
        row(1, context=[{"image": "gone.png"}]),
        row(2, rejected={"text": " yes\n"}),
        row(3, rejected=[{"text": "it is"}, {"image": "a.png"}]),
        row(4, rejected={"text": "a <|image_pad|>"}),
        row(5, status="dropped", chosen=None, rejected=None, reason="a tie"),
    )
    messages = []
    report = align_vlm(folder, path, dpo(), tmp_path / "out", messages.append)
    assert report["rows"] == {"kept": 1, "failed": 1, "unusable": 3, "dropped": 1}
    assert report["pairs"] == 1
    assert [one.split(": ", 1)[0] for one in messages] == [f"pair 'p{i}'" for i in range(1, 5)]
    assert "gone.png" in messages[0]
    assert messages[1].endswith("its answers are the same")
    assert messages[2].endswith("its answers are not both plain text")
    assert messages[3].endswith("its answers contain a control token of the model")


def test_human_votes_are_learned_like_made_pairs(folder, tmp_path, pairs):
    """Two candidates with a winner, whichever stands first; a tie is no pair."""
    keys = ("id", "task", "prompt", "context")
    votes = [
        {key: made[key] for key in keys}
        | {
            "candidates": [made["chosen"], made["rejected"]][:: 1 if i % 2 else -1],
            "target": {"winner": "first" if i % 2 else "second"},
        }
        for i, made in enumerate(MIXED)
    ]
    votes.append(votes[0] | {"id": "even", "target": {"winner": "tie"}})
    made = align(pairs(*MIXED), folder, dpo(steps=2), tmp_path / "made")
    voted = align(pairs(*votes), folder, dpo(steps=2), tmp_path / "voted")
    assert voted.pop("rows") == {"kept": 3, "dropped": 1}
    assert made.pop("rows") == {"kept": 3}
    assert voted == made
    assert made["left_out"] == 0


def test_align_counts_what_it_leaves_out_and_says_why_if_asked(folder, tmp_path, pairs):
    path, messages = pairs(row(0), row(1, rejected={"text": " a circle"}), "no row"), []
    report = align(str(path), folder, dpo(), str(tmp_path / "out"), log=messages.append)
    assert (report["pairs"], report["left_out"], len(messages)) == (1, 2, 2)
    assert align(path, folder, dpo(), tmp_path / "again")["left_out"] == 2


def test_without_any_medium_that_can_be_read_nothing_is_learned(folder, tmp_path, pairs):
    gone = [row(i, context=[{"image": "gone.png"}]) for i in range(2)]
    messages = []
    with pytest.raises(DataError, match=r"no pair of .*pairs.jsonl is left to learn from"):
        align_vlm(folder, pairs(*gone), dpo(), tmp_path / "out", messages.append)
    assert len(messages) == 2
    assert not (tmp_path / "out").exists()


def test_pairs_of_generation_are_refused(folder, tmp_path, pairs):
    generated = {"task": "image_generation", "context": []}
    path = pairs(row(0, **generated, chosen={"image": "a.png"}, rejected={"image": "b.png"}))
    message = "for image_understanding and video_understanding, .* are of image_generation"
    with pytest.raises(ConfigError, match=message):
        align_vlm(folder, path, dpo(), tmp_path / "out", ignored)


def test_a_pipeline_is_refused(tmp_path, pairs):
    folder = pipelines.pictures(tmp_path / "pipeline")
    with pytest.raises(ConfigError, match="is a diffusers pipeline, not a vision-language model"):
        align_vlm(folder, pairs(row(0)), dpo(), tmp_path / "out", ignored)


def test_a_loss_that_is_no_number_stops_the_run_at_its_step(folder, tmp_path, pairs):
    """A rate that blows the weights up; what is saved behind the first step stays."""
    config, out = dpo(steps=3, save_every=1, lr=1e25), tmp_path / "out"
    message = r"loss of step 2 is not finite; the last checkpoint is .*checkpoint-1; use a"
    with pytest.raises(ModelError, match=message):
        align_vlm(folder, pairs(*MIXED), config, out, ignored)
    assert [one.name for one in out.rglob("checkpoint-*")] == ["checkpoint-1"]
    assert not (out / "model.safetensors").exists()


def test_without_a_checkpoint_it_says_so(folder, tmp_path, pairs):
    source = shutil.copytree(folder, tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    weights[sorted(weights)[-1]][:] = float("nan")
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    message = "loss of step 1 is not finite; no checkpoint was saved; the weights hold it"
    with pytest.raises(ModelError, match=message):
        align_vlm(source, pairs(row(0)), dpo(), tmp_path / "out", ignored)


def test_a_gradient_that_is_no_number_moves_nothing(folder, tmp_path, pairs, monkeypatch):
    norm = dpo_vlm.DPOTrainer._clip_grad_norm
    monkeypatch.setattr(
        dpo_vlm.DPOTrainer, "_clip_grad_norm", lambda *given: norm(*given) * math.nan
    )
    config, out = dpo(save_every=1), tmp_path / "out"
    with pytest.raises(ModelError, match="gradient of step 1 is not finite"):
        align_vlm(folder, pairs(row(0)), config, out, ignored)
    assert not list(out.rglob("checkpoint-*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "beta must be > 0 and sft >= 0, not 0.0 and 0.0"),
        ({"beta": math.nan}, "beta must be > 0"),
        ({"sft": -1.0}, "sft >= 0, not 0.1 and -1.0"),
        ({"max_pixels": 0}, "max_pixels must be > 0, not 0"),
        ({"cache_gib": -1.0}, "cache_gib must be >= 0, not -1.0"),
        ({"lora_targets": ("q_proj", "lm_head")}, "lm_head takes no adapter in DPO"),
    ],
)
def test_options_out_of_their_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dpo(**changes)
