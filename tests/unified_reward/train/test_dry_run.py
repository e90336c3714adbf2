"""Dry runs of a judge's training: sizes, and problems found before a GPU is rented."""

import json
import shutil
from dataclasses import replace
from importlib import resources

import pytest
import torch
import yaml
from peft import get_peft_model
from torch.distributed import HashStore, destroy_process_group, init_process_group
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig
from typer.testing import CliRunner

from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.cli import app
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Task
from unified_reward.train.adapters import merge_peft
from unified_reward.train.dry_run import dry_run
from unified_reward.train.judge import JudgeTraining
from unified_reward.train.launch import LaunchConfig, read_launch_config
from unified_reward.train.meta_models import build_meta_model, build_narrow_model
from unified_reward.train.optim import (
    OptimConfig,
    check_lora_targets,
    gather_full_weights,
    lora_config,
    run_trainer,
)
from unified_reward_lab.examples import write_microworld


KNOWN = {
    file.name: json.loads(file.read_text("utf-8"))
    for file in (resources.files("unified_reward") / "recipes" / "architectures").iterdir()
}
BASES = (
    "Qwen2.5-VL-7B-Instruct.json",
    "Qwen3-VL-8B-Instruct.json",
    "llava-onevision-qwen2-7b-ov-hf.json",
)
"""Named here, so that a file that is lost is missed."""
HYBRIDS = ("Qwen3.5-9B.json", "Qwen3.5-27B.json", "Qwen3.5-35B-A3B.json")
QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"


def tiny(**optim):
    optimisation = OptimConfig(**{"steps": 3, "batch_size": 2, "accumulate": 1} | optim)
    return JudgeTraining(
        optimisation, base="tiny_base", data="microworld", family="compact", frames=2
    )


@pytest.mark.parametrize("name", BASES)
def test_an_architecture_has_the_published_number_of_parameters(name):
    """8.29, 8.77 and 8.03 thousand million, as the model cards say."""
    result = KNOWN[name]
    model = build_meta_model(AutoConfig.for_model(**result["config"]))
    assert {item.device.type for item in model.parameters()} == {"meta"}
    made = sum(item.numel() for item in model.parameters())
    assert made == pytest.approx(result["parameters"], rel=1e-3)


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_language_model_has_the_published_number_of_parameters(name):
    """8.95, 26.90 and 34.66 thousand million, as llama.cpp counts them without the vision tower."""
    result = KNOWN[name]
    model = build_meta_model(AutoConfig.for_model(**result["config"]))
    made, tower = (
        sum(item.numel() for item in part.parameters()) for part in (model, model.model.visual)
    )
    assert made - tower == pytest.approx(result["language_parameters"], rel=1e-3)
    kinds = model.config.get_text_config().layer_types
    assert kinds[:4] == [*["linear_attention"] * 3, "full_attention"]
    assert len(kinds) == kinds.count("full_attention") * 4


def test_a_narrow_copy_has_a_layer_of_each_kind():
    config = AutoConfig.for_model(**KNOWN["Qwen3.5-35B-A3B.json"]["config"])
    narrow = build_narrow_model(config, 300)
    assert narrow.config.get_text_config().layer_types == ["linear_attention", "full_attention"]
    assert sum(item.numel() for item in narrow.parameters()) < 2e6
    names = {name.rpartition(".")[2] for name, _ in narrow.named_modules()}
    assert names >= {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj", "q_proj"}


def test_a_picture_of_512_x_512_pixels_has_324_tokens_in_qwen2_5_vl():
    """512 is 18 x 28 and a rest: 504 x 504 pixels, 18 x 18 tokens; a clip of 8 has 2592."""
    config = JudgeTraining(OptimConfig(steps=1), QWEN, "microworld", max_pixels=262_144, frames=8)
    tokens = dry_run(replace(config, family="compact")).tokens
    scored = tokens["video_generation.score"] - tokens["image_generation.score"]
    assert 7 * 324 <= scored < 7 * 324 + 200
    assert tokens["video_generation.compare"] > 16 * 324


def test_adapters_of_every_linear_layer_or_of_those_that_are_named():
    every = dry_run(tiny(lora_rank=2))
    assert every.adapters["q_proj"] == 4
    assert every.adapters["qkv"] == 3
    some = dry_run(tiny(lora_rank=2, lora_targets=("q_proj", "v_proj")))
    assert some.adapters == {"q_proj": 4, "v_proj": 4}
    # Two matrices a layer, of 128 to 2 and of 2 to 128 features.
    assert some.trained == 8 * (128 * 2 + 2 * 128)
    assert some.parameters == 1_871_904


def test_a_scalar_judge_is_built_with_its_head():
    config = replace(tiny(lora_rank=2, lora_targets=("q_proj",)), head="scalar")
    result = dry_run(config)
    assert result.adapters == {"q_proj": 4}
    assert result.trained == 4 * (128 * 2 + 2 * 128) + 129


def test_a_misspelt_target_is_named_and_not_passed_over():
    with pytest.raises(ConfigError, match=r"no linear layer is named q_porj; there are .*q_proj"):
        dry_run(tiny(lora_rank=2, lora_targets=("v_proj", "q_porj")))


def test_steps_and_epochs_are_those_of_the_file(tmp_path):
    """Ten records in steps of 2 x 1 x 1: five an epoch, and three steps are 0.6 of it."""
    path = write_microworld(
        tmp_path, task=Task.IMAGE_GENERATION, forms=["score"], n=10, seed=0, split="train"
    )
    result = dry_run(replace(tiny(), data=str(path)))
    assert (result.steps_per_epoch, result.epochs) == (5, 0.6)
    assert list(result.tokens) == [f"row {i}" for i in range(8)]
    assert result.lacking == ()
    absent = dry_run(replace(tiny(), data="nowhere.jsonl"))
    assert (absent.steps_per_epoch, absent.epochs) == (None, None)
    assert absent.lacking == ("data: there is no nowhere.jsonl; turns are placeholders",)


def test_an_unknown_base_is_told_with_those_that_are_known():
    with pytest.raises(ConfigError, match=r"the architecture of some/model is not.*Qwen2\.5-VL-7B"):
        dry_run(replace(tiny(), base="some/model"))


def test_memory_of_a_thousand_million_weights_by_hand():
    """Bytes a weight: 16 in one piece and under FSDP; ZeRO-2 keeps 2 whole and spreads 14.

    Frozen weights have 2 in bfloat16 and under ZeRO, else 4.
    """
    n, gib = 2**30, pytest.approx
    ways = {kind: LaunchConfig("x", 8, kind) for kind in ("none", "fsdp", "zero2", "zero3")}
    kept = {kind: way.memory_gib(0, n, 8 * n)["total"] for kind, way in ways.items()}
    assert kept == {"none": gib(16), "fsdp": gib(2), "zero2": gib(3.75), "zero3": gib(2)}
    assert [way.width("float32") for way in ways.values()] == [4, 4, 2, 2]
    assert {way.width("bfloat16") for way in ways.values()} == {2}
    assert ways["fsdp"].memory_gib(2 * n, 0, 0)["total"] == gib(0.25)


def launcher(tmp_path, **changes):
    result = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "FSDP",
        "mixed_precision": "bf16",
        "num_machines": 1,
        "num_processes": 1,
    }
    file = tmp_path / "launch.yaml"
    file.write_text(yaml.safe_dump(result | changes))
    return str(file)


def fsdp(**options):
    return {
        "fsdp_config": {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_reshard_after_forward": True,
            **options,
        }
    }


def test_a_class_that_the_model_lacks_cannot_be_wrapped(tmp_path):
    wrong = fsdp(fsdp_transformer_layer_cls_to_wrap="Qwen9Layer")
    with pytest.raises(ConfigError, match=r"no layer of class Qwen9Layer.*Qwen3VLTextDecoderLayer"):
        dry_run(tiny(), launcher(tmp_path, **wrong))
    right = dry_run(tiny(), launcher(tmp_path, **fsdp()))
    assert right.wrapped == {"Qwen3VLTextDecoderLayer": 4, "Qwen3VLVisionBlock": 3}


def test_another_number_of_processes_is_another_batch(tmp_path):
    two = launcher(tmp_path, num_processes=2, **fsdp())
    eight = replace(tiny(accumulate=4), processes=8)
    with pytest.raises(
        ConfigError, match=r"8 processes \(2 x 4 x 8 = 64 examples.*processes=2 .*accumulate=16$"
    ):
        dry_run(eight, two)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (fsdp(fsdp_wrap="all"), "no option fsdp_wrap"),
        (fsdp(fsdp_state_dict_type="WHOLE"), "WHOLE"),
        ({"procs": 3}, "procs"),
        ({"deepspeed_config": {"zero_stage": 1}}, "ZeRO of stage 1"),
        ({"deepspeed_config": {"zero_stage": 3}}, "zero3_save_16bit_model"),
    ],
)
def test_what_accelerate_would_refuse_or_pass_over_is_an_error(tmp_path, changes, text):
    with pytest.raises(ConfigError, match=text):
        read_launch_config(launcher(tmp_path, **changes))


def test_passes_that_deepspeed_was_told_must_be_those_of_the_recipe(tmp_path):
    file = launcher(tmp_path, deepspeed_config={"zero_stage": 2, "gradient_accumulation_steps": 4})
    with pytest.raises(ConfigError, match=r"accumulates 4 passes, the recipe 1"):
        dry_run(tiny(), file)


def test_an_unknown_launcher_is_told_with_the_shipped_ones():
    with pytest.raises(ConfigError, match="fsdp, fsdp_llava, zero2, zero3"):
        read_launch_config("zero9")


@pytest.fixture
def alone():
    """A group of one process, in which FSDP spreads weights as it does among many."""
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    destroy_process_group()


class Accelerator:
    is_main_process = True


class Trained:
    def __init__(self, model):
        self.model = model
        self.accelerator = Accelerator()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_fsdp_spread_come_back_whole_and_tied(alone, checkpoints, tmp_path, dtype):
    model = load_vlm(checkpoints["qwen3_vl"], device="cpu", dtype=dtype).model
    before = {name: item.float().clone() for name, item in model.state_dict().items()}
    spread = get_peft_model(model, lora_config(OptimConfig(steps=1, lora_rank=2)))
    fully_shard(spread)
    assert all(isinstance(item, DTensor) for item in spread.parameters())
    gather_full_weights(Trained(spread))
    merged = merge_peft(spread)
    assert merged.lm_head.weight is merged.get_input_embeddings().weight
    folder = shutil.copytree(checkpoints["qwen3_vl"], tmp_path / "judge")
    merged.save_pretrained(folder)
    after = load_vlm(folder, device="cpu", dtype="float32").model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_misspelt_target_stops_the_real_training_too(checkpoints):
    model = load_vlm(checkpoints["qwen3_vl"], device="cpu", dtype="float32").model
    optim = OptimConfig(steps=1, lora_rank=2, lora_targets=("q_proj",))
    adapted = get_peft_model(model, lora_config(optim))
    check_lora_targets(adapted, optim)
    with pytest.raises(ConfigError, match="no linear layer is named q_porj"):
        run_trainer(Trained(adapted), replace(optim, lora_targets=("q_proj", "q_porj")), "training")


def test_pictures_of_another_model_do_not_fit(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["qwen3_vl"], tmp_path / "base")
    file = folder / "processor_config.json"
    result = json.loads(file.read_text("utf-8"))
    result["image_processor"]["patch_size"] = 8
    file.write_text(json.dumps(result))
    with pytest.raises(ConfigError, match="the processor's images do not fit the model"):
        dry_run(replace(tiny(), base=str(folder)))


def test_the_command_tells_the_sizes_and_trains_nothing(tmp_path):
    out = tmp_path / "run"
    result = CliRunner().invoke(app, ["run", "tiny_judge", "--dry-run", f"out={out}"])
    assert yaml.safe_load(result.stdout)["parameters"] == 1_871_904
    assert not out.exists()
    refused = CliRunner().invoke(app, ["run", "tiny_judge", "--launch", "fsdp"])
    assert "--launch goes with --dry-run" in str(refused.exception)
