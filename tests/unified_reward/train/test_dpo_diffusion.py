"""Pipelines of four kinds are aligned, saved and sampled; their loss is the written-out one."""

import copy
import json
import math
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from accelerate import Accelerator, DistributedType
from PIL import Image
from safetensors.torch import load_file
from torch.utils import checkpoint

from tests.tiny import ARCHITECTURES
from tests.unified_reward.train import aligned
from tests.unified_reward.train.aligned import align, config, losses
from unified_reward import policies
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.policies import Size
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.train.denoisers import Denoiser
from unified_reward.train.dpo_diffusion import DPOModel, align_pipeline
from unified_reward.train.loops import NoiseSampler


LN2 = torch.tensor(math.log(2)).item()
SIDE = aligned.SIDE_PX


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return {kind: aligned.source(kind, tmp_path_factory.mktemp(kind)) for kind in aligned.KINDS}


def denoiser_at(folder):
    return Denoiser(policies.load(folder, device="cpu"))


def predicted(denoiser):
    """Prediction for two noisy latents."""
    generator = torch.Generator().manual_seed(1)
    is_video = denoiser.policy.temporal_stride is not None
    size = Size(SIDE, SIDE, aligned.FRAMES if is_video else None)
    with torch.no_grad():
        rows = [denoiser.encode_prompt(prompt, size) for prompt in ("a star", "two stars")]
        condition = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        frames = (2,) * is_video
        side = 2 if is_video else 8
        noisy = torch.randn(2, 4, *frames, side, side, generator=generator)
        return denoiser.predict(noisy, torch.tensor([300, 700]), condition)


@pytest.mark.parametrize(
    ("kind", "rank"),
    [("pictures", 0), ("wan", 2), ("sdxl", 2), ("sd3", 2)],
)
def test_a_policy_starts_as_its_reference_and_ends_as_one_that_draws(kind, rank, sources, tmp_path):
    source, out = sources[kind], tmp_path / "new"
    report, result = align(source, out, config(optim={"lora_rank": rank, "lr": 1e-2}))
    assert losses(report)[0] == LN2
    assert [report[name][0] for name in ("margin", "accuracy", "chosen", "rejected")] == [0] * 4
    assert all(loss != LN2 for loss in losses(report)[1:])
    assert (report["rows"], report["pairs"], result) == ({"kept": 6}, 6, [])

    policy = policies.load(out, device="cpu")
    assert policy.options == policies.load(source / "policy", device="cpu").options
    (sampled,) = policy.sample("star", [], [1])
    frames = (aligned.FRAMES,) if kind == "wan" else ()
    assert sampled.source.shape == (*frames, SIDE, SIDE, 3)

    old, new = denoiser_at(source / "policy"), denoiser_at(out)
    assert [*old.network.state_dict()] == [*new.network.state_dict()]
    assert (predicted(old) - predicted(new)).abs().max() > 1e-3
    adapter = out / "adapter" / "pytorch_lora_weights.safetensors"
    assert adapter.is_file() == bool(rank)
    if rank:
        assert {min(entry.shape) for entry in load_file(adapter).values()} == {rank}
        old.pipeline.load_lora_weights(out / "adapter")
        assert torch.allclose(predicted(old), predicted(new), atol=1e-5), "merged = with adapters"


@pytest.mark.parametrize("kind", ["pictures", "wan"])
def test_with_adapters_the_reference_is_the_network_itself(kind, sources):
    denoiser = denoiser_at(sources[kind] / "policy")
    before = predicted(denoiser)
    alignment = DPOModel(denoiser, config(optim={"lora_rank": 2}))
    assert alignment.reference is None
    assert alignment.trained
    assert all(".lora_" in name for name in alignment.trained)
    assert torch.equal(predicted(denoiser), before)
    with torch.no_grad():
        for entry in alignment.trained.values():
            entry.normal_(generator=torch.Generator().manual_seed(0))
    after = predicted(denoiser)
    assert (after - before).abs().max() > 0.01
    with alignment.as_reference():
        assert torch.equal(predicted(denoiser), before)
    with pytest.raises(KeyError), alignment.as_reference():
        raise KeyError
    assert torch.equal(predicted(denoiser), after), "the adapters are on again"


def test_without_adapters_the_reference_is_a_copy_that_stays(sources):
    denoiser = denoiser_at(sources["pictures"] / "policy")
    before = predicted(denoiser)
    alignment = DPOModel(denoiser, config())
    assert [*alignment.trained] == [name for name, _ in denoiser.network.named_parameters()]
    assert not any(entry.requires_grad for entry in alignment.reference.parameters())
    with torch.no_grad():
        alignment.trained["unet.conv_in.weight"].normal_()
    after = predicted(denoiser)
    assert (after - before).abs().max() > 0.01
    with alignment.as_reference():
        assert torch.equal(predicted(denoiser), before)
    assert torch.equal(predicted(denoiser), after)


@pytest.mark.parametrize("kind", ["pictures", "wan"])
def test_nothing_but_the_network_is_trained(kind, sources):
    denoiser = denoiser_at(sources[kind] / "policy")
    DPOModel(denoiser, config())
    parts = (denoiser.pipeline.vae, denoiser.pipeline.text_encoder)
    assert not any(entry.requires_grad for part in parts for entry in part.parameters())


def latents_at(source, pipeline, kind, name):
    """Encoded as the published formulas say."""
    files = sorted(source.glob(f"{name}-*.png"))
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(entry)) for entry in files]))
    pixels = pixels.permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    config = pipeline.vae.config
    if kind == "pictures":
        return pipeline.vae.encode(pixels[:, :, 0]).latent_dist.mean * config.scaling_factor
    mean, std = (
        torch.tensor(entry).view(1, -1, 1, 1, 1)
        for entry in (config.latents_mean, config.latents_std)
    )
    return (pipeline.vae.encode(pixels).latent_dist.mean - mean) / std


@torch.no_grad()
def written_out(source, kind, weights, numbers, settings):
    """Loss, margin, and gaps of chosen and rejected of these draws; a pair at a time."""
    denoiser = denoiser_at(source / "policy")
    pipeline = denoiser.pipeline
    ((name, frozen),) = denoiser.networks.items()
    trained = copy.deepcopy(frozen)
    trained.load_state_dict({key.removeprefix(f"{name}."): value for key, value in weights.items()})
    draws = NoiseSampler(6, torch.arange(1000), settings.optim.seed)
    terms = []
    for number, row in zip(numbers, draws.pair_indices(numbers), strict=True):
        named = {"max_sequence_length": 24} if kind == "wan" else {"num_images_per_prompt": 1}
        seen, _ = pipeline.encode_prompt(
            f"star {row}", device="cpu", do_classifier_free_guidance=False, **named
        )
        gaps = []
        for side in ("chosen", "rejected"):
            clean = latents_at(source, pipeline, kind, f"{side}-{row}")
            sampled = draws.sample([number], clean.shape[1:])
            step = int(sampled.steps)
            if kind == "wan":
                even = (step + 1) / 1000
                sigma = 3 * even / (1 + 2 * even)
                alpha, target, timestep = 1 - sigma, sampled.noise - clean, 1000 * sigma
            else:
                alpha = math.sqrt(pipeline.scheduler.alphas_cumprod[step])
                sigma, target, timestep = math.sqrt(1 - alpha**2), sampled.noise, step
            noisy = alpha * clean + sigma * sampled.noise
            errors = [
                ((net(noisy, torch.tensor([timestep]), seen).sample - target) ** 2).mean().item()
                for net in (trained, frozen)
            ]
            gaps.append(errors[0] - errors[1])
            if side == "chosen":
                plain = errors[0]
        weight = alpha**2 if kind == "wan" and settings.weighting == "noise" else 1.0
        margin = -settings.beta * weight * (gaps[0] - gaps[1])
        terms.append((math.log1p(math.exp(-margin)) + settings.sft * plain, margin, *gaps))
    return np.mean(terms, 0)


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("pictures", {}), ("wan", {}), ("wan", {"weighting": "noise", "sft": 0.3})],
)
def test_the_loss_of_a_step_is_the_one_written_out(kind, changes, sources, tmp_path):
    """For the third step, from the weights that a run of which it is the last leaves after two."""
    settings = config(3, optim={"accumulate": 2, "save_every": 2}, beta=100.0, **changes)
    report, _ = align(sources[kind], tmp_path, settings)
    (state,) = (tmp_path / "checkpoints").glob("state-*.pt")
    result = torch.load(state, weights_only=True)
    assert len(result["history"]["loss"]) == 2
    expected = written_out(sources[kind], kind, result["weights"], range(8, 12), settings)
    found = [losses(report)[2], *(report[name][2] for name in ("margin", "chosen", "rejected"))]
    assert abs(found[1]) > 1e-3
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("kind", "rank"), [("pictures", 0), ("wan", 4)])
def test_the_aligned_policy_prefers_the_chosen(kind, rank, sources, tmp_path):
    settings = config(30, optim={"lora_rank": rank, "lr": 5e-3, "batch_size": 6})
    report, _ = align(sources[kind], tmp_path, settings)
    assert np.mean(report["accuracy"][-10:]) > 0.7
    assert np.mean(report["margin"][-10:]) > 0.5
    assert np.mean(losses(report)[-10:]) < 0.6 < LN2


def test_only_the_timesteps_asked_for_are_trained(sources, tmp_path, monkeypatch):
    predict, seen = Denoiser.predict, []

    def watched(self, noisy, timestep, condition):
        seen.extend(timestep.tolist())
        return predict(self, noisy, timestep, condition)

    monkeypatch.setattr(Denoiser, "predict", watched)
    settings = config(4, optim={"batch_size": 4}, timesteps=(249, 499, 749, 999))
    align(sources["pictures"], tmp_path, settings)
    assert set(seen) == {249, 499, 749, 999}
    assert len(seen) == 4 * 2 * 8, "chosen and rejected, of model and reference"


@pytest.mark.parametrize("kind", ["pictures", "wan"])
def test_gradients_that_are_computed_again_are_the_same(kind, sources, tmp_path, monkeypatch):
    again, found = Mock(wraps=checkpoint.checkpoint), []
    monkeypatch.setattr(checkpoint, "checkpoint", again)
    for on in (False, True):
        rank = 2 * (kind != "pictures")
        settings = config(optim={"lora_rank": rank, "gradient_checkpointing": on})
        found.append(losses(align(sources[kind], tmp_path / str(on), settings)[0]))
        assert again.called == on
    assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize("kind", ["pictures", "wan"])
def test_sheets_show_the_same_seeds_and_open(kind, sources, tmp_path):
    """Four prompts below one another, four pictures or the ends of four clips beside each other."""
    settings = config(3, optim={"lr": 0.0}, samples_every=1)
    align(sources[kind], tmp_path, settings)
    sheets = sorted((tmp_path / "samples").iterdir())
    assert [entry.name for entry in sheets] == [f"step-00000{i}.png" for i in (1, 2, 3)]
    first, second, third = (np.asarray(Image.open(entry)) for entry in sheets)
    width = 4 * SIDE * (2 if kind == "wan" else 1)
    assert first.shape == (4 * SIDE, width, 3)
    assert (first == second).all()
    assert (first == third).all()
    corner = policies.load(sources[kind] / "policy", device="cpu").sample(
        "star 0", [], policies.seeds("star 0", 4, 0)
    )
    last = corner[-1].source if kind == "pictures" else corner[-1].source[-1]
    assert np.abs(first[:SIDE, -SIDE:].astype(int) - last).max() <= 1


def test_a_sheet_of_which_all_is_withheld_is_left_out(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(DiffusionPolicy, "sample", lambda *_: [None] * 4)
    report, _ = align(sources["pictures"], tmp_path, config(2, samples_every=1))
    assert len(losses(report)) == 2
    assert not (tmp_path / "samples").exists()


def test_a_vision_language_model_is_refused(sources, tmp_path):
    judge = ARCHITECTURES["qwen3_vl"](tmp_path / "judge")
    with pytest.raises(ConfigError, match="judge is a vision-language model, not a diffusers"):
        align_pipeline(judge, sources["pictures"] / "pairs.jsonl", config(), tmp_path, print)


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_a_pipeline_is_not_cut_into_pieces(kind, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", kind)
    pictures = sources["pictures"]
    with pytest.raises(ConfigError, match="launch without FSDP and ZeRO"):
        align_pipeline(pictures / "policy", pictures / "pairs.jsonl", config(), tmp_path, print)


def test_pairs_of_another_task_are_refused(sources, tmp_path):
    result = (
        r"policy is for image_generation, and the pairs of .*pairs.jsonl are of video_generation"
    )
    policy, pairs = sources["pictures"] / "policy", sources["wan"] / "pairs.jsonl"
    with pytest.raises(ConfigError, match=result):
        align_pipeline(policy, pairs, config(), tmp_path, [].append)


def test_a_pair_whose_picture_is_gone_is_told_and_the_others_are_learned(sources, tmp_path):
    source = shutil.copytree(sources["pictures"], tmp_path / "it")
    (source / "rejected-2-0.png").unlink()
    rows = [json.loads(entry) for entry in (source / "pairs.jsonl").read_text("utf-8").splitlines()]
    aligned.write([*rows, rows[0]], source / "pairs.jsonl")
    report, result = align(source, tmp_path / "new", config(1))
    assert (report["rows"], report["pairs"]) == ({"kept": 6, "unusable": 1}, 5)
    assert result[0] == "line 7: duplicate id 'p0' (first on line 1)"
    assert result[1].startswith("pair 'p2': ")
    assert "rejected-2-0.png" in result[1]


def test_without_a_pair_that_opens_nothing_is_learned(sources, tmp_path):
    source = shutil.copytree(sources["pictures"], tmp_path / "it")
    for entry in source.glob("chosen-*.png"):
        entry.write_bytes(b"")
    with pytest.raises(DataError, match="no pair is left to learn from"):
        align(source, tmp_path / "new", config(1))


def test_adapters_on_layers_that_are_none_are_refused(sources, tmp_path):
    settings = config(optim={"lora_rank": 2, "lora_targets": ("q_proj",)})
    with pytest.raises(ConfigError, match=r"no linear layer is named q_proj; there are .*to_q"):
        align(sources["pictures"], tmp_path, settings)


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"beta": 0.0}, "beta must be above 0 and sft 0 or more, not 0.0 and 0.0"),
        ({"sft": -1.0}, "not 2500.0 and -1.0"),
        ({"beta": math.nan}, "beta must be above 0"),
        ({"sft": math.inf}, "sft 0 or more"),
        ({"timesteps": (math.nan,)}, "timesteps must be finite"),
        ({"optim": {"muon_lr": 0.1}}, "a denoiser is trained by AdamW only"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes, result):
    with pytest.raises(ConfigError, match=result):
        config(**changes)
