"""DPO of every family: adapters, resumed runs, and gradients of the published formulas."""

import copy
import itertools
import math

import pytest
import torch
from diffusers.loaders.peft import PeftAdapterMixin
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file

from tests.unified_reward.train.aligned import align, config, losses
from tests.unified_reward.train.observed import (
    ALIGNED,
    FAMILIES,
    difference,
    load_tiny,
    open_aligned,
    save_with_pairs,
    tiny_denoiser,
)
from unified_reward.core.errors import ModelError
from unified_reward.policies.observation import networks
from unified_reward.train.dpo_diffusion import DPOModel
from unified_reward.train.loops import NoiseSample


LN2 = torch.tensor(math.log(2)).item()
SECOND = "WanPipeline 2.2"


class KilledError(Exception):
    """Stands for the end of a process."""


def folder_of(name, folder):
    if name not in FAMILIES:
        open_aligned(name)
    return save_with_pairs(name, folder)


def predictions(tiny):
    """Predictions that the scheduler gets in a run."""
    return [step.prediction for step in tiny.observe().steps]


def apart(run, other):
    return max(difference(a, b) for a, b in zip(run, other, strict=True))


def attach(pipeline, folder):
    """Load adapters as their files are meant to be loaded."""
    second = folder / "transformer_2"
    is_native = all(isinstance(part, PeftAdapterMixin) for part in networks(pipeline).values())
    if is_native and hasattr(pipeline, "load_lora_weights"):
        pipeline.load_lora_weights(folder)
        if second.is_dir():
            pipeline.load_lora_weights(second, load_into_transformer_2=True)
        return
    for name, network in networks(pipeline).items():
        source = folder / name if (folder / name).is_dir() else folder
        if isinstance(network, PeftAdapterMixin):
            network.load_lora_adapter(source, prefix=None, use_safetensors=True)
        else:
            config = LoraConfig(**LoraConfig.from_json_file(str(source / "adapter_config.json")))
            weights = load_file(source / "adapter_model.safetensors")
            set_peft_model_state_dict(get_peft_model(network, config), weights)


@pytest.mark.numeric
@pytest.mark.parametrize("name", ALIGNED)
def test_a_run_starts_at_ln_2_and_merged_adapters_sample_as_attached_ones(name, tmp_path):
    source, out = folder_of(name, tmp_path), tmp_path / "new"
    settings = config(2, optim={"lora_rank": 2, "lr": 0.05}, beta=10.0)
    if name.startswith("AnimateDiff"):
        # PEFT's layers do not take the argument by name.
        with pytest.raises(ModelError, match=r"if adapters are the reason, .*lora_rank=0"):
            align(source, out, settings)
        return
    report, log = align(source, out, settings)
    assert losses(report)[0] == LN2 != losses(report)[1]
    assert (report["pairs"], log) == (3, [])
    original = load_tiny(source / "policy")
    plain, merged = predictions(original), predictions(load_tiny(out))
    assert apart(plain, merged) > 1e-3
    attach(original.pipeline, out / "adapter")
    assert apart(predictions(original), merged) <= 1e-4


@pytest.mark.numeric
def test_adapters_of_a_second_transformer_are_part_of_the_policy(tmp_path):
    """The mutation that leaves them out."""
    source, out = save_with_pairs(SECOND, tmp_path), tmp_path / "new"
    timesteps = (100.0, 950.0)  # on either side of the boundary, 875
    optim = {"lora_rank": 2, "lr": 0.05, "batch_size": 4}
    align(source, out, config(3, optim=optim, beta=10.0, timesteps=timesteps))
    original = load_tiny(source / "policy")
    original.pipeline.load_lora_weights(out / "adapter")
    merged = predictions(load_tiny(out))
    assert difference(predictions(original)[0], merged[0]) <= 1e-4
    assert difference(predictions(original)[-1], merged[-1]) > 1e-3
    original.pipeline.load_lora_weights(
        out / "adapter" / "transformer_2", load_into_transformer_2=True
    )
    assert apart(predictions(original), merged) <= 1e-4


FAST = ("FluxPipeline", "ZImagePipeline", SECOND)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in FAMILIES],
)
def test_a_killed_run_resumes_to_the_same_losses(name, tmp_path, monkeypatch):
    source = save_with_pairs(name, tmp_path)
    settings = config(4, optim={"save_every": 2, "lora_rank": 2}, beta=10.0)
    whole, _ = align(source, tmp_path / "whole", settings)
    loss, passes = DPOModel.loss, itertools.count(1)

    def killed(self, *given):
        if next(passes) == 4:
            raise KilledError
        return loss(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(DPOModel, "loss", killed)
        with pytest.raises(KilledError):
            align(source, tmp_path / "killed", settings)
    again, _ = align(source, tmp_path / "killed", settings)
    assert again == whole


@torch.no_grad()
def text_of(tiny, prompt):
    """Arguments of the network for a prompt, as the pipeline's own encoder makes them."""
    pipeline = tiny.pipeline
    if tiny.policy.name == "StableDiffusionPipeline":
        text, _ = pipeline.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": text.double()}
    if tiny.policy.name == "StableDiffusionXLPipeline":
        text, _, pooled, _ = pipeline.encode_prompt(
            prompt, device="cpu", do_classifier_free_guidance=False
        )
        sizes = torch.tensor([[*tiny.size[:2], 0, 0, *tiny.size[:2]]])
        added = {"text_embeds": pooled.double(), "time_ids": sizes.double()}
        return {"encoder_hidden_states": text.double(), "added_cond_kwargs": added}
    text, _ = pipeline.encode_prompt(
        prompt, do_classifier_free_guidance=False, max_sequence_length=20
    )
    return {"encoder_hidden_states": text.double()}


def noise_level(tiny, step):
    """Signal, noise and the network's timestep at an index of the schedule.

    Flows are shifted by 3: sigma = 3 s / (1 + 2 s) of s = (step + 1) / 1000.
    """
    if tiny.policy.name == "WanPipeline":
        sigma = 3 * (step + 1) / (1000 + 2 * (step + 1))
        return 1 - sigma, sigma, 1000 * sigma
    signal = float(tiny.pipeline.scheduler.alphas_cumprod[step].double())
    return math.sqrt(signal), math.sqrt(1 - signal), step


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("StableDiffusionPipeline", "epsilon"),
        ("StableDiffusionXLPipeline", "v"),
        ("WanPipeline", "flow"),
    ],
)
def test_loss_and_gradients_are_those_of_the_formulas_in_float64(name, kind):
    """Diffusion-DPO of arXiv:2311.12908, with weights moved from the reference.

    The loss of a pair is -log sigmoid(-beta ((e_w - r_w) - (e_l - r_l))), where e and r are the
    mean squared errors of the trained network and of the reference for the target of the kind:
    noise, alpha noise - sigma x, or noise - x.
    """
    tiny, beta = tiny_denoiser(name), 1000.0
    condition = tiny.condition("star 0", "star 1")
    model = DPOModel(tiny.denoiser, config(beta=beta))
    ((component, network),) = tiny.denoiser.networks.items()
    frozen = copy.deepcopy(network).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.trained.values():
            weight.add_(0.01 * torch.randn(weight.shape, generator=generator))
    moved = copy.deepcopy(network).double()
    latents = tiny.denoiser.encode_pixels(tiny.pixels(4), tiny.size)
    chosen, rejected = latents.chunk(2)
    noise, steps = torch.randn(chosen.shape, generator=generator), [300, 700]
    result = model.loss(chosen, rejected, condition, NoiseSample(torch.tensor(steps), noise))
    result["loss"].backward()

    expected, rounding = torch.zeros(()), 0.0
    for i, step in enumerate(steps):
        alpha, sigma, timestep = noise_level(tiny, step)
        named, eps = text_of(tiny, f"star {i}"), noise[i : i + 1].double()
        gaps, sizes = [], 0.0
        for side in (chosen, rejected):
            clean = side[i : i + 1].double()
            noisy = alpha * clean + sigma * eps
            targets = {"epsilon": eps, "v": alpha * eps - sigma * clean, "flow": eps - clean}
            given = torch.tensor([timestep], dtype=torch.float64)
            errors = [
                (part(noisy, given, **named).sample - targets[kind]).square().mean()
                for part in (moved, frozen)
            ]
            gaps.append(errors[0] - errors[1].detach())
            sizes += sum(error.item() for error in errors)
        margin = -beta * (gaps[0] - gaps[1])
        assert abs(margin.item()) > 1e-2
        rounding += beta * torch.finfo(torch.float32).eps * sizes
        expected = expected - torch.nn.functional.logsigmoid(margin) / 2
    expected.backward()
    # The loss moves by no more than its margins, beta times errors that are rounded in float32.
    assert rounding < 0.002
    assert result["loss"].item() == pytest.approx(expected.item(), abs=rounding)
    own = {f"{component}.{key}": weight.grad for key, weight in moved.named_parameters()}
    found = {key: weight.grad for key, weight in model.trained.items()}
    assert found.keys() == own.keys()
    largest = max(gradient.abs().max() for gradient in own.values() if gradient is not None)
    for key, gradient in found.items():
        assert (gradient is None) == (own[key] is None), key
        if gradient is not None:
            assert (gradient.double() - own[key]).abs().max() <= 1e-3 * largest, key
