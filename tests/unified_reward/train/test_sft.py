"""Fine-tuning moves what it should, on what it should, and survives being killed."""

import math
import shutil

import PIL.Image
import pytest
import torch

from tests.tiny import ARCHITECTURES
from tests.unified_reward.train.colours import ColourExamples
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.requests import Request
from unified_reward.train.optim import MuonFactory, OptimConfig
from unified_reward.train.sft import ChatCollator, ChatExample, RankingExample, fit


IGNORED = -100


def optimisation(**changes):
    settings = {"steps": 2, "batch_size": 2, "accumulate": 1, "lr": 1e-2, "warmup": 0.0}
    return OptimConfig(**(settings | changes))


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def folder(request, checkpoints):
    return checkpoints[request.param]


ONE = pytest.mark.parametrize("folder", ["qwen3_vl"], indirect=True)
"""For losses, whose code does not depend on the architecture."""


def test_the_loss_sees_the_answer_and_its_end_and_nothing_else(folder):
    chat = load_vlm(folder, device="cpu").chat
    turns = ColourExamples()
    batch = ChatCollator(chat, turns)([{"row": i} for i in range(4)])
    for i, labels in enumerate(batch["labels"]):
        answer = [*chat.tokens(turns[i].answer), chat.eos_id]
        assert labels[labels != IGNORED].tolist() == answer
        assert labels[-len(answer) :].tolist() == answer
        assert batch["input_ids"][i, -len(answer) :].tolist() == answer
        assert batch["attention_mask"][i, -len(answer) :].all()


def test_what_is_asked_in_training_is_what_is_asked_in_judging(folder):
    """Without its answer the turn has the ids that ``generate`` would send."""
    chat = load_vlm(folder, device="cpu").chat
    turn = ColourExamples()[1]
    trained = ChatCollator(chat, [turn])([{"row": 0}])
    samples = chat.batch([turn.request])["input_ids"][0]
    n_answer = len(chat.tokens(turn.answer)) + 1
    assert trained["input_ids"][0, :-n_answer].tolist() == samples.tolist()


def test_two_steps_move_vision_and_language_and_the_loss_is_per_answer_token(folder, tmp_path):
    vlm = load_vlm(folder, device="cpu")
    before = weights(vlm.model)
    turns = ColourExamples(2)
    first_batch = ChatCollator(vlm.chat, turns)([{"row": 0}, {"row": 1}])
    with torch.no_grad():
        expected = float(vlm.model(**first_batch).loss)
    model, losses = fit(vlm.model, vlm.chat, turns, optimisation(steps=3), tmp_path)
    after = weights(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert [step for step, _ in losses] == [1, 2, 3]
    assert losses[0][1] == pytest.approx(expected, abs=2e-3)
    assert losses[2][1] < losses[0][1]
    assert any("vis" in name for name in moved)
    assert any("vis" not in name for name in moved)
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_adapters_are_merged_into_ordinary_weights(folder, tmp_path):
    vlm = load_vlm(folder, device="cpu")
    names = set(vlm.model.state_dict())
    before = weights(vlm.model)
    model, losses = fit(vlm.model, vlm.chat, ColourExamples(4), optimisation(lora_rank=2), tmp_path)
    model.save_pretrained(tmp_path / "merged")
    vlm.chat.processor.save_pretrained(tmp_path / "merged")
    merged = load_vlm(tmp_path / "merged", device="cpu").model
    assert len(losses) == 2
    assert set(merged.state_dict()) == names
    moved = {n for n, value in merged.state_dict().items() if not torch.equal(before[n], value)}
    linear = {
        f"{name}.weight"
        for name, layer in merged.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    assert moved
    assert moved <= linear - {"lm_head.weight"}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"lora_rank": 2}, {"muon_lr": 1e-2}], ids=str)
def test_a_killed_run_ends_with_the_losses_of_an_uninterrupted_one(checkpoints, tmp_path, options):
    """Killed after step 3 with a checkpoint of step 2, and a torn one of step 4."""
    config = optimisation(steps=5, save_every=2, **options)

    class Killed(ColourExamples):
        def __getitem__(self, index):
            if index >= 6:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    def run(turns, out):
        vlm = load_vlm(checkpoints["qwen3_vl"], device="cpu")
        return fit(vlm.model, vlm.chat, turns, config, out)

    whole, expected = run(ColourExamples(10), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Killed(10), tmp_path / "cut")
    saved = tmp_path / "cut" / "checkpoints"
    assert [item.name for item in saved.glob("checkpoint-*")] == ["checkpoint-2"]
    shutil.copytree(saved / "checkpoint-2", saved / "checkpoint-4")
    (saved / "checkpoint-4" / "trainer_state.json").write_bytes(b"")
    (saved / "checkpoint-4" / "optimizer.pt").write_bytes(b"torn")
    continued, losses = run(ColourExamples(10), tmp_path / "cut")
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in expected], abs=1e-4)
    for name, value in weights(whole).items():
        assert torch.allclose(weights(continued)[name], value, atol=1e-4), name


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"steps": 0}, "steps, batch_size and accumulate must be at least 1"),
        ({"accumulate": 0}, "at least 1"),
        ({"warmup": 1.0}, r"a share of the steps in \[0, 1\), not 1.0"),
    ],
)
def test_a_run_of_nothing_is_refused(changes, result):
    with pytest.raises(ConfigError, match=result):
        optimisation(**changes)


def test_muon_moves_hidden_matrices_and_adamw_all_else(checkpoints):
    model = load_vlm(checkpoints["qwen3_vl"]).model
    model.model.visual.patch_embed.requires_grad_(False)
    optimiser = MuonFactory()(model, OptimConfig(steps=1, lr=1e-3, muon_lr=2e-3))
    by_muon, by_adamw = (group["params"] for group in optimiser.param_groups)
    moved = {item for item in model.parameters() if item.requires_grad}
    assert {*by_muon} | {*by_adamw} == moved
    assert not {*by_muon} & {*by_adamw}
    assert all(item.ndim == 2 for item in by_muon)
    assert any(item is model.get_input_embeddings().weight for item in by_adamw)
    layer = model.model.language_model.layers[0]
    assert any(item is layer.mlp.up_proj.weight for item in by_muon)
    assert any(item is layer.input_layernorm.weight for item in by_adamw)
    assert [group["lr"] for group in optimiser.param_groups] == [2e-3, 1e-3]


STEPS = ("a", "b", "c")


def rated(colour="red", choices=STEPS):
    return Request((PIL.Image.new("RGB", (28, 28), colour), "rate it"), choices)


def first_loss(folder, tmp_path, turns, **options):
    """The loss of one step on all turns, with the weights it found."""
    vlm = load_vlm(folder, device="cpu")
    config = optimisation(**{"steps": 1, "batch_size": len(turns), **options})
    ((_, loss),) = fit(vlm.model, vlm.chat, turns, config, tmp_path)[1]
    return loss


@ONE
def test_shares_cost_what_their_answers_cost_by_their_shares(folder, tmp_path):
    """One answer of two tokens, its step and its end: 3/4 of b and 1/4 of c."""
    text = {
        step: first_loss(folder, tmp_path, [ChatExample(rated(), step)], lr=1e-9)
        for step in ("b", "c")
    }
    vlm = load_vlm(folder, device="cpu")
    end_of = {}
    for step in text:
        batch = ChatCollator(vlm.chat, [ChatExample(rated(), step)])([{"row": 0}])
        labels = batch.pop("labels")
        with torch.no_grad():
            foretold = vlm.model(**batch).logits[0, -2].log_softmax(-1)
        end_of[step] = -float(foretold[labels[0, -1]])
    step_of = {step: 2 * text[step] - end_of[step] for step in text}
    wanted = (0.75 * step_of["b"] + 0.25 * step_of["c"] + end_of["b"]) / 2
    soft = first_loss(folder, tmp_path, [ChatExample(rated(), "b", (0.0, 0.75, 0.25))], lr=1e-9)
    assert soft == pytest.approx(wanted, abs=2e-3)


@ONE
def test_ranked_turns_are_read_as_the_judge_reads_their_scores(folder, tmp_path):
    """The loss is that of the expected scores which ``generate`` gives; the ends hardly differ."""
    vlm = load_vlm(folder, device="cpu")
    item, two = rated("red"), rated("blue")
    expected = [0.0, 0.0]
    for k, request in enumerate((item, two)):
        batch = vlm.chat.batch([request])
        with torch.no_grad():
            logits = vlm.model(**batch).logits[0, -1]
        weights = logits[[vlm.chat.tokens(step)[0] for step in STEPS]].softmax(-1)
        expected[k] = float(weights @ torch.tensor([0.0, 0.5, 1.0]))
    wanted = math.log(1 + math.exp(-(expected[0] - expected[1]) / 0.1))
    loss = first_loss(folder, tmp_path, [RankingExample(item, two, 1.0)], lr=1e-9)
    assert loss == pytest.approx(wanted, abs=2e-3)


@pytest.mark.slow
def test_spoken_weighed_and_ranked_turns_share_a_batch_by_their_number(folder, tmp_path):
    """Ten or so answer tokens, two of a weighed turn and one ranking, meaned over all."""
    spoken, weighed = ChatExample(rated(), "it is red"), ChatExample(rated(), "a", (0.5, 0.5, 0.0))
    ranking = RankingExample(rated("red"), rated("green"), 0.0)
    chat = load_vlm(folder, device="cpu").chat
    sizes = [len(chat.tokens(spoken.answer)) + 1, 2, 1]
    alone = [first_loss(folder, tmp_path, [item], lr=1e-9) for item in (spoken, weighed, ranking)]
    wanted = sum(n * loss for n, loss in zip(sizes, alone, strict=True)) / sum(sizes)
    together = first_loss(folder, tmp_path, [ranking, spoken, weighed], lr=1e-9)
    assert together == pytest.approx(wanted, abs=2e-3)


@ONE
def test_accumulated_passes_are_meaned(folder, tmp_path):
    turns = [
        ChatExample(rated("red"), "a", (0.5, 0.5, 0.0)),
        ChatExample(rated("blue"), "c", (0.0, 0.1, 0.9)),
    ]
    alone = [first_loss(folder, tmp_path, [item], lr=1e-9) for item in turns]
    both = first_loss(folder, tmp_path, turns, lr=1e-9, batch_size=1, accumulate=2)
    assert both == pytest.approx(sum(alone) / 2, abs=2e-3)


def test_ranking_teaches_a_model_to_rate_the_better_picture_higher(checkpoints, tmp_path):
    vlm = load_vlm(checkpoints["qwen3_vl"], device="cpu")
    turns = [
        RankingExample(rated("red"), rated("blue"), 1.0),
        RankingExample(rated("blue"), rated("red"), 0.0),
    ]
    losses = fit(vlm.model, vlm.chat, turns, optimisation(steps=12), tmp_path)[1]
    assert losses[-1][1] < 0.5 * losses[0][1]


def test_steps_that_begin_alike_are_said_but_cannot_be_ranked(checkpoints):
    chat = load_vlm(checkpoints["qwen3_vl"], device="cpu").chat
    alike = ("x y", "x z", "q")
    collate = ChatCollator(chat, [ChatExample(rated(choices=alike), "x z", (0.5, 0.5, 0.0))])
    assert collate([{"row": 0}])["choices"].tolist() == [[-1]]
    ranking = RankingExample(rated(choices=alike), rated(choices=alike), 1.0)
    with pytest.raises(ConfigError, match="x y, x z, q"):
        ChatCollator(chat, [ranking])([{"row": 0}])


def test_a_loss_that_is_not_finite_aborts_before_the_step(checkpoints, tmp_path):
    """A rate that blows the weights up; the checkpoint of the first step stays."""
    vlm = load_vlm(checkpoints["qwen3_vl"], device="cpu")
    config = optimisation(steps=3, save_every=1, lr=1e25)
    message = r"loss of step 2 is not finite; the last checkpoint is .*checkpoint-1; use a lower"
    with pytest.raises(ModelError, match=message):
        fit(vlm.model, vlm.chat, ColourExamples(6), config, tmp_path)
    assert [file.name for file in tmp_path.rglob("checkpoint-*")] == ["checkpoint-1"]


@pytest.mark.parametrize("name", ["lr", "muon_lr", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_rates_that_are_negative_or_not_finite_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be 0 or more, and finite, not {value}"):
        optimisation(**{name: value})
