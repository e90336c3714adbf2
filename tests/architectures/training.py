"""One step of each training of an architecture, and its loss by transformers alone."""

import math

import numpy as np
import PIL.Image
import torch
from torch.nn.functional import logsigmoid

import unified_reward as ur
from tests.unified_reward.pairs.candidate_files import write_rows
from unified_reward.backends.value_head import ValueHead
from unified_reward.core.samples import Example, Target
from unified_reward.core.verdicts import Scale
from unified_reward.judges.card import Card
from unified_reward.policies.vlm import build_request
from unified_reward.train.dpo_vlm import VLMDPO, align_vlm
from unified_reward.train.judge import JudgeLabels, JudgeTraining, JudgeTurns, train_judge
from unified_reward.train.optim import OptimConfig


REFUSED = ("hunyuan_vl", "mllama")
"""Architectures that cannot be trained: a row of a batch sees how many images the others have."""
EQUAL_TILES = ("perception_lm",)
"""Their processors refuse images of different sizes in one batch."""
_CARD = Card("native")
_SCORE = 0.4
_SFT_WEIGHT = 0.5
_QUESTIONS = ("rate picture", "which colour is it? a red or a blue circle")
_CHOSEN = ("a red circle", "second")
_REJECTED = ("first", "it is no circle, it is red and blue")


def _pictures(name):
    sizes = [(56, 56), (56, 56) if name in EQUAL_TILES else (90, 40)]
    return [
        PIL.Image.fromarray(
            np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        )
        for seed, (width, height) in enumerate(sizes)
    ]


def examples(name):
    """A score between two steps, and a comparison: rows of unlike lengths and images."""
    small, wide = map(ur.Image, _pictures(name))
    task = ur.Task.IMAGE_GENERATION
    score = ur.Sample(task, "a red circle", (small,), id="score")
    comparison = ur.Sample(task, "a blue circle in the picture", (wide, small), id="compare")
    return [
        Example.of(score, Target(score=_SCORE, scale=Scale(0, 1))),
        Example.of(comparison, Target(winner="first")),
    ]


def train(folder, name, out, *, lora_rank=0, **options):
    """Train a judge on `examples` for a step; returns its loss."""
    config = JudgeTraining(_optim(lora_rank), str(folder), family="native", **options)
    [(_, loss)] = train_judge(config, out, examples(name))
    return loss


def align(folder, name, out, *, lora_rank=0, dtype=None):
    """Align on two pairs for a step, by a loss of the chosen answers too; returns the report."""
    rows = []
    for i, picture in enumerate(_pictures(name)):
        picture.save(out.parent / f"{i}.png")
        row = {"id": f"p{i}", "status": "kept", "task": "image_understanding"}
        row |= {"prompt": _QUESTIONS[i], "context": [{"image": f"{i}.png"}]}
        rows.append(row | {"chosen": {"text": _CHOSEN[i]}, "rejected": {"text": _REJECTED[i]}})
    pairs = write_rows(out.parent / "pairs.jsonl", rows)
    config = VLMDPO(_optim(lora_rank), sft=_SFT_WEIGHT, dtype=dtype)
    return align_vlm(folder, pairs, config, out, lambda _: None)


def _optim(lora_rank=0):
    """Without decay only weights with a gradient move."""
    return OptimConfig(
        steps=1,
        batch_size=2,
        accumulate=1,
        lr=1e-3,
        warmup=0.0,
        weight_decay=0.0,
        lora_rank=lora_rank,
    )


def sft_loss(plain, name):
    """Cross-entropy of the answers and of the shares of a score, each example alone."""
    total = n = 0.0
    for request, answer, shares in JudgeTurns(examples(name), _CARD):
        logprobs, ids = _answer_logprobs(plain, request, answer)
        own = logprobs[range(len(ids)), ids]
        if shares:
            rows = [plain.answer_ids(request, choice) for choice in request.choices]
            at = next(i for i in range(len(ids)) if len({row[i] for row in rows}) > 1)
            pairs = zip(shares, rows, strict=True)
            own[at] = sum(share * logprobs[at, row[at]] for share, row in pairs)
        total, n = total - float(own.sum()), n + len(ids)
    return total / n


def dpo_loss(plain, name):
    """Loss of a policy that is its reference, and the weighted one of its chosen answers."""
    own = []
    for picture, question, answer in zip(_pictures(name), _QUESTIONS, _CHOSEN, strict=True):
        request = build_request(question, [ur.Image(picture)])
        logprobs, ids = _answer_logprobs(plain, request, answer)
        own.append(logprobs[range(len(ids)), ids])
    return math.log(2) - _SFT_WEIGHT * float(torch.cat(own).mean())


def _answer_logprobs(plain, request, answer):
    """Log-probabilities at each token of an answer, and its tokens."""
    ids = plain.answer_ids(request, answer)
    return plain.logits(request, ids).log_softmax(-1)[-len(ids) - 1 : -1], ids


def scalar_loss(plain, name):
    """Loss of a new value head, each candidate alone; its gradients are left on the model."""
    torch.manual_seed(0)
    head = ValueHead(plain.model.config.get_text_config().hidden_size, 1, uncertain=False)
    plain.model.zero_grad()
    values = []
    for label in JudgeLabels(examples(name), _CARD, ()):
        for request in label.requests:
            hidden = plain.model.model(**plain.inputs(request), use_cache=False)[0]
            values.append(head(hidden[:, -1])[0].squeeze())
    score, first, second = values
    regression = -_SCORE * logsigmoid(score) - (1 - _SCORE) * logsigmoid(-score)
    loss = (regression - logsigmoid(first - second)) / 2
    loss.backward()
    return loss.item()
