"""Fine-tuning moves what it should, on what it should, and survives being killed."""

import shutil

import pytest
import torch

from tests.tiny import ARCHITECTURES
from tests.train.turns import ColourTurns
from unified_reward.models.vlm import load_vlm
from unified_reward.train.optim import MuonFactory, Optimisation
from unified_reward.train.sft import Collator, fit
from unified_reward.types import ConfigError


IGNORED = -100


def optimisation(**changes):
    settings = {"steps": 2, "batch_size": 2, "accumulate": 1, "lr": 1e-2, "warmup": 0.0}
    return Optimisation(**(settings | changes))


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def folder(request, checkpoints):
    return checkpoints[request.param]


def test_the_loss_sees_the_answer_and_its_end_and_nothing_else(folder):
    chat = load_vlm(folder, device="cpu").chat
    turns = ColourTurns()
    batch = Collator(chat, turns)([{"row": i} for i in range(4)])
    for i, labels in enumerate(batch["labels"]):
        answer = [*chat.tokens(turns[i].answer), chat.end]
        assert labels[labels != IGNORED].tolist() == answer
        assert labels[-len(answer) :].tolist() == answer
        assert batch["input_ids"][i, -len(answer) :].tolist() == answer
        assert batch["attention_mask"][i, -len(answer) :].all()


def test_what_is_asked_in_training_is_what_is_asked_in_judging(folder):
    """Without its answer the turn has the ids that ``generate`` would send."""
    chat = load_vlm(folder, device="cpu").chat
    turn = ColourTurns()[1]
    trained = Collator(chat, [turn])([{"row": 0}])
    asked = chat.batch([turn.request])["input_ids"][0]
    n_answer = len(chat.tokens(turn.answer)) + 1
    assert trained["input_ids"][0, :-n_answer].tolist() == asked.tolist()


def test_two_steps_move_vision_and_language_and_the_loss_is_per_answer_token(folder, tmp_path):
    vlm = load_vlm(folder, device="cpu")
    before = weights(vlm.model)
    turns = ColourTurns(2)
    first_batch = Collator(vlm.chat, turns)([{"row": 0}, {"row": 1}])
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
    model, losses = fit(vlm.model, vlm.chat, ColourTurns(4), optimisation(lora_rank=2), tmp_path)
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

    class Killed(ColourTurns):
        def __getitem__(self, index):
            if index >= 6:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    def run(turns, out):
        vlm = load_vlm(checkpoints["qwen3_vl"], device="cpu")
        return fit(vlm.model, vlm.chat, turns, config, out)

    whole, expected = run(ColourTurns(10), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Killed(10), tmp_path / "cut")
    saved = tmp_path / "cut" / "checkpoints"
    assert [one.name for one in saved.glob("checkpoint-*")] == ["checkpoint-2"]
    shutil.copytree(saved / "checkpoint-2", saved / "checkpoint-4")
    (saved / "checkpoint-4" / "trainer_state.json").write_bytes(b"")
    (saved / "checkpoint-4" / "optimizer.pt").write_bytes(b"torn")
    continued, losses = run(ColourTurns(10), tmp_path / "cut")
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in expected], abs=1e-4)
    for name, value in weights(whole).items():
        assert torch.allclose(weights(continued)[name], value, atol=1e-4), name


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 0}, "steps, batch_size and accumulate must be at least 1"),
        ({"accumulate": 0}, "at least 1"),
        ({"warmup": 1.0}, r"a share of the steps in \[0, 1\), not 1.0"),
    ],
)
def test_a_run_of_nothing_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        optimisation(**changes)


def test_muon_moves_hidden_matrices_and_adamw_all_else(checkpoints):
    model = load_vlm(checkpoints["qwen3_vl"]).model
    model.model.visual.patch_embed.requires_grad_(False)
    optimiser = MuonFactory()(model, Optimisation(steps=1, lr=1e-3, muon_lr=2e-3))
    by_muon, by_adamw = (group["params"] for group in optimiser.param_groups)
    moved = {one for one in model.parameters() if one.requires_grad}
    assert {*by_muon} | {*by_adamw} == moved
    assert not {*by_muon} & {*by_adamw}
    assert all(one.ndim == 2 for one in by_muon)
    assert any(one is model.get_input_embeddings().weight for one in by_adamw)
    layer = model.model.language_model.layers[0]
    assert any(one is layer.mlp.up_proj.weight for one in by_muon)
    assert any(one is layer.input_layernorm.weight for one in by_adamw)
    assert [group["lr"] for group in optimiser.param_groups] == [2e-3, 1e-3]
