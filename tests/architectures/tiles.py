"""Random tiny checkpoints of architectures that cut an image into tiles."""

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    Molmo2ImageProcessor,
    Molmo2Processor,
    Molmo2VideoProcessor,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2ImageProcessor,
    Ovis2Processor,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    PerceptionLMImageProcessor,
    PerceptionLMProcessor,
    PerceptionLMVideoProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tests.architectures.tokenizers import train_tokenizer
from tests.tiny import save_checkpoint, text_config


_SIDE, _PATCH, _MERGE = 28, 7, 2
_TOKENS_PER_TILE = (_SIDE // _PATCH // _MERGE) ** 2
_TILE = {"height": _SIDE, "width": _SIDE}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": _SIDE,
    "patch_size": _PATCH,
}

_ROPE = {"rope_type": "default", "rope_theta": 1e4}

_IDEFICS_TOKENS = (
    *("<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>"),
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
)
_IDEFICS_IMAGES = {
    "size": {"longest_edge": 2 * _SIDE},
    "max_image_size": {"longest_edge": _SIDE},
}
# A header ends with a space only where a text follows it.
_IDEFICS_TURNS = (
    "{%- for message in messages -%}"
    "{{ message['role'] | capitalize }}"
    "{%- if message['content'][0]['type'] == 'image' -%}{{ ':' }}"
    "{%- else -%}{{ ': ' }}{%- endif -%}"
    "{%- for line in message['content'] -%}"
    "{%- if line['type'] == 'text' -%}{{ line['text'] }}"
    "{%- elif line['type'] == 'image' -%}{{ '<image>' }}"
    "{%- elif line['type'] == 'video' -%}{{ '<video>' }}"
    "{%- endif -%}{%- endfor -%}{{ '<end_of_utterance>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)


def idefics3(folder):
    end = "<|end_of_text|>"
    tokenizer = train_tokenizer(_IDEFICS_TOKENS, bos="<|begin_of_text|>", eos=end, pad=end)
    config = Idefics3Config(**_idefics_config(tokenizer))
    processor = Idefics3Processor(
        Idefics3ImageProcessor(**_IDEFICS_IMAGES),
        tokenizer,
        image_seq_len=_TOKENS_PER_TILE,
        chat_template="{{ '<|begin_of_text|>' }}" + _IDEFICS_TURNS,
    )
    return save_checkpoint(folder, Idefics3ForConditionalGeneration(config), processor)


def smolvlm(folder):
    tokenizer = train_tokenizer(
        ("<|im_start|>", "<video>", *_IDEFICS_TOKENS), eos="<end_of_utterance>", pad="<|im_end|>"
    )
    tokenizer.bos_token = "<|im_start|>"  # noqa: S105
    config = SmolVLMConfig(**_idefics_config(tokenizer))
    sampling = {"fps": 1, "max_frames": 8, "video_size": _IDEFICS_IMAGES["size"]}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(**_IDEFICS_IMAGES),
        tokenizer,
        SmolVLMVideoProcessor(
            size=_IDEFICS_IMAGES["max_image_size"],
            max_image_size=_IDEFICS_IMAGES["max_image_size"],
            video_sampling=sampling,
        ),
        image_seq_len=_TOKENS_PER_TILE,
        chat_template="{{ '<|im_start|>' }}" + _IDEFICS_TURNS,
    )
    return save_checkpoint(folder, SmolVLMForConditionalGeneration(config), processor)


def _idefics_config(tokenizer):
    return {
        "text_config": {"model_type": "llama", **text_config(tokenizer)},
        "vision_config": _VISION,
        "scale_factor": _MERGE,
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
    }


_MOLMO_TOKENS = (
    *("<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>"),
    *("<|image|>", "<im_low>", "<frame_start>", "<frame_end>", "<|video|>"),
)
# Images stand before the conversation, with numbers if there are several.
_MOLMO_CHAT = (
    "{%- set images = namespace(n=0) -%}"
    "{%- for message in messages -%}{%- if message['content'] is not string -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}"
    "{%- set images.n = images.n + 1 -%}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}{%- endfor -%}"
    "{%- if images.n == 1 -%}{{ '<|image|>' }}"
    "{%- else -%}{%- for i in range(images.n) -%}{{ 'Image ' ~ (i + 1) ~ '<|image|>' }}"
    "{%- endfor -%}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ('user', 'assistant') -%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{%- endif -%}"
    "{%- set turn = namespace(text='') -%}"
    "{%- if message['content'] is string -%}{%- set turn.text = message['content'] -%}"
    "{%- else -%}{%- for part in message['content'] -%}{%- if part['type'] == 'text' -%}"
    "{%- set turn.text = turn.text ~ ('' if not turn.text else ' ') ~ part['text'] -%}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- if message['role'] == 'user' -%}"
    "{%- if not loop.first -%}{{ '<|im_end|>\n' }}{%- endif -%}"
    "{{ '<|im_start|>user\n' + turn.text + '<|im_end|>\n' }}"
    "{%- else -%}{{ '<|im_start|>assistant\n' + turn.text }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def molmo2(folder):
    tokenizer = train_tokenizer(["<|im_start|>"], eos="<|im_end|>", pad="<|endoftext|>")
    tokenizer.bos_token = tokenizer.eos_token
    tokenizer.add_tokens([*_MOLMO_TOKENS], special_tokens=True)
    ids = dict(zip(_MOLMO_TOKENS, tokenizer.convert_tokens_to_ids([*_MOLMO_TOKENS]), strict=True))
    # The model reads its own tokens of images, and writes none of them.
    vocabulary = {
        "vocab_size": ids["<im_start>"],
        "additional_vocab_size": len(tokenizer) - ids["<im_start>"],
    }
    heads = {"num_key_value_heads": 2, "head_dim": 16}
    config = Molmo2Config(
        text_config=text_config(tokenizer) | heads | vocabulary | {"rope_parameters": _ROPE},
        vision_config=_VISION | heads | {"image_size": [_SIDE, _SIDE]},
        adapter_config={
            "vision_feature_layer": [1, 0],
            "hidden_size": 32,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "text_hidden_size": 32,
            **heads,
        },
        image_start_token_id=ids["<im_start>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"],
        image_end_token_id=ids["<im_end>"],
        image_patch_id=ids["<im_patch>"],
        frame_start_token_id=ids["<frame_start>"],
        frame_end_token_id=ids["<frame_end>"],
    )
    images = {"size": _TILE, "patch_size": _PATCH}
    processor = Molmo2Processor(
        Molmo2ImageProcessor(max_crops=4, overlap_margins=[1, 1], **images),
        Molmo2VideoProcessor(**images),
        tokenizer,
        chat_template=_MOLMO_CHAT,
    )
    return save_checkpoint(folder, Molmo2ForConditionalGeneration(config), processor)


_OVIS_INDICATORS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
_OVIS_CHAT = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<image>\n' }}"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def ovis2(folder):
    tokenizer = train_tokenizer(
        ("<|im_start|>", "<image>", "<IMG_ATOM>", *_OVIS_INDICATORS),
        eos="<|im_end|>",
        pad="<|endoftext|>",
    )
    text = text_config(tokenizer)
    config = Ovis2Config(
        text_config={"model_type": "qwen2", **text},
        vision_config=_VISION | {"vocab_size": 64, "hidden_stride": _MERGE},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids([*_OVIS_INDICATORS]),
        vocab_size=text["vocab_size"],
        hidden_size=text["hidden_size"],
    )
    processor = Ovis2Processor(
        Ovis2ImageProcessor(size=_TILE, crop_to_patches=True, max_patches=4),
        tokenizer,
        image_seq_length=_TOKENS_PER_TILE,
        chat_template=_OVIS_CHAT,
    )
    return save_checkpoint(folder, Ovis2ForConditionalGeneration(config), processor)


# The images of a turn stand before its texts.
_PERCEPTION_CHAT = (
    "{{- bos_token -}}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful assistant.<|eot_id|>' -}}"
    "{%- for message in messages -%}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' -}}"
    "{%- for part in message['content'] | selectattr('type', 'equalto', 'image') -%}"
    "{{- '<|image|>' -}}{%- endfor -%}"
    "{%- for part in message['content'] | selectattr('type', 'equalto', 'text') -%}"
    "{{- part['text'] | trim -}}{%- endfor -%}"
    "{{- '<|eot_id|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"
)


def perception_lm(folder):
    tokenizer = train_tokenizer(
        ("<|start_header_id|>", "<|end_header_id|>"),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        pad="<|end_of_text|>",
        image_token="<|image|>",  # noqa: S106
        video_token="<|video|>",  # noqa: S106
    )
    config = PerceptionLMConfig(
        text_config={"model_type": "llama", **text_config(tokenizer)},
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_core_large_patch14_336",
            "model_args": {
                "embed_dim": 32,
                "num_heads": 2,
                "depth": 2,
                "img_size": [_SIDE, _SIDE],
                "patch_size": _PATCH,
                "ref_feat_shape": [_SIDE // _PATCH, _SIDE // _PATCH],
                "global_pool": "",
                "use_post_transformer_norm": False,
                "init_values": 0.1,
            },
        },
        vision_use_cls_token=True,
        projector_pooling_ratio=_MERGE,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
    )
    processor = PerceptionLMProcessor(
        PerceptionLMVideoProcessor(size=_TILE),
        PerceptionLMImageProcessor(tile_size=_SIDE, max_num_tiles=4, size=_TILE),
        tokenizer,
        patch_size=_PATCH,
        pooling_ratio=_MERGE,
        chat_template=_PERCEPTION_CHAT,
    )
    return save_checkpoint(folder, PerceptionLMForConditionalGeneration(config), processor)


ARCHITECTURES = {
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "molmo2": molmo2,
    "ovis2": ovis2,
    "perception_lm": perception_lm,
}
