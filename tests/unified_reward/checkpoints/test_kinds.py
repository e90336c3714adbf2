"""Checkpoints that cannot be asked about images are refused by name, wherever they are used."""

import json
import shutil

import PIL.Image
import pytest
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    Pix2StructConfig,
    Pix2StructForConditionalGeneration,
    Pix2StructImageProcessor,
    Pix2StructProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.tiny import text_config
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.requests import Request
from unified_reward.judges.registry import open_judge
from unified_reward.train.dpo import PolicyDPO
from unified_reward.train.dpo_vlm import VLMDPO, align_vlm
from unified_reward.train.dry_run import dry_run
from unified_reward.train.dry_run_dpo import dry_run_dpo
from unified_reward.train.judge import JudgeTraining, train_judge
from unified_reward.train.optim import OptimConfig


OPTIM = OptimConfig(steps=1, batch_size=1, accumulate=1)
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}


def training(folder):
    return JudgeTraining(
        OPTIM, base=str(folder), data="microworld", family="compact", frames=1, max_pixels=56 * 56
    )


WAYS = {
    "judge": lambda folder, out: open_judge(str(folder), family="native", device="cpu"),
    "train": lambda folder, out: train_judge(training(folder), out / "trained"),
    "dry run": lambda folder, out: dry_run(training(folder)),
    "align": lambda folder, out: align_vlm(folder, out / "none", VLMDPO(OPTIM), out, print),
    "dry run of dpo": lambda folder, out: dry_run_dpo(
        PolicyDPO(policy=str(folder), pairs=out / "none", vlm=VLMDPO(OPTIM))
    ),
}


def edit(file, **values):
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def unknown(folder, source):
    shutil.copytree(source, folder)
    edit(folder / "config.json", model_type="nobody_knows")


def text_only(folder, source):
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    Qwen3ForCausalLM(Qwen3Config(**text_config(tokenizer), head_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def text_only_with_a_processor(folder, source):
    shutil.copytree(source, folder)
    text_only(folder, source)


def captioner(folder, source):
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    text = {**SMALL, "intermediate_size": 16, "vocab_size": len(tokenizer)}
    vision = {**SMALL, "intermediate_size": 16, "image_size": 32, "patch_size": 16}
    config = BlipConfig(text_config=text, vision_config=vision)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(), tokenizer).save_pretrained(folder)


def encoder_decoder(folder, source):
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    heads = {"d_kv": 16, "d_ff": 16}
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_layers": 1, "num_heads": 1}
    vision = {**SMALL, "patch_embed_hidden_size": 768, "seq_len": 64}
    config = Pix2StructConfig(text_config=text | heads, vision_config=vision | heads)
    Pix2StructForConditionalGeneration(config).save_pretrained(folder)
    Pix2StructProcessor(Pix2StructImageProcessor(), tokenizer).save_pretrained(folder)


def without_its_image_token(folder, source):
    shutil.copytree(source, folder)
    edit(folder / "tokenizer_config.json", image_token=None)
    edit(folder / "processor_config.json", image_token="<|photo|>")  # noqa: S106


BAD = {
    unknown: r"of model_type 'nobody_knows', which transformers \S+ does not know",
    text_only: "models of model_type 'qwen3' do not answer in text about images",
    text_only_with_a_processor: "models of model_type 'qwen3' do not answer in text about images",
    captioner: "BlipProcessor. names no image token",
    encoder_decoder: "model_type 'pix2struct' is an encoder-decoder",
    without_its_image_token: r"the image token <\|photo\|> .* is not in the vocabulary",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_what_cannot_be_asked_is_refused_with_the_reason(checkpoints, tmp_path, make):
    folder = tmp_path / "it"
    source = "llava_onevision" if make is without_its_image_token else "qwen3_vl"
    make(folder, checkpoints[source])
    for way in WAYS.values():
        with pytest.raises(ModelError, match=BAD[make]) as refused:
            way(folder, tmp_path)
        assert str(folder) in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("way", WAYS)
def test_a_processor_of_another_model_is_refused(checkpoints, tmp_path, way):
    folder = shutil.copytree(checkpoints["qwen3_vl"], tmp_path / "it")
    for file in checkpoints["llava_onevision"].glob("*processor*"):
        shutil.copy(file, folder)
    with pytest.raises((ModelError, ConfigError), match="qwen3_vl"):
        WAYS[way](folder, tmp_path)


def test_an_embedding_larger_than_the_tokenizer_answers_and_trains(checkpoints, tmp_path):
    """Published ones are padded; no text has the added tokens."""
    folder = shutil.copytree(checkpoints["qwen3_vl"], tmp_path / "it")
    request = Request((PIL.Image.new("RGB", (56, 56), "teal"), "rate picture"), ("first", "tie"))
    before = load_vlm(folder, device="cpu")
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False)
    model.resize_token_embeddings(before.n_tokens + 64, mean_resizing=False)
    model.save_pretrained(folder)
    after = load_vlm(folder, device="cpu")
    assert after.n_tokens == before.n_tokens + 64
    assert after.chat.prompt_tokens(request) == before.chat.prompt_tokens(request)
    (answer,) = after.generate([request])
    assert answer.text in request.choices
    assert train_judge(training(folder), tmp_path / "trained")
