"""Dry runs of the alignment of a policy: sizes, and problems found before a GPU is rented."""

import json
from pathlib import Path

import pytest
import yaml
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from torch import nn
from typer.testing import CliRunner

from tests.diffusion import PIPELINES
from tests.unified_reward.media.made import noise, picture
from tests.unified_reward.pairs.candidate_files import write_rows
from tests.unified_reward.train import aligned
from unified_reward import policies
from unified_reward.cli import app
from unified_reward.core.errors import ConfigError, DataError, ModelError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.policies import Denoising, write_defaults
from unified_reward.policies.observation import networks
from unified_reward.recipes.installed import find_recipe
from unified_reward.recipes.run import dry_run, load_recipe
from unified_reward.recipes.stage import Recipe
from unified_reward.train.denoisers import Denoiser
from unified_reward.train.dpo import PolicyDPO
from unified_reward.train.dpo_diffusion import DiffusionDPO, DPOModel
from unified_reward.train.dpo_vlm import VLMDPO
from unified_reward.train.dry_run_dpo import dry_run_dpo
from unified_reward.train.latents import Resolution
from unified_reward.train.optim import OptimConfig


ABSENT = "pairs: there is no pairs.jsonl"
SDXL_PARTS = 83_653_863 + 123_060_480 + 694_659_840
"""Parameters of SDXL's autoencoder and text encoders."""
UMT5, WAN_VAE = 5_680_910_336, 126_892_531


def load(name, *overrides):
    return load_recipe(find_recipe(name), overrides)


def gib(n_bytes):
    return pytest.approx(n_bytes / 2**30, abs=2e-3)


def optim(**changes):
    return OptimConfig(**{"steps": 3, "batch_size": 2, "accumulate": 1, "lora_rank": 2} | changes)


def draw(policy="tiny_image", pairs="pairs.jsonl", *, launch="", moved=None, **options):
    config = DiffusionDPO(optim(**moved or {}), **options)
    return dry_run_dpo(PolicyDPO(str(policy), Path(pairs), diffusion=config), launch)


def answer(policy="tiny_vlm", pairs="pairs.jsonl", **moved):
    return dry_run_dpo(PolicyDPO(policy, Path(pairs), vlm=VLMDPO(optim(**moved))))


def bare(name, folder, sampling=None):
    """Save a tiny pipeline of tests/diffusion without its weights; return the pipeline."""
    tiny = PIPELINES[name]
    pipeline = tiny.build()
    pipeline.save_pretrained(folder)
    write_defaults(sampling or tiny.sampling, folder)
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    return pipeline


@pytest.fixture
def stored(tmp_path):
    """Saves a tiny pipeline without its weights, and pairs."""

    def store(kind):
        folder = aligned.source(kind, tmp_path)
        weights = [*folder.rglob("*.safetensors")]
        assert weights
        for file in weights:
            file.unlink()
        return folder / "policy", folder / "pairs.jsonl"

    return store


@pytest.mark.slow
def test_sdxl_turbo_recipe_has_the_published_number_of_parameters():
    """All are trained: twice those of the network in float32, with gradients and two moments."""
    result = dry_run(load("dpo_sdxl_turbo"))
    assert (result.parameters, result.trained) == (2_567_463_684, 2_567_463_684)
    assert result.memory_gib["weights"] == gib(4 * (2 * result.parameters + SDXL_PARTS))
    assert result.memory_gib["optimiser"] == gib(8 * result.parameters)
    assert result.latent == (4, 64, 64)
    assert result.timesteps == (249, 499, 749, 999)
    assert (result.tokens, result.per_step, result.processes) == ({}, {"pairs": 512}, 1)
    where = "weights: stabilityai/sdxl-turbo is not here and would be downloaded"
    assert result.lacking == (ABSENT, where)


@pytest.mark.slow
def test_flux_recipe_freezes_twelve_billion_weights_in_bfloat16():
    """Adapters of rank 64 and a pass of 16 pairs on each card."""
    result = dry_run(load("dpo_flux"))
    assert (result.parameters, result.trained) == (11_901_408_320, 104_595_456)
    assert (result.dtype, result.per_step["pairs"]) == ("bfloat16", 16)
    assert result.memory_gib["total"] == pytest.approx(33.1, abs=0.05), "as the recipe says"


@pytest.mark.slow
def test_wan_recipe_has_the_published_number_of_parameters():
    """33 frames are 9 latents of 60 x 104, of which 2 x 2 make a token: 9 x 30 x 52."""
    result = dry_run(load("dpo_wan_1_3b"))
    assert result.parameters == 1_418_996_800
    frozen = result.parameters + UMT5 + WAN_VAE
    assert result.dtype == "bfloat16"
    assert result.memory_gib["weights"] == gib(2 * frozen + 4 * result.trained), "no second copy"
    assert result.memory_gib["total"] == pytest.approx(14.8, abs=0.05), "as the recipe says"
    assert result.adapters["to_q"] == 60
    assert (result.latent, result.tokens) == ((16, 9, 60, 104), {"sample": 14_040})
    assert result.per_step == {"pairs": 64, "tokens": 64 * 2 * 14_040}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "latent", "tokens"),
    [
        ("black-forest-labs/FLUX.1-dev", 11_901_408_320, (4096, 64), 4096),
        ("black-forest-labs/FLUX.1-schnell", 11_891_178_560, (4096, 64), 4096),
        ("Qwen/Qwen-Image", 20_430_401_088, (4096, 64), 4096),
        ("stabilityai/stable-diffusion-3.5-medium", 2_243_171_520, (16, 128, 128), 4096),
        ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", 2 * 14_288_491_584, (16, 21, 60, 104), 32_760),
    ],
)
def test_a_published_pipeline_has_its_number_of_parameters(name, parameters, latent, tokens):
    """At 1024 x 1024 pixels, or 81 frames of 480 x 832."""
    result = draw(name)
    assert (result.parameters, result.latent) == (parameters, latent)
    assert result.tokens == {"sample": tokens}
    assert result.lacking[1] == f"weights: {name} is not here and would be downloaded"


def test_llava_recipe_trains_all_weights_beside_a_copy_that_fsdp_spreads_too():
    """Bytes a weight: 4, as many for its copy, 4 of gradient, 8 of moments; over 8 cards."""
    result = dry_run(load("dpo_llava_onevision_7b"), "fsdp_llava")
    assert result.trained == result.parameters == 8_029_890_080
    assert result.memory_gib["total"] == gib(20 * result.parameters / 8)
    assert result.wrapped == {"Qwen2DecoderLayer": 28, "SiglipEncoderLayer": 26}
    assert result.per_step["pairs"] == 16 * result.processes == 128


def test_qwen_recipe_trains_adapters_on_pictures_of_512_x_512():
    """324 tokens a picture, seen once with either answer; 8 pictures a clip."""
    result = dry_run(load("dpo_qwen2_5_vl_7b"))
    assert result.parameters == 8_292_166_656
    assert result.memory_gib["weights"] == gib(2 * result.parameters + 4 * result.trained)
    assert 2 * 324 <= result.tokens["image_understanding"] < 2 * 324 + 200
    assert result.tokens["video_understanding"] > 16 * 324
    assert result.lacking[0] == ABSENT
    assert sum(item["parameters"] for item in result.groups) == result.trained


@pytest.mark.parametrize(
    ("kind", "latent", "tokens"),
    [
        ("pictures", (4, 8, 8), {}),
        ("sdxl", (4, 8, 8), {}),
        ("sd3", (4, 8, 8), {"sample": 16}),
        ("wan", (4, 2, 2, 2), {"sample": 2}),
    ],
)
def test_every_kind_of_pipeline_is_rehearsed_from_its_configurations_alone(
    stored, kind, latent, tokens
):
    result = draw(*stored(kind))
    assert (result.latent, result.tokens, result.lacking) == (latent, tokens, ())
    assert (result.steps_per_epoch, result.epochs) == (3, 1.0)


@pytest.mark.parametrize("moved", [{}, {"lora_rank": 0}], ids=["lora", "full"])
def test_the_tiny_image_has_the_trained_parameters_of_the_real_training(moved):
    result = draw(moved=moved)
    real = DPOModel(
        Denoiser(policies.load(checkpoint_path("tiny_image"), device="cpu")),
        DiffusionDPO(optim(**moved)),
    )
    assert result.trained == sum(item.numel() for item in real.trained.values())
    assert result.latent == (4, 8, 8)
    taken = "resolution: unknown without pairs; tried as the policy samples, 64 x 64"
    assert result.lacking == (ABSENT, taken)


def test_frames_that_do_not_fit_are_told_and_lengthened_as_in_training(stored):
    result = draw(*stored("wan"), resolution=Resolution(frames=6))
    assert result.latent == (4, 3, 2, 2)
    assert result.lacking == (
        "resolution.frames: 6 become 9 by repeating the last one; "
        "this pipeline takes k * 4 + 1 frames",
    )


@pytest.mark.parametrize(
    ("options", "reply"),
    [
        (
            {"resolution": Resolution(60, 64)},
            "multiples of 8 above 0 for this pipeline, not 60 and 64",
        ),
        ({"resolution": Resolution(width=60)}, "not None and 60"),
        (
            {"timesteps": (499.0, 499.4)},
            "several round to one of the schedule: 499 is 499, 499.4 is 499",
        ),
        ({"moved": {"lora_targets": ("to_w",)}}, "no linear layer is named to_w; there are .*to_q"),
        ({"launch": "fsdp"}, "fsdp shards weights, .* launch --num_processes 8"),
        ({"launch": "zero9"}, "neither a file nor a shipped launcher"),
        (
            {"policy": "some/pipeline"},
            "the architecture of some/pipeline .*: FLUX.1-dev.*, Wan2.1.*, sdxl-turbo",
        ),
    ],
)
def test_what_does_not_fit_a_pipeline_is_told_with_what_would(options, reply):
    with pytest.raises(ConfigError, match=reply):
        draw(**options)


def test_latents_that_do_not_fit_the_network_are_found(stored):
    policy, pairs = stored("pictures")
    file = policy / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"latent_channels": 8}))
    with pytest.raises(ConfigError, match=r"of shape \(8, 8, 8\), and the pipeline decodes"):
        draw(policy, pairs)


@pytest.mark.parametrize(
    ("name", "latent", "tokens"),
    [
        ("StableDiffusionPipeline", (4, 8, 12), 0),
        ("StableDiffusionXLPipeline", (4, 8, 12), 0),
        ("StableDiffusion3Pipeline", (4, 8, 12), 24),
        ("FluxPipeline", (24, 16), 24),
        ("FluxPipeline schnell", (24, 16), 24),
        ("Flux2Pipeline", (24, 16), 24),
        ("Flux2KleinPipeline", (24, 16), 24),
        ("QwenImagePipeline", (6, 16), 6),
        ("ZImagePipeline", (4, 8, 12), 24),
        ("WanPipeline", (4, 2, 2, 4), 4),
        ("WanPipeline 2.2", (4, 2, 2, 4), 4),
        ("HunyuanVideoPipeline", (4, 2, 2, 4), 4),
        ("LTXPipeline", (96, 4), 96),
        ("CogVideoXPipeline", (2, 4, 4, 8), 16),
    ],
)
def test_any_pipeline_is_tried_on_embeddings_in_place_of_prompts(tmp_path, name, latent, tokens):
    """Networks with adapters have two matrices more for each adapted layer."""
    parts = networks(bare(name, tmp_path)).values()
    result = draw(tmp_path)
    assert (result.latent, result.tokens) == (latent, {"sample": tokens} if tokens else {})
    assert result.parameters == sum(part.num_parameters() for part in parts)
    linear = [
        layer.in_features + layer.out_features
        for part in parts
        for layer_name, layer in part.named_modules()
        if isinstance(layer, nn.Linear)
        and any(f".{layer_name}".endswith(f".{each}") for each in result.adapters)
    ]
    assert result.trained == 2 * sum(linear)


@pytest.mark.parametrize("name", ["SanaPipeline", "PixArtSigmaPipeline"])
def test_a_pipeline_with_masks_of_its_prompts_is_tried(tmp_path, name):
    """Its scheduler's configuration has an infinite number."""
    bare(name, tmp_path)
    assert draw(tmp_path, resolution=Resolution(64, 128)).tokens == {"sample": 2}


def test_both_networks_of_wan_2_2_are_counted_and_tried(tmp_path):
    bare("WanPipeline", tmp_path / "one")
    bare("WanPipeline 2.2", tmp_path / "two")
    single, double = draw(tmp_path / "one"), draw(tmp_path / "two")
    assert (double.parameters, double.trained) == (2 * single.parameters, 2 * single.trained)
    assert double.adapters == {name: 2 * n for name, n in single.adapters.items()}
    assert double.memory_gib["optimiser"] == gib(8 * double.trained)
    file = tmp_path / "two" / "transformer_2" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"text_dim": 24}))
    with pytest.raises(ConfigError, match="latents or prompts do not fit the network: "):
        draw(tmp_path / "two")


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("Lumina2Pipeline", "a Lumina2Pipeline cannot be tried without weights and tokenizers: "),
        ("HunyuanVideo15Pipeline", "a HunyuanVideo15Pipeline cannot be tried without weights"),
        ("BriaFiboPipeline", "takes no embeddings of a prompt, so that it cannot be tried"),
        ("PRXPipeline", "does not say how wide its prompt_embeds are"),
    ],
)
def test_a_pipeline_that_needs_numbers_is_refused_in_a_line(tmp_path, name, reply):
    bare(name, tmp_path)
    with pytest.raises(ConfigError, match=reply) as caught:
        draw(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_size_that_nothing_says_is_wanted(tmp_path):
    bare("ZImagePipeline", tmp_path, Denoising(steps=1))
    with pytest.raises(ConfigError, match=r"resolution: unknown without pairs, .* give height and"):
        draw(tmp_path)


@pytest.mark.parametrize(("kind", "latent"), [("pix2pix", (4, 8, 8)), ("qwen_edit", (4, 16))])
def test_an_edit_is_tried_with_a_source_that_has_tokens_too(stored, kind, latent):
    """Qwen-Image-Edit enlarges its source to a megapixel, of which 8 x 8 pixels make a token."""
    width, height, *_ = pipeline_qwenimage_edit.calculate_dimensions(1024 * 1024, 1.0)
    tokens = {"sample": 4 + width * height // 64} if kind == "qwen_edit" else {}
    result = draw(*stored(kind))
    assert (result.latent, result.tokens, result.lacking) == (latent, tokens, ())


def test_a_policy_of_the_other_kind_or_of_no_loss_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"vlm is not a diffusers pipeline: .*model_index\.json"):
        draw("tiny_vlm")
    with pytest.raises(ModelError, match="image is not a vision-language checkpoint"):
        answer("tiny_image")
    bare("StableDiffusionPipeline", tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(ModelError, match="sample cannot be aligned; epsilon, v_prediction and"):
        draw(tmp_path)


def test_pairs_of_another_task_are_refused(stored):
    with pytest.raises(ConfigError, match="the policy is for image_generation, and the pairs"):
        draw("tiny_image", stored("wan")[1])


@pytest.fixture
def questions(tmp_path):
    """Writes pairs of answers about a picture."""
    picture(noise(40, 56, 3)).save(tmp_path / "a.png")

    def write(*answers):
        rows = [
            {
                "id": f"p{i}",
                "status": "kept",
                "task": "image_understanding",
                "prompt": "what is it?",
                "context": [{"image": "a.png"}],
                "chosen": {"text": chosen},
                "rejected": {"text": rejected},
            }
            for i, (chosen, rejected) in enumerate(answers)
        ]
        return write_rows(tmp_path / "pairs.jsonl", rows)

    return write


def test_steps_and_tokens_are_those_of_the_file_and_what_is_left_out_is_told(questions):
    result = answer(pairs=questions(*[("a star", "a circle")] * 3, ("red", "red "), ("red", "red")))
    assert set(result.tokens) == {"pair 0", "pair 1", "pair 2"}
    assert len({*result.tokens.values()}) == 1
    assert (result.steps_per_epoch, result.epochs) == (2, 1.5)
    assert result.lacking == (
        "pairs: 2 cannot be used, the first: line 5: chosen and rejected are the same candidate",
    )
    with pytest.raises(DataError, match=r"none of the first 1 pairs can be used: .*'p0'"):
        answer(pairs=questions(("red", "red ")))


def test_a_policy_that_is_an_adapter_is_rehearsed_as_its_base():
    """Two matrices a layer, of 128 to 2 and of 2 to 128 features."""
    result = answer(lora_targets=("q_proj",))
    assert result.adapters == {"q_proj": 4}
    assert result.trained == 4 * (128 * 2 + 2 * 128)
    with pytest.raises(ConfigError, match="no linear layer is named q_porj"):
        answer(lora_targets=("q_porj",))


def test_muon_moves_hidden_matrices_of_a_policy_too():
    result = answer(lora_rank=0, muon_lr=0.1)
    assert [item["lr"] for item in result.groups] == [0.1, 1e-3]
    assert sum(item["parameters"] for item in result.groups) == result.trained == result.parameters


def test_the_judge_of_a_recipe_comes_first():
    stages = load("tiny_judge").stages | load("dpo_sdxl_turbo").stages
    both = Recipe(Path("runs"), stages)
    assert dry_run(both).parameters == 1_871_904


def test_the_command_tells_the_sizes_and_trains_nothing(tmp_path):
    out = tmp_path / "run"
    recipe = ["dpo_sdxl_turbo", "dpo.policy=tiny_image", f"out={out}"]
    result = yaml.safe_load(CliRunner().invoke(app, ["run", "--dry-run", *recipe]).stdout)
    assert (result["model"], result["latent"]) == ("UNet2DConditionModel", [4, 64, 64])
    assert result["timesteps"] == [249, 499, 749, 999]
    assert not out.exists()
