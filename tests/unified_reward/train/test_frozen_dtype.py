"""Frozen weights of a trained pipeline in bfloat16: what has which type, and what is learned."""

import pytest
import torch
from safetensors.torch import load_file

from tests.unified_reward.policies import pipelines
from tests.unified_reward.train import aligned, rewarded
from unified_reward import policies
from unified_reward.core.errors import ConfigError
from unified_reward.pairs.preferences import trainable_pairs
from unified_reward.policies.autoencoders import isolate
from unified_reward.train.denoisers import Denoiser
from unified_reward.train.dpo_diffusion import DPOModel
from unified_reward.train.latents import encode_pairs
from unified_reward.train.loops import NoiseSampler
from unified_reward.train.precision import frozen_bytes, frozen_dtype, mixed_precision


ADAPTERS = {"lora_rank": 4}
ROUNDING = 2**-8
"""Largest relative difference of a number and its bfloat16."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return aligned.source("pictures", tmp_path_factory.mktemp("pictures"))


def dtypes(parts):
    return {name: {weight.dtype for weight in part.parameters()} for name, part in parts.items()}


def load(folder, **types):
    maker = policies.load(folder, device="cpu", vae_dtype="float32", **types)
    parts = maker.pipeline.components
    return maker, {k: part for k, part in parts.items() if isinstance(part, torch.nn.Module)}


@pytest.mark.parametrize("is_upcast", [True, False])
def test_an_autoencoder_stays_precise_where_its_config_says_so(is_upcast, tmp_path):
    pipeline = pipelines.stable_diffusion()
    pipeline.vae.register_to_config(force_upcast=is_upcast)
    pipeline.save_pretrained(tmp_path)
    maker, parts = load(tmp_path, dtype="bfloat16")
    wanted = torch.float32 if is_upcast else torch.bfloat16
    assert dtypes(parts) == {
        "vae": {wanted},
        "unet": {torch.bfloat16},
        "text_encoder": {torch.bfloat16},
    }
    n = {name: sum(weight.nbytes for weight in part.parameters()) for name, part in parts.items()}
    assert frozen_bytes(maker.pipeline, "bfloat16") == sum(n.values()), "as the dry run says"
    (image,) = maker.sample("a star", [], [0])
    assert image.source.std() > 0


def test_a_precise_autoencoder_takes_half_precision_and_is_not_rounded_by_autocast():
    torch.manual_seed(0)
    vae = pipelines.vae()
    latents, pixels = torch.randn(1, 4, 8, 8), torch.rand(1, 3, 16, 16)
    plain, encoded = vae.decode(latents).sample, vae.encode(pixels).latent_dist.mode()
    isolate(vae)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vae.decode(latents).sample, plain)
        half = vae.encode(pixels.bfloat16()).latent_dist.mode()
    assert half.dtype == torch.bfloat16
    assert torch.equal(vae.encode(x=pixels, return_dict=False)[0].mode(), encoded)
    assert torch.allclose(half.float(), encoded, atol=8 * ROUNDING)


def test_a_loss_is_that_of_float32_within_the_rounding_of_bfloat16(tmp_path):
    """An error is a mean of squares, off by twice what its prediction is, and a prediction by some
    eight roundings of layers that follow each other."""
    source, figures = aligned.source("sd3", tmp_path), {}
    for dtype in ("float32", "bfloat16"):
        maker, _ = load(source / "policy", dtype=dtype)
        denoiser = Denoiser(maker)
        pairs, _ = trainable_pairs(source / "pairs.jsonl", maker.tasks, print)
        options = aligned.config(optim=ADAPTERS, beta=1.0)
        folder = source / dtype
        encoded = encode_pairs(pairs, denoiser, folder, options.resolution, print)
        model = DPOModel(denoiser, options)
        assert {weight.dtype for weight in model.trained.values()} == {torch.float32}
        torch.manual_seed(1)
        for weight in model.trained.values():
            weight.data = 0.2 * torch.randn_like(weight)
        chosen, rejected, condition = encoded.batch(range(4), torch.device("cpu"))
        assert chosen.dtype == torch.float32
        sample = NoiseSampler(len(encoded), torch.arange(1000), 0).sample(
            range(4), chosen.shape[1:]
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            terms = model.loss(chosen, rejected, condition, sample)
        figures[dtype] = {name: float(value.detach()) for name, value in terms.items()}
    exact, half = figures.values()
    assert abs(exact["chosen"]) > 0.1, "the adapters make a difference"
    for name in ("chosen", "rejected"):
        assert half[name] == pytest.approx(exact[name], rel=16 * ROUNDING)
    # The loss falls by at most what the margin grows, beta times the difference of both.
    apart = options.beta * 16 * ROUNDING * (abs(exact["chosen"]) + abs(exact["rejected"]))
    assert half["loss"] == pytest.approx(exact["loss"], abs=apart)
    assert apart < 2


def test_dpo_trains_float32_adapters_on_bfloat16_and_merges_them_in_float32(source, tmp_path):
    options = aligned.config(2, optim=ADAPTERS | {"lr": 1e-4}, beta=20.0, dtype="bfloat16")
    report, _ = aligned.align(source, tmp_path, options)
    assert report["dtype"] == "bfloat16"
    first, second = aligned.losses(report)
    assert first == pytest.approx(0.6931, abs=1e-4), "adapters begin as the reference"
    assert second == pytest.approx(first, abs=0.1)
    adapters = load_file(tmp_path / "adapter" / "pytorch_lora_weights.safetensors")
    assert {weight.dtype for weight in adapters.values()} == {torch.float32}
    before, after = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        for folder in (source / "policy", tmp_path)
    )
    rounded = {name: weight.bfloat16().float() for name, weight in before.items()}
    moved = [name for name in before if not torch.equal(after[name], rounded[name])]
    assert moved
    for name in moved:
        assert not torch.equal(after[name], after[name].bfloat16().float()), "not rounded again"
    (image,) = policies.load(tmp_path, device="cpu").sample("a star", [], [0])
    assert image.source.std() > 0


@pytest.mark.parametrize("algorithm", ["grpo", "nft"])
def test_rewards_train_adapters_on_bfloat16(algorithm, tmp_path):
    folder = rewarded.pictures(tmp_path / "policy")
    prompts = rewarded.written(tmp_path / "prompts.jsonl")
    options = rewarded.config(1, algorithm=algorithm, dtype="bfloat16", group=2, prompts_per_step=1)
    report, log = rewarded.train(folder, prompts, tmp_path / "out", options)
    assert (report["dtype"], log) == ("bfloat16", [])
    assert all(loss is not None for _, loss in report["losses"])
    assert report["deviation"] == [pytest.approx(0.0, abs=1e-6)] or algorithm == "nft"


@pytest.mark.parametrize(
    ("settings", "on_gpu", "wanted"),
    [
        ((None, None, 4), True, "bfloat16"),
        ((None, None, 4), False, "float32"),
        ((None, "no", 4), True, "float32"),
        ((None, None, 0), True, "float32"),
        (("float32", "bf16", 4), True, "float32"),
        (("bfloat16", None, 4), False, "bfloat16"),
    ],
)
def test_frozen_weights_are_half_precision_under_adapters_on_a_gpu(settings, on_gpu, wanted):
    assert frozen_dtype(*settings, on_gpu=on_gpu) == wanted
    assert mixed_precision("bfloat16", None) == "bf16"


def test_half_precision_needs_adapters_and_autocast():
    with pytest.raises(ConfigError, match="in bfloat16 need adapters"):
        aligned.config(dtype="bfloat16")
    with pytest.raises(ConfigError, match="in bfloat16 need precision=bf16"):
        rewarded.config(dtype="bfloat16", precision="no")
