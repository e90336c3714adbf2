"""Every architecture trains on the rows that transformers alone would read, or is refused."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

import unified_reward as ur
from tests.architectures import ARCHITECTURES, training
from tests.architectures.plain import Plain
from tests.tolerance import near
from unified_reward.backends import hf_vlm
from unified_reward.checkpoints.adapters import load_merged
from unified_reward.core.errors import ModelError


QUICK = ("qwen3_5", "gemma3", "molmo2", "minicpmv4_6", "idefics3", "lfm2_vl")
"""Recurrent layers, token types, marks of images, packed pixels, tiles and convolutions."""
CERTAIN = 0.01, 1e-5
"""Shares of a weight's largest gradient, and of a model's, from which a sign is no rounding: the
gradient of a bias of keys is 0."""


def each(quick):
    """Every architecture that trains; those that are not quick are tried in slow runs."""
    names = [
        name if name in quick else pytest.param(name, marks=pytest.mark.slow)
        for name in ARCHITECTURES
        if name not in training.REFUSED
    ]
    return pytest.mark.parametrize("name", names, scope="module")


@pytest.fixture(scope="module")
def loaded():
    """Checkpoints by architecture, as transformers loads them."""
    return {}


@pytest.fixture
def plain(loaded, checkpoints, name):
    if name not in loaded:
        loaded.clear()
        loaded[name] = Plain(checkpoints[name], name)
    return loaded[name]


@pytest.fixture
def unproven(monkeypatch):
    """Loads without trying the ways of judging, none of which is used in training."""
    monkeypatch.setattr(hf_vlm, "prove", lambda vlm: None)
    return monkeypatch


def weights(model):
    return dict(model.named_parameters())


def moved(plain, model):
    before, after = weights(plain.model), weights(model)
    assert after.keys() == before.keys()
    assert all(value.isfinite().all() for value in after.values())
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def assert_reaches_both_ends(names):
    assert any("vis" in name for name in names)
    assert any("vis" not in name for name in names)


@each(QUICK[:3])
def test_adapters_learn_the_answers_and_are_merged(checkpoints, plain, name, tmp_path, unproven):
    loss = training.train(checkpoints[name], name, tmp_path, lora_rank=2)
    assert loss == near(training.sft_loss(plain, name))
    options = {"dtype": torch.float32}
    adapted = load_merged(AutoModelForImageTextToText, tmp_path / "adapter", options)
    unproven.undo()
    judge = ur.open_judge(tmp_path, device="cpu", dtype="float32")
    verdicts = judge.ask([example.sample for example in training.examples(name)])
    assert [type(verdict) for verdict in verdicts] == [ur.Scored, ur.Preferred]
    merged = judge.model.model
    assert_reaches_both_ends(moved(plain, merged))
    for key, value in weights(adapted).items():
        assert torch.allclose(value, weights(merged)[key], rtol=0, atol=1e-6), key


@each(QUICK[3:])
def test_a_scalar_judge_takes_the_step_of_its_rows_alone(
    checkpoints, plain, name, tmp_path, unproven
):
    loss = training.train(checkpoints[name], name, tmp_path, head="scalar")
    assert loss == near(training.scalar_loss(plain, name))
    unproven.undo()
    judge = ur.open_judge(tmp_path, device="cpu", dtype="float32")
    score, comparison = (example.sample for example in training.examples(name))
    together = judge.ask([score, comparison])
    alone = [judge.ask([sample])[0] for sample in (score, comparison)]
    (value, share), own = ([one.score.value, other.p_first] for one, other in (together, alone))
    assert [value, share] == near(own)
    assert_reaches_both_ends(stepped(plain.model, judge.model._vlm.model))


def stepped(before, after):
    """Weights that moved, all of them against the gradients on the model before."""
    gradients = {key: value.grad for key, value in weights(before).items()}
    of_tensor, of_model = CERTAIN
    largest = max(float(grad.abs().max()) for grad in gradients.values() if grad is not None)
    names = set()
    for key, gradient in gradients.items():
        step = (weights(after)[key] - weights(before)[key]).detach()
        if gradient is None or not gradient.any():
            assert not step.any(), key
            continue
        floor = max(of_tensor * float(gradient.abs().max()), of_model * largest)
        certain = gradient.abs() > floor
        assert torch.equal(step.sign()[certain], -gradient.sign()[certain]), key
        names.add(key)
    return names


@each(QUICK[:3])
def test_a_policy_is_aligned_by_its_own_logprobs(checkpoints, plain, name, tmp_path, unproven):
    out = tmp_path / "policy"
    report = training.align(checkpoints[name], name, out)
    [(_, loss)] = report["losses"]
    assert loss == near(training.dpo_loss(plain, name))
    assert (report["margin"], report["chosen"], report["rejected"]) == ([0.0], [0.0], [0.0])
    aligned = AutoModelForImageTextToText.from_pretrained(
        out, dtype=torch.float32, trust_remote_code=False
    )
    assert_reaches_both_ends(moved(plain, aligned))


@pytest.mark.parametrize("name", training.REFUSED)
def test_what_a_batch_changes_is_refused_before_training(checkpoints, name, tmp_path, unproven):
    for train in (training.train, training.align):
        with pytest.raises(ModelError, match=r"\w+ cannot be trained in batches: a row beside"):
            train(checkpoints[name], name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
