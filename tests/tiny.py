"""Random tiny checkpoints of the three supported architectures, built without any download."""

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from unified_reward_lab.train.tiny import TOKENS, build_model, build_processor, build_tokenizer


TEXTS = ["rate picture: a red circle first tie second 10 100 Final Score: Image 1 is better."] * 20


def qwen3_vl(folder):
    tokenizer = build_tokenizer(TEXTS)
    return save_checkpoint(folder, build_model(tokenizer), build_processor(tokenizer))


def qwen2_5_vl(folder):
    return save_checkpoint(folder, *qwen2_5_vl_parts())


def qwen2_5_vl_parts():
    """Model and processor of Qwen2.5-VL."""
    tokenizer = build_tokenizer(TEXTS)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in TOKENS.items()}
    config = Qwen2_5_VLConfig(
        text_config=text_config(tokenizer)
        | {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 3, 3],
            }
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 32,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        **ids,
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    images, videos = Qwen2VLImageProcessor(size=size), Qwen2VLVideoProcessor(size=size)
    chat = build_processor(tokenizer).chat_template
    processor = Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=chat)
    return Qwen2_5_VLForConditionalGeneration(config), processor


def llava_onevision(folder):
    tokenizer = build_tokenizer(TEXTS)
    image, video = (
        tokenizer.convert_tokens_to_ids(TOKENS[name])
        for name in ("image_token_id", "video_token_id")
    )
    side, patch = 28, 7
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text_config(tokenizer)},
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": patch,
            "vision_use_head": False,
        },
        image_token_index=image,
        video_token_index=video,
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    images = LlavaOnevisionImageProcessor(
        size={"height": side, "width": side}, image_grid_pinpoints=pinpoints
    )
    videos = LlavaOnevisionVideoProcessor(size={"height": side, "width": side})
    processor = LlavaOnevisionProcessor(
        images,
        tokenizer,
        videos,
        num_image_tokens=(side // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=build_processor(tokenizer).chat_template.replace(
            "<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>\n"
        ),
        image_token="<|image_pad|>",  # noqa: S106
        video_token="<|video_pad|>",  # noqa: S106
    )
    return save_checkpoint(folder, LlavaOnevisionForConditionalGeneration(config), processor)


ARCHITECTURES = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "llava_onevision": llava_onevision,
}


def text_config(tokenizer):
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }


def save_checkpoint(folder, model, processor):
    enlarge(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def enlarge(model):
    """Draw weights larger than at initialisation, so that answers depend on what is asked."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.2)
    return model
