"""Scalar judges learn from scores and comparisons in one batch, and load as what they were."""

import dataclasses
import json
import math
from itertools import pairwise

import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file
from transformers import Trainer

import unified_reward as ur
from tests.tiny import ARCHITECTURES
from tests.tolerance import near
from tests.unified_reward.train.colours import COLOURS
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.backends.value_head import (
    WEIGHTS,
    ValueHead,
    ValueHeadModel,
    save_head,
    width_of,
)
from unified_reward.core.errors import DataError, ModelError
from unified_reward.core.requests import Request
from unified_reward.core.samples import Example, Target
from unified_reward.core.verdicts import Scale
from unified_reward.judges.card import Card, Head
from unified_reward.judges.scalar import ScalarJudge, compare_estimates
from unified_reward.train.judge import JudgeLabels, JudgeTraining, train_judge
from unified_reward.train.losses import bradley_terry, uncertain_regression
from unified_reward.train.optim import OptimConfig
from unified_reward.train.scalar import (
    ScalarCollator,
    ScalarConfig,
    ScalarExample,
    ScalarNet,
    fit_scalar,
)
from unified_reward_lab.examples import CELLS, MicroworldSeries
from unified_reward_lab.microworld import annotator, make_example


OPTIM = OptimConfig(steps=2, batch_size=2, accumulate=1, lr=1e-2, warmup=0.0)
WITH_TIES = ScalarConfig("bradley_terry_ties", ("first",), uncertain=True)
VARIANTS = {
    "qwen3_vl": (OPTIM, ScalarConfig()),
    "qwen2_5_vl": (dataclasses.replace(OPTIM, muon_lr=1e-2), WITH_TIES),
    "llava_onevision": (dataclasses.replace(OPTIM, lora_rank=2), ScalarConfig(uncertain=True)),
}
FIRST, TIE, SECOND = 1.0, 0.5, 0.0


def about(colour):
    return Request((Pillow.new("RGB", (28, 28), colour), f"how good is it? {colour}"))


def label(result, *colours):
    return ScalarExample(tuple(map(about, colours)), result)


MIXED = [label(FIRST, "red", "green"), label(0.2, "blue"), label(SECOND, "blue", "red")]
LADDER = [
    *map(label, (0.9, 0.7, 0.3, 0.1), COLOURS),
    *(label(FIRST, *pair) for pair in pairwise(COLOURS)),
    label(SECOND, "yellow", "red"),
]


@pytest.fixture(scope="module")
def vlm(checkpoints):
    return load_vlm(checkpoints["qwen2_5_vl"], device="cpu")


def new_net(vlm, head):
    torch.manual_seed(0)
    vlm.model.zero_grad()
    return ScalarNet(vlm.model.model, width_of(vlm), head)


def batch(vlm, labels):
    return ScalarCollator(vlm.chat, labels)([{"row": i} for i in range(len(labels))])


def fit(checkpoints, out, labels, head, **changes):
    """A judge of the colours, its margin and its losses."""
    vlm = load_vlm(checkpoints["qwen2_5_vl"], device="cpu")
    optim = dataclasses.replace(OPTIM, **changes)
    _, trained, margin, losses = fit_scalar(vlm, labels, head, optim, out)
    return ValueHeadModel(vlm, trained), margin, [loss for _, loss in losses]


def record(target, candidates=1):
    pictures = tuple(ur.Image(Pillow.new("RGB", (28, 28), COLOURS[i])) for i in range(candidates))
    return Example.of(ur.Sample(ur.Task.IMAGE_GENERATION, "a circle", pictures, id="x"), target)


def test_the_collator_lays_pairs_and_scores_in_one_row(vlm):
    result = batch(vlm, MIXED)
    assert result["rows"].tolist() == [[0, 1], [2, -1], [3, 4]]
    assert result["labels"].tolist() == [[FIRST], [pytest.approx(0.2)], [SECOND]]
    questions = vlm.chat.batch([about(entry) for entry in ("red", "green", "blue", "blue", "red")])
    assert all(torch.equal(result[name], value) for name, value in questions.items())


def test_aspects_of_scores_and_pairs_are_labels_on_the_unit_scale(vlm):
    """2 of 1 to 5 is 1/4, 4 is 3/4; what a record does not tell is not known."""
    records = [
        record(Target(2.0, Scale(1, 5), {"alignment": 4.0, "coherence": 1.0})),
        record(Target(winner="second", aspects={"style": 0.7}), 2),
        record(Target(aspects={"style": 1.0})),
        record(Target(winner="tie"), 2),
    ]
    labels = JudgeLabels(records, Card("aspects"), ("alignment", "style"))
    nan, result = math.nan, batch(vlm, labels)["labels"].flatten().tolist()
    expected = [0.25, 0.75, nan, *(SECOND, nan, 0.7), *(nan, nan, 0.0), *(TIE, nan, nan)]
    assert result == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("target", "candidates", "result"),
    [
        (Target(score=1.0, scale=Scale(0, 1)), 2, "record 'x' has no winner to learn from"),
        (Target(winner="first"), 1, "record 'x' has no score to learn from"),
        (Target(score=1.0), 1, "record 'x' has no score on a scale"),
        (Target(scale=Scale(1, None), aspects={"style": 3.0}), 1, "'x' has no score to learn from"),
        (Target(winner="tie", aspects={"style": 4.0}), 2, "'x' has a score or share beyond its"),
    ],
)
def test_a_record_without_what_is_learned_is_refused_by_id(target, candidates, result):
    labels = JudgeLabels([record(target, candidates)], Card("compact"), ("style",))
    with pytest.raises(DataError, match=result):
        labels[0]


@pytest.mark.numeric
@pytest.mark.parametrize("labels", [MIXED[::2], MIXED[1:2], MIXED])
def test_every_kind_of_batch_costs_its_mean_and_moves_every_weight(vlm, labels):
    """Without a gradient for each weight, processes would wait for each other for ever."""
    net = new_net(vlm, WITH_TIES)
    loss = net(**batch(vlm, labels))["loss"]
    loss.backward()
    head = Head(("first",), True, net.margin.item())
    red, green, blue = ValueHeadModel(vlm, net.head).values(
        list(map(about, ("red", "green", "blue")))
    )
    mean, sigma = (torch.tensor([entry[0]]) for entry in (blue.means, blue.sigmas))
    costs = [
        -math.log(compare_estimates(red, green, head).p_first),
        float(uncertain_regression(mean, sigma, torch.tensor([0.2]))),
        -math.log(compare_estimates(blue, red, head).p_second),
    ]
    expected = [cost for cost, entry in zip(costs, MIXED, strict=True) if entry in labels]
    assert loss.item() == near(sum(expected) / len(expected))
    assert all(entry.grad.isfinite().all() for entry in net.parameters())
    for part in ("visual", "language_model", "head"):
        grads = [entry.grad for name, entry in net.named_parameters() if part in name]
        assert max(entry.norm() for entry in grads) > 0


@pytest.mark.numeric
def test_an_aspect_that_is_not_known_costs_nothing_and_a_known_one_knows_no_ties(vlm):
    net = new_net(vlm, ScalarConfig("bradley_terry_ties", ("style",)))
    without = new_net(vlm, ScalarConfig("bradley_terry_ties"))
    with torch.no_grad():
        without.head.linear.weight.copy_(net.head.linear.weight[:1])
    unknown = [entry._replace(aspects=(None,)) for entry in MIXED]
    loss = net(**batch(vlm, unknown))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(without(**batch(vlm, MIXED))["loss"].item())
    assert (net.head.linear.weight.grad.norm(dim=1) > 0).tolist() == [True, False]
    more = net(**batch(vlm, [unknown[0]._replace(aspects=(0.7,)), *unknown[1:]]))["loss"]
    red, green = ValueHeadModel(vlm, net.head).values([about("red"), about("green")])
    added = bradley_terry(torch.tensor(red.means[1] - green.means[1]), torch.tensor(0.7))
    assert more.item() == near((3 * loss.item() + float(added)) / 4)


@pytest.mark.parametrize(
    "head", [ScalarConfig(), ScalarConfig("bradley_terry_ties", uncertain=True)]
)
def test_a_few_labels_are_learned_by_heart(checkpoints, tmp_path, head):
    model, _, losses = fit(checkpoints, tmp_path, LADDER, head, steps=40, batch_size=8)
    values = [entry.means[0] for entry in model.values([about(colour) for colour in COLOURS])]
    assert losses[-1] < losses[0] - 0.2
    assert torch.tensor(values).sigmoid().tolist() == pytest.approx([0.9, 0.7, 0.3, 0.1], abs=0.15)


@pytest.mark.parametrize(("outcome", "is_wider"), [(TIE, True), (FIRST, False)])
def test_the_margin_widens_with_ties_and_narrows_without(checkpoints, tmp_path, outcome, is_wider):
    """It starts at softplus(0) = ln 2."""
    labels = [label(outcome, *pair) for pair in pairwise(COLOURS)]
    head = ScalarConfig("bradley_terry_ties")
    _, margin, _ = fit(checkpoints, tmp_path, labels, head, steps=10, lr=3e-2)
    assert (margin > math.log(2) + 0.02, 0 < margin < math.log(2)) == (is_wider, not is_wider)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_losses_of_an_uninterrupted_one(checkpoints, tmp_path):
    """Killed in step 4 after a checkpoint of step 2, whose labels are not asked for again."""
    labels, changes = [*MIXED, *LADDER], {"steps": 5, "save_every": 2, "lora_rank": 2}
    head = ScalarConfig("bradley_terry_ties", uncertain=True)
    _, margin, expected = fit(checkpoints, tmp_path / "whole", labels, head, **changes)
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'requests'"):
        fit(checkpoints, tmp_path / "cut", [*labels[:6], *[None] * 5], head, **changes)
    changes["gradient_checkpointing"] = True  # which saves memory and changes no number
    remaining = [*[None] * 4, *labels[4:]]
    _, continued, losses = fit(checkpoints, tmp_path / "cut", remaining, head, **changes)
    assert [*losses, continued] == near([*expected, margin])


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def trained(request, checkpoints, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "judge"
    optim, head = VARIANTS[request.param]
    base = str(checkpoints[request.param])
    config = JudgeTraining(
        optim, base, "microworld", head="scalar", scalar=head, family="compact", frames=2
    )
    return out, config, train_judge(config, out)


def cells():
    return [
        make_example(task, form, split="test", seed=0, index=0).sample
        for task, form in CELLS.values()
    ]


def numbers(verdict):
    if isinstance(verdict, ur.Preferred):
        return (verdict.p_first, verdict.p_tie, verdict.p_second, *verdict.aspects.values())
    values = (verdict.score, *verdict.aspects.values())
    return tuple(part for entry in values for part in (entry.value, entry.sigma or 0.0))


def test_a_trained_folder_loads_as_a_scalar_judge_and_answers_every_cell(trained):
    out, config, losses = trained
    judge, head = ur.open_judge(out), config.scalar
    verdicts = judge.ask(cells())
    for entry, sample in zip(verdicts, cells(), strict=True):
        assert numbers(entry) == near(numbers(judge.ask([sample])[0]))
    assert isinstance(judge, ScalarJudge)
    assert [step for step, _ in losses] == [1, 2]
    assert [type(entry) for entry in verdicts] == [ur.Scored, ur.Preferred] * 4
    assert all(tuple(entry.aspects) == head.aspects for entry in verdicts)
    assert all((entry.score.sigma is not None) is head.uncertain for entry in verdicts[::2])
    result = json.loads((out / "unified_reward.json").read_text("utf-8"))["head"]
    margin = result.pop("tie_margin")
    assert result == {"aspects": [*head.aspects], "uncertain": head.uncertain}
    assert margin > 0 if head is WITH_TIES else margin is None


def test_the_same_configuration_gives_the_judge_that_was_saved(trained, tmp_path):
    """A second run, not saved, has the weights and the values of the first, loaded."""
    out, config, losses = trained
    vlm, judge = load_vlm(config.base, device="cpu"), ur.open_judge(out)
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    noiseless = annotator("noiseless")
    records = MicroworldSeries(
        4, block=2, seed=0, weights=dict.fromkeys(CELLS, 1.0), annotator=noiseless
    )
    labels = JudgeLabels(records, judge.card, config.scalar.aspects)
    model, head, margin, again = fit_scalar(vlm, labels, config.scalar, config.optim, tmp_path)
    assert (again, margin) == (losses, judge.card.head.tie_margin)
    saved = load_vlm(out, device="cpu").model.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    unsaved = ScalarJudge(ValueHeadModel(vlm, head), judge.card)
    for entry, other in zip(judge.ask(cells()), unsaved.ask(cells()), strict=True):
        assert numbers(entry) == near(numbers(other))
    moved = {name for name in before if not torch.equal(before[name], saved[name])}
    assert any("vis" in name for name in moved)
    assert any("language_model" in name for name in moved)


@pytest.mark.parametrize(("aspects", "is_kept"), [((), True), (("colour",), False)])
def test_a_scalar_judge_taught_further_keeps_its_head_if_it_has_the_same_values(
    checkpoints, tmp_path, aspects, is_kept
):
    """A learning rate of 0 moves nothing: a head that differs from the base's is a new one."""
    still = dataclasses.replace(OPTIM, steps=1, lr=0.0)
    base = str(checkpoints["qwen3_vl"])
    config = JudgeTraining(still, base, "microworld", head="scalar", family="compact", frames=2)
    train_judge(config, tmp_path / "first")
    further = dataclasses.replace(
        config,
        base=str(tmp_path / "first"),
        scalar=ScalarConfig(aspects=aspects),
        optim=dataclasses.replace(still, seed=1),
    )
    train_judge(further, tmp_path / "second")
    first, second = (
        load_file(tmp_path / name / WEIGHTS)["linear.weight"] for name in ("first", "second")
    )
    assert torch.equal(first[0], second[0]) is is_kept


def test_a_head_that_is_missing_or_of_another_size_is_named(vlm, tmp_path):
    vlm.model.save_pretrained(tmp_path)
    vlm.chat.processor.save_pretrained(tmp_path)
    Card("compact", head=Head()).write(tmp_path)
    with pytest.raises(ModelError, match=f"{WEIGHTS} does not fit the head"):
        ur.open_judge(tmp_path)
    save_head(ValueHead(32, 2, uncertain=False), tmp_path)
    with pytest.raises(ModelError, match=f"(?s){WEIGHTS} does not fit the head .*size mismatch"):
        ur.open_judge(tmp_path)


def test_a_gradient_that_is_not_finite_aborts_before_the_step(checkpoints, tmp_path, monkeypatch):
    norm = Trainer._clip_grad_norm
    monkeypatch.setattr(Trainer, "_clip_grad_norm", lambda *given: norm(*given) * math.nan)
    with pytest.raises(ModelError, match="gradient of step 1 is not finite; no checkpoint was"):
        fit(checkpoints, tmp_path, MIXED, ScalarConfig(), save_every=1)
    assert not list(tmp_path.rglob("checkpoint-*"))
